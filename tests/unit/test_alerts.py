"""The alert rules, by Prometheus' own judge: each fires when it should, and not before."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs/monitoring/prl.rules.yml"
NODE = {"instance": "re0:9478", "job": "prl"}
OTHER = {"instance": "re1:9478", "job": "prl"}
FRONT = {"instance": "re0:9479", "job": "prl-bgp"}
ALERTS = re.findall(r"^      - alert: (\w+)$", RULES.read_text(), re.MULTILINE)

pytestmark = pytest.mark.needs("prometheus")

Series = tuple[str, dict[str, str], str]


def _owner(values: str, other: str = "0+0x60") -> list[Series]:
    name, labels = "prl_service_state", {"service": "lab", "state": "owner"}
    return [(name, NODE | labels, values), (name, OTHER | labels, other)]


CASES: dict[str, tuple[list[Series], int, int]] = {
    # alert: series of one value every ten seconds, a moment (s) at which it is not firing, one at
    # which it is
    "PrlNodeDown": ([("up", NODE, "1 1 0+0x60")], 40, 60),
    "PrlFrontDown": ([("up", NODE, "1+0x60"), ("up", FRONT, "1 1 0+0x60")], 40, 60),
    "PrlNoOwner": (_owner("1 1 0+0x60"), 30, 50),
    "PrlTwoOwners": (_owner("1+0x60", "0 0 1+0x60"), 30, 50),
    "PrlSilent": ([("prl_service_silent", NODE | {"service": "lab"}, "0 0 1+0x60")], 20, 40),
    "PrlLeaseOver": ([("prl_lease_over", NODE, "0 0 1+0x60")], 20, 40),
    "PrlLinkDown": ([("prl_link_up", NODE, "1 1 0+0x60")], 40, 60),
    "PrlNotSafe": ([("prl_unsafe", NODE | {"cause": "host"}, "0 0 1+0x60")], 70, 90),
    "PrlFrontNotReady": ([("prl_bgp_ready", FRONT, "1 1 0+0x60")], 130, 150),
    "PrlSessionsLost": (
        [("prl_events_total", NODE | {"event": "session_lost"}, "0 0 2+0x60")],
        10,
        30,
    ),
    "PrlTakeover": ([("prl_takeovers_total", NODE, "0 0 1+0x60")], 10, 30),
    "PrlFalseSuspicions": ([("prl_false_suspicions_total", NODE, "0+1x60")], 20, 60),
    "PrlLinkUnsteady": ([("prl_link_losses_total", NODE, "0 0 1 2 3+0x60")], 20, 60),
    "PrlLinkStranger": (
        [
            ("prl_link_refused_connections_total", NODE | {"reason": "in_use"}, "0+1x60"),
            ("prl_link_refused_connections_total", NODE | {"reason": "key"}, "0 0 1+0x60"),
        ],
        10,
        30,
    ),
    "PrlHookFailed": (
        [("prl_hook_runs_total", NODE | {"hook": "role", "result": "killed"}, "0 0 1+0x60")],
        10,
        30,
    ),
    "PrlBehind": ([("prl_oldest_unacknowledged_seconds", NODE, "0 0 0.3+0x60")], 70, 90),
    "PrlDrops": (
        [("prl_dropped_packets_total", NODE | {"reason": "no_hold"}, "0+100x60")],
        200,
        400,
    ),
    "PrlResourceShort": (
        [
            ("prl_resource_used", NODE | {"resource": "frames"}, "0 0 90+0x60"),
            ("prl_resource_limit", NODE | {"resource": "frames"}, "100+0x60"),
        ],
        310,
        330,
    ),
}


PAIRS: dict[str, tuple[str, str, str, str]] = {
    # alert: whether each of four nodes, of two pairs, owns the service of its pair
    "": ("1+0x60", "0+0x60", "1+0x60", "0+0x60"),
    "PrlNoOwner": ("0+0x60", "0+0x60", "1+0x60", "0+0x60"),
    "PrlTwoOwners": ("1+0x60", "1+0x60", "0+0x60", "1+0x60"),
}


def _judged(tmp_path: Path, test: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    path = tmp_path / "tests.yml"  # JSON is YAML
    path.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "10s", "tests": [test]})
    )
    return subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False
    )


def _input(series: list[Series]) -> list[dict[str, str]]:
    def text(labels: dict[str, str]) -> str:
        return ",".join(f'{key}="{value}"' for key, value in labels.items())

    return [
        {"series": f"{name}{{{text(labels)}}}", "values": values} for name, labels, values in series
    ]


def test_the_rules_are_good() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_alert_has_a_case_and_a_chapter() -> None:
    assert sorted(CASES) == sorted(ALERTS)
    chapters = re.findall(
        r"^## (Prl\w+)$", (ROOT / "docs/night-on-call.md").read_text(), re.MULTILINE
    )
    assert chapters == ALERTS


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_not_before(alert: str, tmp_path: Path) -> None:
    series, quiet_s, firing_s = CASES[alert]
    test: dict[str, Any] = {"interval": "10s", "input_series": _input(series)}

    def asked(at_s: int) -> "subprocess.CompletedProcess[str]":
        """Whether nothing fires then: promtool prints what does, if something does."""
        none = {"eval_time": f"{at_s}s", "alertname": alert, "exp_alerts": list[str]()}
        return _judged(tmp_path, test | {"alert_rule_test": [none]})

    done = asked(quiet_s)
    assert done.returncode == 0, done.stdout + done.stderr
    done = asked(firing_s)
    assert done.returncode != 0, f"{alert} does not fire"
    said = done.stdout + done.stderr
    assert f'alertname="{alert}"' in said
    summary = re.search(r'summary="([^"]*)"', said)
    assert summary is not None
    assert "error" not in summary[1].lower(), summary[1]


@pytest.mark.parametrize("alert", PAIRS)
def test_each_pair_is_judged_by_itself(alert: str, tmp_path: Path) -> None:
    """Services of two pairs have one name, as `prlctl init` gives it."""
    series: list[Series] = [
        (
            "prl_service_state",
            {"instance": f"re{number}", "pair": f"edge-{number // 2}", "service": "main"}
            | {"job": "prl", "state": "owner"},
            values,
        )
        for number, values in enumerate(PAIRS[alert])
    ]
    none = [
        {"eval_time": "50s", "alertname": name, "exp_alerts": list[str]()}
        for name in ("PrlNoOwner", "PrlTwoOwners")
    ]
    test = {"interval": "10s", "input_series": _input(series), "alert_rule_test": none}
    done = _judged(tmp_path, test)
    said = done.stdout + done.stderr
    assert re.findall(r'alertname="(\w+)"', said) == ([alert] if alert else [])
