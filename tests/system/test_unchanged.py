"""`prlctl replicate`: connections of programs that know nothing of prl (R17, R19)."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab
from tests.system.serving import PORT, Client, Foreground, Serve
from tests.system.support import Peer, eventually, flows, prlctl, service_address, told

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat")

ECHO = str(Path(__file__).with_name("epoll_echo.py"))
SIZE = 4 << 20
DATA = b"".join(bytes(Payload(SIZE).at(offset)) for offset in range(0, SIZE, 1 << 20))


class Program:
    """epoll_echo.py on re0."""

    def __init__(self, lab: Lab, family: int = 4) -> None:
        self.process = lab.exec(
            "re0",
            [sys.executable, ECHO, service_address(family), str(PORT)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "listening"

    def accepted(self) -> int:
        """The descriptor of the connection that it accepted next."""
        return int(self._line().removeprefix("accepted "))

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.__exit__(None, None, None)


@contextmanager
def program(lab: Lab, family: int = 4) -> Iterator[Program]:
    made = Program(lab, family)
    try:
        yield made
    finally:
        made.end()


def replicate(lab: Lab, *argv: object, status: int = 0) -> dict[str, object]:
    node = ["--lab", lab.name, "--node", "re0", "-j"]
    done = prlctl(*node, "replicate", *map(str, argv))
    if (done.returncode, status) == (3, 0):  # a busy machine: prld tries again
        facts = json.loads(done.stdout)
        eventually("it is protected", lambda: state_of(lab, facts["handle"]) == "active")
        return dict(facts, state="active")
    assert done.returncode == status, done.stderr + done.stdout
    found: dict[str, object] = json.loads(done.stdout) if status != 2 else {"error": done.stderr}
    return found


def state_of(lab: Lab, handle: int) -> str:
    return next(flow["state"] for flow in flows(lab, "re0") if flow["handle"] == handle)


def refused(lab: Lab, *argv: object) -> str:
    return str(replicate(lab, *argv, status=2)["error"])


def answers(peer: Peer, words: bytes) -> None:
    peer.send(words)
    heard = b""
    while len(heard) < len(words):
        more = peer.receive(len(words) - len(heard))
        assert more, "the stream ended"
        heard += more
    assert heard == words


def test_what_becomes_of_a_program_becomes_of_its_session(lab: Lab) -> None:
    """Closed, ended with status 0, released, and at last killed: one program, several peers."""
    with Serve(lab, "re1") as standby, program(lab) as server:
        pid = server.process.pid

        def protected(peer: Peer) -> int:
            fd = server.accepted()
            facts = replicate(lab, "--pid", pid, "--fd", fd)
            assert facts["state"] == "active"
            assert (facts["pid"], facts["fd"], facts["program"]) == (pid, fd, "python")
            answers(peer, b"hello")
            return int(str(facts["handle"]))

        with Peer(lab) as peer:
            protected(peer)
            peer.send(b"bye\n")  # it closes
            assert peer.receive() == b""
        eventually("the closed session is gone", lambda: not flows(lab, "re0"))
        standby.await_log("not needed any more")

        with Peer(lab) as peer:
            handle = protected(peer)
            done = prlctl("--lab", lab.name, "--node", "re0", "flow", "del", str(handle))
            assert done.returncode == 0, done.stderr
            eventually("the released session is gone", lambda: not flows(lab, "re0"))
            answers(peer, b"still there")
            peer.send(b"bye\n")
            assert peer.receive() == b""

        with Peer(lab) as peer, Peer(lab) as other:
            protected(peer)
            assert "replicated already, as flow" in refused(lab, *ends(peer))
            replicate(lab, "--pid", pid, "--fd", server.accepted())
            for _ in range(20):
                answers(peer, DATA[:50_000])
            os.kill(pid, signal.SIGKILL)
            answers(peer, DATA[50_000:150_000])
            answers(other, b"first words")
            assert told(lab, "re0", "program_died")
            assert len(told(lab, "re1", "taken_over")) == 2
            peer.sock.shutdown(1)
            assert peer.receive() == b""


def ends(peer: Peer) -> tuple[str, str]:
    return "--tuple", f"192.0.2.100:{PORT},192.0.2.1:{peer.port}"


def test_an_end_with_status_0_ends_the_session_and_power_does_not(lab: Lab) -> None:
    with Serve(lab, "re1", "[2001:db8:0:1::100]") as standby, program(lab, 6) as server:
        with Peer(lab, 6) as peer:
            there = f"[{service_address(6)}]:{PORT},[2001:db8:0:1::1]:{peer.port}"
            server.accepted()
            assert replicate(lab, "--tuple", there)["fd"]
            answers(peer, b"x" * 100_000)
            peer.send(b"exit\n")
            assert peer.receive() == b""
        standby.await_log("not needed any more")
        assert not told(lab, "re0", "program_died")
        assert not told(lab, "re1", "taken_over")
    with Serve(lab, "re1") as standby, program(lab) as server, Peer(lab) as peer:
        replicate(lab, "--pid", server.process.pid, "--fd", server.accepted())
        answers(peer, DATA[:300_000])
        lab.fail("re0", "power")
        answers(peer, DATA[300_000:])
        standby.await_log("taken over, going on at byte 300000")


def test_refusals_say_what_is_wrong(lab: Lab) -> None:
    with program(lab) as server, Peer(lab) as peer:
        pid, fd = server.process.pid, server.accepted()
        assert "there is no process" in refused(lab, "--pid", 4_000_000, "--fd", 3)
        assert "has no descriptor 99" in refused(lab, "--pid", pid, "--fd", 99)
        assert "is no socket but pipe" in refused(lab, "--pid", pid, "--fd", 1)
        assert "it listens; use --listen" in refused(lab, "--pid", pid, "--fd", 3)
        assert "there is no connection" in refused(
            lab, "--tuple", f"192.0.2.100:{PORT},192.0.2.1:9"
        )
        assert "nobody listens on" in refused(lab, "--listen", "192.0.2.100:9")
        assert "is no service address" in refused(lab, "--listen", f"192.0.2.10:{PORT}")
        assert "give --pid and --fd" in refused(lab, "--pid", pid)
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as outside,
        ):
            words = refused(lab, "--pid", os.getpid(), "--fd", outside.fileno())
        assert "another network namespace" in words
        facts = replicate(lab, "--pid", pid, "--fd", fd, status=3)
        assert "no application" in str(facts["reason"])
        answers(peer, b"undisturbed")


def test_a_forking_server_is_watched_from_the_first_byte_on(lab: Lab) -> None:
    """socat forks for each connection; the peer speaks at once, and much."""
    server = ["socat", f"TCP-LISTEN:{PORT},bind=192.0.2.100,reuseaddr,fork", "EXEC:cat"]
    with Serve(lab, "re1") as standby, lab.exec("re0", server) as process:
        try:
            eventually("socat listens", lambda: listening(lab))
            with watch(lab) as watching, Client(lab) as client:
                client.send(DATA[:1000])
                assert client.receive(1000) == DATA[:1000]
                watching.await_log(": protected")
                standby.await_log("standing by, from byte")
                first, second = DATA[1000 : SIZE // 2], DATA[SIZE // 2 :]
                assert client.exchange(first, len(first)) == first
                lab.fail("re0", "power")
                got = client.exchange(second, hang_up=True)
                assert hashlib.sha256(got).digest() == hashlib.sha256(second).digest()
                assert client.status() == 0
        finally:
            process.kill()


@pytest.mark.needs("redis")
def test_stock_redis_goes_on_with_every_counter(lab: Lab) -> None:
    """One on each node; the standby's is fed by `serve` with what the other one is told."""
    redis = ["redis-server", "--save", "", "--appendonly", "no", "--protected-mode", "no"]
    through = ["socat", "-", "TCP:127.0.0.1:6379,retry=100,interval=0.1"]
    quiet = {"stdout": subprocess.DEVNULL}
    with (
        lab.exec("re0", [*redis, "--bind", "192.0.2.100", "--port", str(PORT)], **quiet) as first,
        lab.exec("re1", [*redis, "--bind", "127.0.0.1", "--port", "6379"], **quiet) as second,
        Serve(lab, "re1", command=through, options=["--history", "0"]) as standby,
    ):
        try:
            eventually("redis listens", lambda: listening(lab))
            with watch(lab) as watching, Peer(lab) as peer:

                def count(begin: int, end: int) -> None:
                    for number in range(begin, end):
                        peer.send(b"INCR n\r\n")
                        assert peer.line() == f":{number}\r"

                # Not before: what comes while a connection is being noticed is not always known.
                watching.await_log(": protected")
                count(1, 200)
                os.kill(first.pid, signal.SIGKILL)
                count(200, 400)
                standby.await_log("taken over")
        finally:
            for process in (first, second):
                process.kill()


def listening(lab: Lab) -> bool:
    done = lab.run("re0", ["ss", "-Htln"], capture_output=True, text=True)
    return f":{PORT} " in done.stdout


def watch(lab: Lab) -> Foreground:
    argv = ["replicate", "--listen", f"192.0.2.100:{PORT}"]
    return Foreground(lab, "re0", argv, "watching")
