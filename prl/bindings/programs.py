"""The BPF programs of one instance: loaded, pinned, attached (userspace/io/kernel.h)."""

import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from prl.bindings.native import ffi, lib, text_of
from prl.endpoint import Address, mapped
from prl.errors import KernelError
from prl.kernel.features import Mode

OBJECTS = Path(__file__).resolve().parent.parent / "bpf"
"""Where the package carries its compiled programs."""


STRANGERS_NAMED = 64
"""Sessions that prld was not asked for, of which the ends are told to an operator; all of them
are counted."""


class Stranger(NamedTuple):
    """The ends of a session that prld was not asked for."""

    local: bytes
    """IPv4 as IPv4-mapped IPv6."""
    local_port: int
    remote: bytes
    remote_port: int
    ifindex: int
    """Of the device that its socket is bound to; 0: none."""

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Read cffi's structure."""
        local, remote = (bytes(ffi.buffer(end)) for end in (raw.local, raw.remote))
        ports = socket.ntohs(raw.local_port), socket.ntohs(raw.remote_port)
        return cls(local, ports[0], remote, ports[1], int(raw.ifindex))


@dataclass(frozen=True, slots=True)
class Strangers:
    """All of them."""

    count: int
    named: tuple[Stranger, ...]


_MODES: Final[dict[Mode, int]] = {
    "native": lib.PRL_XDP_NATIVE,
    "generic": lib.PRL_XDP_GENERIC,
    "kernel": lib.PRL_XDP_KERNEL,
    "mirror": lib.PRL_XDP_MIRROR,
}


def queue_refusal() -> str:
    """Why input cannot wait in this kernel, in the caller's network namespace; "" if it can."""
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    return text_of(error) if lib.prl_queue_probe(error) else ""


def mode_number(mode: Mode) -> int:
    """``mode`` as enum prl_xdp_mode."""
    return _MODES[mode]


class XdpRefusedError(KernelError):
    """The kernel does not run prl_classify on an interface, in any of the modes asked for."""


def looks_mirrored(mac: bytes) -> bool:
    """Whether frames from this MAC address are taken for mirrored packets (docs/mirror.md)."""
    first, second = int(lib.PRL_MIRROR_MAC_0), int(lib.PRL_MIRROR_MAC_1)
    return mac[0] == first and (mac[1] & ~int(lib.PRL_MIRROR_MAC_LIF)) == second


class Guard(IntEnum):
    """What was found where a program should be first in line."""

    KEPT = lib.PRL_GUARD_KEPT
    MISSING = lib.PRL_GUARD_MISSING
    PASSED_BY = lib.PRL_GUARD_PASSED_BY


