#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
#
# drops   Packets that are dropped, by reason: by prld, by prl's programs, by the kernel.
#
# USAGE: drops.py [-h] [-p PID] [-d SECONDS] [-f HANDLE] [-m FOLDER]
#
# Needs root, Debian's python3-bpfcc and kernel headers that bcc finds (`prlctl doctor` tells).
"""Counts of dropped packets by reason, in the manner of bcc's tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bcc import BPF
from prltrace import Btf, attach, fail, flow_option, parser, prld_pid, stopped, text_of

EXAMPLES = """\
  ./drops.py                     # until Ctrl-C
  ./drops.py -d 10 -f 0x3        # of this session alone, for ten seconds
  ./drops.py -m /sys/fs/bpf/prl/prl    # where the maps of this prld are, if there are several"""

PINS = Path("/sys/fs/bpf/prl")
NODE_COUNTERS = (
    "malformed",
    "fragments",
    "tunnelled",
    "stale_dropped",
    "redirect_failed",
    "elsewhere_silenced",
    "births_dropped",
)
"""Members of struct prl_node that count packets which did not go their way (bpf/prl_abi.h)."""
FLOW_COUNTERS = ("in_dropped", "out_silenced", "gate_refused")
"""Likewise of struct prl_flow. What a shadow says is always silenced."""
MARK_RELEASE = 0x70726C01
"""PRL_MARK_RELEASE: what prl itself handed to the stack."""

PROGRAM = r"""
#include <uapi/linux/ptrace.h>

struct dropped {
    u32 handle;
    char counter[28];
};
BPF_HASH(by_prld, struct dropped, u64, 16384);
BPF_HASH(by_kernel, u32, u64, 1024);

int on_drop(struct pt_regs *ctx)
{
    struct dropped key = {};
    u64 counter = 0;

    bpf_usdt_readarg(1, ctx, &counter);
    bpf_usdt_readarg(2, ctx, &key.handle);
    if (WANTED_HANDLE && key.handle != WANTED_HANDLE)
        return 0;
    bpf_probe_read_user_str(key.counter, sizeof(key.counter), (void *)counter);
    by_prld.increment(key);
    return 0;
}

/* The kernel may refuse what prl reinjected (a full socket, a firewall, no memory). The arguments
 * are those of trace_kfree_skb(): packet, place, reason. */
RAW_TRACEPOINT_PROBE(kfree_skb)
{
    u32 mark = 0, reason = ctx->args[2];

    bpf_probe_read_kernel(&mark, sizeof(mark), (void *)(ctx->args[0] + SKB_MARK));
    if (mark == MARK_RELEASE)
        by_kernel.increment(reason);
    return 0;
}
"""


class Counters:
    """The counters of prl's programs in the kernel, as bpftool shows them."""

    def __init__(self, folder: Path, handle: int) -> None:
        self._folder, self._handle = folder, handle
        self._before = self._read()

    def grown(self) -> list[tuple[str, int, int]]:
        """Name, handle (0: of the node) and growth of each that has grown since."""
        return [
            (name, handle, count - self._before.get((name, handle), 0))
            for (name, handle), count in sorted(self._read().items())
            if count > self._before.get((name, handle), 0)
        ]

    def _read(self) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        for node in self._dump("prl_node"):
            found |= {(name, 0): node[name] for name in NODE_COUNTERS if not self._handle}
        for flow in self._dump("prl_flow_state"):
            handle = flow["handle"]
            if handle and self._handle in {0, handle}:
                found |= {(name, handle): flow[name] for name in FLOW_COUNTERS}
        return found

    def _dump(self, name: str) -> list[dict[str, Any]]:
        command = ["bpftool", "-j", "map", "dump", "pinned", str(self._folder / name)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"bpftool cannot read {self._folder / name}: {error}")
        return [entry["formatted"]["value"] for entry in json.loads(done.stdout)]


def pins(wanted: Path | None) -> Path:
    """The folder of the maps: the one that was asked for, or the only one."""
    if wanted is not None:
        return wanted
    found = sorted(PINS.iterdir()) if PINS.is_dir() else []
    if len(found) != 1:
        fail(f"{len(found)} folders of maps in {PINS}; choose one with -m")
    return found[0]


def show(bpf: BPF, counters: Counters, reasons: dict[int, str]) -> None:
    """Print what was counted, the most of each first."""
    print(f"\n{'BY':<8} {'REASON':<32} {'FLOW':<12} {'PACKETS':>10}")
    rows = [
        ("prld", text_of(key.counter), key.handle, value.value)
        for key, value in bpf["by_prld"].items()
    ]
    rows += [("programs", *row) for row in counters.grown()]
    rows += [
        ("kernel", reasons.get(key.value, str(key.value)), 0, value.value)
        for key, value in bpf["by_kernel"].items()
    ]
    for by, reason, handle, count in sorted(rows, key=lambda row: -row[3]):
        print(f"{by:<8} {reason:<32} {f'{handle:#010x}' if handle else '-':<12} {count:>10}")


def main() -> int:
    """Trace, then print."""
    options = parser("Packets that prl or the kernel drops, by reason", EXAMPLES)
    flow_option(options)
    options.add_argument(
        "-m",
        "--maps",
        type=Path,
        help=f"folder of this prld's maps (default: the only one in {PINS})",
    )
    args = options.parse_args()
    pid = prld_pid(args.pid)
    types = Btf()
    text = PROGRAM.replace("WANTED_HANDLE", str(args.flow))
    text = text.replace("SKB_MARK", str(types.member("sk_buff", "mark")))
    reasons = {
        number: name.removeprefix("SKB_DROP_REASON_")
        for number, name in types.enumeration("skb_drop_reason").items()
    }
    counters = Counters(pins(args.maps), args.flow)
    bpf = attach(pid, {"drop": "on_drop"}, text.replace("MARK_RELEASE", f"{MARK_RELEASE:#x}"))
    done = stopped()
    print(f"Tracing drops of prld {pid}... Hit Ctrl-C to end.", flush=True)
    done.wait(args.duration)
    show(bpf, counters, reasons)
    return 0


if __name__ == "__main__":
    sys.exit(main())
