"""One side of the link, as the build that PYTHONPATH names has it: run by test_versions.py.

``exchange FD INDEX [--rude]``: greets the other side on the connected socket FD, sends one message
of each type that it knows and CLOSE last, reads until the other's CLOSE. ``--rude``: sends an
element of the newest version as one that must not be skipped.
``replay FILE``: decodes what one side of a recorded exchange sent.
Prints one JSON object.
"""

import argparse
import json
import select
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
from prl._core import ffi, lib

from prl.bindings import wire
from prl.bindings.datapath import Event
from prl.bindings.facts import Capability, EventKind, Message, Owner
from prl.config import Config
from prl.daemon.link import hello as greeting
from prl.daemon.link.hello import Hello, ServiceState

TX_BYTES = 1 << 20
PATIENCE_S = 20
REPLAY_CUT_BYTES = 1000
"""Not a multiple of any message's length: the stream is cut everywhere (R11)."""


def names(bits: int) -> list[str]:
    return [str(one.name) for one in Capability if one & bits]


def config(index: int) -> Config:
    return msgspec.convert(
        {
            "node": f"re{index}",
            "instance": f"re{index}",
            "index": index,
            "socket": "/run/prl/prld.sock",
            "mode": "native",
            "lan": {"interface": "lan0", "address": "192.0.2.11", "peer_address": "192.0.2.12"},
            "link": {"interface": "link0", "local": "198.51.100.10", "remote": "198.51.100.11"},
            "service": [{"name": "s", "addresses": ["192.0.2.100"], "owner": "re0"}],
        },
        Config,
        dec_hook=lambda kind, value: (
            __import__("ipaddress").ip_address(value) if "Address" in kind.__name__ else kind(value)
        ),
    )


class Side:
    """A link over a connected socket."""

    def __init__(self, fd: int) -> None:
        self.link = ffi.new("struct prl_link *")
        assert lib.prl_link_init(self.link, TX_BYTES) == 0
        lib.prl_link_attach_tcp(self.link, fd)
        self.fd = fd

    def send(self, kind: int, tlvs: bytes = b"", **members: int) -> int:
        msg = ffi.new("struct prl_msg *", {"type": kind, **members})
        done = int(lib.prl_link_put_tlvs(self.link, msg, ffi.from_buffer(tlvs), len(tlvs)))
        assert lib.prl_link_flush(self.link) == 0
        return done

    def next(self) -> Any:
        """The next message; None at the end of the stream; a number: refused."""
        msg = ffi.new("struct prl_msg *")
        while True:
            found = lib.prl_link_next(self.link, msg)
            if found:
                return msg if found == 1 else int(found)
            select.select([self.fd], [], [], PATIENCE_S)
            if lib.prl_link_receive(self.link) < 0:
                return None


def to_hello(msg: Any) -> Hello:
    body = bytes(ffi.buffer(msg.tlvs, msg.tlvs_bytes))
    return greeting.decode(
        Event(
            kind=EventKind.MESSAGE,
            type=msg.type,
            version_min=msg.version_min,
            version_max=msg.version_max,
            node_index=msg.node_index,
            body=body,
        )
    )


def tlv(kind: int, value: bytes, *, mandatory: bool) -> bytes:
    out, at = ffi.new("uint8_t[]", 4096), ffi.new("size_t *")
    assert lib.prl_tlv_put(out, 4096, at, kind, mandatory, value, len(value)) == 0
    return bytes(ffi.buffer(out, at[0]))


def greet(side: Side, index: int) -> tuple[Hello, Hello, int]:
    """As prl.daemon.link.link does it: node 0 proposes the epoch, node 1 repeats it."""
    services = (
        ServiceState(name="s", addresses=["192.0.2.100"], owner="re0", state=Owner.NONE, term=0),
    )
    members = {"version_min": wire.VERSION_MIN, "version_max": wire.VERSION, "node_index": index}
    own, other, said = None, None, 0
    if index == 0:
        own = greeting.create(config(index), services)
        side.send(Message.HELLO, greeting.encode(own), **members)
    msg = side.next()
    assert msg.type == Message.HELLO
    said, other = msg.version, to_hello(msg)
    side.link.version = lib.prl_wire_common_version(msg.version_min, msg.version_max)
    if own is None:
        own = greeting.create(config(index), services, other.epoch)
        side.send(Message.HELLO, greeting.encode(own), **members)
    return own, other, said


