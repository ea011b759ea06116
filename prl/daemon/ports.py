"""Which process has a port that prld wants (proc(5), net/tcp and net/udp)."""

import contextlib
import pwd
from collections.abc import Iterator
from pathlib import Path

from prl.daemon import holders

_TABLES = {"tcp": ("/proc/net/tcp", "/proc/net/tcp6"), "udp": ("/proc/net/udp", "/proc/net/udp6")}
_TCP_LISTEN = "0A"
_LOCAL_AT, _STATE_AT, _UID_AT, _INODE_AT = 1, 3, 7, 9


def user_of(protocol: str, port: int) -> str:
    """Who has it, in words: its processes and the user; "somebody": that cannot be seen."""
    for uid, inode in _sockets(protocol, port):
        named = ", ".join(map(str, holders.holders_of(inode))) or "a socket without a process"
        return f"{named}, of user {_name(uid)}"
    return "somebody"


def pids_of(protocol: str, port: int) -> list[int]:
    """The processes that have it."""
    found = [holders.holders_of(inode) for _, inode in _sockets(protocol, port)]
    return sorted({holder.pid for each in found for holder in each})


def _sockets(protocol: str, port: int) -> Iterator[tuple[int, int]]:
    """User and inode of each socket that has it; of TCP, that listens."""
    for table in _TABLES[protocol]:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = Path(table).read_text().splitlines()[1:]
        for line in lines:
            fields = line.split()
            if int(fields[_LOCAL_AT].rpartition(":")[2], 16) != port:
                continue
            if protocol == "udp" or fields[_STATE_AT] == _TCP_LISTEN:
                yield int(fields[_UID_AT]), int(fields[_INODE_AT])


def _name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
