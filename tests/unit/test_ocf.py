"""ocf:prl:service as Pacemaker runs it, with the real prlctl; prld and Pacemaker are fakes."""

import importlib.util
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prl.bindings.facts import LinkState, Owner, Silence
from prl.bindings.programs import Strangers
from prl.config import parse
from prl.daemon.monitoring import facts
from tests.unit.test_cli import FakePrld
from tests.unit.test_config import GOOD
from tests.unit.test_metrics import status as datapath_status

AGENT = Path(__file__).parents[2] / "prl/packaging/ocf/service.py"
SUCCESS, ERROR, ERR_ARGS, UNKNOWN, NOT_INSTALLED, STOPPED, PROMOTED, FAILED = 0, 1, 2, 3, 5, 7, 8, 9
PROMOTED_MONITOR = {"role": "Promoted", "interval": "10000"}
UNPROMOTED_MONITOR = {"role": "Unpromoted", "interval": "11000"}
TERM = 4


def part(
    state: Owner = Owner.STANDBY,
    *,
    link: bool = True,
    lease: bool = True,
    silence: Silence = Silence.NOT,
    ailment: str = "",
) -> dict[str, Any]:
    """What prld's status says, made by prld's own code."""
    found = datapath_status(
        now_ns=1,
        takeover_until_ns=300_000_000 if lease else 0,
        services=(state,),
        link_up=link,
        link_state=LinkState.UP if link else LinkState.DOWN,
        silence=silence,
        silent_mask=0 if silence == Silence.NOT else 1,
    )
    view: Any = SimpleNamespace(
        config=parse(GOOD),
        kernel=SimpleNamespace(mode_because="", bypassed=False, strangers=lambda: Strangers(0, ())),
        datapath=SimpleNamespace(status=lambda: found),
        link=SimpleNamespace(other=SimpleNamespace(node="re1"), why_down="no answer"),
        ownership=SimpleNamespace(terms=[TERM]),
        arbiter=None,
        cable=None,
        primaries=SimpleNamespace(in_hand=list, unprotected=list),
        ailments=lambda: [ailment],
    )
    return json.loads(json.dumps(facts.status(view)))  # type: ignore[no-any-return]


OWNED = part(Owner.OWNER)
MEMBER, AWAY, DOWN = {}, {"is_away": True}, {"is_away": True, "is_down": True}
REFUSED = {"ok": False, "error": "the lease is over", "code": 1}
UNPROTECTED = {"ok": False, "error": "a session has no good shadow", "code": 3}
MOVED = {"service": "lab", "from": "re1", "to": "re0", "sessions": 1, "silent_ms": None}