def exchange(fd: int, index: int, *, rude: bool) -> dict[str, Any]:
    socket.socket(fileno=fd).detach()
    side = Side(fd)
    own, other, hello_version = greet(side, index)
    version = greeting.check(own, other)
    assert side.link.version == version
    sent: dict[str, int] = {}
    data = {
        Message.REPLICATE: tlv(lib.PRL_TLV_ELIDED, bytes(40), mandatory=True),
        Message.MIRRORED: tlv(lib.PRL_TLV_PACKET, bytes(40), mandatory=True),
        Message.RELAY: tlv(lib.PRL_TLV_PACKET, bytes(40), mandatory=True),
        Message.OUTPUT: tlv(lib.PRL_TLV_PAYLOAD, b"output", mandatory=True),
        Message.SETUP: tlv(lib.PRL_TLV_SNAPSHOT, b"snapshot", mandatory=True),
    }
    note = getattr(lib, "PRL_TLV_NOTE", None)
    for kind in Message:
        tlvs = data.get(kind, b"")
        if note is not None:  # R13: an older one skips it
            tlvs += tlv(note, b"note", mandatory=False)
        if kind not in {Message.HELLO, Message.CLOSE}:
            sent[kind.name] = side.send(kind, tlvs, handle=7, seq=kind)
    if rude:
        side.send(Message.ACK, tlv(note or 999, b"note", mandatory=True), handle=7)
    side.send(Message.CLOSE, handle=7)
    received, versions, ended = [], set(), 0
    while (msg := side.next()) is not None:
        if isinstance(msg, int):
            ended = msg
            break
        received.append(wire.message_name(msg.type))
        versions.add(msg.version)
        if msg.type == Message.CLOSE:
            break
    return {
        "version": version,
        "hello_version": hello_version,
        "capabilities": names(greeting.common_capabilities(own, other)),
        "sent": sorted(name for name, done in sent.items() if done == 0),
        "unsent": {name: done for name, done in sent.items() if done},
        "received": received,
        "versions": sorted(versions),
        "ended": ended,
        "refused": side.link.refused,
    }


def replay(stream: bytes) -> dict[str, Any]:
    here, there = socket.socketpair()
    there.setblocking(False)
    side = Side(there.detach())
    counts: dict[str, int] = {}
    replicated: dict[int, dict[int, bytes]] = {}
    found, elided, ended = None, 0, 0
    for at in range(0, len(stream), REPLAY_CUT_BYTES):
        here.sendall(stream[at : at + REPLAY_CUT_BYTES])
        if at + REPLAY_CUT_BYTES >= len(stream):
            here.close()
        assert lib.prl_link_receive(side.link) > 0
        msg = ffi.new("struct prl_msg *")
        while (ended := lib.prl_link_next(side.link, msg)) == 1:
            name = wire.message_name(msg.type)
            counts[name] = counts.get(name, 0) + 1
            if msg.type == Message.HELLO:
                found = to_hello(msg)
            if msg.type == Message.REPLICATE:
                elided += msg.data_type == lib.PRL_TLV_ELIDED
                collect(msg, replicated.setdefault(msg.handle, {}))
    assert found is not None
    return {
        "node": found.node,
        "versions": found.versions,
        "capabilities": names(found.capabilities),
        "counts": counts,
        "elided": elided,
        "replicated": [joined(parts).hex() for parts in replicated.values()],
        "left_bytes": side.link.rx_to - side.link.rx_from,
        "ended": ended,
    }


def messages(stream: bytes) -> list[tuple[int, int, int, int]]:
    """Type, length, handle and sequence number of each message; fails at one that is refused."""
    found, at = [], 0
    msg = ffi.new("struct prl_msg *")
    whole = ffi.from_buffer(stream)
    while at < len(stream):
        length = lib.prl_wire_length(whole + at, len(stream) - at)
        assert 0 < length <= len(stream) - at
        assert lib.prl_wire_decode(whole + at, length, msg) == 0
        found.append((msg.type, msg.length, msg.handle, msg.seq))
        at += length
    return found


def collect(msg: Any, parts: dict[int, bytes]) -> None:
    """The TCP payload that a REPLICATE without L3 header carries, by sequence number."""
    data = bytes(ffi.buffer(msg.data, msg.data_bytes))
    l4 = data[lib.PRL_ELIDED_FIELDS :]
    payload = l4[(l4[12] >> 4) * 4 :]
    if payload:
        parts[int.from_bytes(l4[4:8])] = payload


def joined(parts: dict[int, bytes]) -> bytes:
    whole = b""
    first = min(parts, default=0)
    for seq in sorted(parts):
        at = seq - first
        whole = whole[:at] + parts[seq] if at <= len(whole) else whole
    return whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    talk = commands.add_parser("exchange")
    talk.add_argument("fd", type=int)
    talk.add_argument("index", type=int)
    talk.add_argument("--rude", action="store_true")
    commands.add_parser("replay").add_argument("file", type=Path)
    chosen = parser.parse_args()
    json.dump(
        exchange(chosen.fd, chosen.index, rude=chosen.rude)
        if chosen.command == "exchange"
        else replay(chosen.file.read_bytes()),
        sys.stdout,
    )
