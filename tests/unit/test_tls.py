"""The link's TLS: nobody without the pair key gets a byte through, whole batches do (R27)."""

import errno
import random
import select
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prl._core import ffi, lib

from prl.bindings.tls import Channel, Refusal, Stream, TlsError, key_name
from tests.unit.test_link import TX_BYTES, End, drain, exchange

KEY, OTHER_KEY, THIRD_KEY = bytes(range(32)), bytes(32), b"k" * 32
EAGAIN, EBADMSG, ECONNRESET = 11, 74, 104
STEPS = 100
HANDSHAKE, APPLICATION = 22, 23


def pair() -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for sock in ends:
        sock.setblocking(False)
    return ends


def shake(*channels: Channel) -> None:
    """Let them talk until all are done; raises what the first one that fails does."""
    waiting = list(channels)
    for _ in range(STEPS):
        waiting = [channel for channel in waiting if not channel.step()]
        if not waiting:
            return
    raise AssertionError("no end of the handshake")


def attach(channel: Channel) -> End:
    """A link over a channel whose handshake is done."""
    end = End.__new__(End)
    end.link, end.referred = ffi.new("struct prl_link *"), []
    assert lib.prl_link_init(end.link, TX_BYTES) == 0
    lib.prl_link_attach_tls(end.link, channel.release())
    return end


class Between:
    """Somebody on the wire, who sees every byte and passes on what ``change`` makes of it."""

    def __init__(self, change: Callable[[int, bytes], bytes] = lambda _, data: data) -> None:
        (here, self.here), (there, self.there) = pair(), pair()
        self.client = Channel(here, [KEY], server=False)
        self.server = Channel(there, [KEY], server=True)
        self.change = change
        self.seen: tuple[list[bytes], list[bytes]] = ([], [])

    def carry(self) -> bool:
        """What there is, both ways; whether there was anything."""
        moved = False
        for side, (source, target) in enumerate(((self.here, self.there), (self.there, self.here))):
            with suppress(BlockingIOError, ConnectionError):
                data = source.recv(1 << 20)
                moved |= bool(data)
                self.seen[side].append(data)
                target.sendall(self.change(side, data))
        return moved

    def shake(self) -> None:
        done = [False, False]
        for _ in range(STEPS):
            for n, channel in enumerate((self.client, self.server)):
                done[n] = done[n] or channel.step()
                self.carry()
            if all(done):
                return
        raise AssertionError("no end of the handshake")

    def ends(self) -> tuple[End, End]:
        self.shake()
        return attach(self.client), attach(self.server)

    def close(self) -> None:
        for end in (self.here, self.there):
            end.close()


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    here, there = pair()
    for sock in (here, there):  # small buffers: partial writes and reads
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    client, server = Channel(here, [KEY], server=False), Channel(there, [KEY], server=True)
    shake(client, server)
    made = attach(client), attach(server)
    yield made
    for end in made:
        end.close()


def goes_on(*channels: Channel) -> None:
    """Until one fails."""
    for _ in range(STEPS):
        for channel in channels:
            channel.step()


def refusal_of(client: Channel, server: Channel) -> tuple[Refusal | None, Refusal | None]:
    """Why either gives up."""
    found: list[Refusal | None] = [None, None]
    for _ in range(STEPS):
        for n, channel in enumerate((client, server)):
            if found[n] is None:
                try:
                    channel.step()
                except TlsError as error:
                    found[n] = error.refusal
                    channel.close()
    for channel in (client, server):
        channel.close()
    return found[0], found[1]


@pytest.mark.parametrize("refer", [False, True])
def test_messages_survive_every_cut_of_the_stream(ends, refer: bool) -> None:
    sender, receiver = ends
    sizes = [1, 60, 1500, 16_384, 20_000, 60_000]
    total = exchange(sender, receiver, random.Random(4), sizes, refer=refer)
    assert total / 16_384 < sender.link.tls.sent < total / 16_384 * 1.5  # whole records
    assert receiver.link.tls.received == sender.link.tls.sent


