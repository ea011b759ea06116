"""Programs that follow a session by its descriptor: what is said just before they wait is heard."""

import importlib.util
import socket
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = (("docs/examples/echo_threads.py", "Talk"), ("tests/system/healing_app.py", "Echo"))


class Followed:
    """A session, or a shadow, of which prld says its last word just before ``clear()``.

    The descriptor is readable no more behind it.
    """

    descriptor = -1
    void_reason = None
    protectable = False
    reason = ""
    out_bytes = 0

    def __init__(self) -> None:
        self.state = "active"
        self.takeover: SimpleNamespace | None = None
        self.session: Any = None

    def clear(self) -> None:
        self.state = "demoted"
        self.takeover = SimpleNamespace(out_bytes=0)


@pytest.fixture(params=PROGRAMS)
def echo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One session of the program, which must not wait."""
    place, name = request.param
    path = ROOT / place
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def waits(*_: object, **__: object) -> None:
        raise AssertionError("it waits for what has been said")

    program = getattr(module, name)
    monkeypatch.setattr(program, "_turn", waits)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield program(ours, 1)


def test_the_end_of_a_session_is_not_waited_for_once_it_was_told(echo: Any) -> None:
    echo.own(Followed())


def test_a_take_over_is_not_waited_for_once_it_was_told(
    echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned: list[object] = []
    monkeypatch.setattr(echo, "own", owned.append)
    monkeypatch.setattr("prl.client.tcp.bytes_acked", lambda _: 0)
    shadow = Followed()
    echo.stand_by(shadow)
    assert owned == [shadow.session]
