#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
#
# flowlife   The life of prl's sessions: set-up step by step, and each state, with times.
#
# USAGE: flowlife.py [-h] [-p PID] [-d SECONDS] [-f HANDLE]
#
# Needs root, Debian's python3-bpfcc and kernel headers that bcc finds (`prlctl doctor` tells).
"""One line for each step of a session's life, in the manner of bcc's tools."""

from __future__ import annotations

import ctypes
import sys
import time

from prltrace import Record, attach, flow_option, follow, parser, prld_pid, text_of

EXAMPLES = """\
  ./flowlife.py                  # all sessions, until Ctrl-C
  ./flowlife.py -f 0x3           # this session alone"""

PROGRAM = r"""
#include <uapi/linux/ptrace.h>

struct record {
    u64 at_ns;
    u32 handle;
    u32 generation;
    char role[16];
    char step[24];
    char reason[24];
};
BPF_PERF_OUTPUT(records);

static __always_inline void read_text(struct pt_regs *ctx, u64 place, char *text, u32 room)
{
    bpf_probe_read_user_str(text, room, (void *)place);
}

static __always_inline int wanted(u32 handle)
{
    return !WANTED_HANDLE || handle == WANTED_HANDLE;
}

int on_setup(struct pt_regs *ctx)
{
    struct record record = {.at_ns = bpf_ktime_get_ns()};
    u64 step = 0;

    bpf_usdt_readarg(1, ctx, &step);
    bpf_usdt_readarg(2, ctx, &record.handle);
    bpf_usdt_readarg(3, ctx, &record.generation);
    if (!wanted(record.handle))
        return 0;
    bpf_probe_read_user_str(record.step, sizeof(record.step), (void *)step);
    records.perf_submit(ctx, &record, sizeof(record));
    return 0;
}

int on_flow(struct pt_regs *ctx)
{
    struct record record = {.at_ns = bpf_ktime_get_ns()};
    u64 role = 0, state = 0, reason = 0;

    bpf_usdt_readarg(1, ctx, &role);
    bpf_usdt_readarg(2, ctx, &state);
    bpf_usdt_readarg(3, ctx, &record.handle);
    bpf_usdt_readarg(4, ctx, &record.generation);
    bpf_usdt_readarg(5, ctx, &reason);
    if (!wanted(record.handle))
        return 0;
    bpf_probe_read_user_str(record.role, sizeof(record.role), (void *)role);
    bpf_probe_read_user_str(record.step, sizeof(record.step), (void *)state);
    bpf_probe_read_user_str(record.reason, sizeof(record.reason), (void *)reason);
    records.perf_submit(ctx, &record, sizeof(record));
    return 0;
}
"""


class Step(Record):
    """struct record of the program."""

    _fields_ = (
        ("handle", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
        ("role", ctypes.c_char * 16),
        ("step", ctypes.c_char * 24),
        ("reason", ctypes.c_char * 24),
    )


class Lives:
    """What each session did last, so that every line says how long that took."""

    def __init__(self) -> None:
        self._last_ns: dict[int, int] = {}

    def show(self, record: Step) -> None:
        """Print one record."""
        since = record.at_ns - self._last_ns.get(record.handle, record.at_ns)
        self._last_ns[record.handle] = record.at_ns
        role, reason = text_of(record.role), text_of(record.reason)
        print(
            f"{time.strftime('%H:%M:%S')} {record.handle:#010x} {record.generation:>5} "
            f"{since / 1e6:>11.3f} {role or '-':<9} {text_of(record.step):<16} "
            f"{'' if reason == 'ok' else reason}".rstrip(),
            flush=True,
        )


def main() -> int:
    """Trace and print until the end."""
    options = parser("Steps of the life of prl's sessions, with times", EXAMPLES)
    flow_option(options)
    args = options.parse_args()
    pid = prld_pid(args.pid)
    text = PROGRAM.replace("WANTED_HANDLE", str(args.flow))
    bpf = attach(pid, {"setup": "on_setup", "flow": "on_flow"}, text)
    print(f"Tracing sessions of prld {pid}... Hit Ctrl-C to end.", flush=True)
    print("TIME     FLOW         GEN    SINCE(ms) ROLE      STEP             REASON", flush=True)
    follow(bpf, args.duration, Step, Lives().show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
