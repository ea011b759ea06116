"""Sessions of the other node's that could not go on here: ended for a stated reason, none hangs.

A shadow that is void is discarded silently while its session lives elsewhere (SPEC L8), and of what
never had one the other node tells (exposed.py). Should this node take the service over, nobody has
the session any more. Its peer hears so at once, even if it only waits: a SYN makes it answer with
what it believes in (RFC 5961, 4.2), and as nobody here knows of that, the kernel resets it with the
right number.
"""

import asyncio
import contextlib
import secrets
import socket
import struct
from typing import Final

from prl.bindings.datapath import Tuple
from prl.bindings.packet import internet_checksum
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.daemon.host.instances import Instances

LOST_MAX: Final = 65536
"""Sessions remembered; of more, the oldest are reset by the kernel when their peers speak."""
AGAIN_S: Final = 1.0
"""A peer's answers are rationed (tcp_challenge_ack_limit): it is asked twice."""
AT_A_TIME: Final = 64
"""So many are asked, or told of, before whatever else waits has its turn: some 80 µs each."""
_SYN: Final = 2
_HEADER: Final = struct.Struct("!HHIIBBHHH")
_IPV6: Final = 6


class Lost:
    """The sessions that have no good shadow here, and why, until there is a new snapshot."""

    def __init__(self, config: Config, instances: Instances, log: EventLog) -> None:
        self._config, self._instances, self._log = config, instances, log
        self._why: dict[Tuple, tuple[int, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __contains__(self, ends: Tuple) -> bool:
        return ends in self._why

    def add(self, ends: Tuple, service: int, why: str) -> None:
        """A session has no good shadow."""
        self._why.pop(ends, None)
        self._why[ends] = (service, why)
        if len(self._why) > LOST_MAX:
            del self._why[next(iter(self._why))]

    def forget(self, ends: Tuple) -> None:
        """There is a new shadow, or the session has ended."""
        self._why.pop(ends, None)

    def forget_all(self, why: str) -> None:
        """What was added for this reason is not known any more."""
        self._why = {ends: known for ends, known in self._why.items() if known[1] != why}

    def end_all(self, service: int) -> int:
        """This node has taken the service over: end them, and say why; returns how many."""
        lost = [(ends, why) for ends, (number, why) in self._why.items() if number == service]
        for ends, _ in lost:
            del self._why[ends]
        if lost:
            task = asyncio.get_running_loop().create_task(self._end(lost, service))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(lost)

    async def _end(self, lost: list[tuple[Tuple, str]], service: int) -> None:
        """Ask their peers, tell, and ask again; what goes on beside it waits for some at a time."""
        device = self._instances.interface(service).name
        asked = [ends for ends, _ in lost if not ends.is_udp]
        await _ask(asked, device)
        for count, (ends, why) in enumerate(lost, 1):
            self._log.error(
                "session_lost",
                f"{ends}: it has no good shadow here ({why}): if it still lives, its peer is reset",
                local=ends.service_end,
                remote=ends.peer_end,
                reason=why,
            )
            if count % AT_A_TIME == 0:
                await asyncio.sleep(0)
        if asked:
            await asyncio.sleep(AGAIN_S)
            await _ask(asked, device)


async def _ask(asked: list[Tuple], device: str) -> None:
    for count, ends in enumerate(asked, 1):
        with contextlib.suppress(OSError):  # then the peer's next segment is its end
            _send_syn(ends, device)
        if count % AT_A_TIME == 0:
            await asyncio.sleep(0)


def _send_syn(ends: Tuple, device: str) -> None:
    family = socket.AF_INET6 if ends.local.version == _IPV6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.bind((str(ends.local), 0))
        sock.sendto(syn(ends), socket.MSG_DONTWAIT, (str(ends.remote), 0))


def syn(ends: Tuple) -> bytes:
    """A SYN from the service's end to the peer's, with its checksum."""

    def header(checksum: int) -> bytes:
        ports = (ends.local_port, ends.remote_port)
        return _HEADER.pack(*ports, number, 0, 5 << 4, _SYN, 0, checksum, 0)

    number = secrets.randbits(32)
    pseudo = ends.local.packed + ends.remote.packed
    pseudo += struct.pack("!II", _HEADER.size, socket.IPPROTO_TCP)
    return header(internet_checksum(pseudo + header(0)))
