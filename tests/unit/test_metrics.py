"""Metrics: what is told, and that whoever asks holds nothing up."""

import asyncio
import dataclasses
import errno
import json
import re
import socket
from collections import defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from prl.bindings.datapath import HOLD_BOUNDS_S, Figures, HoldTimes
from prl.bindings.facts import LinkState, Owner, Silence, Status
from prl.bindings.native import ffi, lib
from prl.bindings.programs import Strangers
from prl.config import parse
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.catalogue import HAPPENED
from prl.daemon.events.log import EventLog
from prl.daemon.link.handshake import KINDS, Refusals
from prl.daemon.monitoring import exporter
from prl.daemon.monitoring.exporter import CLIENTS_MAX, Exporter
from prl.daemon.monitoring.facts import CAUSES, Verdict
from prl.daemon.monitoring.hooks import Hooks
from prl.daemon.monitoring.metrics import DROPS, Facts, Tally
from prl.daemon.monitoring.safety import Look
from prl.errors import ConfigError
from tests.unit.test_config import GOOD

ROOT = Path(__file__).parents[2]


def status(**facts: Any) -> Status:
    values: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(Status)}
    counters = defaultdict(int, {name: n for n, name in enumerate(DROPS.values(), 1)})
    values |= {"counters": counters, "received": (0, 5), "sent": (0, 6), "answered_ns": (0, 0)}
    values |= {"services": (Owner.OWNER,), "link_state": LinkState.UP, "silence": Silence.NOT}
    return Status(**values | facts)


def facts(*, verdict: Verdict = Verdict(), sessions: bool = False, **more: Any) -> Facts:  # noqa: B008
    config = parse(GOOD + f"[metrics]\nsessions = {str(sessions).lower()}\n")
    view: Any = SimpleNamespace(
        config=config,
        kernel=SimpleNamespace(mode="native", bypassed=False, strangers=lambda: Strangers(0, ())),
        ownership=SimpleNamespace(terms=[4]),
        arbiter=None,
        link=SimpleNamespace(refusals=Refusals(EventLog(lambda _: None))),
    )
    held = HoldTimes(0.5, (1, 2, *[0] * (len(HOLD_BOUNDS_S) - 2), 3))
    owner = dict.fromkeys(
        (
            *("takeovers", "suspects", "false_suspects", "silences", "late_ticks", "hand_overs"),
            *("arbiter_asks", "arbiter_unreached"),
        ),
        2,
    )
    flow = {"handle": 17, "role": "primary", "local": "192.0.2.100:179", "remote": "192.0.2.1:5"}
    flow |= {"state": "active", "queue": {"packets": 1, "bytes": 60}}
    return Facts(
        view=view,
        status=status(**more),
        figures=Figures(held, held, owner),
        kernel={"redirect_failed": 0, "stale_dropped": 0},
        look=Look(verdict, {"active": 3, "setup": 1}, 0.25, 0.0),
        events=dict.fromkeys(HAPPENED, 1),
        hooks=Hooks(config, EventLog(lambda _: None)),
        used={"control_clients": Bounded(1, 4096, 3)},
        flows=[flow],
    )


def samples(found: Facts) -> dict[str, list[Sample]]:
    """By name, as a parser of OpenMetrics understands them."""
    by_name: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(generate_latest(found).decode()):
        for sample in family.samples:
            by_name.setdefault(sample.name, []).append(sample)
    return by_name


def value(found: Facts, name: str, **labels: str) -> float:
    (sample,) = (
        sample for sample in samples(found)[name] if labels.items() <= sample.labels.items()
    )
    return sample.value


def test_what_is_told_is_openmetrics() -> None:
    found = facts()
    assert value(found, "prl_safe") == 1
    assert value(found, "prl_lease_over") == 0
    assert value(found, "prl_service_state", state="owner") == 1
    assert value(found, "prl_service_state", state="standby") == 0
    assert value(found, "prl_sessions", state="active") == 3
    assert value(found, "prl_false_suspicions_total") == 2
    assert value(found, "prl_events_total", event="takeover") == 1
    assert value(found, "prl_resource_limit", resource="control_clients") == 4096
    assert value(found, "prl_resource_refused_total", resource="control_clients") == 3
    assert value(found, "prl_dropped_packets_total", reason="malformed") == 2
    assert value(found, "prl_hold_seconds_sum", direction="input") == 0.5
    buckets = [
        (sample.labels["le"], sample.value)
        for sample in samples(found)["prl_hold_seconds_bucket"]
        if sample.labels["direction"] == "input"
    ]
    assert [count for _, count in buckets] == [1, *[3] * (len(HOLD_BOUNDS_S) - 1), 6]
    assert float(buckets[0][0]) == pytest.approx(4.096e-6)


