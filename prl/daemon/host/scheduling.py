"""How soon prld runs among all else that a host does (docs/kernel-answers.md).

It sets that itself, so that it is the same however prld was started. Its unit allows it by limits,
the lab by CAP_SYS_NICE.
"""

import os
from typing import Final

NICE: Final = -15
"""Of all its threads: the control plane answers in time, too."""
REALTIME_PRIORITY: Final = 1
"""Of the datapath thread, which holds the lease (SCHED_FIFO, the least of them). It lays it down,
and has it again while it is late; when, and what it may take, stands in userspace/core/share.h."""


def become_nice() -> str:
    """Give the process, before it has threads, its nice value; why it may not, or nothing."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError as error:
        return f"no nice value {NICE}: {error.strerror} (LimitNICE={NICE} in its unit)"
    return ""


def become_realtime() -> str:
    """Give the calling thread its real-time class; why it may not, or nothing."""
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(REALTIME_PRIORITY))
    except OSError as error:
        why = f"{error.strerror} (LimitRTPRIO={REALTIME_PRIORITY} in its unit)"
        return f"no real-time class of the datapath: {why}"
    return ""
