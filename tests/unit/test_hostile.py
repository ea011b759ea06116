"""What others send to the control plane (R29): each decoder understands it, or says why not.

Hypothesis makes the input: anything, and what is nearly right. Whatever else is raised is a fault.
"""

import asyncio
import dataclasses
import os
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prl import config
from prl.bindings import wire
from prl.bindings.facts import Tlv
from prl.bindings.wire import Element, WireError
from prl.control import application, messages
from prl.control.messages import MessageError
from prl.control.protocol import Dialogue
from prl.daemon.control.rights import RIGHTS, Right
from prl.daemon.link import hello
from prl.daemon.link.hello import HelloError
from prl.daemon.requests import Requests
from prl.daemon.session import transfer
from prl.daemon.session.transfer import Collector, Setup, TransferError
from prl.endpoint import parse_endpoint, show_endpoint
from prl.errors import ConfigError, PrlError, UsageError
from prl.shadow import SnapshotError, decode, decode_udp, encode
from tests.unit.test_c_client import GOOD as EVENTS
from tests.unit.test_config import GOOD as CONFIGURATION
from tests.unit.test_hello import greet, received, service
from tests.unit.test_snapshot_codec import SNAPSHOT
from tests.unit.test_wire import VECTORS

REFUSAL_MAX = 1000

# What JSON and msgpack can say, with the values at which code that adds or compares goes wrong.
numbers = st.one_of(st.integers(), st.sampled_from([-1, 2**31, 2**32, 2**63, 2**64 - 1, 2**64]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.floats(), st.text(max_size=40))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def changed(draw: st.DrawFn, good: bytes) -> bytes:
    """A good message, with a few bytes of it changed, cut out or put in."""
    raw = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.integers(0, 3)):
            case 0:
                raw[at:at] = draw(st.binary(min_size=1, max_size=4))
            case 1:
                del raw[at : at + draw(st.integers(1, 8))]
            case 2:
                del raw[at:]
            case _ if at < len(raw):
                raw[at] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xC1, 0xFF]))
    return bytes(raw)


