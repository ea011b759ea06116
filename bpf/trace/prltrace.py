# SPDX-License-Identifier: BSD-2-Clause
"""What the tracing scripts beside this file share; they run with Debian's Python and bcc alone."""

from __future__ import annotations

import argparse
import ctypes
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bcc import BPF, USDT
from bcc.usdt import USDTException

BTF = Path("/sys/kernel/btf/vmlinux")
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
PERF_PAGES = 64
"""Pages of each CPU's buffer of records; what does not fit is counted as lost."""
POLL_MS = 100
_BTF_MAGIC = 0xEB9F
_KIND_STRUCT, _KIND_UNION, _KIND_ENUM = 4, 5, 6
_TRAILER_BYTES = {1: 4, 3: 12, 4: 12, 5: 12, 6: 8, 13: 8, 14: 4, 15: 12, 17: 4, 19: 12}
"""By kind: what follows a type's header; of structures, unions, enumerations, prototypes and
sections (4, 5, 6, 13, 15, 19) once for each member (include/uapi/linux/btf.h)."""
_PER_MEMBER = frozenset({4, 5, 6, 13, 15, 19})


def fail(words: str) -> NoReturn:
    """End with one line on standard error and exit status 1."""
    print(f"error: {words}", file=sys.stderr)
    sys.exit(1)


