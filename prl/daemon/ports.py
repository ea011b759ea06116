"""Which process has a port that prld wants (proc(5), net/tcp and net/udp)."""

import contextlib
import pwd
from pathlib import Path

from prl.daemon import holders

_TABLES = {"tcp": ("/proc/net/tcp", "/proc/net/tcp6"), "udp": ("/proc/net/udp", "/proc/net/udp6")}
_TCP_LISTEN = "0A"
_LOCAL_AT, _STATE_AT, _UID_AT, _INODE_AT = 1, 3, 7, 9


def user_of(protocol: str, port: int) -> str:
    """Who has it, in words: its processes and the user; "somebody": that cannot be seen."""
    for table in _TABLES[protocol]:
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[_LOCAL_AT].rpartition(":")[2], 16) != port:
                    continue
                if protocol == "tcp" and fields[_STATE_AT] != _TCP_LISTEN:
                    continue
                found = holders.holders_of(int(fields[_INODE_AT]))
                of_whom = f"of user {_name(int(fields[_UID_AT]))}"
                named = ", ".join(map(str, found)) or "a socket without a process"
                return f"{named}, {of_whom}"
    return "somebody"


def _name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)
