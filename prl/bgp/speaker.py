"""The speaker's process: ``python -m prl.bgp.speaker``, the same line on both nodes.

It waits for the peer to connect (RFC 4271's passive mode), protects the session before the first
byte is read, and on the other node follows it through the shadow, from its beginning or, with the
other one's memory, from the middle: over any number of failures. One session at a time.
"""

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from prl.bgp import memory
from prl.bgp.connection import Connection
from prl.bgp.errors import MemoryLostError
from prl.bgp.journal import Journal
from prl.bgp.seat import Seat
from prl.bgp.session import Session, Settings
from prl.client import Node, NotProtectedError
from prl.endpoint import Endpoint
from prl.errors import PrlError
from prl.shadow.md5 import set_key

PORT = 179
BACKLOG = 8


@dataclass(frozen=True, slots=True)
class Speaker:
    """What a session is run with."""

    settings: Settings
    endpoint: Endpoint
    peer: str
    socket_path: str | None
    state_file: Path | None
    input_file: Path | None
    md5_key: bytes = field(default=b"", repr=False)

    def journal(self, role: str) -> Journal:
        """A new journal; a session begins it afresh."""
        journal = Journal(self.state_file, self.input_file)
        journal.role = role
        return journal

    def serve(self, listener: socket.socket, node: Node) -> None:
        """Speak with whoever connects, one after the other."""
        while True:
            sock, address = listener.accept()
            with sock:
                if ip_address(address[0]) != ip_address(self.peer):
                    _complain(f"{address[0]} is not the peer: refused")
                    continue
                self._serve(sock, node)

    def _serve(self, sock: socket.socket, node: Node) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        journal = self.journal("primary")
        bgp = Session(self.settings)
        session = None
        try:
            session = node.replicate(sock, memory.encode(bgp, None), renew=True)
        except NotProtectedError as error:
            session = error.session
        except PrlError as error:
            journal.event("unprotected", reason=str(error))
        connection = Connection(sock, bgp, journal)
        connection.speak(sock, 0)
        self._run(connection, Seat(session, bgp, connection, journal), journal)

    def stand_by(self, node: Node) -> None:
        """Follow the other node's sessions, one after the other, and go on with them."""
        for shadow in node.shadows():
            try:
                bgp, since = memory.decode(shadow.application, self.settings)
            except MemoryLostError as error:
                _complain(str(error))
                shadow.close()
                continue
            journal = self.journal("standby")
            journal.began_at, journal.since = shadow.in_bytes, since
            journal.event("standby", remote=str(shadow.remote), in_bytes=shadow.in_bytes)
            connection = Connection(shadow.sock, bgp, journal)
            journal.write(bgp)
            self._run(connection, Seat(shadow, bgp, connection, journal), journal)

    def _run(self, connection: Connection, seat: Seat, journal: Journal) -> None:
        try:
            why = connection.run(seat)
        except OSError as error:
            why = seat.ready() or str(error)  # a shadow that is void breaks, too
        seat.leave()
        journal.event("ended", reason=why)


def parse(argv: Sequence[str] | None) -> Speaker:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="prl.bgp.speaker", description=__doc__)
    parser.add_argument("--local", required=True, help="service address to listen on")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--asn", type=int, required=True)
    parser.add_argument("--router-id", type=IPv4Address, default=IPv4Address("192.0.2.100"))
    parser.add_argument("--peer", required=True, help="the peer's address")
    parser.add_argument("--peer-asn", type=int)
    parser.add_argument("--hold-time", type=int, default=90, help="seconds")
    parser.add_argument("--announce", type=ip_network, action="append", default=[])
    parser.add_argument(
        "--md5-file", type=Path, help="file with the key that segments are signed with (RFC 2385)"
    )
    parser.add_argument("--socket", help="prld's control socket")
    parser.add_argument("--state", type=Path, help="JSON file that shows session and routes")
    parser.add_argument("--input", type=Path, help="file to record the input in")
    options = parser.parse_args(argv)
    local = ip_address(options.local)
    return Speaker(
        settings=Settings(
            asn=options.asn,
            router_id=options.router_id,
            next_hop=local,
            peer_asn=options.peer_asn,
            hold_time_s=options.hold_time,
            announced=tuple(options.announce),
        ),
        endpoint=Endpoint(local, options.port),
        peer=options.peer,
        socket_path=options.socket,
        state_file=options.state,
        input_file=options.input,
        md5_key=options.md5_file.read_bytes().strip() if options.md5_file else b"",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    speaker = parse(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        with speaker.endpoint.listen(BACKLOG) as listener:
            if speaker.md5_key:
                set_key(listener, speaker.peer, speaker.md5_key)
            node = Node(speaker.socket_path)
            node.offer(str(speaker.endpoint))
            follower = threading.Thread(target=_follow, args=(speaker, node), daemon=True)
            follower.start()
            Journal.event("listening", endpoint=str(speaker.endpoint))
            speaker.serve(listener, node)
    except PrlError as error:
        _complain(str(error))
        return error.exit_code
    return 0


def _complain(words: str) -> None:
    sys.stderr.write(f"bgp: {words}\n")


def _follow(speaker: Speaker, node: Node) -> None:
    try:
        speaker.stand_by(node)
    except (PrlError, OSError) as error:
        _complain(f"not standing by any more: {error}")


if __name__ == "__main__":
    sys.exit(main())