def with_values(good: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A good message with other values under some of its keys, and keys that nobody has."""
    keys = st.one_of(st.sampled_from(sorted(good)), st.text(max_size=8))
    return st.builds(lambda more: good | more, st.dictionaries(keys, values, max_size=3))


def packed(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """The same as msgpack, as far as that can say it."""
    return with_values(good).filter(_fits).map(msgspec.msgpack.encode)


def _fits(value: object) -> bool:
    """Whether msgpack can say it."""
    try:
        msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return False
    return True


def told(refused: PrlError) -> None:
    """A refusal is one line that can be logged, however long its cause was."""
    words = str(refused)
    assert "\n" not in words
    assert len(words) < REFUSAL_MAX


# ---- the other node ----

elements = st.builds(Element, st.sampled_from(list(Tlv)), st.binary(max_size=100))


@given(st.lists(elements, max_size=6))
def test_elements_come_back(sent: list[Element]) -> None:
    assert list(wire.decode_tlvs(wire.encode_tlvs(sent))) == sent


@given(st.one_of(st.binary(max_size=200), changed(VECTORS[0].data[20:])))
def test_any_elements(body: bytes) -> None:
    try:
        found = list(wire.decode_tlvs(body))
    except WireError as refused:
        told(refused)
        return
    assert sum(len(element.value) + wire.TLV_HEADER_BYTES for element in found) <= len(body)


HELLO = greet("re0", 0, service(), service(term=2**63 - 1, silent=2, policy="stop", out=True))
services = packed(msgspec.to_builtins(HELLO.services[0]))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A HELLO of some elements, right or nearly so."""
    made = [Element(Tlv.NODE_NAME, draw(st.one_of(st.just(b"re1"), st.binary(max_size=20))))]
    made.append(Element(Tlv.EPOCH, draw(st.binary(min_size=7, max_size=9))))
    made.append(Element(Tlv.CLAIM_TOKEN, draw(st.binary(min_size=16, max_size=17))))
    made.append(Element(Tlv.LAN_KEY, draw(st.binary(min_size=31, max_size=32))))
    made.append(Element(Tlv.CAPABILITIES, draw(st.binary(max_size=12))))
    made += [Element(Tlv.SERVICE, draw(services)) for _ in range(draw(st.integers(0, 3)))]
    return wire.encode_tlvs(draw(st.permutations(made)))


@given(
    st.one_of(st.binary(max_size=100), changed(hello.encode(HELLO)), bodies()),
    st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_any_hello(body: bytes, versions: tuple[int, int]) -> None:
    own = greet("re0", 0)
    event = dataclasses.replace(
        received(own, body), version_min=versions[0], version_max=versions[1], node_index=1
    )
    try:
        other = hello.decode(event)
    except HelloError as refused:
        told(refused)
        return
    assert hello.decode(received(other)) == other
    assert len(hello.lan_key(own, other)) == 32
    hello.agreed_stop(own.services, other.services)
    try:
        version = hello.check(own, other)
    except HelloError as refused:
        told(refused)
        return
    assert wire.VERSION_MIN <= version <= min(wire.VERSION, versions[1])
    for mine, theirs in zip(own.services, other.services, strict=True):
        keeps, term = hello.settle(mine, theirs, "re0")
        assert hello.settle(theirs, mine, other.node)[1] == term
        assert keeps in {hello.Owner.OWNER, hello.Owner.STANDBY}


@given(st.one_of(st.binary(max_size=100), changed(encode(SNAPSHOT))))
def test_any_snapshot(blob: bytes) -> None:
    try:
        found = decode(blob)
    except SnapshotError as refused:
        told(refused)
        return
    assert decode(encode(found)) == found


@given(st.one_of(st.binary(max_size=100), changed(encode(SNAPSHOT))))
def test_any_snapshot_of_udp(blob: bytes) -> None:
    try:
        found = decode_udp(blob)
    except SnapshotError as refused:
        told(refused)
        return
    assert str(found)


SETUP = Setup(
    snapshot=b"snapshot", mss=1460, rcv_wscale=7, snd_wscale=14, committed=1, timestamps=True
)
setups = packed(msgspec.msgpack.decode(transfer.encode(SETUP)))


@given(st.one_of(st.binary(max_size=100), changed(transfer.encode(SETUP)), setups))
def test_any_set_up(blob: bytes) -> None:
    try:
        found = transfer.decode(blob)
    except TransferError as refused:
        told(refused)
        return
    assert transfer.decode(transfer.encode(found)) == found


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.binary(max_size=40), st.booleans()),
        max_size=60,
    )
)
def test_pieces_in_any_order(sent: list[tuple[int, int, bytes, bool]]) -> None:
    """What is kept is bounded, and a set-up is what came for its handle and generation."""
    collector = Collector(bytes_max=100, transfers_max=3)
    model: dict[int, tuple[int, bytes]] = {}
    for handle, generation, piece, last in sent:
        before = model.pop(handle, (generation, b""))
        whole = piece if before[0] != generation else before[1] + piece
        try:
            arrived = collector.add(handle, generation, piece, last=last, now_ns=1)
        except TransferError:
            assert (
                sum(len(data) for _, data in model.values()) + len(whole) > 100 or len(model) >= 3
            )
            continue
        assert (arrived.blob if arrived else None) == (whole if last else None)
        if not last:
            model[handle] = (generation, whole)
        assert sum(len(data) for _, data in model.values()) <= 100


@given(st.one_of(st.binary(max_size=100), changed(VECTORS[-1].data[32:])))
def test_any_moment(value: bytes) -> None:
    try:
        moment = wire.decode_moment(value, 0)
    except WireError as refused:
        told(refused)
        return
    assert moment.unread_bytes + moment.unacked_bytes < len(value)


# ---- the control socket ----


@given(st.one_of(st.binary(max_size=100), changed(b'{"op":"offer","id":7,"endpoint":"[::1]:5"}')))
def test_any_request(raw: bytes) -> None:
    try:
        found = messages.decode(raw)
    except MessageError as refused:
        told(refused)
        return
    assert messages.decode(messages.encode(found)) == found


OPERATIONS = sorted(Requests(*[None] * 8, followers=None)._operations)  # type: ignore[arg-type]
ARGUMENTS = ("handle", "after", "service", "endpoint", "reason", "fenced", "force", "pid", "fd")


class Nothing:
    """In place of all that a request may concern: there is none of it."""

    def __getattr__(self, name: str) -> Any:
        raise PrlError(f"no {name} here")