@pytest.mark.parametrize("cause", CAUSES)
def test_why_it_is_not_safe_is_a_label(cause: str) -> None:
    found = facts(verdict=Verdict(cause, "because"))
    assert value(found, "prl_safe") == 0
    told = {s.labels["cause"]: s.value for s in samples(found)["prl_unsafe"]}
    assert told == {one: float(one == cause) for one in CAUSES}


def test_who_was_refused_on_the_link_is_told_by_reason() -> None:
    found = facts(counters=defaultdict(int, {"link_forged": 3, "link_truncated": 2}))
    found.view.link.refusals.count("key")
    told = {
        s.labels["reason"]: s.value for s in samples(found)["prl_link_refused_connections_total"]
    }
    assert told == {kind: float(kind == "key") for kind in KINDS}
    assert value(found, "prl_link_broken_connections_total", reason="forged") == 3
    assert value(found, "prl_link_broken_connections_total", reason="truncated") == 2
    assert value(found, "prl_link_plain") == 0


def test_sessions_have_labels_only_if_they_are_asked_for() -> None:
    assert "prl_session_protected" not in samples(facts())
    assert value(facts(sessions=True), "prl_session_protected", handle="0x11") == 1
    assert value(facts(sessions=True), "prl_session_held_bytes", handle="0x11") == 60


