"""The link of one epoch: in order, with latency; either direction may be cut."""

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.sim.core import MASK, Core

if TYPE_CHECKING:
    from tests.sim.world import World


class Message:
    """One message of the link; ``data`` is what its data element stands for."""

    __slots__ = (
        "bits", "data", "echo_ns", "flags", "flows", "generation", "handle", "move", "phase",
        "reason", "sent_ns", "seq", "service", "space", "tcp_seq", "type",
    )  # fmt: skip

    def __init__(self, kind: int, handle: int = 0, **fields: Any) -> None:
        self.type, self.handle = kind, handle
        self.seq = self.space = self.tcp_seq = self.generation = self.reason = self.bits = 0
        self.sent_ns = self.echo_ns = self.flags = self.service = 0
        self.move = self.flows = self.phase = 0
        self.data: Any = None
        for name, value in fields.items():
            setattr(self, name, value)


class Codec:
    """Messages through the real codec; objects that stand for data travel as their number."""

    def __init__(self, core: Core) -> None:
        self._ffi, self._lib = core.ffi, core.lib
        self._objects: list[Any] = []
        self._msg = self._ffi.new("struct prl_msg *")
        self._out = self._ffi.new("uint8_t[256]")
        self._with_data = {
            core.lib.PRL_MSG_REPLICATE, core.lib.PRL_MSG_OUTPUT, core.lib.PRL_MSG_SETUP,
            core.lib.PRL_MSG_RELAY,
        }  # fmt: skip

    def encode(self, message: Message) -> bytes:
        """The bytes of one message."""
        self._objects.append(message.data)
        data = self._ffi.new("uint8_t[]", (len(self._objects) - 1).to_bytes(8, "big"))
        msg = self._ffi.new("struct prl_msg *")
        for name in (
            "type", "handle", "seq", "generation", "service", "reason", "bits", "move", "flows",
            "phase",
        ):  # fmt: skip
            setattr(msg, name, getattr(message, name))
        msg.space, msg.tcp_seq = message.space & MASK, message.tcp_seq & MASK
        msg.sent_ns, msg.echo_ns, msg.lease_flags = message.sent_ns, message.echo_ns, message.flags
        if message.type == self._lib.PRL_MSG_HELLO:
            msg.version_min = msg.version_max = 1
            at, tlvs = self._ffi.new("size_t *"), self._ffi.new("uint8_t[64]")
            kind = self._lib.PRL_TLV_EPOCH
            assert self._lib.prl_tlv_put(tlvs, 64, at, kind, 1, data, 8) == 0
            done = self._lib.prl_wire_encode(msg, tlvs, at[0], self._out, 256)
            return bytes(self._ffi.buffer(self._out, done))
        if message.type not in self._with_data:
            done = self._lib.prl_wire_encode(msg, self._ffi.NULL, 0, self._out, 256)
            return bytes(self._ffi.buffer(self._out, done))
        msg.data, msg.data_bytes = data, 8
        done = self._lib.prl_wire_encode_prefix(msg, self._out, 256)
        assert done > 0
        return bytes(self._ffi.buffer(self._out, done)) + bytes(self._ffi.buffer(data, 8))

    def decode_all(self, stream: bytearray) -> list[Message]:
        """Take every whole message off the front of ``stream``."""
        found = []
        while True:
            buf = self._ffi.from_buffer(stream)
            length = self._lib.prl_wire_length(buf, len(stream))
            assert length >= 0, "the codec refuses its own message"
            whole = 0 < length <= len(stream)
            if whole:
                assert self._lib.prl_wire_decode(buf, length, self._msg) == 0
                found.append(self._decoded())
            self._ffi.release(buf)
            if not whole:
                return found
            del stream[:length]

    def _decoded(self) -> Message:
        msg, ffi = self._msg, self._ffi
        message = Message(msg.type, msg.handle)
        for name in (
            "seq", "space", "tcp_seq", "generation", "reason", "bits", "sent_ns", "echo_ns",
            "service", "move", "flows", "phase",
        ):  # fmt: skip
            setattr(message, name, int(getattr(msg, name)))
        message.flags = int(msg.lease_flags)
        if msg.data != ffi.NULL:
            number = bytes(ffi.buffer(msg.data, 8))
        elif msg.type == self._lib.PRL_MSG_HELLO:
            number = bytes(ffi.buffer(msg.tlvs + self._lib.PRL_TLV_HEADER, 8))
        else:
            return message
        message.data = self._objects[int.from_bytes(number, "big")]
        return message