@given(
    st.sampled_from(OPERATIONS),
    st.dictionaries(st.one_of(st.sampled_from(ARGUMENTS), st.text(max_size=5)), values, max_size=4),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=150)
def test_any_arguments(op: str, arguments: dict[str, Any], fds: int, is_guest: bool) -> None:
    """Before anything is done for a request, what it says is looked at: a refusal, and no fault."""
    served = Requests(*[Nothing()] * 8, followers=Nothing(), guests_may=Right.PROTECT)  # type: ignore[arg-type]
    client: Any = SimpleNamespace(is_guest=is_guest, closed=False, name="pid 1", uid=0)
    given_fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(fds)]
    left = list(given_fds)
    try:
        with pytest.raises(PrlError):
            asyncio.run(served.handle(client, arguments | {"op": op}, left))
    finally:
        for fd in left:
            os.close(fd)
    assert all(not _is_open(fd) for fd in given_fds)
    assert RIGHTS[op] <= Right.PROTECT or not is_guest or left == given_fds


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as refused:
        told(refused)
        return False
    return True


@given(st.text(max_size=60))
def test_any_endpoint(text: str) -> None:
    try:
        address, port = parse_endpoint(text)
    except UsageError as refused:
        told(refused)
        return
    assert parse_endpoint(show_endpoint(address, port)) == (address, port)


@given(with_values({"application": "aGVsbG8="}), st.integers(0, 2))
def test_any_application_bytes(message: dict[str, Any], fds: int) -> None:
    opened = [os.memfd_create("test") for _ in range(fds)]
    left = list(opened)
    try:
        data = application.unpack(message, left)
        assert len(data) <= messages.APPLICATION_MAX_BYTES
    except UsageError as refused:
        told(refused)
    finally:
        for fd in left:
            os.close(fd)
    assert not any(map(_is_open, opened))


# ---- what a client hears ----


@st.composite
def heard(draw: st.DrawFn) -> bytes:
    good = draw(st.sampled_from(EVENTS))
    try:
        return msgspec.json.encode(draw(with_values(good)))
    except (OverflowError, UnicodeEncodeError):
        return b"{}"


@given(st.one_of(st.binary(max_size=60), heard()), st.integers(0, 2), st.booleans(), st.booleans())
def test_any_word_of_prld(raw: bytes, fds: int, cut: bool, short: bool) -> None:
    opened = [os.memfd_create("test") for _ in range(fds)]
    left = list(opened)
    dialogue = Dialogue()
    dialogue.follow(9)
    given_away = -1
    try:
        word = dialogue.hear(raw, left, cut=cut, short=short)
        given_away = getattr(word, "fd", -1)
    except MessageError:
        assert given_away == -1
    for fd in (*left, given_away):
        if fd >= 0:
            os.close(fd)
    assert not any(map(_is_open, opened))


# ---- the configuration ----

SECTIONS = ["", "lan", "link", "ownership", "timing", "datapath"]
KEYS = sorted({key.path.rpartition(".")[2] for key in config.schema()})
toml_values = st.one_of(
    st.booleans().map(lambda one: str(one).lower()),
    st.integers(-(2**65), 2**65).map(str),
    st.floats().map(str),
    st.text(max_size=20).map(lambda text: f'"{text}"'),
    st.sampled_from(['"192.0.2.1"', '"2001:db8::1"', '["192.0.2.1"]', "[]", "{}", '"re0"', '"%s"']),
    st.just("1979-05-27T07:32:00Z"),
)


@st.composite
def configurations(draw: st.DrawFn) -> str:
    """The good one, with lines changed: other keys, other values, or gone."""
    lines = CONFIGURATION.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.integers(0, 2)):
            case 0:
                del lines[at]
            case 1 if " = " in lines[at]:
                lines[at] = f"{lines[at].partition(' = ')[0]} = {draw(toml_values)}"
            case _:
                lines.insert(at, f"{draw(st.sampled_from(KEYS))} = {draw(toml_values)}")
    return "\n".join(lines)


@given(st.one_of(st.text(max_size=80), configurations()))
@settings(max_examples=150)
def test_any_configuration(text: str) -> None:
    try:
        found = config.parse(text)
    except ConfigError as refused:
        told(refused)
        return
    assert found.node
    assert isinstance(found.lan.address, IPv4Address)
