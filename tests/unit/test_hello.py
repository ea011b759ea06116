"""prl.daemon.link.hello: what two nodes must agree about, and who owns a service (L13)."""

import itertools
from typing import Any

import msgspec
import pytest

from prl import config
from prl.bindings import wire
from prl.bindings.datapath import Event
from prl.bindings.facts import EventKind, Message, Owner, Tlv
from prl.daemon.link import hello
from prl.daemon.link.hello import Hello, HelloError, LeaseTiming, ServiceState
from tests.unit.test_daemon_sockets import FILE


def service(
    owner: str = "re0", state: Owner = Owner.NONE, term: int = 0, **more: Any
) -> ServiceState:
    return ServiceState(
        name="lab", addresses=["192.0.2.100"], owner=owner, state=state, term=term, **more
    )


def greet(node: str, index: int, *services: ServiceState) -> Hello:
    return Hello(
        node=node,
        index=index,
        versions=(1, 1),
        epoch=5,
        capabilities=1,
        claim_token=bytes(16),
        lan_key_half=bytes([index]) * 32,
        services=services or (service(),),
    )


def received(sent: Hello, body: bytes | None = None) -> Event:
    return Event(
        kind=EventKind.MESSAGE,
        type=Message.HELLO,
        version_min=sent.versions[0],
        version_max=sent.versions[1],
        node_index=sent.index,
        body=hello.encode(sent) if body is None else body,
    )


def test_what_was_sent_is_what_arrives() -> None:
    sent = greet("re0", 0)
    assert hello.decode(received(sent)) == sent


@pytest.mark.parametrize("body", [b"", b"\0", b"\x80\x04\0\0\0\0\0\x64re0", bytes(8)])
def test_a_malformed_hello_is_refused(body: bytes) -> None:
    with pytest.raises(HelloError):
        hello.decode(received(greet("re0", 0), body))


@pytest.mark.parametrize("there", [{"lif": 2}, {"instance": "red"}, {"instance": "", "lif": 0}])
def test_routing_instances_must_be_the_same(there: dict[str, Any]) -> None:
    here = msgspec.structs.replace(service(), instance="blue", lif=1)
    other = msgspec.structs.replace(here, **there)
    assert hello.check(greet("re0", 0, here), greet("re1", 1, here)) == 1
    with pytest.raises(HelloError, match=r"routing instance blue \(number 1\) here.*\[\[routing"):
        hello.check(greet("re0", 0, here), greet("re1", 1, other))


def test_both_nodes_have_the_same_key() -> None:
    one, two = greet("re0", 0), greet("re1", 1)
    assert hello.lan_key(one, two) == hello.lan_key(two, one)
    assert hello.lan_key(one, two) != hello.lan_key(one, one)


def change(node: Hello, **members: object) -> Hello:
    return Hello(**{name: getattr(node, name) for name in Hello.__slots__} | members)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (greet("re0", 1), "also node"),
        (greet("re1", 0), "also node"),
        (change(greet("re1", 1), versions=(2, 3)), "upgrade the older"),
        (greet("re1", 1, service(owner="re1")), r"make \[\[service\]\] the same"),
        (greet("re1", 1, service(), service()), r"make \[\[service\]\] the same"),
    ],
)
def test_what_does_not_fit_is_said(other: Hello, words: str) -> None:
    with pytest.raises(HelloError, match=words):
        hello.check(greet("re0", 0), other)


