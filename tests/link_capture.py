"""The link's byte streams of a real session, out of a capture of tcpdump's.

``python -m tests.link_capture NAME [--newer re0|re1]`` (root) runs a short session in a lab and
writes ``tests/unit/golden/exchanges/NAME-node{0,1}.bin``: what either node sent, byte by byte.
With ``--newer``, that node runs the second build (tests/second_build.py). A recording of a
released protocol version is never made again.
"""

import argparse
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.topology import LINK_INTERFACE, LINK_PORT
from tests import second_build
from tests.previous_build import running
from tests.system.serving import Client, serving
from tests.system.support import eventually, status

EXCHANGES = Path(__file__).parent / "unit/golden/exchanges"
ADDRESSES = ("192.0.2.100", "[2001:db8:0:1::100]")
HALF_BYTES = 3000
SENT = bytes(Payload(2 * HALF_BYTES).at(0))[: 2 * HALF_BYTES]
"""What the peer sends in each of the two sessions, and gets back."""
PCAP_HEADER_BYTES, PCAP_RECORD_BYTES = 24, 16
ETHERNET_BYTES = 14
IPV4_TYPE = b"\x08\0"
SYN = 2
TCPDUMP_TIMEOUT_S = 10


def packets(pcap: bytes) -> Iterator[bytes]:
    """The IPv4 packets of a capture (pcap, Ethernet, this machine's byte order)."""
    at = PCAP_HEADER_BYTES
    while at + PCAP_RECORD_BYTES <= len(pcap):
        (size,) = struct.unpack_from("=8xI", pcap, at)
        frame = pcap[at + PCAP_RECORD_BYTES : at + PCAP_RECORD_BYTES + size]
        at += PCAP_RECORD_BYTES + size
        if frame[12:14] == IPV4_TYPE:
            yield frame[ETHERNET_BYTES:]


class _Connection:
    """The two streams of one connection, from their SYN on."""

    def __init__(self) -> None:
        self.first: list[int | None] = [None, None]
        self.sent = (bytearray(), bytearray())

    def take(self, side: int, seq: int, flags: int, payload: bytes) -> None:
        if flags & SYN:
            self.first[side] = seq + 1
        if not payload:
            return
        first = self.first[side]
        if first is None:
            raise ValueError("the capture begins in the middle of a connection")
        sent, at = self.sent[side], (seq - first) & 0xFFFFFFFF
        if at > len(sent):
            raise ValueError(f"the capture misses {at - len(sent)} bytes")
        sent[at : at + len(payload)] = payload


def streams(pcap: bytes, port: int = LINK_PORT) -> tuple[bytes, bytes]:
    """What the connecting side (node 0) and the listening one (node 1) sent.

    Raises:
        ValueError: bytes are missing, or several connections carried some.
    """
    connections: dict[int, _Connection] = {}
    for packet in packets(pcap):
        header = (packet[0] & 15) * 4
        source, target, seq = struct.unpack_from(">HHI", packet, header)
        if port not in {source, target}:
            continue
        side = int(source == port)
        connection = connections.setdefault(target if side else source, _Connection())
        offset = header + (packet[header + 12] >> 4) * 4
        payload = packet[offset : int.from_bytes(packet[2:4])]
        connection.take(side, seq, packet[header + 13], payload)
    spoken = [one.sent for one in connections.values() if any(one.sent)]
    if len(spoken) != 1:
        raise ValueError(f"{len(spoken)} connections in the capture carried anything")
    return bytes(spoken[0][0]), bytes(spoken[0][1])


@contextmanager
def capturing(lab: Lab, target: Path) -> Iterator[None]:
    """Capture the link of ``lab`` on re0 into ``target``."""
    command = ["tcpdump", "-Z", "root", "-U", "-B", "16384", "--immediate-mode"]
    command += ["-i", LINK_INTERFACE, "-w", str(target), "tcp", "port"]
    command += [str(LINK_PORT)]  # probes go by UDP, to the same number
    with lab.exec("re0", command, stderr=subprocess.PIPE, text=True) as tcpdump:
        try:
            assert tcpdump.stderr is not None
            assert any("listening on" in line for line in tcpdump.stderr)
            yield
        finally:
            tcpdump.terminate()
            tcpdump.wait(TCPDUMP_TIMEOUT_S)


def start(lab: Lab, newer: str | None = None, tree: Path | None = None) -> None:
    """Start prld on both nodes of a lab that has none, on ``newer`` from ``tree``."""
    for node in lab.topology.nodes:
        with running(tree if node.name == newer else None):
            lab._start_prld(node)


def await_link(lab: Lab) -> None:
    """Wait until both nodes have the link, and a role each."""
    eventually("the link is up", lambda: all(is_up(lab, node.name) for node in lab.topology.nodes))


def is_up(lab: Lab, node: str) -> bool:
    """Whether ``node`` has the link, and a role."""
    facts = status(lab, node)
    roles = {service["state"] for service in facts["services"]}
    return bool(facts["link"]["state"] == "up" and roles <= {"owner", "standby"})


def converse(lab: Lab) -> None:
    """A session over IPv4 and one over IPv6: the peer sends, and gets back what it sent."""
    await_link(lab)
    for address in ADDRESSES:
        with (
            serving(lab, ["cat"], address=address, nodes=("re0", "re1")) as serves,
            Client(lab, address) as client,
        ):
            client.send(SENT[:HALF_BYTES])
            serves["re0"].await_log(": protected")
            client.send(SENT[HALF_BYTES:])
            client.hang_up()
            assert client.receive() == SENT
            assert client.status() == 0
            serves["re1"].await_log("not needed any more")


def record(name: str, newer: str | None) -> None:
    """Record one exchange."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tree = second_build.make(folder) if newer else None
        lab = Lab(f"record-{name}")
        lab.up(start_prld=False, plain_link=True)
        try:
            with capturing(lab, folder / "link.pcap"):
                start(lab, newer, tree)
                converse(lab)
        finally:
            lab.down()
        EXCHANGES.mkdir(parents=True, exist_ok=True)
        for side, sent in enumerate(streams((folder / "link.pcap").read_bytes())):
            (EXCHANGES / f"{name}-node{side}.bin").write_bytes(sent)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--newer", choices=["re0", "re1"])
    arguments = parser.parse_args()
    record(arguments.name, arguments.newer)
