"""The link's message types, reasons and TLVs, as userspace/wire.h has them (SPEC R13, R16)."""

from collections.abc import Iterable, Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

from prl.core.native import ffi, lib, text_of
from prl.errors import PrlError

VERSION: int = lib.PRL_WIRE_VERSION
VERSION_MIN: int = lib.PRL_WIRE_VERSION_MIN
SETUP_CHUNK_BYTES: int = lib.PRL_SETUP_CHUNK
MESSAGE_MAX_BYTES: int = lib.PRL_WIRE_MAX
_TLV_ROOM_BYTES = 16  # header and padding of one element are no more
TLV_HEADER_BYTES: int = lib.PRL_TLV_HEADER
TOKEN_BYTES: int = lib.PRL_TOKEN_BYTES
LAN_KEY_BYTES = 32


class Message(IntEnum):
    """Types of message that the control plane sends or gets."""

    HELLO = lib.PRL_MSG_HELLO
    LEASE = lib.PRL_MSG_LEASE
    REPLICATE = lib.PRL_MSG_REPLICATE
    ACK = lib.PRL_MSG_ACK
    FLOWCTL = lib.PRL_MSG_FLOWCTL
    OUTPUT = lib.PRL_MSG_OUTPUT
    OUTPUT_ACK = lib.PRL_MSG_OUTPUT_ACK
    SETUP = lib.PRL_MSG_SETUP
    SETUP_DONE = lib.PRL_MSG_SETUP_DONE
    VOID = lib.PRL_MSG_VOID
    VOID_ACK = lib.PRL_MSG_VOID_ACK
    CLOSE = lib.PRL_MSG_CLOSE
    ERROR = lib.PRL_MSG_ERROR
    RENOUNCE = lib.PRL_MSG_RENOUNCE
    OFFER = lib.PRL_MSG_OFFER
    COMPARE = lib.PRL_MSG_COMPARE
    SWITCHOVER = lib.PRL_MSG_SWITCHOVER
    RELAY = lib.PRL_MSG_RELAY


class Tlv(IntEnum):
    """Types of TLV that the control plane uses."""

    SNAPSHOT = lib.PRL_TLV_SNAPSHOT
    NODE_NAME = lib.PRL_TLV_NODE_NAME
    EPOCH = lib.PRL_TLV_EPOCH
    CAPABILITIES = lib.PRL_TLV_CAPABILITIES
    CLAIM_TOKEN = lib.PRL_TLV_CLAIM_TOKEN
    LAN_KEY = lib.PRL_TLV_LAN_KEY
    SERVICE = lib.PRL_TLV_SERVICE
    ENDPOINT = lib.PRL_TLV_ENDPOINT
    TEXT = lib.PRL_TLV_TEXT
    ELIDED = lib.PRL_TLV_ELIDED
    APPLICATION = lib.PRL_TLV_APPLICATION
    MOMENT = lib.PRL_TLV_MOMENT


class Reason(IntEnum):
    """Why something was refused or ended."""

    OK = lib.PRL_REASON_OK
    NO_SPACE = lib.PRL_REASON_NO_SPACE
    INVALID_HANDLE = lib.PRL_REASON_INVALID_HANDLE
    NOT_ACTIVE = lib.PRL_REASON_NOT_ACTIVE
    TIMEOUT = lib.PRL_REASON_TIMEOUT
    LINK_LOST = lib.PRL_REASON_LINK_LOST
    NO_APPLICATION = lib.PRL_REASON_NO_APPLICATION
    APPLICATION_GONE = lib.PRL_REASON_APPLICATION_GONE
    RESTORE_FAILED = lib.PRL_REASON_RESTORE_FAILED
    DIVERGED = lib.PRL_REASON_DIVERGED
    REQUESTED = lib.PRL_REASON_REQUESTED
    ENDED = lib.PRL_REASON_ENDED
    NO_MEMORY = lib.PRL_REASON_NO_MEMORY
    MALFORMED = lib.PRL_REASON_MALFORMED
    OUTPUT_DIFFERS = lib.PRL_REASON_OUTPUT_DIFFERS
    MID_STREAM = lib.PRL_REASON_MID_STREAM
    NOT_OWNER = lib.PRL_REASON_NOT_OWNER
    UNPROTECTED = lib.PRL_REASON_UNPROTECTED
    BUSY = lib.PRL_REASON_BUSY
    LEASE_OVER = lib.PRL_REASON_LEASE_OVER
    NO_LAN = lib.PRL_REASON_NO_LAN
    NOT_HELD = lib.PRL_REASON_NOT_HELD
    STRAY_IN = lib.PRL_REASON_STRAY_IN
    STRAY_OUT = lib.PRL_REASON_STRAY_OUT


class Capability(IntFlag):
    """What a node can do beyond the least."""

    OUTPUT = lib.PRL_CAP_OUTPUT
    UDP = lib.PRL_CAP_UDP
    NACK_RETRY = lib.PRL_CAP_NACK_RETRY
    COMPARE = lib.PRL_CAP_COMPARE
    L3_ELISION = lib.PRL_CAP_L3_ELISION
    SWITCHOVER = lib.PRL_CAP_SWITCHOVER
    PREPARE = lib.PRL_CAP_PREPARE


SETUP_LAST: int = lib.PRL_SETUP_LAST
SETUP_PREPARE: int = lib.PRL_SETUP_PREPARE


class Element(NamedTuple):
    """One TLV."""

    type: int
    value: bytes


class WireError(PrlError):
    """TLVs that cannot be read or written."""


class Moment(NamedTuple):
    """What of a moment is not the kernel's (userspace/moment.h)."""

    in_bytes: int
    """Of the peer's stream before the first unread byte."""
    out_bytes: int
    """Of the application's before the end of the send queue."""
    unread_bytes: int
    unacked_bytes: int


def decode_moment(value: bytes) -> Moment:
    """Read the element. Raises WireError."""
    moment = ffi.new("struct prl_moment *")
    if lib.prl_moment_decode(ffi.from_buffer(value), len(value), moment):
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
