"""HELLO: what the two nodes tell each other when the link comes up, and what must agree (R14)."""

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from prl.bindings import wire
from prl.bindings.datapath import Event
from prl.bindings.facts import Capability, Owner, Tlv
from prl.bindings.wire import Element
from prl.config import Config
from prl.errors import PrlError

OWN_CAPABILITIES = (
    Capability.OUTPUT
    | Capability.COMPARE
    | Capability.L3_ELISION
    | Capability.SWITCHOVER
    | Capability.PREPARE
    | Capability.CLAIM_MAC
    | Capability.EXPOSED
    | Capability.RESYNC
    | Capability.LONG_MOMENT
)
_EPOCH_BYTES = 8


class HelloError(PrlError):
    """The two nodes cannot work together as they are configured; the message says why."""


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """One service as its sender sees it."""

    name: Annotated[str, Meta(max_length=63)]
    addresses: Annotated[list[str], Meta(max_length=64)]
    owner: Annotated[str, Meta(max_length=63)]
    """Name of the configured owner."""
    state: Annotated[int, Meta(ge=0, le=3)]
    term: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    """Counts the changes of owner; the higher one knows better."""
    instance: Annotated[str, Meta(max_length=63)] = ""
    """Routing instance that it is in."""
    lif: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0
    """Number of its logical interface: what REPLICATE names."""
    sessions: Annotated[int, Meta(ge=0)] = 0
    """Live sessions that the sender's kernel has on these addresses."""
    given: bool = False
    """The sender gave it to the other node and does not know whether that has taken it (R21)."""
    silent: Annotated[int, Meta(ge=0, le=2)] = 0
    """The sender owns it, but 1: does not speak; 2: has not spoken since the link was lost. Who has
    spoken since has the sessions."""
    policy: str = ""
    """``continue`` or ``stop``: the sender's configuration. Earlier nodes do not say."""
    arbiter: str = ""
    """What the sender calls the pair in the arbiter's store, and what it does while that is not
    reached; empty: it has none."""
    witnesses: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    """Whose answers alone show the sender that it is on the LAN."""
    out: bool = False
    """The sender has taken itself out of it (I4): it neither stands by nor may it be given it."""


