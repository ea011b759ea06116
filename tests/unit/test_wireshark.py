"""docs/wireshark/prl.lua on captures made here: golden vectors, recorded exchanges, garbage.

Checks R16.
"""

from pathlib import Path

import pytest

from tests.dissector import fields, tshark, write_pcap
from tests.link_capture import EXCHANGES
from tests.unit.test_wire import MESSAGES, TLVS, VECTORS, Vector, by_table
from tests.version_peer import messages

pytestmark = pytest.mark.needs("tshark")

HEADER_FIELDS = ["prl.type", "prl.length", "prl.handle", "prl.seq"]
BAD = "prl.malformed || _ws.malformed || _ws.lua.error"
FIELD_NAMES = [
    f"prl.{m.name.lower()}.{name}"
    for m in MESSAGES.values()
    for name, *_ in m.fields
    if name != "unused"
]
ELEMENT_NAMES = [f"prl.{name.lower()}" for name in TLVS]
TEXTS = {"prl.node_name", "prl.endpoint", "prl.text"}
NUMBERS = {"prl.epoch", "prl.capabilities"}


def value_of(name: str, shown: str) -> bytes:
    if name in TEXTS:
        return shown.encode()
    return int(shown, 0).to_bytes(8) if name in NUMBERS else bytes.fromhex(shown)


def test_every_golden_vector_is_shown_as_it_was_written(tmp_path: Path) -> None:
    pcap = tmp_path / "golden.pcap"
    write_pcap(pcap, [vector.data for vector in VECTORS])
    assert tshark(pcap, "-Y", BAD) == []
    names = [*HEADER_FIELDS, *FIELD_NAMES, *ELEMENT_NAMES]
    found = fields(pcap, names)
    assert len(found) == len(VECTORS)
    for vector, packet in zip(VECTORS, found, strict=True):
        values = dict(zip(names, packet, strict=True))
        check(vector, values)
    assert fields(pcap, ["prl.unknown"], "prl.later") == [[["deadbeef"]]]


def check(vector: Vector, values: dict[str, list[str]]) -> None:
    wanted = dict(vector.fields)
    head = [
        MESSAGES[vector.message].type,
        len(vector.data),
        wanted.pop("handle"),
        wanted.pop("seq"),
    ]
    assert [int(values.pop(name)[0], 0) for name in HEADER_FIELDS] == head
    for name, value in wanted.items():
        (shown,) = values.pop(f"prl.{vector.message.lower()}.{name}")
        assert int(shown, 0) == value, f"{vector.name}: {name}"
    for name, content in vector.elements:
        if not name.startswith("?"):
            filtered = f"prl.{name.lower()}"
            assert value_of(filtered, values.pop(filtered)[0]) == content
    assert not any(values.values()), f"{vector.name}: more is shown than there is"


@pytest.mark.parametrize("segment_bytes", [7, 1448])
@pytest.mark.parametrize("side", [0, 1])
def test_messages_are_put_together_from_segments(
    tmp_path: Path, side: int, segment_bytes: int
) -> None:
    data, pcap = (EXCHANGES / f"v1-node{side}.bin").read_bytes(), tmp_path / "link.pcap"
    data = data[: 200 * segment_bytes]
    write_pcap(pcap, (data[at : at + segment_bytes] for at in range(0, len(data), segment_bytes)))
    assert tshark(pcap, "-Y", BAD) == []
    found = [
        tuple(int(value, 0) for value in message)
        for packet in fields(pcap, HEADER_FIELDS)
        for message in zip(*packet, strict=True)
    ]
    assert found == whole_messages(data)


def whole_messages(data: bytes) -> list[tuple[int, int, int, int]]:
    end = at = 0
    while at <= len(data):
        end, at = at, at + (int.from_bytes(data[at + 4 : at + 8]) or len(data))
    return messages(data[:end])


def test_what_is_no_message_is_told(tmp_path: Path) -> None:
    pcap, short = tmp_path / "garbage.pcap", bytearray(by_table("ACK", 1, 1, {})[:20])
    short[7] = len(short)  # its fixed part is cut short
    garbage = [
        b"GET / HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n",
        bytes(short),
        by_table("REPLICATE", 1, 1, {}, b"\x80\x01\0\0\0\0\xff\xff" + bytes(8)),
        by_table("ERROR", 1, 1, {}, b"\0\x0c\0\0"),
    ]
    write_pcap(pcap, garbage)
    assert len(tshark(pcap, "-Y", "prl.malformed")) == len(garbage)
    assert tshark(pcap, "-Y", "_ws.lua.error") == []
