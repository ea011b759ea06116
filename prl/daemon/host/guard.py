"""Silence and hold are looked at again: on every interface, first in line (SPEC I4, I7, L9).

    kept ──▶ missing, or passed by: alarm, put back, sessions protected anew ──▶ kept
                  └─ cannot be put back, or is passed by again and again ──▶ exposed: the node
                     withdraws (withdrawal.py) until all has been kept for CALM_LOOKS looks

A look asks the kernel for the order of the programs (tcx) or filters (clsact) of each interface,
some microseconds for each. It comes every LOOK_S, and at once when netlink tells of a device, a
queueing discipline or a filter. Interfaces that are ports of others (bridges, bonds) have nothing
to say by themselves; what is on top of a logical one is judged there and here.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable

from prl.bindings.programs import Guard as Found
from prl.bindings.programs import Kernel
from prl.daemon.events.log import EventLog
from prl.daemon.host import tap
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Device, Host
from prl.errors import KernelError

UNGUARDED = "PRL_UNGUARDED"
"""Environment: nothing is looked at again. For `prlctl bench`, which takes programs off."""
LOOK_S = 0.25
WHOLE_S = 1.0
"""Looks at what netlink tells of in any case, XDP and the TAPs, come no more often: they cost."""
AT_ONCE_S = 0.02
"""After a notice: what belongs together is told together, and no more looks a second than fifty."""
REMEMBERED_S = 10.0
"""So long a node is not safe after one of its programs was missing or passed by."""
PASSED_LOOKS, PASSED_S = 3, 0.5
"""Looks in a row that find it so again, and how long at least: somebody else insists, and putting
it back is in vain, or it cannot be put back. One refusal may be the kernel's of a moment."""
CALM_LOOKS = 5
_RTMGRP_LINK, _RTMGRP_TC = 0x1, 0x8  # linux/rtnetlink.h
_NOTICE_BYTES = 1 << 16
_LOWER_SHARES_MAC = frozenset({"macvlan", "macvtap", "ipvlan", "ipvtap"})