class LeaseTiming(msgspec.Struct, frozen=True, kw_only=True):
    """What the other node's lease depends on, as it is configured."""

    lease_ms: Annotated[int, Meta(ge=1)]
    suspect_ms: Annotated[int, Meta(ge=1)]
    takeover_ms: Annotated[int, Meta(ge=1)]
    hold_ms: Annotated[int, Meta(ge=1)]
    probe_ms: Annotated[int, Meta(ge=0)] = 0
    dead_ms: Annotated[int, Meta(ge=0)] = 0
    hung_ms: Annotated[int, Meta(ge=0)] = 0
    """Earlier nodes do not say, and send no probes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """One node's HELLO."""

    node: str
    index: int
    versions: tuple[int, int]
    epoch: int
    capabilities: int
    claim_token: bytes
    lan_key_half: bytes
    services: tuple[ServiceState, ...]
    timing: LeaseTiming | None = None
    """Earlier nodes do not say."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ServiceState)
_timing_decoder = msgspec.msgpack.Decoder(LeaseTiming)


def create(config: Config, services: tuple[ServiceState, ...], epoch: int | None = None) -> Hello:
    """This node's HELLO; ``epoch`` is the other node's proposal, None proposes one."""
    return Hello(
        node=config.node,
        index=config.index,
        versions=(wire.VERSION_MIN, wire.VERSION),
        epoch=secrets.randbits(64) or 1 if epoch is None else epoch,
        capabilities=OWN_CAPABILITIES
        | (Capability.NACK_RETRY if config.nack == "retry" else 0)
        | (Capability.MIRROR if config.mode == "mirror" else 0)
        | (Capability.KERNEL_ANSWERS if config.timing.probe_ms else 0),
        claim_token=secrets.token_bytes(wire.TOKEN_BYTES),
        lan_key_half=secrets.token_bytes(wire.LAN_KEY_BYTES),
        services=services,
        timing=msgspec.convert(config.timing, LeaseTiming, from_attributes=True),
    )


def encode(hello: Hello) -> bytes:
    """The TLVs of ``hello``. Raises WireError when they do not fit."""
    return wire.encode_tlvs(
        [
            Element(Tlv.NODE_NAME, hello.node.encode()),
            Element(Tlv.EPOCH, hello.epoch.to_bytes(_EPOCH_BYTES)),
            Element(Tlv.CAPABILITIES, int(hello.capabilities).to_bytes(8)),
            Element(Tlv.CLAIM_TOKEN, hello.claim_token),
            Element(Tlv.LAN_KEY, hello.lan_key_half),
            *(Element(Tlv.SERVICE, _encoder.encode(service)) for service in hello.services),
            *([Element(Tlv.TIMING, _encoder.encode(hello.timing))] if hello.timing else []),
        ]
    )


def decode(event: Event) -> Hello:
    """The other node's HELLO. Raises HelloError when it makes no sense."""
    found: dict[int, bytes] = {}
    services: list[ServiceState] = []
    try:
        for element in wire.decode_tlvs(event.body):
            if element.type == Tlv.SERVICE:
                services.append(_decoder.decode(element.value))
            else:
                found[element.type] = element.value
        return Hello(
            node=found[Tlv.NODE_NAME].decode(),
            index=event.node_index,
            versions=(event.version_min, event.version_max),
            epoch=int.from_bytes(_sized(found[Tlv.EPOCH], _EPOCH_BYTES)),
            capabilities=int.from_bytes(found.get(Tlv.CAPABILITIES, b"")[:8]),
            claim_token=_sized(found[Tlv.CLAIM_TOKEN], wire.TOKEN_BYTES),
            lan_key_half=_sized(found[Tlv.LAN_KEY], wire.LAN_KEY_BYTES),
            services=tuple(services),
            timing=_timing_decoder.decode(found[Tlv.TIMING]) if Tlv.TIMING in found else None,
        )
    except KeyError as error:
        raise HelloError(f"HELLO lacks TLV {error}; is the other node a prld?") from error
    except (wire.WireError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise HelloError(f"malformed HELLO: {error}; is the other node a prld?") from error


def _sized(value: bytes, size_bytes: int) -> bytes:
    if len(value) != size_bytes:
        raise ValueError(f"a value of {len(value)} bytes instead of {size_bytes}")
    return value


def check(own: Hello, other: Hello) -> int:
    """The protocol version that both know.

    Raises:
        HelloError: the two cannot work together.
    """
    if other.index == own.index or other.node == own.node:
        raise HelloError(
            f"the other node is also node {other.index} {other.node!r}; "
            "give the two nodes different names, and index 0 and 1"
        )
    version = min(own.versions[1], other.versions[1])
    if version < max(own.versions[0], other.versions[0]):
        raise HelloError(
            f"{other.node} speaks protocol versions {other.versions[0]} to {other.versions[1]}, "
            f"this node {own.versions[0]} to {own.versions[1]}; upgrade the older one"
        )
    mine = [(s.name, sorted(s.addresses), s.owner) for s in own.services]
    theirs = [(s.name, sorted(s.addresses), s.owner) for s in other.services]
    for here, there in zip(mine, theirs, strict=False):
        if here != there:
            raise HelloError(
                f"service {here[0]}: is {here[1]} of {here[2]} here, but {there[0]} {there[1]} of "
                f"{there[2]} on {other.node}; make [[service]] the same in both configurations"
            )
    if len(mine) != len(theirs):
        raise HelloError(
            f"{len(mine)} services here, {len(theirs)} on {other.node}; "
            "make [[service]] the same in both configurations"
        )
    for own_service, other_service in zip(own.services, other.services, strict=True):
        _check_instance(own_service, other_service, other.node)
        _check_arbiter(own_service, other_service, other.node)
        _check_witnesses(own_service, other_service, other.node)
    if own.timing is not None and other.timing is not None:
        _check_timing(own.node, own.timing, other.node, other.timing)
        _check_timing(other.node, other.timing, own.node, own.timing)
    for name, _, owner in mine:
        if owner not in {own.node, other.node}:
            raise HelloError(
                f"service {name}: owner {owner!r} is neither {own.node} nor {other.node}; "
                "correct service.owner in both configurations"
            )
    return version


def _check_instance(here: ServiceState, there: ServiceState, other: str) -> None:
    if (here.instance, here.lif) != (there.instance, there.lif):
        raise HelloError(
            f"service {here.name}: is in {_place(here)} here, but in {_place(there)} on {other}; "
            "make [[routing]] the same in both configurations, in the same order"
        )


def _check_arbiter(here: ServiceState, there: ServiceState, other: str) -> None:
    """Both must ask, and for the same record (SPEC L12)."""
    if here.arbiter != there.arbiter:
        raise HelloError(
            f"arbiter.pair and policy: {here.arbiter or 'no arbiter'} here, but "
            f"{there.arbiter or 'no arbiter'} on {other}; make [arbiter] the same in both "
            "configurations"
        )


def _check_witnesses(here: ServiceState, there: ServiceState, other: str) -> None:
    """Of two nodes cut off from each other one alone may go on (SPEC L6)."""
    mine, theirs = (sorted(state.witnesses) for state in (here, there))
    if mine != theirs:
        raise HelloError(
            f"lan.witnesses: {', '.join(mine) or 'none'} here, but {', '.join(theirs) or 'none'} "
            f"on {other}; make it the same in both configurations"
        )


def _check_timing(one: str, its: LeaseTiming, other: str, others: LeaseTiming) -> None:
    """What one node relies on the other for (SPEC L13)."""
    remedy = "make [timing] the same in both configurations"
    if its.hold_ms <= others.takeover_ms:
        raise HelloError(
            f"{one} may open {its.hold_ms} ms after its last echo (timing.hold_ms), when {other} "
            f"may still take over, for {others.takeover_ms} ms (timing.takeover_ms): two nodes "
            f"could speak at once; {remedy}"
        )
    if its.suspect_ms < 2 * others.lease_ms:
        raise HelloError(
            f"{one} suspects the other node after {its.suspect_ms} ms (timing.suspect_ms), while "
            f"{other} sends a message each {others.lease_ms} ms (timing.lease_ms), not twice as "
            f"often; {remedy}"
        )
    # An owner goes by its own limits when it judges whether the other may have replaced it (L3a).
    if its.probe_ms and others.probe_ms:
        for name in ("dead_ms", "hung_ms"):
            if getattr(its, name) != getattr(others, name):
                raise HelloError(
                    f"timing.{name} is {getattr(its, name)} on {one}, and {getattr(others, name)} "
                    f"on {other}: one could take over from a node that does not expect it; {remedy}"
                )


def _place(service: ServiceState) -> str:
    if not service.lif:
        return "the network of [lan]"
    return f"routing instance {service.instance} (number {service.lif})"


def common_capabilities(own: Hello, other: Hello) -> Capability:
    """What both can do beyond the least: what the pair runs with (R14)."""
    return Capability(own.capabilities & other.capabilities)


def lan_key(own: Hello, other: Hello) -> bytes:
    """What both nodes said for the keys of this epoch on the LAN: the same on both."""
    halves = sorted(((own.index, own.lan_key_half), (other.index, other.lan_key_half)))
    return hashlib.sha256(b"prl lan key" + b"".join(half for _, half in halves)).digest()


def agreed_stop(own: Iterable[ServiceState], other: Iterable[ServiceState]) -> bool:
    """Whether the pair runs with policy *stop*: when either node asks for it (SPEC L5).

    Of two that differ the safer one wins. A standby relies on it only within an epoch that the
    owner is in too, so that it never relies on what the owner has not heard.
    """
    return any(service.policy == "stop" for service in (*own, *other))


def settle(own: ServiceState, other: ServiceState, own_node: str) -> tuple[Owner, int]:
    """Who owns a service from now on: this node's state and the new term (SPEC section 6).

    The node that already owns it; of two the one that speaks, then the one with the higher term. If
    neither does: the one that is not out of it; then the one that gave it away, for the other one
    has not taken it; then the one whose kernel has live sessions, then the one with the higher
    term, then the configured one. Both nodes come to the same result.
    """
    mine, theirs = own.state == Owner.OWNER, other.state == Owner.OWNER
    own_first, other_first = own.owner == own_node, own.owner != own_node
    if mine != theirs:
        keep = mine
    elif mine:
        keep = (-own.silent, own.term, own_first) > (-other.silent, other.term, other_first)
    elif own.out != other.out:
        keep = other.out
    elif own.given != other.given:
        keep = own.given
    else:
        keep = (own.sessions > 0, own.term, own_first) > (
            other.sessions > 0,
            other.term,
            other_first,
        )
    term = max(own.term, other.term) + (0 if mine or theirs else 1)
    return (Owner.OWNER if keep else Owner.STANDBY), term
