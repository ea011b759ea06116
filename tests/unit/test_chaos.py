"""The campaign's plans, its rules, and the judgement of a capture (docs/chaos.md)."""

import re
import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prl._core import lib

from prl.lab import Lab
from prl.lab.errors import LabError
from prl.lab.topology import Service
from tests.chaos import episode, rules
from tests.chaos.episode import Episode, owned, wire
from tests.chaos.plan import ACTS, DELAY_MAX_S, MODES, Act, Fault, Kind, draw
from tests.chaos.wire import Said

TEXT = (Path(__file__).parents[2] / "docs/chaos.md").read_text()
SERVICE = Service("lab", IPv4Address("192.0.2.100"), IPv6Address("2001:db8:0:1::100"), "re0")
PORTS = {3: "re0", 4: "re1"}
SEEDS = 200


def fault(kind: Kind, on: str) -> Fault:
    return Fault(kind, on, after_s=0.0, for_s=0.3, times=1)


def loss(
    moment: str, *faults: tuple[Kind, str], is_new: bool = False, had_moved: bool = False
) -> int:
    act = Act(moment, tuple(fault(*one) for one in faults), held_s=1.0)
    return rules.lot(act, 3.0, is_new=is_new, had_moved=had_moved).loss


def test_a_seed_has_one_plan_and_many_seeds_have_all_there_is() -> None:
    plans = [draw(seed) for seed in range(SEEDS)]
    assert plans == [draw(seed) for seed in range(SEEDS)]
    acts = [act for plan in plans for act in plan.acts]
    assert len(acts) == SEEDS * ACTS
    assert {plan.mode for plan in plans} == set(MODES)
    assert {act.moment for act in acts} == set(DELAY_MAX_S)
    assert {len(act.faults) for act in acts} == {1, 2}
    drawn = {(act.moment, one.kind, one.on) for act in acts for one in act.faults}
    assert len(drawn) > len(DELAY_MAX_S) * len(Kind)  # of twice as many
    assert {one[1:] for one in drawn} == {(k, on) for k in Kind for on in ("owner", "standby")}


def test_the_document_has_every_moment_and_every_fault() -> None:
    for word in Kind:
        assert f"`{word}`" in TEXT
    for moment in DELAY_MAX_S:
        assert f"| {moment} |" in TEXT
    (named,) = re.findall(r"\*Ends serving\*:([^.]*)\.", TEXT)
    assert set(re.findall(r"`([\w-]+)`", named)) == rules.ENDS_SERVING


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("on", ["owner", "standby"])
@pytest.mark.parametrize("moment", ["quiet", "move", "set-up"])
def test_one_fault_loses_nothing_that_was_protected(kind: Kind, on: str, moment: str) -> None:
    assert loss(moment, (kind, on)) == 0


def test_what_the_rules_let_go() -> None:
    assert loss("set-up", (Kind.POWER, "owner"), is_new=True) == 1
    assert loss("set-up", (Kind.POWER, "standby"), is_new=True) == 0
    assert loss("re-protection", (Kind.POWER, "owner")) == 2
    assert loss("re-protection", (Kind.POWER, "standby")) == 0
    assert loss("take-over", (Kind.KILL_APP, "standby")) == 2
    assert loss("move", (Kind.KILL_APP, "standby"), had_moved=True) == 2
    assert loss("move", (Kind.KILL_APP, "owner"), had_moved=True) == 0
    assert loss("quiet", (Kind.POWER, "owner"), (Kind.CUT_LINK, "owner")) == 3
    assert loss("quiet", (Kind.POWER, "owner"), (Kind.FREEZE, "standby")) == 3
    assert loss("quiet", (Kind.POWER, "owner"), (Kind.KILL_APP, "owner")) == 0
    assert loss("quiet", (Kind.POWER, "owner"), (Kind.MOVE, "standby")) == 0
    assert loss("quiet", (Kind.CUT_LINK, "owner"), (Kind.LINK_FLAPS, "standby")) == 0


def test_a_standby_without_addresses_loses_what_was_mirrored_to_it() -> None:
    faults = (fault(Kind.FLUSH, "standby"), fault(Kind.PAUSE_PRLD, "owner"))
    act = Act("quiet", faults, held_s=1.0)
    assert rules.lot(act, 3.0, is_new=False, mirrors=True).loss == 3
    assert rules.lot(act, 3.0, is_new=False).loss == 0
    alone = Act("quiet", faults[:1], held_s=1.0)
    assert rules.lot(alone, 3.0, is_new=False, mirrors=True).loss == 0


def test_who_is_forgotten_by_both_nodes_need_not_be_told() -> None:
    def is_forgotten(moment: str, *faults: tuple[Kind, str], had_moved: bool = False) -> bool:
        act = Act(moment, tuple(fault(*one) for one in faults), held_s=1.0)
        return rules.lot(act, 3.0, is_new=False, had_moved=had_moved).is_forgotten

    assert is_forgotten("take-over", (Kind.POWER, "standby"))
    assert is_forgotten("quiet", (Kind.POWER, "standby"), (Kind.POWER, "owner"))
    assert is_forgotten("quiet", (Kind.POWER, "standby"), (Kind.STOP_PRLD, "owner"))
    assert is_forgotten("move", (Kind.POWER, "standby"), had_moved=True)
    assert not is_forgotten("move", (Kind.KILL_APP, "standby"), had_moved=True)
    assert not is_forgotten("quiet", (Kind.POWER, "standby"), (Kind.KILL_PRLD, "owner"))
    assert not is_forgotten("take-over", (Kind.KILL_APP, "standby"))
    assert not is_forgotten("take-over", (Kind.POWER, "owner"))
    assert not is_forgotten("quiet", (Kind.POWER, "owner"))


