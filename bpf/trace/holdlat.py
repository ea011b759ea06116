#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
#
# holdlat   How long prl holds packets: input until reinjected, output until released.
#
# USAGE: holdlat.py -p PID [-d SECONDS] [-f HANDLE] [--per-flow]
#
# Attaches to the USDT probes prl:reinject and prl:output_release of prld (userspace/probes.h).
# Needs root, Debian's python3-bpfcc and kernel headers that bcc finds (`prlctl doctor` tells).
"""Histogram of hold times, in the manner of bcc's tools."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from types import FrameType

from bcc import BPF, USDT
from bcc.usdt import USDTException

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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Hold times of prl's packets, as a histogram")
    parser.add_argument("-p", "--pid", type=int, required=True, help="prld's process")
    parser.add_argument(
        "-d", "--duration", type=float, help="seconds to trace (default: until Ctrl-C)"
    )
    parser.add_argument(
        "-f", "--flow", type=lambda text: int(text, 0), default=0, help="this handle alone"
    )
    parser.add_argument("--per-flow", action="store_true", help="one histogram a flow")
    return parser.parse_args()


def main() -> int:
    """Trace, then print."""
    args = arguments()
    try:
        probes = USDT(pid=args.pid)
        probes.enable_probe("prl:reinject", "on_reinject")
        probes.enable_probe("prl:output_release", "on_release")
    except USDTException as error:
        print(f"error: process {args.pid}: {error}; give the pid of a prld", file=sys.stderr)
        return 1
    text = PROGRAM.replace("WANTED_HANDLE", str(args.flow)).replace(
        "PER_FLOW", str(int(args.per_flow))
    )
    bpf = BPF(text=text, usdt_contexts=[probes])
    done = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    print(f"Tracing hold times of prld {args.pid}... Hit Ctrl-C to end.", flush=True)
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
