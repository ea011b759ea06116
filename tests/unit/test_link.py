"""The link's stream: whole messages whatever the stream does (R11), limits that count."""

import random
import socket
from collections.abc import Iterator

import pytest
from prl._core import ffi, lib

TX_BYTES = 1 << 20


class End:
    """One end of a link over a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.link = ffi.new("struct prl_link *")
        assert lib.prl_link_init(self.link, TX_BYTES) == 0
        lib.prl_link_attach_tcp(self.link, sock.detach())
        self.referred: list[tuple[bytearray, list[object]]] = []

    def put(
        self, kind: int, data: bytes = b"", cuts: int = 1, refer: bool = False, **fields: int
    ) -> int:
        """Queue a message; referred data is overwritten as soon as a flush gives it back."""
        data = bytearray(data)
        msg = ffi.new("struct prl_msg *", {"type": kind, **fields})
        size = -(-len(data) // cuts) if data else 0
        view = memoryview(data)
        parts = [ffi.from_buffer(view[n : n + size]) for n in range(0, len(data), size or 1)]
        pieces = ffi.new("struct iovec[]", len(parts) or 1)
        for n, part in enumerate(parts):
            pieces[n].iov_base, pieces[n].iov_len = part, len(part)
        kept = ffi.from_buffer(data)
        msg.data, msg.data_bytes = kept, len(data)
        if refer:
            self.referred.append((data, parts))
            return lib.prl_link_refer(self.link, msg, pieces, len(parts))
        return lib.prl_link_put(self.link, msg, pieces, len(parts))

    def flush(self) -> None:
        assert lib.prl_link_flush(self.link) == 0
        for data, _ in self.referred:
            data[:] = bytes(len(data))
        self.referred.clear()

    def take(self) -> tuple[int, tuple[int, int, bytes] | None]:
        msg = ffi.new("struct prl_msg *")
        result = lib.prl_link_next(self.link, msg)
        if result != 1:
            return result, None
        data = bytes(ffi.buffer(msg.data, msg.data_bytes)) if msg.data_bytes else b""
        return 1, (msg.type, msg.seq, data)

    def close(self) -> None:
        lib.prl_link_destroy(self.link)


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    here, there = socket.socketpair()
    for sock in (here, there):  # small buffers: partial writes and reads
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        sock.setblocking(False)
    pair = End(here), End(there)
    yield pair
    for end in pair:
        end.close()


@pytest.mark.parametrize("refer", [False, True])
def test_messages_survive_every_cut_of_the_stream(ends, refer: bool) -> None:
    sender, receiver = ends
    exchange(sender, receiver, random.Random(3), [1, 60, 1500, 20_000], refer=refer)
    assert receiver.link.rx_messages[lib.PRL_MSG_REPLICATE] == 400


def exchange(
    sender: End, receiver: End, chance: random.Random, sizes: list[int], *, refer: bool
) -> int:
    """Send 400 messages of random ``sizes``, and see them all come; returns their bytes.

    ``refer``: most lie where they are until they are sent.
    """
    sent: list[tuple[int, int, bytes]] = []
    got: list[tuple[int, int, bytes]] = []
    for seq in range(400):
        data = chance.randbytes(chance.choice(sizes))
        by_reference = refer and chance.random() < 0.7
        while sender.put(
            lib.PRL_MSG_REPLICATE, data, chance.randrange(1, 9), refer=by_reference, seq=seq
        ):
            sender.flush()
            drain(receiver, got)
        sent.append((lib.PRL_MSG_REPLICATE, seq, data))
        if chance.random() < 0.1:
            sender.flush()
    while lib.prl_link_pending(sender.link):
        sender.flush()
        drain(receiver, got)
    drain(receiver, got)
    assert got == sent
    return sum(len(data) for _, _, data in sent)


def drain(receiver: End, got: list[tuple[int, int, bytes]]) -> None:
    while lib.prl_link_receive(receiver.link) > 0:
        while (one := receiver.take())[0] == 1:
            got.append(one[1])


def test_a_full_buffer_refuses_and_counts(ends) -> None:
    sender, _ = ends
    results = [sender.put(lib.PRL_MSG_REPLICATE, bytes(60_000)) for _ in range(30)]
    assert results.count(0) == TX_BYTES // 60_100
    assert sender.link.full == results.count(-105) > 0


def test_bytes_are_counted_by_type_on_both_ends(ends) -> None:
    here, there = ends
    for data in (bytes(1), bytes(1000)):
        here.put(lib.PRL_MSG_OUTPUT, data)
    here.put(lib.PRL_MSG_ACK)
    here.flush()
    assert lib.prl_link_receive(there.link) > 0
    while there.take()[0] == 1:
        pass
    sent, received = list(here.link.tx_bytes_of), list(there.link.rx_bytes_of)
    assert sent == received
    assert sum(sent) == here.link.tx_total == there.link.rx_total
    assert {kind for kind, size in enumerate(sent) if size} == {
        lib.PRL_MSG_OUTPUT,
        lib.PRL_MSG_ACK,
    }
    assert sent[lib.PRL_MSG_OUTPUT] > 1000


def test_the_wait_of_an_echo_is_read_where_it_is_said(ends) -> None:
    here, there = ends
    waits = []
    for value in (None, bytes.fromhex("0000000000ab54a9"), bytes(4)):  # the last one: malformed
        tlvs, at = ffi.new("uint8_t[]", 32), ffi.new("size_t *")
        if value is not None:
            kind = lib.PRL_TLV_ECHO_WAIT
            assert lib.prl_tlv_put(tlvs, 32, at, kind, 0, value, len(value)) == 0
        msg = ffi.new("struct prl_msg *", {"type": lib.PRL_MSG_LEASE, "echo_ns": 1})
        assert lib.prl_link_put_tlvs(here.link, msg, tlvs, at[0]) == 0
        here.flush()
        assert lib.prl_link_receive(there.link) > 0
        came = ffi.new("struct prl_msg *")
        assert lib.prl_link_next(there.link, came) == 1
        waits.append(lib.prl_wire_echo_wait_ns(came))
    assert waits == [0, 11_228_329, 0]


def test_garbage_is_refused(ends) -> None:
    _, receiver = ends
    here, there = socket.socketpair()
    there.setblocking(False)
    garbage = End(there)
    here.sendall(b"GET / HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n")
    assert lib.prl_link_receive(garbage.link) > 0
    assert garbage.take()[0] == -71  # EPROTO
    assert garbage.link.refused == 1
    here.close()
    garbage.close()
    assert receiver.take() == (0, None)


def test_the_end_of_the_stream_is_told(ends) -> None:
    sender, receiver = ends
    assert sender.put(lib.PRL_MSG_FLOWCTL, seq=1) == 0
    assert lib.prl_link_flush(sender.link) == 0
    lib.prl_link_detach(sender.link)
    got: list[tuple[int, int, bytes]] = []
    drain(receiver, got)
    assert [one[:2] for one in got] == [(lib.PRL_MSG_FLOWCTL, 1)]
    assert lib.prl_link_receive(receiver.link) == -104  # ECONNRESET
    assert sender.put(lib.PRL_MSG_FLOWCTL) == -107  # ENOTCONN