def test_who_hangs_longer_than_two_seconds_needs_two_faults_or_a_lan_that_flaps() -> None:
    one = (fault(Kind.POWER, "owner"),)
    assert rules.lot(Act("quiet", one, 1.0), 3.0, is_new=False).hang_s == rules.HANG_MAX_S
    flaps = (fault(Kind.LAN_FLAPS, "owner"),)
    assert rules.lot(Act("quiet", flaps, 1.0), 3.0, is_new=False).hang_s == 2 * 3.0 + 2.0
    two = (*one, fault(Kind.CUT_LAN, "standby"))
    assert rules.lot(Act("quiet", two, 1.0), 3.0, is_new=False).hang_s == 2 * 3.0 + 2.0


def record(
    at_s: float, port: int, protocol: int, packet: bytes, *, outgoing: bool = False
) -> bytes:
    kind = 4 if outgoing else 0
    frame = struct.pack("!HHIHBB8s", protocol, 0, port, 1, kind, 6, b"\2\0\0\0\0\0") + packet
    seconds = int(at_s)
    micros = round((at_s - seconds) * 1e6)
    return struct.pack("<IIII", seconds, micros, len(frame), len(frame)) + frame


def test_a_capture_tells_who_spoke_for_the_service(tmp_path: Path) -> None:
    ours, theirs = SERVICE.ipv4.packed, IPv4Address("192.0.2.1").packed
    ours6 = SERVICE.ipv6.packed
    tcp = bytes(12) + ours + theirs
    from_peer = bytes(12) + theirs + ours
    arp = bytes(14) + ours + bytes(10)
    tcp6 = bytes(8) + ours6 + bytes(16)
    advertisement = bytes([*bytes(6), 58, 255]) + bytes(32) + bytes([136]) + bytes(7) + ours6
    solicitation = bytes([*bytes(6), 58, 255]) + bytes(32) + bytes([135]) + bytes(7) + ours6
    path = tmp_path / "switch.pcap"
    path.write_bytes(
        bytes(24)
        + record(1.5, 3, 0x0800, tcp)
        + record(1.6, 3, 0x0800, from_peer)
        + record(1.7, 9, 0x0800, tcp)  # the bridge itself
        + record(1.8, 4, 0x0800, tcp, outgoing=True)
        + record(2.5, 4, 0x0806, arp)
        + record(3.5, 4, 0x86DD, tcp6)
        + record(4.5, 3, 0x86DD, advertisement)
        + record(5.5, 3, 0x86DD, solicitation)
        + record(6.5, 3, 0x0800, tcp)[:-3]  # cut off
    )
    said = wire.read(path, PORTS, SERVICE)
    assert said == [Said(1.5, "re0"), Said(2.5, "re1"), Said(3.5, "re1"), Said(4.5, "re0")]


def test_two_who_speak_in_turn_need_a_change_of_hands_each_time() -> None:
    said = [Said(1.0, "re0"), Said(2.0, "re0"), Said(3.0, "re1"), Said(4.0, "re0")]
    assert wire.two_speakers(said, changes=2) == ""
    assert "3 turns" in wire.two_speakers(said, changes=1)
    assert wire.two_speakers(said[:2], changes=0) == ""


def test_when_a_node_became_the_owner_stands_in_its_log() -> None:
    log = """\
2026-11-29T21:55:10.796+00:00 info ownership "service lab: this node owns it" state=owner term=2
2026-11-29T21:55:11.009+00:00 info ownership "service lab: this node stands by" state=standby
"""
    assert owned(log) == [1795989310.796]


def test_a_settled_pair_that_is_to_mirror_does_or_says_that_it_has_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episode, "SETTLED_S", -1.0)

    def goes_on(mode: str, *fed: int, given_up: bool = False) -> bool:
        counts = iter(fed)
        pair: Any = SimpleNamespace(
            mirrored=lambda: next(counts), is_cable_given_up=lambda: given_up
        )
        made = Episode(replace(draw(1), mode=mode), tmp_path, lambda _: None)
        found = made._mirrors(pair)
        assert bool(made.outcome.violations) != found
        return found

    assert goes_on("native")
    assert goes_on("mirror", 3, 4)
    assert not goes_on("mirror", 3, 3)
    assert goes_on("mirror", 3, 3, given_up=True)


def test_a_session_of_each_episode_asks_for_more_than_goes_by_the_link() -> None:
    assert episode.SESSIONS["long"] > 0
    assert episode.BYTES_MAX["long"] > 64 * lib.PRL_MIRROR_COPY_BYTES
    assert episode.PORTS["long"] == episode.PORTS["library"]


def test_a_lab_that_does_not_come_up_ends_its_episode_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise LabError("no room")

    monkeypatch.setattr(Lab, "up", refuse)
    monkeypatch.setattr(Lab, "down", lambda _: None)
    outcome = Episode(draw(1), tmp_path / "1", lambda _: None).run()
    assert [words for words in outcome.violations if "the lab: no room" in words]
