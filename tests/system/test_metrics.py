"""The real Prometheus on a lab that is broken: the right alerts fire, queries have answers."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from prl.lab import Lab
from prl.lab.state import METRICS_PORT
from tests.system import support
from tests.system.support import Applications, eventually, flows

pytestmark = [
    pytest.mark.system,
    pytest.mark.waits,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "prometheus", "curl"),
]

MONITORING = Path(__file__).parents[2] / "docs/monitoring"
PROMETHEUS = "127.0.0.1:9090"
WINDOW = "20s"
"""What $__rate_interval is here, with a scrape each second."""


class Prometheus:
    """It runs on the peer's machine, and scrapes both nodes across the LAN."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self._folder = lab, folder
        self.nodes = {
            node.name: f"{node.lan.ipv4.ip}:{METRICS_PORT}" for node in lab.topology.nodes
        }

    @contextmanager
    def running(self) -> Iterator["Prometheus"]:
        rules = (MONITORING / "prl.rules.yml").read_text()
        # As they are, but for how long something must last: tests/unit/test_alerts.py tries that.
        (self._folder / "rules.yml").write_text(re.sub(r"for: \w+", "for: 1s", rules))
        config = {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "1s",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "prl", "static_configs": [{"targets": list(self.nodes.values())}]}
            ],
        }
        (self._folder / "prometheus.yml").write_text(json.dumps(config))
        argv = ["prometheus", f"--config.file={self._folder / 'prometheus.yml'}"]
        argv += [f"--storage.tsdb.path={self._folder / 'data'}"]
        argv += [f"--web.listen-address={PROMETHEUS}"]
        with (self._folder / "log").open("wb") as log:
            process = self._lab.exec("peer", argv, stdout=log, stderr=log)
        try:
            eventually("Prometheus answers", lambda: self._ask("/-/ready") is not None)
            yield self
        except BaseException:
            print((self._folder / "log").read_text()[-4000:])  # noqa: T201
            raise
        finally:
            process.terminate()
            process.wait(support.PATIENCE_S)

    def _ask(self, path: str, **query: str) -> str | None:
        argv = ["curl", "-sf", "--get", f"http://{PROMETHEUS}{path}"]
        for name, value in query.items():
            argv += ["--data-urlencode", f"{name}={value}"]
        done = self._lab.run("peer", argv, capture_output=True, text=True, timeout=60)
        return str(done.stdout) if done.returncode == 0 else None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that answer it; an expression that is wrong fails."""
        answer = self._ask("/api/v1/query", query=expression)
        assert answer is not None, f"Prometheus does not understand: {expression}"
        found: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
        return found

    def firing(self, severity: str = "") -> set[tuple[str, str]]:
        """Name, and node or service, of each alert; of those of a severity, if it is given."""
        names = {address: node for node, address in self.nodes.items()}
        found = set()
        for alert in json.loads(self._ask("/api/v1/alerts") or "{}")["data"]["alerts"]:
            labels = alert["labels"]
            if alert["state"] == "firing" and severity in {"", labels["severity"]}:
                where = labels.get("service") or names[labels["instance"]]
                found.add((labels["alertname"], where))
        return found


def expressions() -> list[str]:
    """Every query of the dashboard."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(targets) > 20
    return [target["expr"].replace("$__rate_interval", WINDOW) for target in targets]


def unanswered(prometheus: Prometheus) -> list[str]:
    return [one for one in expressions() if not prometheus.query(one)]


def expect(prometheus: Prometheus, *alerts: tuple[str, str]) -> None:
    eventually(
        f"{alerts} fire; firing: {prometheus.firing()}",
        lambda: set(alerts) <= prometheus.firing(),
    )


