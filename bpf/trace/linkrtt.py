#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
#
# linkrtt   Round trips of prl's link: a packet to the other node until its answer, and leases.
#
# USAGE: linkrtt.py [-h] [-p PID] [-d SECONDS] [-f HANDLE]
#
# Needs root, Debian's python3-bpfcc and kernel headers that bcc finds (`prlctl doctor` tells).
"""Histograms of the link's round trips, in the manner of bcc's tools."""

from __future__ import annotations

import sys

from prltrace import attach, flow_option, parser, prld_pid, stopped

EXAMPLES = """\
  ./linkrtt.py                   # until Ctrl-C
  ./linkrtt.py -d 10             # for ten seconds
  ./linkrtt.py -f 0x80000003     # packets of this session alone"""

PENDING_MAX = 65536
"""Packets whose answer is awaited; the oldest go first. An answer covers those before it, too, of
which only the newest counts here."""

PROGRAM = r"""
#include <uapi/linux/ptrace.h>

struct sent {
    u32 handle;
    u32 seq;
};
BPF_TABLE("lru_hash", struct sent, u64, input_sent, PENDING_MAX);
BPF_TABLE("lru_hash", struct sent, u64, output_sent, PENDING_MAX);
BPF_HISTOGRAM(input_us);
BPF_HISTOGRAM(output_us);
BPF_HISTOGRAM(lease_us);

static __always_inline int wanted(u32 handle)
{
    return !WANTED_HANDLE || handle == WANTED_HANDLE;
}

int on_replicate(struct pt_regs *ctx)
{
    struct sent key = {};
    u64 now_ns = bpf_ktime_get_ns();

    bpf_usdt_readarg(1, ctx, &key.handle);
    bpf_usdt_readarg(2, ctx, &key.seq);
    if (wanted(key.handle))
        input_sent.update(&key, &now_ns);
    return 0;
}

int on_output(struct pt_regs *ctx)
{
    struct sent key = {};
    u64 now_ns = bpf_ktime_get_ns();

    bpf_usdt_readarg(1, ctx, &key.handle);
    bpf_usdt_readarg(2, ctx, &key.seq);
    if (wanted(key.handle))
        output_sent.update(&key, &now_ns);
    return 0;
}

int on_ack(struct pt_regs *ctx)
{
    struct sent key = {};
    u64 *sent_ns;

    bpf_usdt_readarg(1, ctx, &key.handle);
    bpf_usdt_readarg(2, ctx, &key.seq);
    if (!wanted(key.handle) || !(sent_ns = input_sent.lookup(&key)))
        return 0;
    input_us.increment(bpf_log2l((bpf_ktime_get_ns() - *sent_ns) / 1000));
    input_sent.delete(&key);
    return 0;
}

int on_output_ack(struct pt_regs *ctx)
{
    struct sent key = {};
    u64 *sent_ns;

    bpf_usdt_readarg(1, ctx, &key.handle);
    bpf_usdt_readarg(2, ctx, &key.seq);
    if (!wanted(key.handle) || !(sent_ns = output_sent.lookup(&key)))
        return 0;
    output_us.increment(bpf_log2l((bpf_ktime_get_ns() - *sent_ns) / 1000));
    output_sent.delete(&key);
    return 0;
}

int on_lease(struct pt_regs *ctx)
{
    u64 rtt_ns = 0;

    bpf_usdt_readarg(1, ctx, &rtt_ns);
    lease_us.increment(bpf_log2l(rtt_ns / 1000));
    return 0;
}
"""
PROBES = {
    "replicate": "on_replicate",
    "ack": "on_ack",
    "output": "on_output",
    "output_ack": "on_output_ack",
    "lease": "on_lease",
}
TITLES = (
    ("input_us", "input, REPLICATE to ACK"),
    ("output_us", "output, OUTPUT to OUTPUT_ACK"),
    ("lease_us", "LEASE to its echo, which waits for the other node's next LEASE"),
)


def main() -> int:
    """Trace, then print."""
    options = parser("Round trips of prl's link, as histograms", EXAMPLES)
    flow_option(options)
    args = options.parse_args()
    pid = prld_pid(args.pid)
    text = PROGRAM.replace("WANTED_HANDLE", str(args.flow)).replace("PENDING_MAX", str(PENDING_MAX))
    bpf = attach(pid, PROBES, text)
    done = stopped()
    print(f"Tracing round trips of prld {pid}... Hit Ctrl-C to end.", flush=True)
    done.wait(args.duration)
    for name, title in TITLES:
        print(f"\n{title}")
        bpf[name].print_log2_hist("usecs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