def test_the_document_has_every_metric() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(prl_\w+)` \| (\w+) \| ([^|]*) \|", text, re.MULTILINE)
    wanted = []
    for family in facts(sessions=True).collect():
        labels = {name for s in family.samples for name in s.labels if family.type != "info"}
        labels -= {"le"}
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        told = ", ".join(f"`{name}`" for name in sorted(labels))
        wanted.append((family.name + suffix, family.type, told))
    assert rows == wanted


@pytest.mark.parametrize("name", ["prl.rules.yml", "dashboard.json"])
def test_rules_and_dashboard_ask_for_what_there_is(name: str) -> None:
    text = (ROOT / "docs/monitoring" / name).read_text()
    asked = set(re.findall(r"\bprl_\w+", text))
    front = {name for name in asked if name.startswith("prl_bgp_")}
    assert asked - front - set(samples(facts())) == set()
    assert front - set(re.findall(r"`(prl_bgp_\w+)`", (ROOT / "docs/bgp.md").read_text())) == set()
    assert len(asked) > 10


def test_the_dashboard_is_laid_out() -> None:
    dashboard = json.loads((ROOT / "docs/monitoring/dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        columns = range(at["x"], at["x"] + at["w"])
        cells = {(x, y) for x in columns for y in range(at["y"], at["y"] + at["h"])}
        assert max(columns) < 24
        assert not cells & taken, f"{panel['title']} is on top of another one"
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["expr"]


def test_events_are_counted() -> None:
    happened = EventLog(lambda _: None)
    tally = Tally(happened)
    for _ in range(3):
        happened.post("warning", "takeover", "again")
    assert tally.counts()["takeover"] == 3
    assert tally.counts()["link_down"] == 0


@pytest.mark.parametrize(
    ("held_ns", "bucket"),
    [(0, 0), (4095, 0), (4096, 1), (8191, 1), (8192, 2), (1 << 30, 19), (1 << 62, 19)],
)
def test_a_hold_is_counted_in_the_bucket_of_its_power_of_two(held_ns: int, bucket: int) -> None:
    times = ffi.new("struct prl_hold_times *")
    lib.prl_hold_times_add(times, held_ns)
    assert list(times.bucket).index(1) == bucket
    assert times.sum_ns == held_ns
    for bound in HOLD_BOUNDS_S[:bucket]:
        assert held_ns / 1e9 >= bound
    for bound in HOLD_BOUNDS_S[bucket:]:
        assert held_ns / 1e9 < bound


def test_what_the_datapath_counts_is_read() -> None:
    struct = ffi.new("struct prl_dp_figures *")
    lib.prl_hold_times_add(ffi.addressof(struct, "held_out"), 5000)
    struct.false_suspects = 7
    found = Figures.of(struct[0])
    assert found.held_out == HoldTimes(5e-6, (0, 1, *[0] * 18))
    assert found.owner["false_suspects"] == 7
    assert set(facts().figures.owner) == set(found.owner)


# -- over HTTP


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Served:
    """An exporter on a port of 127.0.0.1, and how often it had to gather."""

    def __init__(self) -> None:
        self.port, self.gathered = free_port(), 0
        self.fault: Exception | None = None
        self.log = EventLog(lambda _: None)
        self.exporter = Exporter(f"127.0.0.1:{self.port}", self.log, self.gather)

    def gather(self) -> Facts:
        self.gathered += 1
        if self.fault is not None:
            raise self.fault
        return facts()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_connection("127.0.0.1", self.port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)

    async def ask(self, head: bytes = b"GET /metrics HTTP/1.1\r\n\r\n") -> bytes:
        reader, writer = await self.connect()
        writer.write(head)
        answer = await reader.read()
        writer.close()
        return answer

    async def until_clients(self, count: int) -> None:
        while self.exporter.used.used != count:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)


def run(scenario: Callable[[Served], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        served = Served()
        task = asyncio.create_task(served.exporter.run())
        try:
            await scenario(served)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_metrics_are_served() -> None:
    async def scenario(served: Served) -> None:
        head, _, body = (await served.ask()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text")
        assert f"Content-Length: {len(body)}".encode() in head
        assert body == generate_latest(facts())
        assert (await served.ask(b"HEAD /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        assert b" 404 " in await served.ask(b"GET / HTTP/1.1\r\n\r\n")
        assert b" 405 " in await served.ask(b"POST /metrics HTTP/1.1\r\n\r\n")
        for hostile in (b"\r\n\r\n", b"GET\r\n\r\n", b"\xff \xff\r\n\r\n"):
            assert b" 40" in await served.ask(hostile)
        assert await served.ask(b"x" * 100_000) == b"", "a head without an end"

    run(scenario)


def test_facts_are_gathered_once_for_all_who_ask_at_a_time() -> None:
    async def scenario(served: Served) -> None:
        answers = await asyncio.gather(*(served.ask() for _ in range(CLIENTS_MAX)))
        assert len(set(answers)) == 1
        assert served.gathered == 1

    run(scenario)


def test_clients_are_bounded_and_those_who_wait_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(served: Served) -> None:
        idle = [await served.connect() for _ in range(CLIENTS_MAX)]
        await served.until_clients(CLIENTS_MAX)
        reader, writer = await served.connect()
        assert await reader.read() == b""
        writer.close()
        assert served.exporter.used.refused == 1
        for reader, writer in idle:  # they say nothing, until their time is over
            assert await reader.read() == b""
            writer.close()
        await served.until_clients(0)
        assert b" 200 " in await served.ask()

    monkeypatch.setattr(exporter, "DEADLINE_S", 0.2)
    run(scenario)


def test_a_port_that_is_taken_is_told_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, refusals = exporter._bound, [errno.EADDRINUSE] * 3

    def bound(listen: str) -> socket.socket:
        if refusals:
            raise OSError(refusals.pop(), "Address already in use")
        return real(listen)

    async def scenario(served: Served) -> None:
        assert b" 200 " in await served.ask()
        told = [(record.event, record.level) for record in served.log.after(0, 10)]
        assert told == [("metrics", "warning"), ("metrics", "info")]

    monkeypatch.setattr(exporter, "_bound", bound)
    monkeypatch.setattr(exporter, "AGAIN_S", 0.0)
    run(scenario)


def test_a_fault_of_its_own_is_told_and_answered() -> None:
    async def scenario(served: Served) -> None:
        served.fault = ZeroDivisionError("no such thing")
        assert b" 500 " in await served.ask()
        (record,) = served.log.after(0, 10)
        assert (record.event, record.level) == ("metrics", "error")
        assert "ZeroDivisionError: no such thing" in record.text
        served.fault = None
        assert b" 200 " in await served.ask()

    run(scenario)


def test_an_address_that_comes_later_is_no_obstacle() -> None:
    for listen in ("192.0.2.77:9478", "[2001:db8::77]:9478"):
        exporter._bound(listen).close()


@pytest.mark.parametrize(
    ("listen", "wrong"),
    [
        ("localhost:9478", "bad endpoint"),
        ("127.0.0.1", "bad endpoint"),
        ("0.0.0.0:9478", "no address of this node's"),
        ("[::]:9478", "no address of this node's"),
        ("192.0.2.100:9478", "service address"),
        ("198.51.100.10:7077", "the link's own port"),
    ],
)
def test_the_address_is_checked(listen: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"^metrics\.listen: .*{wrong}"):
        parse(GOOD + f'[metrics]\nlisten = "{listen}"\n')