class Pacemaker:
    """Runs the agent as its executor does; crm_mon and crm_attribute are the test's."""

    def __init__(self, folder: Path, prld: FakePrld) -> None:
        self.folder, self.prld = folder, prld
        programs = folder / "bin"
        programs.mkdir()
        self.attributes = folder / "attributes"
        self.attributes.touch()
        self.view = folder / "view.xml"
        self.view.touch()
        for name, body in {
            "crm_mon": f'cat "{self.view}"',
            "crm_attribute": f'echo "$*" >>"{self.attributes}"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(0o755)
        self.path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath])
        self.said = ""

    def __call__(self, action: str, *, timeout_s: float = 20.0, **given: str) -> int:
        meta = {"timeout": str(int(timeout_s * 1000)), "on_node": "re0"}
        parameters = {"socket": str(self.prld.path)}
        for name, value in given.items():
            (parameters if name in {"service", "nodes", "prlctl"} else meta)[name] = value
        environment = {"PATH": self.path, "HA_RSCTMP": str(self.folder / "tmp")}
        environment |= {"OCF_RESOURCE_INSTANCE": "prl:0"}
        environment |= {f"OCF_RESKEY_CRM_meta_{name}": value for name, value in meta.items()}
        environment |= {f"OCF_RESKEY_{name}": value for name, value in parameters.items()}
        done = subprocess.run(
            [sys.executable, str(AGENT), action],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stdout + done.stderr
        assert "Traceback" not in self.said, self.said
        return done.returncode

    def score(self) -> str:
        """What the agent has said of this node last."""
        return self.attributes.read_text().splitlines()[-1].removeprefix("--promotion ")

    def asked(self, op: str) -> list[dict[str, Any]]:
        return [one for one in self.prld.asked if one["op"] == op]

    def see(
        self, *events: str, online: bool = False, unclean: bool = False, more: str = ""
    ) -> None:
        """What crm_mon says of re1."""
        nodes = '<node name="re0" online="true" unclean="false"/>'
        state = f'online="{online!s}" unclean="{unclean!s}"'.lower()
        nodes += f'<node name="re1" {state}/>{more}'
        history = "".join(events)
        self.view.write_text(
            f"<r><nodes>{nodes}</nodes><fence_history>{history}</fence_history></r>"
        )


def event(
    target: str = "re1", action: str = "off", status: str = "success", ago_s: float = 1.0
) -> str:
    completed = (datetime.now(UTC) - timedelta(seconds=ago_s)).strftime("%Y-%m-%d %H:%M:%S.%f Z")
    return (
        f'<fence_event target="{target}" action="{action}" status="{status}" '
        f'completed="{completed}"/>'
    )


@pytest.fixture
def pacemaker(tmp_path: Path) -> Iterator[Pacemaker]:
    prld = FakePrld(tmp_path / "prld.sock")
    prld.answers = {"status": [part()], "switchover": [MOVED], "takeover": [OWNED]}
    yield Pacemaker(tmp_path, prld)
    prld.stop()


@pytest.fixture
def started(pacemaker: Pacemaker) -> Pacemaker:
    assert pacemaker("start") == SUCCESS
    return pacemaker


@pytest.fixture(name="agent", scope="module")
def _agent() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ocf_service", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_meta_data_tells_of_every_action(pacemaker: Pacemaker) -> None:
    assert pacemaker("meta-data") == SUCCESS
    found = ET.fromstring(pacemaker.said)  # noqa: S314
    actions = {one.get("name") for one in found.iter("action")}
    assert pacemaker("nonsense") == UNKNOWN
    assert actions == {*pacemaker.said.removeprefix("usage: service ").strip().split("|")}
    assert {one.get("name") for one in found.iter("parameter")} == {
        *("service", "nodes", "prlctl", "socket")
    }


def test_nothing_is_started_before_start_and_after_stop(pacemaker: Pacemaker) -> None:
    assert pacemaker("monitor", interval="0") == STOPPED
    assert pacemaker("promote") == STOPPED
    assert pacemaker("start") == SUCCESS
    assert pacemaker("monitor", interval="0") == SUCCESS
    assert pacemaker("stop") == SUCCESS
    assert pacemaker.score() == "--delete"
    assert pacemaker("monitor", interval="0") == STOPPED
    assert pacemaker("stop") == SUCCESS
    assert pacemaker.asked("switchover") == []


def test_start_waits_for_prld_and_for_its_part(pacemaker: Pacemaker) -> None:
    pacemaker.prld.answers["status"] = [part(Owner.NONE), part()]
    assert pacemaker("start") == SUCCESS
    assert pacemaker.score() == "--update=100"

    pacemaker.prld.answers["status"] = [{"ok": False, "error": "no", "code": 4}]
    assert pacemaker("start", timeout_s=1.0) == ERROR
    assert "no prld answers" in pacemaker.said


def test_a_service_and_a_program_that_are_not_there(pacemaker: Pacemaker) -> None:
    assert pacemaker("validate-all") == SUCCESS
    assert pacemaker("validate-all", service="web") == ERR_ARGS
    assert "ocf-exit-reason:prld has no service 'web'; it has: lab" in pacemaker.said
    assert pacemaker("validate-all", prlctl="/nowhere/prlctl") == NOT_INSTALLED


def test_a_stop_succeeds_whatever_is_wrong(started: Pacemaker) -> None:
    # Pacemaker would fence the node for it.
    assert started("stop", prlctl="/nowhere/prlctl") == SUCCESS


@pytest.mark.parametrize(
    ("found", "other", "score"),
    [
        (part(Owner.OWNER), MEMBER, 1000 + TERM),
        (part(Owner.OWNER, link=False), AWAY, 1000 + TERM),
        (part(Owner.OWNER, link=False, lease=False, silence=Silence.NO_LAN), AWAY, None),
        (part(Owner.OWNER, link=False, lease=False, silence=Silence.NO_LAN), DOWN, 10),
        (part(), MEMBER, 100),
        (part(), AWAY, None),  # who lives, but is not in this cluster, is left alone
        (part(ailment="the firewall drops it"), MEMBER, 10),
        (part(link=False), AWAY, 10),
        (part(link=False, lease=False), MEMBER, None),
        (part(link=False, lease=False), DOWN, 10),
        (part(Owner.NONE, lease=False), DOWN, None),
        (part(Owner.NONE, link=False, lease=False), DOWN, 10),
        (part(Owner.FENCED, link=False, lease=False), AWAY, None),
    ],
)
def test_the_score_tells_how_good_a_node_is(
    agent: ModuleType,
    tmp_path: Path,
    found: dict[str, Any],
    other: dict[str, bool],
    score: int | None,
) -> None:
    prlctl = tmp_path / "prlctl"
    prlctl.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    prlctl.chmod(0o755)
    mine = agent.Prl(str(prlctl), "", "").part()
    assert agent.promotion_score(mine, agent.Other(**other)) == score


def test_a_monitor_tells_what_is_so_to_a_probe_alone(started: Pacemaker) -> None:
    started.prld.answers["status"] = [OWNED]
    assert started("monitor", interval="0") == PROMOTED
    assert started("monitor", **UNPROMOTED_MONITOR) == SUCCESS
    assert started.score() == f"--update={1000 + TERM}", "Pacemaker does not learn where it is"
    assert started("monitor", **PROMOTED_MONITOR) == PROMOTED


def test_pacemaker_has_one_interval_to_follow(started: Pacemaker) -> None:
    assert started("monitor", **PROMOTED_MONITOR) == PROMOTED
    assert started.score() == "--update=100"
    started.prld.answers["status"] = [OWNED]
    assert started("monitor", **PROMOTED_MONITOR) == PROMOTED
    started.prld.answers["status"] = [part()]
    assert started("monitor", **PROMOTED_MONITOR) == PROMOTED
    assert started("monitor", **PROMOTED_MONITOR) == FAILED
    assert "the service is not here: this node is standby" in started.said
    assert started("demote") == SUCCESS
    assert started("monitor", **PROMOTED_MONITOR) == PROMOTED


def test_silence_and_the_death_of_prld_are_failures(started: Pacemaker) -> None:
    started.prld.answers["status"] = [
        part(Owner.OWNER, link=False, lease=False, silence=Silence.NO_LAN)
    ]
    assert started("monitor", timeout_s=1.0, **PROMOTED_MONITOR) == FAILED
    assert "this node is silent: no link" in started.said
    assert started.score() == "--delete"

    started.prld.answers["status"] = [{"ok": False, "error": "no", "code": 4}, part()]
    assert started("monitor", **UNPROMOTED_MONITOR) == SUCCESS, "a restart is no failure"
    started.prld.answers["status"] = [{"ok": False, "error": "no", "code": 4}]
    assert started("monitor", timeout_s=1.0, **UNPROMOTED_MONITOR) == STOPPED
    assert started.score() == "--delete"


def test_a_promotion_is_a_planned_move_while_the_link_is_up(started: Pacemaker) -> None:
    started.prld.answers["status"] = [part(), OWNED]
    assert started("promote") == SUCCESS
    assert len(started.asked("switchover")) == 1
    assert started.asked("takeover") == []
    assert started.score() == f"--update={1000 + TERM}"
    assert started("promote") == SUCCESS
    assert len(started.asked("switchover")) == 1, "it is the owner already"


def test_a_promotion_without_the_link_is_a_take_over_within_the_lease(started: Pacemaker) -> None:
    started.prld.answers["status"] = [part(link=False), OWNED]
    assert started("promote") == SUCCESS
    assert [one["fenced"] for one in started.asked("takeover")] == [False]
    assert started.asked("switchover") == []


def test_a_promotion_beyond_the_lease_needs_fencing(started: Pacemaker) -> None:
    over = part(link=False, lease=False)
    started.prld.answers |= {"status": [over], "takeover": [REFUSED]}
    started.see()
    assert started("promote", timeout_s=2.0) == ERROR
    assert "not promoted: error: the lease is over" in started.said
    assert started.score() == "--delete", "it would be tried again"
    assert {one["fenced"] for one in started.asked("takeover")} == {False}

    started.prld.asked.clear()
    started.prld.answers |= {"status": [over, OWNED], "takeover": [OWNED]}
    started.see(event())
    assert started("promote") == SUCCESS
    assert [one["fenced"] for one in started.asked("takeover")] == [True]


def test_fencing_lets_a_silent_owner_speak(started: Pacemaker) -> None:
    silent = part(Owner.OWNER, link=False, lease=False, silence=Silence.STOP)
    started.prld.answers["status"] = [silent, OWNED]
    started.see(event())
    assert started("promote") == SUCCESS
    assert [one["fenced"] for one in started.asked("takeover")] == [True]


def test_after_a_notification_the_score_knows_of_the_fencing(started: Pacemaker) -> None:
    started.prld.answers["status"] = [part(link=False, lease=False)]
    started.see(unclean=True)
    assert started("monitor", **UNPROMOTED_MONITOR) == SUCCESS
    assert started.score() == "--delete"
    started.see(event())
    assert started("notify", notify_type="pre", notify_operation="stop") == SUCCESS
    assert started.score() == "--delete"
    assert started("notify", notify_type="post", notify_operation="stop") == SUCCESS
    assert started.score() == "--update=10"


THIRD = '<node name="arbiter" online="true" unclean="false"/>'


@pytest.mark.parametrize(
    ("events", "seen", "pair", "down"),
    [
        ([{}], {}, [], True),
        ([{"action": "off", "ago_s": 3600}], {}, [], True),
        ([{"action": "reboot"}], {}, [], True),
        ([{"action": "reboot", "ago_s": 3600}], {}, [], False),  # it may be back
        ([{}], {"online": True}, [], False),
        ([{}], {"unclean": True}, [], False),
        ([], {}, [], False),
        ([{"target": "re0"}], {}, [], False),
        ([{"action": "on"}], {}, [], False),
        ([{"status": "failed"}], {}, [], False),
        ([{}, {"status": "failed", "ago_s": 0}], {}, [], True),
        ([{}], {"more": THIRD}, [], False),  # which one is the other?
        ([{}], {"more": THIRD}, ["re0", "re1"], True),
        ([{}], {}, ["re0", "re2"], False),
    ],
)
def test_what_counts_as_fenced(
    agent: ModuleType,
    pacemaker: Pacemaker,
    monkeypatch: pytest.MonkeyPatch,
    events: list[dict[str, Any]],
    seen: dict[str, Any],
    pair: list[str],
    down: bool,
) -> None:
    monkeypatch.setenv("PATH", pacemaker.path)
    cluster = agent.Cluster("re0", pair, pacemaker.folder / "fenced")
    pacemaker.see(*(event(**one) for one in events), **seen)
    assert cluster.other().is_down is down


def test_a_fencing_of_before_it_was_back_counts_no_more(
    agent: ModuleType, pacemaker: Pacemaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", pacemaker.path)
    cluster = agent.Cluster("re0", [], pacemaker.folder / "fenced")
    old, new = event(ago_s=60), event(ago_s=1)
    pacemaker.see(old)
    assert cluster.other().is_down
    pacemaker.see(old, online=True)
    assert not cluster.other().is_down
    pacemaker.see(old)  # it left by itself, and its prld may live
    assert not cluster.other().is_down
    pacemaker.see(old, new)
    assert cluster.other().is_down
    pacemaker.view.write_text("")  # no cluster answers
    assert not cluster.other().is_down


@pytest.mark.parametrize("action", ["promote", "demote", "stop"])
def test_what_half_a_cluster_has_ordered_moves_nothing(action: str, started: Pacemaker) -> None:
    started.see()
    assert started("notify", notify_type="pre", notify_operation=action) == SUCCESS
    started.see(online=True)  # both halves are together again
    started.prld.answers["status"] = [part() if action == "promote" else OWNED]
    assert started(action) == (ERROR if action == "promote" else SUCCESS)
    assert "this cluster" in started.said
    assert started.asked("switchover") == started.asked("takeover") == []

    started("start")
    assert started("notify", notify_type="pre", notify_operation=action) == SUCCESS
    started.prld.answers["status"] = [part(), OWNED] if action == "promote" else [OWNED, part()]
    assert started(action) == SUCCESS
    assert [one["forced"] for one in started.asked("switchover")] == [False]


@pytest.mark.parametrize("action", ["demote", "stop"])
def test_what_this_node_owns_is_moved_by_plan(action: str, started: Pacemaker) -> None:
    started.prld.answers["status"] = [OWNED, part()]
    assert started(action) == SUCCESS
    assert [one["forced"] for one in started.asked("switchover")] == [False]


def test_a_demotion_waits_for_protection_and_then_loses_what_has_none(started: Pacemaker) -> None:
    started.prld.answers["status"] = [OWNED, OWNED, part()]
    started.prld.answers["switchover"] = [UNPROTECTED, MOVED]
    assert started("demote") == SUCCESS
    assert [one["forced"] for one in started.asked("switchover")] == [False, False]

    started.prld.asked.clear()
    started.prld.answers |= {"status": [OWNED], "switchover": [UNPROTECTED]}
    assert started("demote", timeout_s=3.0) == SUCCESS
    assert [one["forced"] for one in started.asked("switchover")][-1] is True
    assert "this node goes on serving, as nobody takes over" in started.said


def test_without_the_other_node_a_demoted_owner_goes_on_serving(started: Pacemaker) -> None:
    started.prld.answers["status"] = [part(Owner.OWNER, link=False)]
    started.prld.answers["switchover"] = [{"ok": False, "error": "the link is down", "code": 3}]
    assert started("demote", timeout_s=12.0) == SUCCESS
    assert {one["forced"] for one in started.asked("switchover")} == {False}
    assert "this node goes on serving, as nobody takes over" in started.said
