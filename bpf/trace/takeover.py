#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
#
# takeover   What a node decides about ownership, and each take-over as a timeline.
#
# USAGE: takeover.py [-h] [-p PID] [-d SECONDS]
#
# Needs root, Debian's python3-bpfcc and kernel headers that bcc finds (`prlctl doctor` tells).
"""Timeline of decisions and take-overs, down to the first packet that leaves for the service."""

from __future__ import annotations

import ctypes
import sys
import time

from prltrace import Btf, Record, address, attach, follow, parser, prld_pid, text_of

EXAMPLES = """\
  ./takeover.py                  # until Ctrl-C; best started on the standby
  ./takeover.py -d 60            # for a minute"""

PROGRAM = r"""
#include <uapi/linux/ptrace.h>
#include <uapi/linux/if_ether.h>

enum kind { STEP = 1, ADDRESS = 2, SESSION = 3, FIRST = 4 };

struct addr {
    u8 bytes[16];
};
struct record {
    u64 at_ns;
    u64 silent_ns;  /* STEP: since the other node was last heard on the link */
    u32 kind;
    u32 number;     /* services, service or handle */
    u32 state;      /* ADDRESS: enum prl_addr_state */
    u32 pad;
    struct addr addr;
    char step[24];
};
BPF_PERF_OUTPUT(records);
/* Addresses that have just been taken over; 1: nothing has left from it yet. */
BPF_HASH(awaited, struct addr, u32, 64);

int on_ownership(struct pt_regs *ctx)
{
    struct record record = {.at_ns = bpf_ktime_get_ns(), .kind = STEP};
    u64 step = 0;

    bpf_usdt_readarg(1, ctx, &step);
    bpf_usdt_readarg(2, ctx, &record.number);
    bpf_usdt_readarg(3, ctx, &record.silent_ns);
    bpf_probe_read_user_str(record.step, sizeof(record.step), (void *)step);
    records.perf_submit(ctx, &record, sizeof(record));
    return 0;
}

int on_address(struct pt_regs *ctx)
{
    struct record record = {.at_ns = bpf_ktime_get_ns(), .kind = ADDRESS};
    u64 addr = 0;
    u32 one = 1;

    bpf_usdt_readarg(1, ctx, &addr);
    bpf_usdt_readarg(2, ctx, &record.state);
    bpf_usdt_readarg(3, ctx, &record.number);
    bpf_probe_read_user(&record.addr, sizeof(record.addr), (void *)addr);
    if (record.state == OWNER)
        awaited.update(&record.addr, &one);
    else
        awaited.delete(&record.addr);
    records.perf_submit(ctx, &record, sizeof(record));
    return 0;
}

int on_flow(struct pt_regs *ctx)
{
    struct record record = {.at_ns = bpf_ktime_get_ns(), .kind = SESSION};
    u64 state = 0;

    bpf_usdt_readarg(2, ctx, &state);
    bpf_usdt_readarg(3, ctx, &record.number);
    bpf_probe_read_user_str(record.step, sizeof(record.step), (void *)state);
    records.perf_submit(ctx, &record, sizeof(record));
    return 0;
}

/* A packet is handed to a driver, behind all of tc: what is seen here leaves. */
TRACEPOINT_PROBE(net, net_dev_start_xmit)
{
    struct addr source = {};
    u64 data = 0;
    void *l3;

    if (args->protocol != ETH_P_IP && args->protocol != ETH_P_IPV6)
        return 0;
    bpf_probe_read_kernel(&data, sizeof(data), (void *)args->skbaddr + SKB_DATA);
    l3 = (void *)(data + args->network_offset);
    if (args->protocol == ETH_P_IP) {
        source.bytes[10] = source.bytes[11] = 0xff;
        bpf_probe_read_kernel(&source.bytes[12], 4, l3 + 12);
    } else {
        bpf_probe_read_kernel(&source.bytes, 16, l3 + 8);
    }
    if (!awaited.lookup(&source))
        return 0;
    awaited.delete(&source);
    struct record record = {.at_ns = bpf_ktime_get_ns(), .kind = FIRST, .addr = source};
    records.perf_submit(args, &record, sizeof(record));
    return 0;
}
"""
STEP, ADDRESS, SESSION, FIRST = 1, 2, 3, 4
STATES = ("none", "standby", "owner", "fenced", "leaving")
"""enum prl_addr_state (bpf/prl_abi.h)."""
OWNER = STATES.index("owner")


class Step(Record):
    """struct record of the program."""

    _fields_ = (
        ("silent_ns", ctypes.c_uint64),
        ("kind", ctypes.c_uint32),
        ("number", ctypes.c_uint32),
        ("state", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("addr", ctypes.c_uint8 * 16),
        ("step", ctypes.c_char * 24),
    )


class Timeline:
    """Prints records; times count from the newest decision to take over.

    What is decided again and again is said once: an owner without a link keeps asking the LAN.
    """

    def __init__(self) -> None:
        self._decided_ns = 0
        self._sessions = 0
        self._last_step = ""

    def show(self, record: Step) -> None:
        """Print one record; sessions that are taken over are counted instead."""
        step = text_of(record.step)
        if record.kind == STEP:
            if step == self._last_step:
                return
            self._last_step = step
        if record.kind == STEP and step == "take over":
            self._decided_ns, self._sessions = record.at_ns, 0
        if record.kind == SESSION and step == "owner":
            self._sessions += 1
            if self._sessions > 1:
                return
        after = f"{(record.at_ns - self._decided_ns) / 1e6:+.3f}" if self._decided_ns else "-"
        words = self._words(record, step)
        print(f"{time.strftime('%H:%M:%S')} {after:>12} {words}", flush=True)

    def _words(self, record: Step, step: str) -> str:
        if record.kind == ADDRESS:
            state = STATES[record.state] if record.state < len(STATES) else str(record.state)
            return f"{'address':<20} {address(bytes(record.addr))} {state}"
        if record.kind == FIRST:
            return f"{'first packet leaves':<20} from {address(bytes(record.addr))}"
        if record.kind == SESSION:
            return f"{'session ' + step:<20} {record.number:#010x}"
        heard = f"the other node was heard {record.silent_ns / 1e6:.1f} ms before"
        if step == "taken over":
            heard = f"{self._sessions} sessions go on here"
        return f"{step:<20} {heard}"


def main() -> int:
    """Trace and print until the end."""
    args = parser("Decisions about ownership, and take-overs as a timeline", EXAMPLES).parse_args()
    pid = prld_pid(args.pid)
    text = PROGRAM.replace("SKB_DATA", str(Btf().member("sk_buff", "data")))
    probes = {"ownership": "on_ownership", "address": "on_address", "flow": "on_flow"}
    bpf = attach(pid, probes, text.replace("== OWNER", f"== {OWNER}"))
    print(f"Tracing ownership in prld {pid}... Hit Ctrl-C to end.", flush=True)
    print("TIME     TAKE-OVER+ms STEP                 WHAT", flush=True)
    follow(bpf, args.duration, Step, Timeline().show)
    return 0


if __name__ == "__main__":
    sys.exit(main())
