"""Elements of the link's messages (SPEC R13, R16), and what messages and reasons are called."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prl.bindings.facts import Reason
from prl.bindings.native import ffi, lib, text_of
from prl.errors import PrlError

VERSION: int = lib.PRL_WIRE_VERSION
VERSION_MIN: int = lib.PRL_WIRE_VERSION_MIN
STREAM_MAX: int = lib.PRL_STREAM_MAX
"""The last position in a stream, and the largest offset from a socket's counters, there may be."""
SETUP_CHUNK_BYTES: int = lib.PRL_SETUP_CHUNK
MESSAGE_MAX_BYTES: int = lib.PRL_WIRE_MAX
_TLV_ROOM_BYTES = 16  # header and padding of one element are no more
TLV_HEADER_BYTES: int = lib.PRL_TLV_HEADER
TOKEN_BYTES: int = lib.PRL_TOKEN_BYTES
LAN_KEY_BYTES = 32


SETUP_LAST: int = lib.PRL_SETUP_LAST
SETUP_PREPARE: int = lib.PRL_SETUP_PREPARE


class Element(NamedTuple):
    """One TLV."""

    type: int
    value: bytes


class WireError(PrlError):
    """TLVs that cannot be read or written."""


class Moment(NamedTuple):
    """What of a moment is not the kernel's (userspace/tcp/moment.h)."""

    in_bytes: int
    """Of the peer's stream before the first unread byte."""
    out_bytes: int
    """Of the application's before the end of the send queue."""
    unread_bytes: int
    unacked_bytes: int


def decode_moment(value: bytes, before: int) -> Moment:
    """Read the element, in front of which so many bytes of its queues have come.

    Raises WireError.
    """
    moment = ffi.new("struct prl_moment *")
    if lib.prl_moment_decode(ffi.from_buffer(value), len(value), before, moment):
        raise WireError("malformed moment")
    return Moment(
        int(moment.in_bytes),
        int(moment.out_bytes),
        int(moment.unread_bytes),
        int(moment.unacked_bytes),
    )


def reason_text(reason: int) -> str:
    """``reason`` in words; numbers of a newer version too."""
    return text_of(lib.prl_reason_text(reason)) or f"reason {reason}"


def reason_name(reason: int) -> str:
    """The name of ``reason`` in lower case; ``reason_NUMBER`` for one of a newer version."""
    known = reason in Reason.__members__.values()
    return Reason(reason).name.lower() if known else f"reason_{reason}"


def message_name(kind: int) -> str:
    """The name of a message type, as the protocol's table has it."""
    return text_of(lib.prl_msg_name(kind)) or f"type {kind}"


def encode_tlvs(elements: Iterable[Element]) -> bytes:
    """Encode TLVs; the table says which of them the receiver may skip (SPEC R13).

    Raises:
        WireError: they do not fit into one message.
    """
    elements = list(elements)
    room = sum(len(element.value) + _TLV_ROOM_BYTES for element in elements)
    size = min(room, MESSAGE_MAX_BYTES)
    buffer = ffi.new("uint8_t[]", size)
    at = ffi.new("size_t *")
    for element in elements:
        mandatory = lib.prl_tlv_is_mandatory(element.type)
        value = element.value
        if lib.prl_tlv_put(
            buffer,
            size,
            at,
            element.type,
            mandatory,
            ffi.from_buffer(value),
            len(value),
        ):
            raise WireError(f"TLV {element.type} of {len(value)} bytes does not fit into a message")
    return bytes(ffi.buffer(buffer, at[0]))


def decode_tlvs(body: bytes) -> Iterator[Element]:
    """The TLVs in ``body`` that this version knows; others are skipped where that is allowed.

    Raises:
        WireError: ``body`` is malformed, or has a mandatory element of a later version (SPEC R13).
    """
    tlv = ffi.new("struct prl_tlv *")
    at = ffi.new("size_t *")
    source = ffi.from_buffer(body)
    while (step := lib.prl_tlv_next(source, len(body), at, tlv)) > 0:
        if lib.prl_tlv_is_known(tlv.type, VERSION):
            yield Element(tlv.type, bytes(ffi.buffer(tlv.value, tlv.bytes)) if tlv.bytes else b"")
        elif tlv.mandatory:
            raise WireError(
                f"element {tlv.type} is of a later protocol version than {VERSION} and must not be "
                "skipped; upgrade this node"
            )
    if step < 0:
        raise WireError("malformed TLV")
