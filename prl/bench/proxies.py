"""What many put in front of a service instead: a TCP proxy on one host, the server on another.

The session ends at the proxy, and dies with it; here is what it costs while it lives.
"""

import time
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from prl.bench.errors import BenchError
from prl.daemon.host.network import proc_address
from prl.lab.netns import Namespace

START_TIMEOUT_S = 5.0
_POLL_S = 0.01
_LISTEN = "0A"  # TCP_LISTEN, as proc(5) has it

# One thread, as prld's datapath has; nbthread's default is one a CPU.
_HAPROXY = """\
global
    nbthread 1
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bench
    bind {front}
    server behind {back}
"""


def haproxy(front: str, back: str, file: Path) -> list[str]:
    """How to start HAProxy from ``front`` to ``back`` (ADDRESS:PORT); writes its configuration."""
    file.write_text(_HAPROXY.format(front=front, back=back))
    return ["haproxy", "-db", "-q", "-f", str(file)]


def socat(front: str, back: str) -> list[str]:
    """How to start socat for one connection. 64 KiB a read, as splice and HAProxy have it."""
    address, _, port = front.rpartition(":")
    listen = f"TCP4-LISTEN:{port},bind={address},reuseaddr,nodelay"
    return ["socat", "-b65536", listen, f"TCP4:{back},nodelay"]


def await_listening(place: Namespace, address: str, port: int, argv: Sequence[str]) -> None:
    """Wait until somebody listens there; nothing tells of it, and a connection would be used up.

    Raises:
        BenchError: nobody does in time.
    """
    wanted = f"{proc_address(IPv4Address(address).packed)}:{port:04X}"

    def listens() -> bool:
        lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
        return any(line.split()[1:4:2] == [wanted, _LISTEN] for line in lines)

    deadline = time.monotonic() + START_TIMEOUT_S
    while not place.call(listens):
        if time.monotonic() > deadline:
            raise BenchError(f"{argv[0]} does not listen at {address}:{port}")
        time.sleep(_POLL_S)
