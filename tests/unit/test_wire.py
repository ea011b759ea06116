"""The link's codec against its table, its document and golden vectors (R11, R13, R14, R16, R29)."""

import errno
import re
import runpy
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prl._core import ffi, lib

from prl.bindings.facts import Capability, Message, Reason, Tlv

ROOT = Path(__file__).resolve().parents[2]
DISSECTOR = ROOT / "docs/wireshark/prl.lua"
GOLDEN = Path(__file__).parent / "golden/v1.txt"
NUMBERS = Path(__file__).parent / "golden/numbers.txt"
HEADER = 16
FACTS = runpy.run_path(str(ROOT / "userspace/facts.py"))
WIRE = FACTS["read_wire"]()
MESSAGES: dict[str, Any] = WIRE.messages
TLVS: dict[str, Any] = WIRE.elements
CARRIED = {name for message in MESSAGES.values() for name in message.data}
DATA = {message.name: message.data[0] for message in MESSAGES.values() if message.data}


def tlv(name: str | int, value: bytes, *, mandatory: bool = True) -> bytes:
    kind = name if isinstance(name, int) else TLVS[name].type
    head = struct.pack(">HHI", kind | 0x8000 * mandatory, 0, len(value))
    return head + value + bytes(-len(value) % 4)


def by_table(name: str, handle: int, seq: int, values: dict[str, int], tlvs: bytes = b"") -> bytes:
    """Encode from the table alone: the codec's other witness."""
    message = MESSAGES[name]
    fixed = bytearray(message.fixed_bytes)
    for member, offset, width, _ in message.fields:
        fixed[offset : offset + width] = values.get(member, 0).to_bytes(width, "big")
    length = HEADER + len(fixed) + len(tlvs)
    return struct.pack(">BBHIII", 1, message.type, 0, length, handle, seq) + bytes(fixed) + tlvs


def encode(name: str, handle: int, seq: int, values: dict[str, int], tlvs: bytes = b"") -> bytes:
    msg = ffi.new("struct prl_msg *")
    msg.type, msg.handle, msg.seq = MESSAGES[name].type, handle, seq
    for member, value in values.items():
        setattr(msg, MESSAGES[name].members[member], value)
    out = ffi.new("uint8_t[]", 70_000)
    done = lib.prl_wire_encode(msg, ffi.from_buffer(tlvs), len(tlvs), out, 70_000)
    assert done > 0
    assert msg.length == done
    return bytes(ffi.buffer(out, done))


_decoded: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def decode(data: bytes) -> tuple[int, Any]:
    msg = ffi.new("struct prl_msg *")
    _decoded[msg] = data  # what it points into
    return lib.prl_wire_decode(ffi.from_buffer(data), len(data), msg), msg


def least(name: str) -> bytes:
    """The smallest good message of a type."""
    return by_table(name, 1, 2, {}, tlv(DATA[name], b"data") if name in DATA else b"")


@dataclass
class Vector:
    """A message written by hand: what it says, and its bytes."""

    name: str
    message: str = ""
    fields: dict[str, int] = field(default_factory=dict)
    elements: list[tuple[str, bytes]] = field(default_factory=list)
    data: bytes = b""

    @property
    def tlvs(self) -> bytes:
        """The elements as they are encoded; one that is named by a number is not in the table."""
        return b"".join(
            tlv(int(name[1:]), value, mandatory=False)
            if name.startswith("?")
            else tlv(name, value, mandatory=TLVS[name].mandatory)
            for name, value in self.elements
        )


def read_golden(text: str) -> list[Vector]:
    vectors: list[Vector] = []
    for raw in text.splitlines():
        line = raw.split("|")[0].strip()
        if line.startswith("= "):
            vectors.append(Vector(line[2:]))
        elif line.startswith("+ "):
            name, value = line[2:].split(" ", 1)
            quoted = value.startswith('"')
            content = value.strip('"').encode() if quoted else bytes.fromhex(value[2:])
            vectors[-1].elements.append((name, content))
        elif "=" in line and not line.startswith("#"):
            vectors[-1].message, *pairs = line.split()
            vectors[-1].fields = {k: int(v, 0) for k, v in (pair.split("=") for pair in pairs)}
        elif line and not line.startswith("#"):
            vectors[-1].data += bytes.fromhex(line)
    return vectors


VECTORS = read_golden(GOLDEN.read_text())