class Kernel:
    """The programs and maps of one instance; opened by the constructor, not yet attached.

    Raises:
        KernelError: the kernel refused them; nothing is left behind.
    """

    def __init__(
        self,
        *,
        instance: str,
        object_dir: Path = OBJECTS,
        flows_max: int,
        mode: Mode,
        fallback: Mode | None = None,
        lan_ifindexes: Sequence[int],
        vrf_ifindexes: Sequence[int] = (),
        inject_ifindex: int,
        hold_ifindex: int,
        link_ifindex: int = 0,
        stale_ms: int,
        hold_ms: int = 0,
        hung_ms: int = 0,
    ) -> None:
        config = ffi.new("struct prl_kernel_config *")
        keep = (
            ffi.new("char[]", str(object_dir).encode()),
            ffi.new("char[]", instance.encode()),
        )
        config.object_dir, config.instance = keep
        config.flows_max = flows_max
        config.mode = mode_number(mode)
        config.fallback_mode = mode_number(fallback) if fallback else 0
        config.lifs = len(lan_ifindexes)
        for position, ifindex in enumerate(lan_ifindexes):
            config.ifindex[position] = ifindex
        for position, ifindex in enumerate(vrf_ifindexes):
            config.vrf_ifindex[position] = ifindex
        config.inject_ifindex = inject_ifindex
        config.hold_ifindex = hold_ifindex
        config.link_ifindex = link_ifindex
        config.stale_ns = stale_ms * 1_000_000
        config.hold_ns = hold_ms * 1_000_000
        config.hung_ns = hung_ms * 1_000_000
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        self.link_ifindex = link_ifindex
        """Of the link's interface, as it was when the programs were loaded."""
        self.mode_because = ""
        """Why what captures is not what was asked for first, or is the last resort."""
        self._kernel: Any = lib.prl_kernel_open(config, error)
        if self._kernel == ffi.NULL:
            raise KernelError(text_of(error))

    @property
    def pointer(self) -> Any:
        """The C object, for Datapath."""
        return self._kernel

    def attach(self) -> str:
        """Silence first, then reinjection, then capture (I4); why it is the fallback mode, or "".

        Raises:
            XdpRefusedError: the one that captures could not be attached.
            KernelError: one of the others could not.
        """
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        if lib.prl_kernel_attach(self._kernel, error) == 0:
            self.mode_because = text_of(error)
            return self.mode_because
        refused = lib.prl_kernel_mode(self._kernel) == 0
        raise (XdpRefusedError if refused else KernelError)(text_of(error))

    def hear_sessions(self) -> str:
        """Have TCP tell of the sessions of service addresses; why it does not, or ""."""
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        refused = lib.prl_kernel_sessions_attach(self._kernel, error)
        return text_of(error) if refused else ""

    def strangers(
        self, of: Collection[tuple[Address, int]] = (), named: int = STRANGERS_NAMED
    ) -> "Strangers":
        """Sessions of service addresses that no flow here has; the ends of the first ``named``.

        ``of``: of these addresses alone, each on a device by its index, or 0: on any.

        Raises:
            KernelError: they cannot be counted.
        """
        raw = ffi.new("struct prl_addr_key[]", max(len(of), 1))
        for key, (address, ifindex) in zip(raw, of, strict=False):
            ffi.buffer(key.addr)[:] = mapped(address)
            key.ifindex = ifindex
        room = min(named, STRANGERS_NAMED)  # there are few, mostly
        while True:
            found = ffi.new("struct prl_stranger[]", room)
            count = lib.prl_kernel_strangers(self._kernel, raw, len(of), found, room)
            if count < 0:
                raise KernelError(f"sessions cannot be counted: {os.strerror(-count)}")
            if count <= room or room == named:
                return Strangers(count, tuple(map(Stranger.of, found[0 : min(count, room)])))
            room = named

    @property
    def mode(self) -> Mode:
        """Where XDP runs, or "kernel" and "mirror": nowhere, input waits in the kernel."""
        number = lib.prl_kernel_mode(self._kernel)
        return next((name for name, each in _MODES.items() if each == number), "generic")

    def mirror_to(self, mac: bytes | None) -> None:
        """Where clones of long packets go on the link's interface; None: there are none."""
        lib.prl_kernel_mirror_set(self._kernel, ffi.NULL if mac is None else mac)

    def mirror_counters(self) -> dict[str, int]:
        """Frames on the cable: the counters of struct prl_mirror; empty with another carrier."""
        mirror = lib.prl_kernel_mirror(self._kernel)
        if mirror == ffi.NULL:
            return {}
        names = ("cloned", "clone_failed", "taken", "refused")
        return {name: int(getattr(mirror, name)) for name in names}

    def guard(self, ifindex: int, *, whole: bool = True) -> tuple[Guard, str]:
        """See to it that an interface has its programs, first in line; what was in front, in words.

        Without ``whole`` only what netlink does not tell of is looked at.

        Raises:
            KernelError: it cannot be.
        """
        words = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        code = lib.prl_kernel_guard(self._kernel, ifindex, whole, words)
        if code < 0:
            raise KernelError(text_of(words))
        return Guard(code), text_of(words)

    def unguard(self, ifindex: int) -> None:
        """Take silence off an interface that needs none, or has gone."""
        lib.prl_kernel_unguard(self._kernel, ifindex)

    @property
    def shadow_congestion(self) -> str | None:
        """The name of this instance's congestion control for shadows; None without struct_ops."""
        return text_of(lib.prl_kernel_shadow_cc(self._kernel)) or None

    @property
    def bypassed(self) -> bool:
        """The programs opened because the datapath was dead or hung."""
        return bool(lib.prl_kernel_node(self._kernel).bypassed)

    @property
    def heartbeat_ns(self) -> int:
        """CLOCK_BOOTTIME of the datapath's newest pass; read without its lock."""
        return int(lib.prl_kernel_node(self._kernel).heartbeat_ns)

    @property
    def shadow_stray(self) -> tuple[int, int]:
        """When (CLOCK_BOOTTIME, ns) a shadow's output would last have left elsewhere, and where."""
        node = lib.prl_kernel_node(self._kernel)
        return int(node.shadow_stray_ns), int(node.shadow_stray_ifindex)

    @property
    def births_late(self) -> int:
        """Sessions that have waited in vain to be protected."""
        return int(lib.prl_kernel_node(self._kernel).births_late)

    def node_counters(self) -> dict[str, int]:
        """The counters of struct prl_node."""
        node = lib.prl_kernel_node(self._kernel)
        names = (
            *("frames", "malformed", "fragments", "tunnelled", "icmp_quoted", "reentered"),
            *("stale_dropped", "claims_obeyed", "claims_foreign", "redirect_failed"),
            *("claims_replayed", "strays", "elsewhere_silenced", "news_missed"),
            *("probes_answered", "probes_refused"),
            *("births", "births_late", "births_dropped", "births_evicted"),
        )
        return {name: int(getattr(node, name)) for name in names}

    def address_state(self, address: bytes, ifindex: int) -> int:
        """What a (mapped) service address is on an interface: enum prl_addr_state."""
        return int(self._address(address, ifindex).state)

    def was_taken(self, address: bytes, ifindex: int) -> bool:
        """Whether a claim of the other node's was obeyed, and the address is not ours since."""
        found = self._address(address, ifindex)
        return found.state in {lib.PRL_ADDR_FENCED, lib.PRL_ADDR_LEAVING} and bool(
            found.fenced_by_ns
        )

    def _address(self, address: bytes, ifindex: int) -> Any:
        """Its entry, struct prl_addr; one of zeros (PRL_ADDR_NONE) when there is none."""
        key = ffi.new("struct prl_addr_key *", {"ifindex": ifindex})
        ffi.buffer(key.addr)[:] = address
        value = ffi.new("struct prl_addr *")
        lib.prl_kernel_addr_get(self._kernel, key, value)
        return value

    def is_silent(self, service: int) -> bool:
        """Whether its owner was silent: it may have been replaced (L6), or had yet to claim it."""
        node = lib.prl_kernel_node(self._kernel)
        return bool((node.silent | node.claiming) >> service & 1)

    @property
    def open_at_ns(self) -> int:
        """CLOCK_BOOTTIME, when the other node's lease ends: a dead datapath's flows may open."""
        return int(lib.prl_kernel_open_at_ns(self._kernel))

    def carrier(self, ifindex: int, *, has: bool) -> None:
        """Take the way to an interface that it can be fed by, with a carrier or without.

        Raises:
            KernelError: its entry cannot be written.
        """
        if code := lib.prl_kernel_carrier(self._kernel, ifindex, has):
            raise KernelError(f"interface {ifindex} cannot be entered: {os.strerror(-code)}")

    def forget(self) -> None:
        """Let go of a former life's flows: their packets pass, where the address may speak."""
        lib.prl_kernel_forget(self._kernel)

    def bypass(self) -> None:
        """The datapath is about to end, and its sessions are to go on without it."""
        lib.prl_kernel_node(self._kernel).bypassed = 1

    def close(self, *, keep_silence: bool = False) -> None:
        """Detach and unload all; with ``keep_silence`` leave programs and pins in place."""
        if self._kernel != ffi.NULL:
            lib.prl_kernel_close(self._kernel, keep_silence)
            self._kernel = ffi.NULL


def is_inherited(instance: str, ifindexes: Sequence[int]) -> bool:
    """Whether a dead prld of that name still guards just these interfaces (SPEC L9)."""
    wanted = ffi.new("uint32_t[]", list(ifindexes))
    return bool(lib.prl_kernel_is_inherited(instance.encode(), wanted, len(ifindexes)))


def scrub(instance: str, *, is_alone: bool = False) -> None:
    """Remove what a dead prld of that name left behind.

    Silence does not tell whose it is. It goes only with ``is_alone``: the caller knows that no
    other prld runs in this network namespace.

    Raises:
        KernelError: something could not be removed.
    """
    error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
    if lib.prl_kernel_scrub(instance.encode(), is_alone, error) < 0:
        raise KernelError(text_of(error))