def test_keys_of_what_is_sent_change_and_nothing_is_lost() -> None:
    here, there = pair()
    client, server = Channel(here, [KEY], server=False), Channel(there, [KEY], server=True)
    shake(client, server)
    lib.prl_tls_update_after(client._tls, 3)
    sender, receiver = attach(client), attach(server)
    got: list[tuple[int, int, bytes]] = []
    for seq in range(20):
        assert sender.put(lib.PRL_MSG_REPLICATE, bytes([seq]) * 100, seq=seq) == 0
        sender.flush()
        assert receiver.put(lib.PRL_MSG_ACK, seq=seq) == 0  # the other way, meanwhile
        receiver.flush()
        drain(receiver, got)
    assert [seq for _, seq, _ in got] == list(range(20))
    assert sender.link.tls.key_updates == 6
    assert receiver.link.tls.key_updates == 0
    for end in (sender, receiver):
        end.close()


def test_what_openssl_has_decrypted_already_is_not_forgotten() -> None:
    """The receiver's buffer ends between two messages, in the middle of the last record."""
    here, there = pair()
    client, server = Channel(here, [KEY], server=False), Channel(there, [KEY], server=True)
    shake(client, server)
    sender, receiver = attach(client), attach(server)
    assert sender.put(lib.PRL_MSG_REPLICATE, b"data") == 0
    sender.flush()
    assert lib.prl_link_receive(receiver.link) > 0
    overhead = int(receiver.link.rx_to) - 4
    free, sizes = lib.PRL_LINK_RX_BYTES - overhead - 4, []
    while free > overhead:
        sizes.append(min(60_000, free - overhead))
        free -= overhead + sizes[-1]
    assert free == 0
    for size in (*sizes, 4):  # the last one is behind the end of the buffer
        while sender.put(lib.PRL_MSG_REPLICATE, bytes(size)):
            sender.flush()
            lib.prl_link_receive(receiver.link)
    while lib.prl_link_pending(sender.link):
        sender.flush()
        lib.prl_link_receive(receiver.link)
    while lib.prl_link_receive(receiver.link) > 0:
        pass
    assert receiver.link.rx_to == lib.PRL_LINK_RX_BYTES
    taken = 0
    while receiver.take()[0] == 1:
        taken += 1
    assert taken == 1 + len(sizes)
    assert lib.prl_link_unread(receiver.link)
    assert lib.prl_link_receive(receiver.link) == overhead + 4
    for end in (sender, receiver):
        end.close()


def test_a_close_is_told(ends) -> None:
    sender, receiver = ends
    assert sender.put(lib.PRL_MSG_FLOWCTL, seq=1) == 0
    sender.flush()
    lib.prl_link_detach(sender.link)
    got: list[tuple[int, int, bytes]] = []
    drain(receiver, got)
    assert [one[:2] for one in got] == [(lib.PRL_MSG_FLOWCTL, 1)]
    assert lib.prl_link_receive(receiver.link) == -ECONNRESET
    assert receiver.link.tls.truncated == 0


def test_a_cut_in_the_middle_of_a_record_is_an_end_without_a_word() -> None:
    wire = Between()
    sender, receiver = wire.ends()
    wire.change = lambda _, data: data[:-1]
    assert sender.put(lib.PRL_MSG_REPLICATE, b"data" * 100) == 0
    sender.flush()
    wire.carry()
    assert lib.prl_link_receive(receiver.link) == 0
    wire.close()
    assert lib.prl_link_receive(receiver.link) == -ECONNRESET
    assert receiver.take() == (0, None)
    assert receiver.link.tls.truncated == 1
    for end in (sender, receiver):
        end.close()


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "header flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "duplicated": lambda data: data + data,
    "inserted": lambda data: b"\x17\x03\x03\x00\x20" + bytes(32) + data,
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_that_was_changed_on_its_way_gets_through(change: str) -> None:
    wire = Between()
    sender, receiver = wire.ends()
    wire.change = lambda _, data: CHANGES[change](data)
    assert sender.put(lib.PRL_MSG_REPLICATE, b"data" * 100) == 0
    sender.flush()
    wire.carry()
    got, err = [], 0
    while (err := lib.prl_link_receive(receiver.link)) > 0:
        while (one := receiver.take())[0] == 1:
            got.append(one[1])
    assert err == -EBADMSG
    assert "not authentic" in ffi.string(lib.prl_link_words(err)).decode()
    assert len(got) == (change == "duplicated")  # the first of the two is good
    assert receiver.link.tls.forged == 1
    wire.close()
    for end in (sender, receiver):
        end.close()