def test_the_table_is_consistent() -> None:
    assert [message.type for message in MESSAGES.values()] == [*range(1, lib.PRL_MSG_COUNT)]
    assert [number for _, number, *_ in WIRE.reasons] == [*range(lib.PRL_REASON_COUNT)]
    assert len({entry.type for entry in TLVS.values()}) == len(TLVS)
    for message in MESSAGES.values():
        assert message.fixed_bytes % 4 == 0
        assert 1 <= message.since <= lib.PRL_WIRE_VERSION
        assert set(message.data) <= set(TLVS)
        for name, offset, width, unit in message.fields:
            assert offset % min(width, 4) == 0 or name == "unused", f"{message.name}.{name}"
            for group in re.findall(r"PRL_(\w+)_\*", unit):
                known = {"REASON", "PHASE", *(flag[0] for flag in WIRE.flags)}
                assert group in known, f"{message.name}.{name}: no PRL_{group}_* in the table"


def test_numbers_that_no_vector_has_stay_as_they_were_released() -> None:
    now = {
        *(f"REASON {number} {name}" for name, number, *_ in WIRE.reasons),
        *(f"{group} {bit} {name}" for group, name, bit, _ in WIRE.flags),
        *(f"PHASE {number} {name}" for name, number, _ in WIRE.phases),
        *(f"CAP {bit} {name}" for name, bit, _ in WIRE.capabilities),
    }
    released = NUMBERS.read_text().splitlines()
    assert released
    assert [line for line in released if line not in now] == []


def test_python_and_the_codec_have_the_table() -> None:
    assert {m.name: m.value for m in Message} == {m.name: m.type for m in MESSAGES.values()}
    assert {t.name: t.value for t in Tlv} == {t.name: t.type for t in TLVS.values()}
    assert {r.name: r.value for r in Reason} == {row[0]: row[1] for row in WIRE.reasons}
    for message in Message:
        assert getattr(lib, f"PRL_MSG_{message.name}") == message
        assert ffi.string(lib.prl_msg_name(message)).decode() == message.name
    assert ffi.string(lib.prl_msg_name(200)) == b"unknown"
    for group, name, bit, _ in WIRE.flags:
        assert getattr(lib, f"PRL_{group}_{name}") == 1 << bit
    for name, bit, _ in WIRE.capabilities:
        assert Capability[name] == getattr(lib, f"PRL_CAP_{name}") == 1 << bit
    for name, number, _ in WIRE.phases:
        assert getattr(lib, f"PRL_PHASE_{name}") == number


@pytest.mark.parametrize("path", FACTS["GENERATED"])
def test_what_is_written_from_the_table_is_up_to_date(path: str) -> None:
    wanted = FACTS["generated"](path, WIRE)
    assert (ROOT / path).read_text() == wanted, "run `make facts`"


def test_a_part_that_lost_its_marks_is_missed(tmp_path: Path) -> None:
    text = DISSECTOR.read_text().replace("facts: rows", "rows")
    (tmp_path / "docs/wireshark").mkdir(parents=True)
    (tmp_path / "docs/wireshark/prl.lua").write_text(text)
    lost = runpy.run_path(str(ROOT / "userspace/facts.py"))
    lost["generated"].__globals__["ROOT"] = tmp_path
    with pytest.raises(ValueError, match="facts: rows"):
        lost["generated"]("docs/wireshark/prl.lua", WIRE)


def test_a_row_that_is_no_row_is_named() -> None:
    with pytest.raises(KeyError, match="PRL_TLV with 4"):
        FACTS["read_wire"]('PRL_TLV(NAME, 1, 1, "what")\n')


def test_the_dissector_has_the_limits() -> None:
    text = DISSECTOR.read_text()
    assert f"VERSION_MAX, LENGTH_MAX, PORT = {lib.PRL_WIRE_VERSION}, {lib.PRL_WIRE_MAX}, " in text
    assert f"HEADER, ELEMENT_HEADER, MANDATORY = {lib.PRL_WIRE_HEADER}, " in text


def test_every_reason_has_a_text() -> None:
    texts = {ffi.string(lib.prl_reason_text(n)) for n in range(lib.PRL_REASON_COUNT)}
    assert len(texts) == lib.PRL_REASON_COUNT
    assert ffi.string(lib.prl_reason_text(255)) == b"unknown reason"


def test_every_reason_is_called_in_traces_what_it_is_called_here() -> None:
    for reason in Reason:
        name = ffi.string(lib.prl_reason_name(reason)).decode()
        assert name == reason.name.lower().replace("_", " ")
    assert len(Reason) == lib.PRL_REASON_COUNT


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_golden_vectors(vector: Vector) -> None:
    fields = dict(vector.fields)
    handle, seq = fields.pop("handle"), fields.pop("seq")
    assert set(fields) == {f[0] for f in MESSAGES[vector.message].fields} - {"unused"}
    assert encode(vector.message, handle, seq, fields, vector.tlvs) == vector.data
    error, msg = decode(vector.data)
    assert error == 0
    assert (msg.version, msg.type) == (1, MESSAGES[vector.message].type)
    assert (msg.handle, msg.seq, msg.length) == (handle, seq, len(vector.data))
    for name, value in fields.items():
        assert getattr(msg, MESSAGES[vector.message].members[name]) == value
    assert bytes(ffi.buffer(msg.tlvs, msg.tlvs_bytes) if msg.tlvs_bytes else b"") == vector.tlvs
    carried = [(n, value) for n, value in vector.elements if n in CARRIED]
    for name, value in carried:
        assert msg.data_type == TLVS[name].type
        assert bytes(ffi.buffer(msg.data, msg.data_bytes)) == value
    assert carried or (msg.data, msg.data_bytes, msg.data_type) == (msg.tlvs, 0, 0)


