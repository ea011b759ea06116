"""The pair's record in the arbiter's store, its client, and the daemon that asks.

Checks L12.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from prl.bindings.facts import Arbiter as State
from prl.bindings.facts import Seizes
from prl.config import Config, parse
from prl.daemon.ownership.adoption import Inheritance
from prl.daemon.ownership.arbiter import NOBODY, Arbiter
from prl.daemon.ownership.claim import (
    STEPS_MAX,
    ContendedError,
    Read,
    Record,
    Replace,
    Steps,
    claim,
    release,
    seize,
)
from prl.daemon.ownership.etcd import ANSWER_MAX_BYTES, Etcd, StoreError
from prl.doctor import Verdict
from prl.doctor import arbiter as doctor_arbiter
from prl.errors import ConfigError
from prl.init.pair import Member, Pair
from tests.unit.test_config import GOOD

TIMEOUT_S = 10.0
PAIR = 'pair = "p"'


def config_with(*, policy: str = "", **tables: str) -> Config:
    """The good configuration, with these tables."""
    top = f"policy = {policy}\n" if policy else ""
    return parse(top + GOOD + "".join(f"[{name}]\n{text}\n" for name, text in tables.items()))


class Store:
    """One record in memory."""

    def __init__(self, holder: str = "") -> None:
        self.record = Record(int(bool(holder)), holder)

    def take(self, step: Read | Replace) -> Record | bool:
        if isinstance(step, Read):
            return self.record
        if step.record.revision != self.record.revision:
            return False
        self.record = Record(self.record.revision + 1, step.holder)
        return True


def run(store: Store, steps: Steps) -> bool:
    given: Record | bool | None = None
    while True:
        try:
            step = steps.send(given)  # type: ignore[arg-type]
        except StopIteration as end:
            return bool(end.value)
        given = store.take(step)


def test_the_first_that_claims_is_alone_and_the_other_one_is_not() -> None:
    store = Store()
    assert run(store, claim("re0"))
    assert not run(store, claim("re1"))
    assert run(store, claim("re0"))  # asked again: an answer was lost
    assert store.record.holder == "re0"


def test_of_two_that_claim_at_once_one_wins_whoever_comes_when() -> None:
    for order in set(itertools.permutations([0, 0, 0, 1, 1, 1])):
        store, results = Store(), {}
        steps = [claim("re0"), claim("re1")]
        given: list[Record | bool | None] = [None, None]
        for turn in (*order, *[0, 1] * STEPS_MAX):
            if turn in results:
                continue
            try:
                given[turn] = store.take(steps[turn].send(given[turn]))  # type: ignore[arg-type]
            except StopIteration as end:
                results[turn] = end.value
        assert sorted(results.values()) == [False, True]
        assert results[int(store.record.holder[-1])]


def test_what_the_other_node_holds_is_not_released() -> None:
    store = Store("re1")
    assert not run(store, release("re0", asked=True))
    assert store.record.holder == "re1"


def test_a_claim_that_nobody_waits_for_comes_too_late_after_a_release() -> None:
    store = Store()
    late = claim("re0")
    read = next(late)
    write = late.send(store.take(read))
    assert run(store, release("re0", asked=True))
    assert store.take(write) is False


def test_a_release_that_nobody_waits_for_comes_too_late_after_a_claim() -> None:
    store = Store("re0")
    late = release("re0", asked=True)
    write = late.send(store.take(next(late)))
    assert run(store, claim("re0"))  # it was named all the time
    assert store.take(write) is False
    assert store.record.holder == "re0"


def test_nothing_is_written_where_nothing_need_be() -> None:
    store = Store()
    assert run(store, release("re0", asked=False))
    assert store.record.revision == 0


def test_the_operators_word_replaces_any_name() -> None:
    store = Store("re1")
    assert run(store, seize("re0"))
    assert store.record.holder == "re0"


def test_who_is_disturbed_for_ever_gives_up() -> None:
    def disturbed(steps: Steps) -> None:
        step = next(steps)
        while True:
            step = steps.send(Record(1, "") if isinstance(step, Read) else False)

    for steps in (claim("re0"), release("re0", asked=True), seize("re0")):
        with pytest.raises(ContendedError):
            disturbed(steps)


# -- etcd's JSON gateway


class Gateway:
    """One member: the two calls, as etcd 3.4 answers them."""

    def __init__(self) -> None:
        self.revision, self.value = 0, ""
        self.asked = 0
        self.answer: Callable[[dict[str, Any]], bytes] | None = None
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                gateway.asked += 1
                data = (gateway.answer or getattr(gateway, self.path.rpartition("/")[2]))(body)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def range(self, body: dict[str, Any]) -> bytes:
        assert base64.b64decode(body["key"]) == b"/prl/p"
        if not self.revision:
            return b'{"header":{"revision":"1"}}'
        value = base64.b64encode(self.value.encode()).decode()
        kvs = [{"mod_revision": str(self.revision), "version": "1", "value": value}]
        return json.dumps({"header": {}, "kvs": kvs, "count": "1"}).encode()

    def txn(self, body: dict[str, Any]) -> bytes:
        (compare,), (success,) = body["compare"], body["success"]
        assert (compare["target"], compare["result"]) == ("MOD", "EQUAL")
        if compare["mod_revision"] != str(self.revision):
            return b'{"header":{}}'
        self.revision += 1
        self.value = base64.b64decode(success["request_put"]["value"]).decode()
        return b'{"header":{},"succeeded":true}'


@contextmanager
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join(TIMEOUT_S)


def settings(*endpoints: str, more: str = "") -> Any:
    urls = json.dumps(list(endpoints))
    return config_with(arbiter=f"endpoints = {urls}\n{PAIR}\n{more}").arbiter


def soon() -> float:
    return time.monotonic() + TIMEOUT_S


def test_the_record_is_read_and_replaced() -> None:
    with gateway() as member:
        store = Etcd(settings(member.endpoint))
        assert store.read(soon()) == (0, "")
        assert store.replace(0, "re0", soon())
        assert not store.replace(0, "re1", soon())
        assert store.read(soon()) == (1, "re0")


def test_a_member_that_is_gone_is_passed_by_and_asked_last_from_then_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with gateway() as member:
        store = Etcd(settings(f"http://127.0.0.1:{port}", member.endpoint))
        assert store.read(soon()) == (0, "")
        assert store._endpoints[0] == member.endpoint


def test_a_member_that_says_nothing_leaves_time_for_the_next() -> None:
    with gateway() as member, socket.create_server(("127.0.0.1", 0)) as mute:
        store = Etcd(settings(f"http://127.0.0.1:{mute.getsockname()[1]}", member.endpoint))
        assert store.read(time.monotonic() + 1.0) == (0, "")


def test_an_answer_that_comes_in_drops_is_none_after_its_time() -> None:
    """Each piece is in time, the whole never is."""
    dropped = threading.Event()

    def drip(member: socket.socket) -> None:
        connection, _ = member.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not dropped.wait(0.02):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as member:
        thread = threading.Thread(target=drip, args=(member,))
        thread.start()
        try:
            with pytest.raises(StoreError, match="no answer within"):
                Etcd(settings(f"http://127.0.0.1:{member.getsockname()[1]}")).read(
                    time.monotonic() + 0.5
                )
        finally:
            dropped.set()
            thread.join(TIMEOUT_S)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'"yes"',
        b'{"kvs": 1}',
        b'{"kvs": [{}]}',
        b'{"kvs": [{"mod_revision": "x", "value": ""}]}',
        b'{"kvs": [{"mod_revision": "1", "value": "*"}]}',
        b'{"kvs": [{"mod_revision": "1", "value": "/w=="}]}',
        b"{" + b" " * ANSWER_MAX_BYTES + b"}",
    ],
)
def test_an_answer_that_is_none_of_etcds_is_no_answer(answer: bytes) -> None:
    with gateway() as member:
        member.answer = lambda _: answer
        with pytest.raises(StoreError):
            Etcd(settings(member.endpoint)).read(soon())


def test_files_that_are_none_are_refused_at_the_start() -> None:
    wrong = settings("https://127.0.0.1:1", more='ca = "/nowhere/ca.pem"')
    with pytest.raises(ConfigError, match=r"arbiter\.ca"):
        Etcd(wrong)


# -- the configuration


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('endpoints = ["http://10.0.0.1:2379"]', r"arbiter\.pair: is missing"),
        (f'endpoints = ["ftp://10.0.0.1:2379"]\n{PAIR}', r"arbiter\.endpoints"),
        (f'endpoints = ["http://10.0.0.1"]\n{PAIR}', r"arbiter\.endpoints"),
        (f'endpoints = ["http://10.0.0.1:70000"]\n{PAIR}', "is no URL of a member"),
        (f"endpoints = []\n{PAIR}", r"arbiter\.endpoints"),
        (f'endpoints = ["http://a:1", "https://b:1"]\n{PAIR}', "all of them http"),
        (f'endpoints = ["http://a:1"]\nca = "/x"\n{PAIR}', r"arbiter\.ca"),
        (f'endpoints = ["https://a:1"]\ncertificate = "/x"\n{PAIR}', "arbiter.certificate"),
        (
            f'endpoints = ["http://a:1"]\n{PAIR}\npolicy = "continue"\ntimeout_ms = 200',
            r"arbiter\.timeout_ms",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(table: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_with(arbiter=table)


def test_a_policy_of_the_lease_has_no_place_beside_an_arbiter() -> None:
    table = f'endpoints = ["http://a:1"]\n{PAIR}'
    with pytest.raises(ConfigError, match="policy: with an arbiter"):
        config_with(arbiter=table, policy='"stop"')
    with pytest.raises(ConfigError, match="fence_command"):
        config_with(arbiter=table, ownership='fence_command = ["/bin/true"]')


# -- the daemon


class Datapath:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[int, State]] = asyncio.Queue()
        self.arbiter, self.arbiter_round = State.ASKED, 3

    def arbitrated(self, round_number: int, state: State) -> None:
        self.told.put_nowait((round_number, state))

    def status(self) -> Any:
        return SimpleNamespace(arbiter=self.arbiter, arbiter_round=self.arbiter_round)


class Log:
    def __init__(self) -> None:
        self.names: list[str] = []

    def _note(self, name: str, *_: object, **__: object) -> None:
        self.names.append(name)

    info = warning = error = _note


async def told(datapath: Datapath) -> tuple[int, State]:
    async with asyncio.timeout(TIMEOUT_S):
        return await datapath.told.get()


def daemon(test: Callable[[Arbiter, Datapath, Log], Any], *endpoints: str, more: str = "") -> None:
    async def main() -> None:
        urls = json.dumps(list(endpoints))
        table = f"endpoints = {urls}\n{PAIR}\ntimeout_ms = 5000\n{more}"
        log, datapath = Log(), Datapath()
        arbiter = Arbiter(config_with(arbiter=table), log)  # type: ignore[arg-type]
        arbiter.attach(datapath, won=False)  # type: ignore[arg-type]
        task = asyncio.create_task(arbiter.run())
        try:
            await test(arbiter, datapath, log)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await arbiter.close()

    asyncio.run(main())


def test_a_question_is_answered_with_its_number() -> None:
    async def ask(arbiter: Arbiter, datapath: Datapath, log: Log) -> None:
        arbiter.on_question(7, Seizes.NOT)
        assert await told(datapath) == (7, State.WON)
        assert "arbiter_won" in log.names

    with gateway() as member:
        daemon(ask, member.endpoint)
        assert member.value == "re0"


def test_the_other_nodes_name_is_the_answer_that_it_is_not_this_one() -> None:
    async def ask(arbiter: Arbiter, datapath: Datapath, log: Log) -> None:
        arbiter.on_question(7, Seizes.NOT)
        assert await told(datapath) == (7, State.LOST)
        assert "arbiter_lost" in log.names
        assert arbiter.holder == "re1"
        assert await arbiter.start() is False

    with gateway() as member:
        member.revision, member.value = 4, "re1"
        daemon(ask, member.endpoint)
        assert member.revision == 4


def test_no_answer_is_told_too_and_the_next_question_is_asked_anew() -> None:
    async def ask(arbiter: Arbiter, datapath: Datapath, log: Log) -> None:
        arbiter.on_question(7, Seizes.NOT)
        assert await told(datapath) == (7, State.UNREACHED)
        assert log.names.count("arbiter_unreached") == 1
        assert "not reached" in arbiter.ailment
        member.answer = None
        arbiter.on_question(7, Seizes.NOT)
        assert await told(datapath) == (7, State.WON)
        assert "arbiter_reached" in log.names
        assert not arbiter.ailment

    with gateway() as member:
        member.answer = lambda _: b"no"
        daemon(ask, member.endpoint)


def test_the_record_is_let_go_of_when_the_datapath_has_the_other_nodes_word() -> None:
    async def rejoin(arbiter: Arbiter, datapath: Datapath, _: Log) -> None:
        arbiter.on_question(7, Seizes.NOT)
        await told(datapath)
        datapath.arbiter = State.WON
        arbiter.on_link_up()
        await asyncio.sleep(0)
        assert member.value == "re0"
        datapath.arbiter = State.TOGETHER
        async with asyncio.timeout(TIMEOUT_S):
            while member.value != NOBODY or arbiter.holder:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert not arbiter.ailment

    with gateway() as member:
        daemon(rejoin, member.endpoint)


def test_a_word_that_goes_before_the_arbiters_is_written() -> None:
    async def seized(arbiter: Arbiter, _: Datapath, __: Log) -> None:
        arbiter.on_question(7, Seizes.FENCED)
        async with asyncio.timeout(TIMEOUT_S):
            while member.value != "re0":  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    with gateway() as member:
        member.revision, member.value = 4, "re1"
        daemon(seized, member.endpoint)


def test_a_word_of_the_other_nodes_is_not_written_once_hello_was_said() -> None:
    """That node may have asked in the new epoch by then, and be told that it has won."""

    async def greeted(arbiter: Arbiter, _: Datapath, __: Log) -> None:
        arbiter.on_question(7, Seizes.BY_WORD)
        arbiter.on_hello()
        arbiter.on_question(8, Seizes.NOT)
        async with asyncio.timeout(TIMEOUT_S):
            while arbiter.holder != "re1":  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)

    with gateway() as member:
        member.revision, member.value = 4, "re1"
        daemon(greeted, member.endpoint)
        assert member.value == "re1"


def test_what_is_being_written_stops_when_its_word_counts_no_more() -> None:
    steps = seize("re0", lambda: False)
    assert isinstance(next(steps), Read)
    with pytest.raises(StopIteration) as end:
        steps.send(Record(4, "re1"))
    assert end.value.value is False


def test_a_node_that_was_owner_asks_again_before_it_gives_its_sessions_up() -> None:
    """A store that is late once is no reason: the kernel goes on as it may, meanwhile."""
    answers = [None, None, True]

    async def start() -> bool | None:
        return answers.pop(0)

    arbiter: Any = SimpleNamespace(start=start, falls_back=False)
    nothing: Any = None
    config = config_with(arbiter=f'endpoints = ["http://a:1"]\n{PAIR}')
    former = Inheritance(*(config, nothing, nothing, nothing), arbiter=arbiter, evidence=nothing)
    assert asyncio.run(former._is_alone())
    assert former.won
    assert not answers


# -- doctor, init


def test_doctor_asks_each_member() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with gateway() as member:
        urls = json.dumps([member.endpoint, dead])
        config = config_with(arbiter=f"endpoints = {urls}\n{PAIR}\ntimeout_ms = 5000")
        few, good, bad = doctor_arbiter.examine(config)
    assert few.verdict == Verdict.WARNING  # two are no better than one
    assert (good.verdict, good.name) == (Verdict.OK, f"arbiter {member.endpoint}")
    assert (bad.verdict, bad.name) == (Verdict.WARNING, f"arbiter {dead}")


def test_doctor_says_nothing_of_an_arbiter_that_there_is_not() -> None:
    assert not list(doctor_arbiter.examine(parse(GOOD)))
    assert not list(doctor_arbiter.examine(None))


def test_init_writes_the_arbiter_into_both_configurations() -> None:
    nodes = tuple(
        Member(f"re{n}", "lan0", IPv4Address(f"192.0.2.1{n}"), "link0", IPv4Address(f"10.0.0.{n}"))
        for n in (1, 2)
    )
    urls = ("http://10.1.0.1:2379", "http://10.1.0.2:2379", "http://10.1.0.3:2379")
    pair = Pair((nodes[0], nodes[1]), "main", (IPv4Address("192.0.2.100"),), "re1", arbiter=urls)
    for index in (0, 1):
        arbiter = parse(pair.file(index)).arbiter
        assert (arbiter.endpoints, arbiter.pair) == (list(urls), "re1-re2")
