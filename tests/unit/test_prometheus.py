"""The real Prometheus scrapes what prld serves: every query of the dashboard has an answer."""

import asyncio
import json
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prl.bindings.facts import Owner
from prl.daemon.events.log import EventLog
from prl.daemon.monitoring.exporter import Exporter
from prl.daemon.monitoring.metrics import Facts
from tests.unit.test_metrics import facts, free_port

pytestmark = pytest.mark.needs("prometheus")

MONITORING = Path(__file__).parents[2] / "docs/monitoring"
WINDOW = "20s"
"""What $__rate_interval is here, with a scrape each second."""


class Node:
    """An exporter in a thread of its own, whose facts the test changes."""

    def __init__(self, **now: Any) -> None:
        self.now, self.address = now, f"127.0.0.1:{free_port()}"
        self._exporter = Exporter(self.address, EventLog(lambda _: None), self._gather)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _gather(self) -> Facts:
        return facts(**self.now)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            self._task = self._loop.create_task(self._exporter.run())
            try:
                runner.run(asyncio.wait([self._task]))
            finally:
                asyncio.set_event_loop(None)

    def power_off(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
            self._thread.join()


class Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def _ask(self, path: str, **query: str) -> dict[str, Any]:
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http
            found: dict[str, Any] = json.loads(answer.read())["data"]
        return found

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("/api/v1/query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        alerts = self._ask("/api/v1/alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def until(self, what: str, check: Any) -> None:
        """Ask again and again; the test's own timeout ends it."""
        pause = threading.Event()
        while True:
            try:
                if check():
                    return
            except (urllib.error.URLError, ConnectionError) as error:
                what = f"{what} ({error})"
            pause.wait(0.2)


@contextmanager
def prometheus(folder: Path, nodes: list[Node]) -> Iterator[Prometheus]:
    rules = (MONITORING / "prl.rules.yml").read_text()
    # As they are, but for how long something must last: test_alerts.py tries that.
    (folder / "rules.yml").write_text(re.sub(r"for: \w+", "for: 1s", rules))
    targets = [node.address for node in nodes]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "prl", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    argv = ["prometheus", f"--config.file={folder / 'prometheus.yml'}"]
    argv += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(argv, stdout=log, stderr=log) as process,
    ):
        try:
            yield Prometheus(port)
        finally:
            process.terminate()


def test_queries_have_answers_and_alerts_fire(tmp_path: Path) -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries = [target["expr"].replace("$__rate_interval", WINDOW) for target in targets]
    assert len(queries) > 20
    good: dict[str, Any] = {"link_up": True, "frames_free": 16384}
    nodes = [Node(**good), Node(**good, services=(Owner.STANDBY,))]
    try:
        with prometheus(tmp_path, nodes) as asked:
            asked.until("both are scraped", lambda: len(asked.query("prl_safe == 1")) == 2)
            asked.until("all answers", lambda: all(asked.query(one) for one in queries))
            assert asked.firing() == set()
            for node in nodes:
                node.now["link_up"] = False
            asked.until("the link's page", lambda: asked.firing() == {"PrlLinkDown"})
            nodes[1].now["expired"] = True
            nodes[0].power_off()
            wanted = {"PrlNodeDown", "PrlNoOwner", "PrlLeaseOver", "PrlLinkDown"}
            asked.until("the others", lambda: asked.firing() == wanted)
    finally:
        for node in nodes:
            node.power_off()
