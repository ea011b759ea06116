"""`prlctl bgp`: what the front of a BGP daemon says, and what is said when nobody answers."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prl.cli import main as program
from prl.cli.output import COLUMNS

Run = Callable[..., tuple[int, str, str]]

COUNTS: dict[str, dict[str, Any]] = {
    "in": {"heard": 100_000, "fed": 100_000, "differing": 0, "incomplete": False},
    "out": {"wanted": 7, "told": 5, "differing": 2, "incomplete": False},
}
OWNED = {
    "peer": "192.0.2.10",
    "role": "owner",
    "state": "relay",
    "since_s": 12.3,
    "because": "",
    **COUNTS,
}
WAITING = {"peer": "2001:db8::1", "role": "none", "state": "down", "because": "waits for the peer"}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run_it(*arguments: str) -> tuple[int, str, str]:
        code = program.main(arguments)
        return code, *capsys.readouterr()

    return run_it


@contextmanager
def front(tmp_path: Path, answer: bytes) -> Iterator[Path]:
    """One that answers once; its configuration."""
    config = tmp_path / "bgp.toml"
    path = tmp_path / "bgp.sock"
    config.write_text(
        f'user = "nobody"\nsocket = "{path}"\n'
        '[[peer]]\naddress = "192.0.2.10"\nlocal = "192.0.2.100"\n'
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield config
        thread.join()


def said(*peers: dict[str, Any], why: str = "") -> bytes:
    ready = not why and not any(peer["because"] for peer in peers)
    channel = {"channel": "down" if why else "up", "channel_why": why}
    return json.dumps({"ready": ready, "peers": peers} | channel).encode()


def test_all_is_well(tmp_path: Path, run: Run) -> None:
    with front(tmp_path, said(OWNED)) as config:
        code, out, err = run("bgp", "status", "--config", str(config))
    assert (code, err) == (0, "")
    assert out.splitlines()[2].split() == (
        ["192.0.2.10", "owner", "relay", "12", "s", "100000", "100000", "7", "5", "2"]
    )
    assert out.endswith("the other node can go on: yes\n")
    assert max(map(len, out.splitlines())) <= COLUMNS


def test_a_peer_that_is_not_there_makes_it_unsafe(tmp_path: Path, run: Run) -> None:
    with front(tmp_path, said(OWNED, WAITING, why="not connected yet")) as config:
        code, out, _ = run("bgp", "status", "--config", str(config))
    assert code == 3
    assert "2001:db8::1: waits for the peer\n" in out
    assert out.startswith("channel to the other front: down: not connected yet\n")


def test_programs_have_it_as_json(tmp_path: Path, run: Run) -> None:
    with front(tmp_path, said(OWNED)) as config:
        code, out, _ = run("-j", "bgp", "status", "--config", str(config))
    assert code == 0
    assert json.loads(out)["peers"] == [OWNED]


def test_nobody_answers(tmp_path: Path, run: Run) -> None:
    with front(tmp_path, b"{") as config:
        code, out, err = run("bgp", "status", "--config", str(config))
    assert (code, out) == (4, "")
    assert "no answer; start it, or name its file with --config" in err
    (tmp_path / "bgp.sock").unlink()
    code, _, err = run("bgp", "status", "--config", str(config))
    assert code == 4
    assert "No such file" in err
    code, _, err = run("bgp", "status", "--config", str(tmp_path / "none.toml"))
    assert code == 2
    assert "cannot be read" in err