EOF = None
"""Stands in a pipe for the end of the connection."""


class Pipe:
    """One direction of one connection."""

    __slots__ = ("items", "last_ns", "rest")

    def __init__(self) -> None:
        self.items: deque[tuple[int, Any]] = deque()
        self.last_ns = 0
        self.rest = bytearray()
        """What the receiver has of a message that is not whole yet (codec runs only)."""


class Connection:
    """One epoch's connection between both nodes; pipes by sender."""

    def __init__(self, world: "World", epoch: int) -> None:
        self.world, self.epoch, self.born_ns = world, epoch, world.now_ns
        self.pipes = (Pipe(), Pipe())
        self.open = [True, True]
        self.hello: list[Any] = [None, None]

    def send(self, sender: int, message: Message) -> bool:
        """False when the transmit queue is full."""
        if not self.has_room(sender):
            self.world.count("link ring full")
            return False
        codec = self.world.codec
        self._put(sender, codec.encode(message) if codec else message)
        return True

    def has_room(self, sender: int) -> bool:
        """Whether one more message can be queued."""
        return len(self.pipes[sender].items) < self.world.ring_max

    def _put(self, sender: int, item: Any) -> None:
        world, pipe = self.world, self.pipes[sender]
        pipe.last_ns = max(pipe.last_ns, world.now_ns + world.latency_ns())
        pipe.items.append((pipe.last_ns, item))
        world.at(pipe.last_ns, self.arrive, sender)

    def arrive(self, sender: int) -> None:
        """What is due reaches the other node's kernel; its prld need not run."""
        world, pipe = self.world, self.pipes[sender]
        receiver = world.nodes[1 - sender]
        if world.cut[sender] or receiver.asleep:
            return
        while pipe.items and pipe.items[0][0] <= world.now_ns:
            item = pipe.items.popleft()[1]
            if not (self.open[1 - sender] and receiver.prld and receiver.prld.connection is self):
                continue
            if item is EOF or world.codec is None:
                receiver.prld.link_rx.append(item)
            else:  # bytes, as the stream cuts them
                pipe.rest += item
                if world.random.random() < 0.3 and pipe.items and pipe.items[0][1] is not EOF:
                    keep = bytes(pipe.rest[-7:])
                    del pipe.rest[-7:]
                    pipe.items[0] = (pipe.items[0][0], keep + pipe.items[0][1])
                receiver.prld.link_rx += world.codec.decode_all(pipe.rest)
            receiver.wake()

    def heal(self) -> None:
        """A direction works again: what waited arrives a little later."""
        for sender in (0, 1):
            if self.pipes[sender].items:
                self.world.at(self.world.now_ns + 2_000_000, self.arrive, sender)

    def close(self, closer: int) -> None:
        """``closer`` gave it up; the other side learns by FIN (behind the rest) or by RST."""
        self.open[closer] = False
        self.pipes[1 - closer].items.clear()
        if self.world.random.random() < 0.5:
            self.pipes[closer].items.clear()
        if self.open[1 - closer]:
            self._put(closer, EOF)

    def vanish(self, node: int) -> None:
        """``node`` has lost its power: nothing more comes from it, nothing is said."""
        self.open[node] = False
        if self.world.nodes[1 - node].asleep and self.world.random.random() < 0.5:
            self.pipes[node].items.clear()  # nobody is left to send it again
