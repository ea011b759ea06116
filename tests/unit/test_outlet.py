"""prld's log: the journal's fields, lines on standard error, and that neither holds prld up."""

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from prl.daemon.events import outlet
from prl.daemon.events.log import EventLog
from prl.daemon.events.record import Record

F_SETPIPE_SZ = 1031


def record(
    seq: int = 1, text: str = "re1 is heard", level: str = "warning", **facts: object
) -> Record:
    return Record(seq, "2026-01-01T00:00:00.000+00:00", 5, level, "link_up", text, facts)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard error is a pipe that nobody reads but the test."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 8 * 4096)
    os.set_blocking(reader, False)
    monkeypatch.setattr(outlet, "_STDERR", writer)
    yield reader
    os.close(reader)
    os.close(writer)


def read(fd: int) -> str:
    found = b""
    try:
        while more := os.read(fd, 65536):
            found += more
    except BlockingIOError:
        pass
    return found.decode()


def test_a_line_is_written_to_standard_error(stderr: int) -> None:
    assert outlet.to_stderr(record(handle=7, service="main"))
    assert read(stderr) == (
        '2026-01-01T00:00:00.000+00:00 warning link_up "re1 is heard" handle=7 service=main\n'
    )


def test_a_standard_error_that_nobody_reads_holds_nobody_up(stderr: int) -> None:
    clock = Clock()
    out = outlet.Outlet(outlet.to_stderr, clock)
    for number in range(100):
        out(record(number, "x" * 2000))
    whole = read(stderr).splitlines()
    assert 0 < len(whole) < 100

    out(record(100, "read again"))

    missing, last = read(stderr).splitlines()
    assert f"{100 - len(whole)} records are left out here" in missing
    assert "read again" in last


def test_a_line_is_no_longer_than_a_pipe_takes_at_once(stderr: int) -> None:
    assert outlet.to_stderr(record(text="ä" * 10_000))
    assert len(read(stderr).encode("utf-8", "surrogateescape")) <= outlet.LINE_MAX_BYTES


def test_a_flood_is_bounded_and_counted() -> None:
    clock, taken = Clock(), list[Record]()

    def take(one: Record) -> bool:
        taken.append(one)
        return True

    out = outlet.Outlet(take, clock)
    for number in range(outlet.LINES_AT_ONCE + 50):
        out(record(number, level="error"))
    assert len(taken) == outlet.LINES_AT_ONCE
    clock.now += 2 / outlet.LINES_PER_S
    out(record(-1, level="error"))
    assert [one.event for one in taken[-2:]] == ["left_out", "link_up"]
    assert taken[-2].facts == {"count": 50}


@pytest.mark.parametrize(("many", "urgent"), [("info", "warning"), ("warning", "error")])
def test_a_flood_leaves_room_for_what_is_more_urgent(many: str, urgent: str) -> None:
    taken = list[Record]()
    out = outlet.Outlet(lambda one: taken.append(one) is None, Clock())
    for number in range(outlet.LINES_AT_ONCE):
        out(record(number, level=many))
    assert taken[-1].level == many
    out(record(text="the datapath stands still", level=urgent))
    assert (taken[-1].level, taken[-1].text) == (urgent, "the datapath stands still")


class Journald:
    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(str(path))


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    found = Journald(tmp_path / "journal")
    yield found
    found.sock.close()


def test_the_journal_gets_fields(journald: Journald, tmp_path: Path) -> None:
    assert outlet.Journal(tmp_path / "journal")(record(handle=7, service="main", why="two\nlines"))
    assert journald.sock.recv(65536) == (
        b"MESSAGE=re1 is heard\nPRIORITY=4\nSYSLOG_IDENTIFIER=prld\nPRL_EVENT=link_up\n"
        b"PRL_FLOW=7\nPRL_SERVICE=main\n"
        b"PRL_WHY\n\x09\0\0\0\0\0\0\0two\nlines\n"
    )


@pytest.mark.usefixtures("journald")
def test_a_journal_that_is_full_or_gone_holds_nobody_up(tmp_path: Path) -> None:
    journal = outlet.Journal(tmp_path / "journal")
    taken = 0
    while journal(record()):
        taken += 1
    assert taken > 0
    assert not outlet.Journal(tmp_path / "none")(record())


def test_the_journal_is_known_by_its_stream(
    journald: Journald, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: int
) -> None:
    monkeypatch.setattr(outlet, "JOURNAL", tmp_path / "journal")
    status = os.fstat(outlet._STDERR)
    monkeypatch.setenv(outlet.STREAM_VARIABLE, f"{status.st_dev}:{status.st_ino}")
    EventLog().info("ready", "here")
    assert b"PRL_EVENT=ready" in journald.sock.recv(65536)
    assert read(stderr) == ""

    monkeypatch.setenv(outlet.STREAM_VARIABLE, "1:1")
    EventLog().info("ready", "here")
    assert "info ready here" in read(stderr)
