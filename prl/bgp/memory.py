"""A session's memory as bytes: what a speaker needs that joins it in mid-stream.

Together with the positions of its shadow in both streams it is all: what was read and is half a
message, what was learnt, and the planned output. The form is msgpack, compressed.
"""

import zlib
from ipaddress import IPv4Address, ip_network

import msgspec

from prl.bgp.errors import MemoryLostError
from prl.bgp.messages import Open
from prl.bgp.session import Route, Session, Settings, State

VERSION = 1
UNPACKED_MAX_BYTES = 256 << 20


class _Peer(msgspec.Struct, frozen=True):
    asn: int
    hold_time_s: int
    router_id: str
    families: list[int]
    as4: bool


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    state: str
    peer: _Peer | None
    routes: list[tuple[str, str, list[int]]]
    received: dict[str, int]
    unfinished: bytes
    plan: bytes
    is_complete: bool
    since: str | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Memory)


def encode(session: Session, since: str | None) -> bytes:
    """All of ``session`` but its settings, and since when it is established."""
    memory = _Memory(
        version=VERSION,
        state=session.state.value,
        peer=_peer(session.peer),
        routes=[
            (str(route.prefix), route.next_hop, list(route.as_path))
            for route in session.routes.values()
        ],
        received=dict(session.received),
        unfinished=session.framing.unfinished,
        plan=session.output.planned,
        is_complete=session.output.is_complete,
        since=since,
    )
    return zlib.compress(_encoder.encode(memory))


def _peer(peer: Open | None) -> _Peer | None:
    if peer is None:
        return None
    return _Peer(peer.asn, peer.hold_time_s, str(peer.router_id), sorted(peer.families), peer.as4)


def decode(data: bytes, settings: Settings) -> tuple[Session, str | None]:
    """A silent session that goes on where the encoded one was, and since when it is established.

    Raises:
        MemoryLostError: this is no memory of a session.
    """
    try:
        unpacked = zlib.decompressobj().decompress(data, UNPACKED_MAX_BYTES)
        memory = _decoder.decode(unpacked)
        if memory.version != VERSION:
            raise MemoryLostError(f"memory of version {memory.version}; only {VERSION} is known")
        return _restore(memory, settings), memory.since
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise MemoryLostError(f"no memory of a BGP session: {error}") from error


def _restore(memory: _Memory, settings: Settings) -> Session:
    session = Session(settings)
    session.state = State(memory.state)
    if (peer := memory.peer) is not None:
        session.peer = Open(
            peer.asn,
            peer.hold_time_s,
            IPv4Address(peer.router_id),
            frozenset(peer.families),
            peer.as4,
        )
    for prefix, next_hop, as_path in memory.routes:
        network = ip_network(prefix)
        session.routes[network] = Route(network, next_hop, tuple(as_path))
    session.received.update(memory.received)
    session.framing.unfinished = memory.unfinished
    session.output.remember(memory.plan, is_complete=memory.is_complete)
    return session