def timing(**more: int) -> LeaseTiming:
    usual = {"lease_ms": 20, "suspect_ms": 100, "takeover_ms": 300, "hold_ms": 400}
    usual |= {"probe_ms": 10, "dead_ms": 30, "hung_ms": 400}
    return LeaseTiming(**usual | more)


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        ({}, {"takeover_ms": 3000, "hold_ms": 4000}, r"^re0 may open 400 ms .* for 3000 ms "),
        ({"takeover_ms": 3000, "hold_ms": 4000}, {}, r"^re1 may open 400 ms .* for 3000 ms "),
        ({}, {"takeover_ms": 400, "hold_ms": 500}, r"^re0 may open 400 ms .* make \[timing\]"),
        (
            {"probe_ms": 10},
            {"probe_ms": 10, "dead_ms": 40},
            r"^timing.dead_ms is \d+ on re",
        ),
        (
            {"probe_ms": 10, "hung_ms": 500},
            {"probe_ms": 10},
            r"^timing.hung_ms is \d+ on re",
        ),
        ({}, {"lease_ms": 51, "suspect_ms": 200}, r"^re0 suspects .* 100 ms .* each 51 ms"),
        ({"lease_ms": 60, "suspect_ms": 120}, {}, r"^re1 suspects .* 100 ms .* each 60 ms"),
    ],
)
def test_timing_of_one_that_the_other_s_does_not_cover_is_refused(
    here: dict[str, int], there: dict[str, int], words: str
) -> None:
    """With these, a stale shadow could take over from an owner that has opened (L13)."""
    own = change(greet("re0", 0), timing=timing(**here))
    other = change(greet("re1", 1), timing=timing(**there))
    with pytest.raises(HelloError, match=words):
        hello.check(own, hello.decode(received(other)))
    with pytest.raises(HelloError, match=words):
        hello.check(other, hello.decode(received(own)))


def test_both_nodes_name_the_same_witnesses() -> None:
    """Each by one of its own, both would go on (F19)."""
    own, same, other = (
        greet(f"re{number > 0:d}", int(number > 0), service(witnesses=names))
        for number, names in enumerate((("a", "b"), ("b", "a"), ("c",)))
    )
    assert hello.check(own, same) == 1
    for one, two in ((own, other), (own, greet("re1", 1))):
        with pytest.raises(HelloError, match=r"lan\.witnesses: "):
            hello.check(one, two)


def test_timing_that_differs_may_do_and_an_earlier_node_says_nothing_of_it() -> None:
    own = change(greet("re0", 0), timing=timing())
    longer = change(greet("re1", 1), timing=timing(takeover_ms=399, hold_ms=1000))
    assert hello.check(own, longer) == 1
    assert hello.check(own, greet("re1", 1)) == 1


def test_what_is_told_of_timing_is_what_is_configured() -> None:
    told = hello.create(config.parse(FILE.format(port=7077)), (service(),)).timing
    assert told == timing()


def test_the_owner_is_one_of_the_two() -> None:
    stranger = service(owner="re7")
    with pytest.raises(HelloError, match="neither re0 nor re1"):
        hello.check(greet("re0", 0, stranger), greet("re1", 1, stranger))
    assert hello.check(greet("re0", 0), greet("re1", 1)) == 1


STATES = [
    *(service(state=s, term=t, sessions=n) for s in Owner for t in (0, 1, 2) for n in (0, 3)),
    *(
        service(term=t, sessions=3, given=given, out=True)
        for t in (0, 2)
        for given in (False, True)
    ),
]


@pytest.mark.parametrize(("mine", "theirs"), list(itertools.product(STATES, STATES)))
def test_both_nodes_settle_alike(mine: ServiceState, theirs: ServiceState) -> None:
    here, term = hello.settle(mine, theirs, "re0")
    there, other_term = hello.settle(theirs, mine, "re1")

    assert {here, there} == {Owner.OWNER, Owner.STANDBY}
    assert term == other_term >= max(mine.term, theirs.term)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (service(), service(), Owner.OWNER),
        (service(state=Owner.OWNER), service(state=Owner.STANDBY, term=9), Owner.OWNER),
        (service(), service(state=Owner.OWNER), Owner.STANDBY),
        (
            service(state=Owner.OWNER, term=1),
            service(state=Owner.OWNER, term=2),
            Owner.STANDBY,
        ),
        (service(state=Owner.FENCED, term=1), service(term=2), Owner.STANDBY),
        (service(sessions=1), service(term=2), Owner.OWNER),
        (service(term=9, sessions=1, given=True, out=True), service(), Owner.STANDBY),
        (service(out=True), service(out=True), Owner.OWNER),
    ],
)
def test_who_owns(mine: ServiceState, theirs: ServiceState, expected: Owner) -> None:
    assert hello.settle(mine, theirs, "re0")[0] == expected


def test_a_service_with_too_much_in_it_is_refused() -> None:
    raw = msgspec.msgpack.encode({"name": "x" * 100, "addresses": [], "owner": "a"})
    body = wire.encode_tlvs([wire.Element(Tlv.SERVICE, raw)])
    with pytest.raises(HelloError, match="malformed"):
        hello.decode(received(greet("re0", 0), body))