def test_a_lab_that_is_broken_raises_the_right_alerts(tmp_path: Path) -> None:
    with (
        support.pair("metrics", metrics=True) as lab,
        Prometheus(lab, tmp_path).running() as prometheus,
        ExitStack() as stack,
    ):
        apps = Applications(lab, "obey", 4)
        good, bad = stack.enter_context(apps.connect(4)), stack.enter_context(apps.connect(4))
        handles = {p: apps.expect("protected", "re0", peer=p.port)["handle"] for p in (good, bad)}
        eventually(
            "both nodes are scraped, and safe",
            lambda: len(prometheus.query("prl_safe == 1")) == 2,
        )
        assert good.ask("a packet to be held") == "a packet to be held"
        eventually("every query has an answer", lambda: not unanswered(prometheus))
        held = 'prl_hold_seconds_count{direction="input"} > 0'
        eventually(
            "the owner alone has held packets",
            lambda: (
                [one["metric"]["instance"] for one in prometheus.query(held)]
                == [prometheus.nodes["re0"]]
            ),
        )
        assert prometheus.firing("page") == set()

        for _ in range(3):
            lab.fail("re1", "cut-link")
            expect(prometheus, ("PrlLinkDown", "re0"), ("PrlLinkDown", "re1"))
            assert not {name for name, _ in prometheus.firing()} & {"PrlNoOwner", "PrlNodeDown"}
            lab.heal("re1")
            eventually(
                "both sessions are protected again",
                lambda: [one["state"] for one in flows(lab, "re0")] == ["active"] * 2,
            )
            eventually(  # or the next cut may end, with this alert, before the link is lost
                "the alert is over",
                lambda: "PrlLinkDown" not in {name for name, _ in prometheus.firing()},
            )
        expect(prometheus, ("PrlLinkUnsteady", "re0"), ("PrlLinkUnsteady", "re1"))
        eventually(
            "the link's alerts are over",
            lambda: not prometheus.firing("page"),
        )

        done = support.prlctl("--lab", lab.name, "--node", "re0", "flow", "del", str(handles[bad]))
        assert done.returncode == 0, done.stderr
        expect(prometheus, ("PrlNotSafe", "re0"))
        lab.fail("re0", "power")
        expect(
            prometheus,
            ("PrlNodeDown", "re0"),
            ("PrlLinkDown", "re1"),
            ("PrlTakeover", "re1"),
            ("PrlSessionsLost", "re1"),
        )
        assert ("PrlNoOwner", "lab") not in prometheus.firing()
        assert good.ask("and you?") == "and you?"
        assert unanswered(prometheus) == []
        owner = prometheus.query('prl_service_state{state="owner"} == 1')
        assert [one["metric"]["instance"] for one in owner] == [prometheus.nodes["re1"]]


def test_without_an_address_nothing_listens() -> None:
    with support.pair("nometrics") as lab:
        argv = [
            "curl",
            "-s",
            "-m",
            "5",
            f"http://{lab.topology.nodes[0].lan.ipv4.ip}:{METRICS_PORT}",
        ]
        done: subprocess.CompletedProcess[str] = lab.run("peer", argv, capture_output=True)
        assert done.returncode == 7, "curl: connection refused"


def test_beyond_the_lease_somebody_is_woken_and_what_the_page_says_helps(tmp_path: Path) -> None:
    with (
        support.pair("metricsfence", metrics=True) as lab,
        Prometheus(lab, tmp_path).running() as prometheus,
    ):
        apps = Applications(lab, "obey", 4)
        peer = apps.connect(4)
        apps.expect("protected", "re0", peer=peer.port)
        support.both_stop(lab)
        expect(
            prometheus,
            ("PrlLeaseOver", "re1"),
            ("PrlNoOwner", "lab"),
            ("PrlNodeDown", "re0"),
            ("PrlLinkDown", "re1"),
        )
        done = support.prlctl("--lab", lab.name, "--node", "re1", "takeover", "--fenced")
        assert done.returncode == 0, done.stderr
        assert peer.ask("and you?") == "and you?"
        expect(prometheus, ("PrlTakeover", "re1"))
        eventually(
            "the service has an owner",
            lambda: not {"PrlNoOwner", "PrlLeaseOver"} & {name for name, _ in prometheus.firing()},
        )
        peer.sock.close()
