"""Which process has a port that prld wants (proc(5), net/tcp and net/udp)."""

import contextlib
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prl.daemon.host.network import proc_address
from prl.endpoint import Address, mapped
from prl.kernel import descriptors

_TABLES = {"tcp": ("/proc/net/tcp", "/proc/net/tcp6"), "udp": ("/proc/net/udp", "/proc/net/udp6")}
_TCP_LISTEN = "0A"
_LOCAL_AT, _STATE_AT, _UID_AT, _INODE_AT = 1, 3, 7, 9


ASKED_AGAIN_S: Final = 60.0
"""How long an answer of user_of() holds: it reads every process's descriptors, and a port that is
taken is tried again every second."""

_answers: dict[tuple[str, int, Address | None], tuple[float, str]] = {}


def user_of(protocol: str, port: int, address: Address | None = None) -> str:
    """Who has it, in words: its processes and the user; "somebody": that cannot be seen.

    On ``address``, or on any.
    """
    asked, now_s = (protocol, port, address), time.monotonic()
    at_s, words = _answers.get(asked, (now_s - ASKED_AGAIN_S, ""))
    if now_s - at_s >= ASKED_AGAIN_S:
        words = _user_of(protocol, port, address)
        _answers[asked] = now_s, words
    return words


def _user_of(protocol: str, port: int, address: Address | None) -> str:
    for uid, inode in _sockets(protocol, port, address):
        named = ", ".join(map(str, descriptors.holders_of(inode))) or "a socket without a process"
        return f"{named}, of user {_name(uid)}"
    return "somebody"


def pids_of(protocol: str, port: int, address: Address) -> list[int]:
    """The processes that have it there, or everywhere."""
    found = [descriptors.holders_of(inode) for _, inode in _sockets(protocol, port, address)]
    return sorted({holder.pid for each in found for holder in each})


def _sockets(protocol: str, port: int, address: Address | None) -> Iterator[tuple[int, int]]:
    """User and inode of each socket that has it; of TCP, that listens."""
    for table in _TABLES[protocol]:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = Path(table).read_text().splitlines()[1:]
        for line in lines:
            fields = line.split()
            local, _, own_port = fields[_LOCAL_AT].rpartition(":")
            if int(own_port, 16) != port or not _is_in_the_way(local, address):
                continue
            if protocol == "udp" or fields[_STATE_AT] == _TCP_LISTEN:
                yield int(fields[_UID_AT]), int(fields[_INODE_AT])


def _is_in_the_way(local: str, address: Address | None) -> bool:
    """Whether a socket with this address keeps another one from ``address``: it has all of them."""
    if address is None or not local.strip("0"):
        return True
    return local in {proc_address(address.packed), proc_address(mapped(address))}


def _name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
