#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
#
# holdlat   How long prl holds packets: input until reinjected, output until released.
#
# USAGE: holdlat.py [-h] [-p PID] [-d SECONDS] [-f HANDLE] [--per-flow]
#
# Needs root, Debian's python3-bpfcc and kernel headers that bcc finds (`prlctl doctor` tells).
"""Histogram of hold times, in the manner of bcc's tools."""

from __future__ import annotations

import sys

from prltrace import attach, flow_option, parser, prld_pid, stopped

EXAMPLES = """\
  ./holdlat.py                   # until Ctrl-C, all sessions together
  ./holdlat.py -d 10             # for ten seconds
  ./holdlat.py --per-flow        # a histogram for each session
  ./holdlat.py -f 0x80000003     # of this session alone"""

PROGRAM = r"""
#include <uapi/linux/ptrace.h>

struct place {
    u64 flow;   /* handle, or 0 when flows are not told apart */
    u64 slot;   /* log2 of the microseconds */
};
BPF_HISTOGRAM(input_us, struct place);
BPF_HISTOGRAM(output_us, struct place);

static __always_inline int wanted(u32 handle)
{
    return !WANTED_HANDLE || handle == WANTED_HANDLE;
}

int on_reinject(struct pt_regs *ctx)
{
    u32 handle = 0;
    u64 held_ns = 0;

    bpf_usdt_readarg(1, ctx, &handle);
    bpf_usdt_readarg(3, ctx, &held_ns);
    if (!wanted(handle) || held_ns == 0) /* a shadow does not hold */
        return 0;
    struct place at = {.flow = PER_FLOW ? handle : 0, .slot = bpf_log2l(held_ns / 1000)};
    input_us.increment(at);
    return 0;
}

int on_release(struct pt_regs *ctx)
{
    u32 handle = 0;
    u64 held_ns = 0;

    bpf_usdt_readarg(1, ctx, &handle);
    bpf_usdt_readarg(3, ctx, &held_ns);
    if (!wanted(handle))
        return 0;
    struct place at = {.flow = PER_FLOW ? handle : 0, .slot = bpf_log2l(held_ns / 1000)};
    output_us.increment(at);
    return 0;
}
"""


def main() -> int:
    """Trace, then print."""
    options = parser("Hold times of prl's packets, as a histogram", EXAMPLES)
    flow_option(options)
    options.add_argument("--per-flow", action="store_true", help="one histogram a session")
    args = options.parse_args()
    pid = prld_pid(args.pid)
    text = PROGRAM.replace("WANTED_HANDLE", str(args.flow)).replace(
        "PER_FLOW", str(int(args.per_flow))
    )
    bpf = attach(pid, {"reinject": "on_reinject", "output_release": "on_release"}, text)
    done = stopped()
    print(f"Tracing hold times of prld {pid}... Hit Ctrl-C to end.", flush=True)
    done.wait(args.duration)
    for name, title in (
        ("input_us", "input, received to reinjected"),
        ("output_us", "output, held to released"),
    ):
        print(f"\n{title}")
        bpf[name].print_log2_hist("usecs", "flow", section_print_fn=hex)
    return 0


if __name__ == "__main__":
    sys.exit(main())
