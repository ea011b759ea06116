"""Routing instances: two LANs with the very same addresses, told apart by logical interface.

Checks R1.
"""

from collections.abc import Iterator

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from prl.lab.topology import SECOND, SECOND_INTERFACE
from tests.system import support
from tests.system.support import PORT, Applications, Peer, flows, prlctl, status

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

SIZE_BYTES = 24 << 20
PEER_PORT = 40_000  # the same in both instances: the sessions differ in nothing but where they are
PLACES = {"": ("peer", "lan0", "re0", "re1"), SECOND: ("peer2", SECOND_INTERFACE, "re1", "re0")}


class Session:
    """The session of one instance, with its applications."""

    def __init__(self, lab: Lab, instance: str, family: int) -> None:
        machine, device, self.owner, self.standby = PLACES[instance]
        if instance and lab.topology.vrf:
            device = lab.topology.vrf
        more = ["--device", device, "--instance", f"@{instance}"]
        self.apps = Applications(lab, "echo", family, more=more)
        self.peer = Peer(lab, family, machine=machine, own_port=PEER_PORT)
        self.apps.expect("protected", self.owner, peer=PEER_PORT)
        self.apps.expect("standby", self.standby, peer=PEER_PORT)

    def begin(self) -> None:
        self.peer.hold_at(SIZE_BYTES)  # of twice as much, until finish()
        self.peer.converse(Payload(SIZE_BYTES), 20_000)

    def finish(self) -> None:
        self.peer.finish()
        assert self.peer.received == SIZE_BYTES
        assert self.peer.sha256() == Payload(SIZE_BYTES).sha256()
        self.peer.sock.close()


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    mode, _, vrf = request.param.partition("+")
    with support.pair("instances", mode, second=True, vrf=bool(vrf)) as made:
        yield made


@pytest.mark.parametrize(
    ("lab", "family", "dead"),
    [
        ("native", 4, "re0"),
        pytest.param("generic", 6, "re1", marks=pytest.mark.needs("long_packets")),
        pytest.param("kernel", 6, "re0", marks=pytest.mark.needs("nfqueue")),
        pytest.param("native+vrf", 4, "re1", marks=pytest.mark.needs("vrf")),
        pytest.param("kernel+vrf", 4, "re0", marks=pytest.mark.needs("nfqueue", "vrf")),
    ],
    indirect=["lab"],
)
def test_sessions_of_the_same_four_tuple_live_side_by_side(
    lab: Lab, family: int, dead: str
) -> None:
    alive = "re1" if dead == "re0" else "re0"
    sessions = [Session(lab, instance, family) for instance in PLACES]
    for node in ("re0", "re1"):
        found = {flow["instance"]: flow for flow in flows(lab, node)}
        assert found.keys() == PLACES.keys()
        assert found[""]["local"] == found[SECOND]["local"]
        assert found[""]["remote"] == found[SECOND]["remote"]
        for instance, (_, _, owner, _) in PLACES.items():
            assert found[instance]["role"] == ("primary" if node == owner else "secondary")
            assert found[instance]["state"] == "active"
    for session in sessions:
        session.begin()
    for session in sessions:
        session.peer.await_bytes(SIZE_BYTES // 16)
    lab.fail(dead, "power")
    for session in sessions:
        if session.owner == dead:
            session.apps.expect("taken_over", alive, peer=PEER_PORT)
    assert [one["state"] for one in status(lab, alive)["services"]] == ["owner", "owner"]
    for session in sessions:
        session.finish()


@pytest.mark.parametrize("lab", ["native"], indirect=True)
def test_an_address_of_two_instances_must_be_named_with_one(lab: Lab) -> None:
    session = Session(lab, "", 4)
    serve = ["serve", "--listen", f"192.0.2.100:{PORT + 1}", "--", "cat"]
    unnamed = prlctl("lab", "exec", "--name", lab.name, "re1", "--", support.PRLCTL, *serve)
    assert unnamed.returncode == 2
    assert f"192.0.2.100:{PORT + 1}@{SECOND}" in unnamed.stderr
    session.begin()
    session.finish()