def test_golden_vectors_cover_every_message_and_element() -> None:
    assert {vector.message for vector in VECTORS} == set(MESSAGES)
    assert {entry[0] for vector in VECTORS for entry in vector.elements} >= set(TLVS)


@given(st.sampled_from(sorted(MESSAGES)), st.data())
def test_what_was_encoded_is_decoded(name: str, data: st.DataObject) -> None:
    values = {
        member: data.draw(st.integers(0, 256**width - 1))
        for member, _, width, _ in MESSAGES[name].fields
        if member != "unused"
    }
    handle, seq = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(0, 2**32 - 1))
    content = data.draw(st.binary(min_size=1, max_size=9)) if name in DATA else b""
    tlvs = tlv(DATA[name], content) if name in DATA else b""
    encoded = encode(name, handle, seq, values, tlvs)
    assert encoded == by_table(name, handle, seq, values, tlvs)
    error, msg = decode(encoded)
    assert error == 0
    assert (msg.handle, msg.seq) == (handle, seq)
    for member, value in values.items():
        assert getattr(msg, MESSAGES[name].members[member]) == value
    if name in DATA:
        assert bytes(ffi.buffer(msg.data, msg.data_bytes)) == content


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1500, 65_575])
def test_prefix_data_and_padding_make_the_message(size: int) -> None:
    msg = ffi.new("struct prl_msg *")
    msg.type, msg.handle, msg.seq, msg.lif, msg.data_bytes = lib.PRL_MSG_REPLICATE, 3, 4, 5, size
    out = ffi.new("uint8_t[]", lib.PRL_WIRE_PREFIX_MAX)
    done = lib.prl_wire_encode_prefix(msg, out, lib.PRL_WIRE_PREFIX_MAX)
    whole = bytes(ffi.buffer(out, done)) + b"x" * size + bytes(lib.prl_wire_padding(size))
    assert whole == by_table("REPLICATE", 3, 4, {"lif": 5}, tlv("PACKET", b"x" * size))
    assert msg.length == len(whole) <= lib.PRL_WIRE_MAX
    assert decode(whole)[0] == 0
    assert lib.prl_wire_encode_prefix(msg, out, done - 1) == -errno.EMSGSIZE


def test_what_does_not_fit_is_not_encoded() -> None:
    msg = ffi.new("struct prl_msg *")
    out, at = ffi.new("uint8_t[]", 70_000), ffi.new("size_t *")
    msg.type, msg.data_bytes = lib.PRL_MSG_SETUP, lib.PRL_WIRE_MAX
    assert lib.prl_wire_encode_prefix(msg, out, 64) == -errno.EMSGSIZE
    msg.type, msg.data_bytes = lib.PRL_MSG_ACK, 1
    assert lib.prl_wire_encode_prefix(msg, out, 64) == -errno.EMSGSIZE
    msg.data_bytes = 0
    assert lib.prl_wire_encode(msg, ffi.NULL, 0, out, 23) == -errno.EMSGSIZE
    assert lib.prl_wire_encode(msg, bytes(66_560), 66_560, out, 70_000) == -errno.EMSGSIZE
    msg.type = 99
    assert lib.prl_wire_encode(msg, ffi.NULL, 0, out, 64) == -errno.ENOTSUP
    assert lib.prl_tlv_put(out, 11, at, 1, 1, b"abc", 3) == -errno.EMSGSIZE
    assert lib.prl_tlv_put(out, 12, at, 1, 1, b"abc", 3) == 0
    assert lib.prl_tlv_put(out, 12, at, 1, 1, ffi.NULL, 0) == -errno.EMSGSIZE
    assert bytes(ffi.buffer(out, at[0])) == tlv(1, b"abc")


def test_length_is_known_from_eight_bytes() -> None:
    def length(data: bytes) -> int:
        return int(lib.prl_wire_length(ffi.from_buffer(data), len(data)))

    good = least("ACK")
    assert [length(good[:n]) for n in range(8)] == [0] * 8
    assert length(good[:8]) == length(good + b"more") == len(good)
    assert length(b"\x00") == length(b"\x02") == -errno.EPROTO
    for wrong in (0, 12, 15, 18, lib.PRL_WIRE_MAX + 4, 2**32 - 4):
        assert length(good[:4] + struct.pack(">I", wrong)) == -errno.EPROTO