class Guard:
    """The programs on this node's interfaces; run() is a task for the daemon's whole life."""

    def __init__(self, kernel: Kernel, host: Host, instances: Instances, log: EventLog) -> None:
        self._kernel, self._host, self._log = kernel, host, log
        self._own = frozenset(interface.ifindex for interface in instances.interfaces)
        self._guarded: dict[int, str] = {}
        """Interfaces that have their programs, and their names."""
        self._taps: dict[int, str] = {}
        self._passed: dict[int, tuple[int, float]] = {}
        """How many looks in a row have found something wrong at an interface, and since when."""
        self._last = ("", 0.0)
        """What was wrong last, and when."""
        self._is_broken = False
        """Output could have left unheld since the last look."""
        self._exposure = ""
        self._calm_looks = 0
        self._changed = asyncio.Event()
        self._notices: socket.socket | None = None
        self._devices: list[Device] = []
        self._blind = bool(os.environ.get(UNGUARDED))

    @property
    def why_unsafe(self) -> str:
        """Why nobody should rely on this node's silence and hold; empty when all is well."""
        if self._blind:
            return f"{UNGUARDED} is set: what is attached is not looked at"
        if self._exposure:
            return self._exposure
        words, at_s = self._last
        if words and time.monotonic() - at_s < REMEMBERED_S:
            return words
        return self._shadows_detour()

    def _shadows_detour(self) -> str:
        """What is wrong with the way of the shadows' packets, which is silent: they are the proof.

        After a take-over they would leave where nothing is held, if they reached the peer at all.
        """
        at_ns, ifindex = self._kernel.shadow_stray
        if not at_ns or time.clock_gettime_ns(time.CLOCK_BOOTTIME) - at_ns > REMEMBERED_S * 1e9:
            return ""
        name = self._guarded.get(ifindex, str(ifindex))
        return (
            f"packets of shadows would leave by {name}, which is not their service's interface; "
            "correct the route (ip route get PEER from SERVICE)"
        )

    @property
    def exposure(self) -> str:
        """Why this node cannot keep silence and hold; empty when it can."""
        return self._exposure

    async def begin(self, *, strict: bool) -> None:
        """Put silence on every interface, before there are service addresses.

        Raises:
            KernelError: with ``strict``, when it cannot be first in line somewhere.
        """
        self._notices = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._notices.bind((0, _RTMGRP_LINK | _RTMGRP_TC))
        asyncio.get_running_loop().add_reader(self._notices, self._on_notice)
        self._devices = await self._host.devices()
        wrong = self._look(whole=True, patient=False)
        if wrong and strict:
            raise KernelError(
                f"{wrong[0]}; take it away, or give it a priority behind prl's, which is 1 "
                "(`prlctl doctor` says how)"
            )
        self._exposure = wrong[0] if wrong else ""
        self._is_broken = False  # what was there came before this node's sessions

    def close(self) -> None:
        """Stop listening; what is attached stays."""
        if self._notices is not None:
            asyncio.get_running_loop().remove_reader(self._notices)
            self._notices.close()
            self._notices = None

    async def run(
        self,
        *,
        broken: Callable[[], None],
        exposed: Callable[[str], None],
        calm: Callable[[], None],
    ) -> None:
        """Look again and again until cancelled.

        ``broken`` is called when output could have left unheld, ``exposed`` with the reason
        whenever a look finds that it cannot be helped, ``calm`` whenever one finds otherwise.
        """
        if self._exposure:
            exposed(self._exposure)
        whole_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
                await asyncio.sleep(AT_ONCE_S)
            is_told = self._changed.is_set()
            whole = is_told or time.monotonic() - whole_s >= WHOLE_S
            if whole:
                self._changed.clear()
                whole_s = time.monotonic()
            if is_told or (whole and self._is_unknown()):
                with contextlib.suppress(KernelError):  # an interface went in between
                    self._devices = await self._host.devices()
            wrong = self._look(whole=whole)
            if self._is_broken:
                self._is_broken = False
                broken()
            if wrong:
                self._exposure, self._calm_looks = wrong[0], 0
                exposed(self._exposure)
            elif self._exposure:
                self._calm_looks += not self._passed
                if self._calm_looks >= CALM_LOOKS:
                    self._exposure = ""
            if not self._exposure:
                calm()

    def _on_notice(self) -> None:
        assert self._notices is not None
        with contextlib.suppress(OSError):  # all of it is read, or more was told than there is room
            while self._notices.recv(_NOTICE_BYTES):
                pass
        self._changed.set()

    def _is_unknown(self) -> bool:
        """Whether a notice was lost."""
        return {index for index, _ in socket.if_nameindex()} - {1} != {
            device.index for device in self._devices
        }

    # -- a look

    def _wanted(self) -> dict[int, str]:
        """The interfaces whose output is judged, by index."""
        hidden = {
            device.lower
            for device in self._devices
            if device.index in self._own and device.kind in _LOWER_SHARES_MAC
        }
        return {
            device.index: device.name
            for device in self._devices
            if device.index in self._own
            or device.name in {tap.INJECT, tap.HOLD}
            or (device.port_of in {"", "vrf"} and device.index not in hidden)
        }

    def _look(self, *, whole: bool, patient: bool = True) -> list[str]:
        """Look at each, and mend it; returns what could not be mended.

        Not ``patient``: already what cannot be put there the first time.
        """
        if self._blind and self._guarded:
            return []
        wanted, wrong = self._wanted(), list[str]()
        for index in self._guarded.keys() - wanted.keys():
            self._kernel.unguard(index)
            del self._guarded[index]
            self._passed.pop(index, None)
        for index, name in wanted.items():
            try:
                found, words = self._kernel.guard(index, whole=whole)
            except KernelError as error:
                if _is_there(index):
                    self._note(str(error), index, name)
                    if self._insists(index) or not patient:
                        wrong.append(str(error))
                continue
            was_known = index in self._guarded
            self._guarded[index] = name
            if found == Found.KEPT or (found == Found.MISSING and not was_known):
                if whole:  # the others do not see XDP and the TAPs
                    self._passed.pop(index, None)
                continue
            self._note(_words(found, name, words), index, name)
            if self._insists(index):
                wrong.append(
                    f"{name}: {words or 'somebody'} takes the place of prl's programs again and "
                    "again; stop that"
                )
        return wrong

    def _insists(self, index: int) -> bool:
        """Whether what is wrong there was so for some looks, and for some time."""
        now_s = time.monotonic()
        looks, since_s = self._passed.get(index, (0, now_s))
        self._passed[index] = looks + 1, since_s
        return looks + 1 >= PASSED_LOOKS and now_s - since_s >= PASSED_S

    def _note(self, words: str, index: int, name: str) -> None:
        """Something is, or was, wrong: this node is not safe for a while.

        Where sessions are held, nothing that left meanwhile may be taken for held. Elsewhere they
        have no business: a container that is started does not cost every session its snapshot.
        """
        if words != self._last[0] or not self.why_unsafe:
            self._log.error("alarm", words)
        self._last = words, time.monotonic()
        self._is_broken |= index in self._own or name in {tap.INJECT, tap.HOLD}


def _words(found: Found, name: str, in_front: str) -> str:
    if found == Found.MISSING:
        return f"{name}: prl's programs were not there any more; they are put back"
    return f"{name}: prl's program was passed by: a {in_front} was in front; it is first again"


def _is_there(index: int) -> bool:
    try:
        socket.if_indextoname(index)
    except OSError:
        return False
    return True
