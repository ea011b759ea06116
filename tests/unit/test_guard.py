"""What a look at the programs on the interfaces makes of what it finds."""

from types import SimpleNamespace
from typing import cast

import pytest

from prl.bindings.programs import Guard as Found
from prl.bindings.programs import Kernel
from prl.daemon.events.log import EventLog
from prl.daemon.host import guard
from prl.daemon.host.guard import PASSED_LOOKS, PASSED_S, Guard
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host
from prl.errors import KernelError

OWN, OTHER = 1, 2  # lo is there in any case: what has gone is not complained of
KEPT, PASSED_BY = (Found.KEPT, ""), (Found.PASSED_BY, "filter")


class FakeKernel:
    """Finds what it is told to, by interface and kind of look."""

    shadow_stray = (0, 0)

    def __init__(self) -> None:
        self.found: dict[tuple[int, bool], tuple[Found, str]] = {}
        self.refuses: set[int] = set()

    def guard(self, index: int, *, whole: bool) -> tuple[Found, str]:
        if index in self.refuses:
            raise KernelError(f"{index}: no memory")
        return self.found.get((index, whole), KEPT)


class Scene:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kernel, self.now_s = FakeKernel(), 100.0
        monkeypatch.setattr(guard.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(guard, "_is_there", lambda _: True)
        lans = SimpleNamespace(interfaces=[SimpleNamespace(ifindex=OWN)])
        self.guard = Guard(
            cast(Kernel, self.kernel),
            cast(Host, None),
            cast(Instances, lans),
            EventLog(lambda _: None),
        )
        monkeypatch.setattr(self.guard, "_wanted", lambda: {OWN: "lan0", OTHER: "veth7"})
        assert self.look() == []

    def look(self, *, whole: bool = True, after_s: float = 0.0) -> list[str]:
        self.now_s += after_s
        return self.guard._look(whole=whole)

    @property
    def is_broken(self) -> bool:
        broken, self.guard._is_broken = self.guard._is_broken, False
        return broken


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_a_refusal_of_a_moment_does_not_expose_a_node(scene: Scene) -> None:
    scene.kernel.refuses = {OTHER}
    for _ in range(PASSED_LOOKS * 2):
        assert scene.look() == []  # many notices at once
    assert "no memory" in scene.guard.why_unsafe
    scene.kernel.refuses = set()
    assert scene.look(after_s=PASSED_S) == []
    scene.kernel.refuses = {OTHER}
    assert scene.look() == []


def test_what_goes_on_does(scene: Scene) -> None:
    scene.kernel.refuses = {OTHER}
    looks = [bool(scene.look(after_s=PASSED_S / 2)) for _ in range(PASSED_LOOKS)]
    assert looks == [False] * (PASSED_LOOKS - 1) + [True]


def test_who_takes_the_place_of_xdp_again_and_again_is_found_out(scene: Scene) -> None:
    """The looks in between do not see XDP, and find all well."""
    scene.kernel.found[OWN, True] = PASSED_BY
    found = []
    for _ in range(PASSED_LOOKS):
        found.append(bool(scene.look(after_s=PASSED_S)))
        assert scene.look(whole=False, after_s=PASSED_S) == []
    assert found == [False] * (PASSED_LOOKS - 1) + [True]


def test_sessions_are_given_up_for_what_was_passed_by_where_they_are_held(scene: Scene) -> None:
    scene.kernel.found[OTHER, True] = PASSED_BY
    scene.look()
    assert scene.guard.why_unsafe
    assert not scene.is_broken
    scene.kernel.found[OWN, True] = PASSED_BY
    scene.look()
    assert scene.is_broken