def test_a_record_that_was_left_out_ends_the_connection() -> None:
    wire = Between()
    sender, receiver = wire.ends()
    for change in (lambda _, __: b"", lambda _, data: data):
        wire.change = change
        assert sender.put(lib.PRL_MSG_REPLICATE, b"data") == 0
        sender.flush()
        wire.carry()
    assert lib.prl_link_receive(receiver.link) == -EBADMSG
    assert receiver.take() == (0, None)
    wire.close()
    for end in (sender, receiver):
        end.close()


def test_what_crosses_is_not_readable_and_a_recording_is_of_no_use() -> None:
    wire = Between()
    sender, receiver = wire.ends()
    assert sender.put(lib.PRL_MSG_REPLICATE, b"a secret" * 100) == 0
    sender.flush()
    wire.carry()
    recording = b"".join(wire.seen[0])
    assert b"a secret" not in recording
    assert recording[0] == HANDSHAKE
    for end in (sender, receiver):
        end.close()
    wire.close()

    here, there = pair()
    server = Channel(there, [KEY], server=True)
    here.sendall(recording)
    with pytest.raises(TlsError) as raised:
        goes_on(server)
    assert raised.value.refusal == Refusal.FORGED
    server.close()
    here.close()


def test_one_bit_flipped_in_the_handshake_is_refused() -> None:
    for side in (0, 1):
        for position in (0, 20, 60, -1):

            def flip(number: int, data: bytes, side: int = side, at: int = position) -> bytes:
                if number != side:
                    return data
                at %= len(data)
                return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]

            wire = Between(flip)
            with pytest.raises((TlsError, AssertionError)):
                wire.shake()
            for channel in (wire.client, wire.server):
                channel.close()
            wire.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"PRL1" * 20, b"\0", b"\xff" * 5000])
def test_what_is_not_tls_is_refused_at_its_first_byte(said: bytes) -> None:
    for server in (True, False):
        here, there = pair()
        channel = Channel(there, [KEY], server=server)
        assert not channel.step()
        here.sendall(said)
        with pytest.raises(TlsError, match=r"does not speak TLS; give link\.plain") as raised:
            channel.step()
        assert raised.value.refusal == Refusal.PLAIN
        channel.close()
        here.close()


@pytest.mark.parametrize("keys", [[OTHER_KEY], [OTHER_KEY, THIRD_KEY]])
def test_another_key_is_refused_by_both(keys: list[bytes]) -> None:
    here, there = pair()
    found = refusal_of(Channel(here, keys, server=False), Channel(there, [KEY], server=True))
    assert found == (Refusal.KEY, Refusal.KEY)


def test_while_the_key_is_changed_both_are_accepted() -> None:
    for shown in ([KEY], [OTHER_KEY]):
        here, there = pair()
        client = Channel(here, shown, server=False)
        server = Channel(there, [KEY, OTHER_KEY], server=True)
        shake(client, server)
        assert client.key == server.key == key_name(shown[0])
        for channel in (client, server):
            channel.close()


