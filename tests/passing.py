"""Somebody else's program on what leaves by an interface: it says TC_ACT_OK, which ends all."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2 import IPRoute

from prl.bench import tcx
from prl.lab import blackhole

EGRESS = 0xFFFFFFF3


@contextmanager
def passing() -> Iterator[int]:
    """Its descriptor."""
    program = blackhole.load_tc_ok()
    try:
        yield program
    finally:
        os.close(program)


def put_in_front(ifindex: int, program: int) -> None:
    """In front of all, in this namespace: by tcx, or as the newest filter of priority 1."""
    if tcx.programs(ifindex) is not None:
        tcx.put_first(ifindex, program)
    else:
        add_filter(ifindex, program)


def add_filter(ifindex: int, program: int, handle: int = 0) -> None:
    """A filter of clsact, which runs before all other filters, but behind tcx."""
    name = socket.if_indextoname(ifindex)
    subprocess.run(["tc", "qdisc", "add", "dev", name, "clsact"], check=False, capture_output=True)
    with IPRoute() as netlink:
        netlink.tc(
            "add-filter",
            "bpf",
            index=ifindex,
            handle=handle,
            fd=program,
            name="passing",
            parent=EGRESS,
            prio=1,
            direct_action=True,
        )


def take_off_all(ifindex: int) -> None:
    """As who clears an interface of everything that is not his."""
    for program_id in tcx.programs(ifindex) or []:
        program = tcx.open_program(program_id)
        tcx.take_off(ifindex, program)
        os.close(program)
    name = socket.if_indextoname(ifindex)
    subprocess.run(["tc", "qdisc", "del", "dev", name, "clsact"], check=False, capture_output=True)
