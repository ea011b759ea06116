"""Every program of docs/examples/ on both nodes; the power goes on one, then on the other (R18)."""

import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prl.demo.player import Cast, Deadline, DemoError
from prl.lab import Lab
from tests.system.serving import lab_name
from tests.system.support import PATIENCE_S, Peer, eventually, flows, listen_on, pair, prlctl

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
CLIENT = ROOT / "prl/c"
PORTS = {"echo.c": 7000, "echo_threads.py": 7001, "echo_asyncio.py": 7002, "meter.py": 7003}
CHUNK_MAX_BYTES = 40 << 10


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with pair(lab_name("examples")) as made:
        yield made


@pytest.fixture(scope="module")
def echo_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "echo"
    build = ["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", EXAMPLES / "echo.c"]
    flags = ["-I", CLIENT, "-L", CLIENT, "-lprl_client", f"-Wl,-rpath,{CLIENT}"]
    subprocess.run([*build, *flags, "-o", program], check=True)
    return program


def test_every_example_is_tested() -> None:
    elsewhere = {"move_address.py"}  # a hook: tests/system/test_hooks.py
    assert {path.name for path in EXAMPLES.glob("*.*")} == set(PORTS) | elsewhere


class Stage:
    """All the examples on both nodes, and what they have told."""

    def __init__(self, lab: Lab, echo_c: Path, folder: Path) -> None:
        self._lab, self._echo_c = lab, echo_c
        self.exports = {node: folder / f"{node}.sock" for node in ("re0", "re1")}
        self._casts: dict[tuple[str, str], Cast] = {}
        for node in self.exports:
            self.start(node)

    def start(self, node: str) -> None:
        self.exports[node].unlink(missing_ok=True)
        for number, (name, port) in enumerate(PORTS.items()):
            compiled = name == "echo.c"
            program = [str(self._echo_c)] if compiled else [sys.executable, str(EXAMPLES / name)]
            own = [str(self.exports[node])] if name == "meter.py" else []
            argv = [*program, listen_on(_family(number), port), *own]
            self._casts[name, node] = Cast(self._lab, argv, {node: []})
        for name in PORTS:
            self.expect(name, node, "listening")

    def forget(self) -> None:
        for cast in self._casts.values():
            cast.heard.clear()

    def expect(self, name: str, node: str, event: str, **facts: object) -> dict[str, Any]:
        cast = self._casts[name, node]
        try:
            return cast.expect({event}, node, Deadline(PATIENCE_S), **facts)
        except DemoError as error:
            raise AssertionError(f"{name}: {error}; told: {cast.heard[-5:]}") from error