@pytest.mark.parametrize(
    ("psk", "refusal"), [(KEY, None), (OTHER_KEY, Refusal.KEY), (None, Refusal.KEY)]
)
def test_openssl_s_client_needs_the_key_and_not_only_its_name(
    psk: bytes | None, refusal: Refusal | None
) -> None:
    """The name crosses in clear: whoever has heard it and does not know the key fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}"]
        command += ["-tls1_3", "-quiet"]
        command += ["-psk_identity", key_name(KEY), "-psk", psk.hex()] if psk else []
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as client:
            sock, _ = listener.accept()
            sock.setblocking(False)
            server = Channel(sock, [KEY], server=True)
            found = None
            try:
                while not server.step():
                    select.select([server], [], [])
            except TlsError as error:
                found = error.refusal
            server.close()
            client.communicate()
    assert found == refusal


def test_a_client_without_the_key_is_refused() -> None:
    here, there = pair()
    server = Channel(there, [KEY], server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    here.sendall(outgoing.read())
    with pytest.raises(TlsError) as raised:
        server.step()
    assert raised.value.refusal == Refusal.KEY
    server.close()
    here.close()


def test_a_server_with_a_certificate_instead_of_the_key_is_refused(tmp_path: Path) -> None:
    """Whoever answers in the other node's place has to know the key."""
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=re1", "-keyout", str(private), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    here, there = pair()
    client = Channel(here, [KEY], server=False)
    assert not client.step()
    incoming.write(there.recv(1 << 16))
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    there.sendall(outgoing.read())
    with pytest.raises(TlsError) as raised:
        goes_on(client)
    assert raised.value.refusal == Refusal.KEY
    client.close()
    there.close()


def test_who_hangs_up_is_told_from_who_lies() -> None:
    for server in (True, False):
        here, there = pair()
        channel = Channel(there, [KEY], server=server)
        here.close()
        with pytest.raises(TlsError, match=r"link\.plain the same on both") as raised:
            goes_on(channel)
        assert raised.value.refusal == Refusal.ENDED
        channel.close()


def secret_of(end: End) -> bytes:
    found = ffi.new("uint8_t[]", lib.PRL_LINK_SECRET_BYTES)
    assert lib.prl_link_secret(end.link, found) == 0
    return bytes(found)


def test_each_connection_has_a_secret_that_both_ends_know() -> None:
    """What the keys on the service LAN come from (L7)."""
    found = []
    for _ in range(2):
        here, there = pair()
        client, server = Channel(here, [KEY], server=False), Channel(there, [KEY], server=True)
        shake(client, server)
        made = attach(client), attach(server)
        secrets = {secret_of(end) for end in made}
        for end in made:
            end.close()
        assert len(secrets) == 1
        found += secrets
    assert len(set(found)) == 2
    assert bytes(32) not in found
    plain = ffi.new("struct prl_link *")
    assert lib.prl_link_secret(plain, ffi.new("uint8_t[32]")) == -errno.ENOTSUP


def test_a_stream_of_bytes_beside_the_link() -> None:
    here, there = pair()
    for sock in (here, there):  # so that neither takes all at once
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    client, server = Channel(here, [KEY], server=False), Channel(there, [KEY], server=True)
    shake(client, server)
    one, other = Stream(client), Stream(server)
    data = random.Random(5).randbytes(2_000_000)
    left, got, waited = bytearray(data), bytearray(), False
    with pytest.raises(BlockingIOError):
        other.read()
    while len(got) < len(data):
        try:
            del left[: one.write(left)]
        except BlockingIOError:
            waited = True
        with suppress(BlockingIOError):
            got += other.read()
    assert waited
    assert got == data
    while one.unsent:
        one.write(b"")
    other.write(b"an answer")
    assert one.read() == b"an answer"
    one.close()
    one.close()
    assert other.read() == b""
    other.close()


def test_a_stream_that_somebody_changes_ends() -> None:
    between = Between()
    between.shake()
    one, other = Stream(between.client), Stream(between.server)
    between.change = lambda _, data: data[:-1] + bytes([data[-1] ^ 1])
    one.write(b"good")
    between.carry()
    with pytest.raises(OSError, match="Bad message"):
        other.read()
    one.close()
    other.close()
    between.close()