@pytest.mark.parametrize("name", MESSAGES)
def test_every_truncation_is_refused(name: str) -> None:
    good = least(name)
    assert decode(good)[0] == 0
    for size in range(len(good)):
        short = good[:size]
        assert decode(short)[0] == -errno.EPROTO
        if size >= HEADER:
            fitted = short[:4] + struct.pack(">I", size) + short[8:]
            assert decode(fitted)[0] == -errno.EPROTO


@pytest.mark.parametrize("name", DATA)
def test_data_must_be_there_once_and_where_it_belongs(name: str) -> None:
    data = tlv(DATA[name], b"data")
    other = tlv("SNAPSHOT" if name != "SETUP" else "PACKET", b"data")
    assert decode(by_table(name, 1, 1, {}))[0] == -errno.EPROTO
    assert decode(by_table(name, 1, 1, {}, tlv(DATA[name], b"")))[0] == -errno.EPROTO
    assert decode(by_table(name, 1, 1, {}, data + data))[0] == -errno.EPROTO
    assert decode(by_table(name, 1, 1, {}, data + other))[0] == -errno.EPROTO
    assert decode(by_table("ACK", 1, 1, {}, data))[0] == -errno.EPROTO


def test_elided_takes_the_place_of_packet_and_of_nothing_else() -> None:
    packet, elided = tlv("PACKET", b"data"), tlv("ELIDED", b"data")
    error, msg = decode(by_table("REPLICATE", 1, 1, {}, elided))
    assert error == 0
    assert msg.data_type == TLVS["ELIDED"].type
    for name, tlvs in {
        "REPLICATE": packet + elided,
        "SETUP": elided,
        "OUTPUT": elided,
        "ACK": elided,
    }.items():
        assert decode(by_table(name, 1, 1, {}, tlvs))[0] == -errno.EPROTO
    out = ffi.new("uint8_t[]", lib.PRL_WIRE_PREFIX_MAX)
    again = ffi.new("struct prl_msg *", {"type": lib.PRL_MSG_REPLICATE, "data_bytes": 4})
    again.data_type = TLVS["ELIDED"].type
    done = lib.prl_wire_encode_prefix(again, out, lib.PRL_WIRE_PREFIX_MAX)
    assert bytes(ffi.buffer(out, done)) == by_table("REPLICATE", 0, 0, {}, elided)[:-4]
    again.data_type = TLVS["SNAPSHOT"].type
    assert lib.prl_wire_encode_prefix(again, out, lib.PRL_WIRE_PREFIX_MAX) == -errno.EMSGSIZE


@pytest.mark.parametrize("bits", [lib.PRL_OUTPUT_FIN, lib.PRL_OUTPUT_RST])
def test_fin_and_rst_need_no_payload(bits: int) -> None:
    error, msg = decode(by_table("OUTPUT", 1, 1, {"flags": bits}))
    assert error == 0
    assert msg.data != ffi.NULL
    assert msg.data_bytes == 0


def test_unknown_optional_is_skipped_and_unknown_mandatory_refused() -> None:
    data = tlv("PACKET", b"data")
    error, msg = decode(by_table("REPLICATE", 1, 1, {}, tlv(99, b"?", mandatory=False) + data))
    assert error == 0
    assert bytes(ffi.buffer(msg.data, msg.data_bytes)) == b"data"
    assert decode(by_table("REPLICATE", 1, 1, {}, tlv(99, b"?") + data))[0] == -errno.ENOTSUP
    unknown_type = bytearray(least("ACK"))
    for kind in (0, lib.PRL_MSG_COUNT, 255):
        unknown_type[1] = kind
        assert decode(bytes(unknown_type))[0] == -errno.ENOTSUP


def test_unused_fields_and_padding_are_ignored() -> None:
    assert decode(by_table("ACK", 1, 1, {"unused": 0xFFFFFF}))[0] == 0
    odd = bytearray(by_table("REPLICATE", 1, 1, {}, tlv("PACKET", b"x")))
    odd[-1] = 0xFF  # padding
    odd[HEADER + 8 + 2] = 0xFF  # the zero field of the TLV
    assert decode(bytes(odd))[0] == 0


@given(st.sampled_from(sorted(MESSAGES)), st.binary(max_size=60))
def test_any_tail_is_decoded_or_refused(name: str, tail: bytes) -> None:
    error, _ = decode(by_table(name, 1, 1, {}, tail))
    assert error in {0, -errno.EPROTO, -errno.ENOTSUP}