class Talk:
    """A peer that says something and wants the right answer, again and again until it is ended."""

    def __init__(self, lab: Lab, number: int, name: str) -> None:
        self.name = name
        self.peer = Peer(lab, _family(number), PORTS[name])
        self.rounds = self.total = 0
        self.trouble = ""
        self._chance = random.Random(number)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.001):
                self._sum() if self.name == "meter.py" else self._echo()
                self.rounds += 1
            self.peer.sock.shutdown(socket.SHUT_WR)
            assert not self.peer.receive(), "more than was asked for"
        except (OSError, AssertionError) as error:
            self.trouble = repr(error)

    def _echo(self) -> None:
        said = self._chance.randbytes(self._chance.randint(1, CHUNK_MAX_BYTES))
        self.peer.send(said)
        heard = b""
        while len(heard) < len(said):
            more = self.peer.receive(len(said) - len(heard))
            assert more, "the stream ended"
            heard += more
        assert heard == said, "something else came back"

    def _sum(self) -> None:
        number = self._chance.randint(0, 1000)
        self.total += number
        self.peer.send(b"%d\n" % number)
        assert self.peer.line() == str(self.total)

    def goes_on(self) -> None:
        before = self.rounds
        eventually(f"{self.name} goes on", lambda: self.trouble or self.rounds > before + 3)
        assert not self.trouble, f"{self.name}: {self.trouble}"

    def end(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        self.peer.sock.close()
        assert not self.trouble, f"{self.name}: {self.trouble}"


def test_the_peers_notice_nothing_but_two_pauses(lab: Lab, echo_c: Path, tmp_path: Path) -> None:
    stage = Stage(lab, echo_c, tmp_path)
    talks = [Talk(lab, number, name) for number, name in enumerate(PORTS)]
    for talk in talks:
        stage.expect(talk.name, "re0", "protected", peer=talk.peer.port)
        stage.expect(talk.name, "re1", "standby", peer=talk.peer.port)
        talk.goes_on()
    _counters_agree(stage, talks[-1])

    lab.fail("re0", "power")

    for talk in talks:
        assert stage.expect(talk.name, "re1", "taken_over", peer=talk.peer.port)["bytes"] > 0
        talk.goes_on()
    _restart_prld_alone(lab, talks)
    lab.heal("re0")
    stage.start("re0")
    for talk in talks:  # in mid-stream
        stage.expect(talk.name, "re1", "protected", peer=talk.peer.port)
        stage.expect(talk.name, "re0", "standby", peer=talk.peer.port)
        talk.goes_on()

    _resync(lab, stage, talks)
    _restart_prld(lab, stage, talks)

    lab.fail("re1", "power")

    for talk in talks:
        stage.expect(talk.name, "re0", "taken_over", peer=talk.peer.port)
        talk.goes_on()
        talk.end()
        stage.expect(talk.name, "re0", "end", peer=talk.peer.port)


def _resync(lab: Lab, stage: Stage, talks: list[Talk]) -> None:
    """`prlctl flow resync`: every session gets another shadow, and its peer notices nothing."""
    before = {flow["handle"]: flow["generation"] for flow in flows(lab, "re1")}
    stage.forget()
    for handle in before:
        done = prlctl("--lab", lab.name, "--node", "re1", "flow", "resync", hex(handle))
        assert done.returncode == 0, done.stderr
    for talk in talks:
        stage.expect(talk.name, "re0", "standby", peer=talk.peer.port)
        stage.expect(talk.name, "re1", "protected", peer=talk.peer.port)
        talk.goes_on()
    assert all(flow["generation"] > before[flow["handle"]] for flow in flows(lab, "re1"))


def _restart_prld_alone(lab: Lab, talks: list[Talk]) -> None:
    """The owner's prld dies and nobody else is there: the next one is handed every session (L9)."""
    lab.fail("re1", "kill-prld")
    lab.heal("re1")
    eventually("all are known again", lambda: len(flows(lab, "re1")) == len(talks))
    assert {flow["state"] for flow in flows(lab, "re1")} == {"open"}
    for talk in talks:
        talk.goes_on()


def _restart_prld(lab: Lab, stage: Stage, talks: list[Talk]) -> None:
    """The standby's prld dies: the applications find the next one by themselves."""
    stage.forget()
    lab.fail("re0", "kill-prld")
    lab.heal("re0")
    for talk in talks:
        stage.expect(talk.name, "re0", "standby", peer=talk.peer.port)
        stage.expect(talk.name, "re1", "protected", peer=talk.peer.port)
        talk.goes_on()


def _counters_agree(stage: Stage, talk: Talk) -> None:
    """What is read from the shadow is what the owner knows, be it a moment later."""

    def total(node: str, role: str) -> float:
        labels = f'{{peer="{talk.peer.port}",role="{role}"}}'
        return _scrape(stage.exports[node])[f"meter_total{labels}"]

    owner = total("re0", "owner")
    assert owner > 0
    eventually("the standby counts as well", lambda: total("re1", "standby") >= owner)


def _family(number: int) -> int:
    return (4, 6)[number % 2]


def _scrape(path: Path) -> dict[str, float]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        with sock.makefile() as lines:
            return {name: float(value) for name, value in (line.split() for line in lines)}