def parser(description: str, examples: str) -> argparse.ArgumentParser:
    """The options that every script has, with its examples behind them."""
    made = argparse.ArgumentParser(
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-p", "--pid", type=int, help="prld's process (default: the only one here)")
    made.add_argument(
        "-d", "--duration", type=float, help="seconds to trace (default: until Ctrl-C)"
    )
    return made


def flow_option(options: argparse.ArgumentParser) -> None:
    """Add the option that narrows a script down to one session."""
    options.add_argument(
        "-f", "--flow", type=lambda text: int(text, 0), default=0, help="this handle alone"
    )


def prld_pid(wanted: int | None) -> int:
    """The process to trace: the one that was asked for, or the only prld of this host."""
    if wanted is not None:
        return wanted
    found = {
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _is_prld(path)
    }
    found -= {pid for pid in found if _parent(pid) in found}  # its sentinel has its command line
    if not found:
        fail("no prld runs here; start it, or give its process with -p")
    if len(found) > 1:
        fail(f"several prlds run here ({', '.join(map(str, sorted(found)))}); choose one with -p")
    return found.pop()


def _parent(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0  # it has ended meanwhile
    return int(fields[1])


def _is_prld(cmdline: Path) -> bool:
    try:
        words = cmdline.read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended meanwhile
    names = {word.rpartition(b"/")[2] for word in words[:3]}
    return not names.isdisjoint({b"prld", b"prl.daemon.main"})


def attach(pid: int, probes: dict[str, str], text: str) -> BPF:
    """Load ``text`` with its functions on prld's USDT probes: name of the probe to function."""
    if not any((place / "events").is_dir() for place in TRACEFS):
        fail(f"tracefs is not mounted: mount -t tracefs tracefs {TRACEFS[0]}")
    try:
        usdt = USDT(pid=pid)
        for probe, function in probes.items():
            usdt.enable_probe(f"prl:{probe}", function)
    except USDTException as error:
        fail(f"process {pid}: {error}; give the pid of a prld of this version")
    return BPF(text=text, usdt_contexts=[usdt])


class Record(ctypes.Structure):
    """What a program reports; ``at_ns`` comes first: bpf_ktime_get_ns()."""

    _fields_ = (("at_ns", ctypes.c_uint64),)


def stopped() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    done = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return done


def follow(
    bpf: BPF, seconds: float | None, kind: type[Record], show: Callable[[Record], None]
) -> None:
    """Give each record of the table ``records`` to ``show`` until the end, and say what was lost.

    Each CPU has a buffer of its own: what one look finds is put in order of time.
    """
    lost = 0
    found: list[Record] = []

    def on_lost(count: int) -> None:
        nonlocal lost
        lost += count

    def on_record(_cpu: int, data: ctypes.c_void_p, _size: int) -> None:
        found.append(kind.from_buffer_copy(ctypes.string_at(data, ctypes.sizeof(kind))))

    def look(timeout_ms: int) -> None:
        bpf.perf_buffer_poll(timeout=timeout_ms)
        for record in sorted(found, key=lambda record: record.at_ns):
            show(record)
        found.clear()

    done = stopped()
    bpf["records"].open_perf_buffer(on_record, page_cnt=PERF_PAGES, lost_cb=on_lost)
    end_s = None if seconds is None else time.monotonic() + seconds
    while not done.is_set() and (end_s is None or time.monotonic() < end_s):
        look(POLL_MS)
    look(0)
    if lost:
        print(f"{lost} lines were lost: there were too many at once", file=sys.stderr)


def text_of(raw: bytes) -> str:
    """A string that the kernel side has read."""
    return raw.partition(b"\0")[0].decode("ascii", "replace")


def address(raw: bytes) -> str:
    """An address of 16 bytes, IPv4 as IPv4-mapped IPv6."""
    parsed = IPv6Address(raw)
    return str(parsed.ipv4_mapped or parsed)


class Btf:
    """The running kernel's types: bcc compiles against headers that may be another kernel's."""

    def __init__(self) -> None:
        try:
            self._raw = BTF.read_bytes()
        except OSError as error:
            fail(f"{BTF}: {error.strerror}: use a kernel with CONFIG_DEBUG_INFO_BTF")
        magic, _, _, header, types, types_bytes, strings, _ = struct.unpack_from(
            "<HBBIIIII", self._raw
        )
        if magic != _BTF_MAGIC:
            fail(f"{BTF} is of another byte order")
        self._strings = header + strings
        self._at: list[int] = [0]
        place, end = header + types, header + types + types_bytes
        while place < end:
            self._at.append(place)
            _, kind, count = self._head(place)
            members = count if kind in _PER_MEMBER else 1
            place += 12 + _TRAILER_BYTES.get(kind, 0) * members

    def _head(self, place: int) -> tuple[int, int, int]:
        name, info = struct.unpack_from("<II", self._raw, place)
        return name, info >> 24 & 0x1F, info & 0xFFFF

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(b"\0", start)].decode("ascii", "replace")

    def _find(self, name: str, wanted: int) -> int:
        for place in self._at[1:]:
            offset, kind, count = self._head(place)
            if kind == wanted and count and self._name(offset) == name:
                return place
        fail(f"this kernel's BTF has no {name}")

    def member(self, structure: str, name: str) -> int:
        """The offset in bytes of a member, also of one in an anonymous structure or union."""
        bits = self._member(self._find(structure, _KIND_STRUCT), name)
        if bits is None:
            fail(f"this kernel's {structure} has no {name}")
        return bits // 8

    def _member(self, place: int, wanted: str) -> int | None:
        _, _, count = self._head(place)
        for number in range(count):
            name, kind, offset = struct.unpack_from("<III", self._raw, place + 12 + 12 * number)
            offset &= 0xFFFFFF  # above it: the size of a bit field
            if name:
                if self._name(name) == wanted:
                    return offset
                continue
            inner = self._at[kind]
            if self._head(inner)[1] in {_KIND_STRUCT, _KIND_UNION}:
                found = self._member(inner, wanted)
                if found is not None:
                    return offset + found
        return None

    def enumeration(self, name: str) -> dict[int, str]:
        """The values of an enumeration, by number."""
        place = self._find(name, _KIND_ENUM)
        _, _, count = self._head(place)
        pairs = (struct.unpack_from("<Ii", self._raw, place + 12 + 8 * n) for n in range(count))
        return {value: self._name(offset) for offset, value in pairs}
