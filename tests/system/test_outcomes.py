"""The table of docs/failover.md: what fails, what the peer sees of it, who owns afterwards.

In every row the switch is watched: never do two nodes speak for the service in the same period.

Checks L6, L11, R30.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.support import Applications, eventually
from tests.system.watch import Talk, ask_who_has, mend_lan_alone, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

FLAPS = 3
_labs = itertools.count()


@dataclass(frozen=True)
class Scene:
    """What a row may act on."""

    lab: Lab
    apps: Applications
    talk: Talk
    port: int

    def service(self, node: str) -> dict[str, object]:
        found: dict[str, object] = support.status(self.lab, node)["services"][0]
        return found

    def becomes(self, node: str, state: str) -> None:
        eventually(f"{node} is {state}", lambda: self.service(node)["state"] == state)

    def falls_silent(self, node: str) -> None:
        eventually(f"{node} says why it is silent", lambda: self.service(node)["silent"])

    def link_is_up(self) -> None:
        eventually(
            "the link is up", lambda: support.status(self.lab, "re1")["link"]["state"] == "up"
        )

    def taken_over(self) -> None:
        self.apps.expect("taken_over", "re1", peer=self.port)


def fails(how: str) -> Callable[[Scene], None]:
    """The owner fails; the other node goes on, and the owner comes back as standby."""

    def act(scene: Scene) -> None:
        scene.lab.fail("re0", how)
        scene.taken_over()
        scene.talk.go_on()
        if how != "kill-app":
            scene.lab.heal("re0")
        ask_who_has(scene.lab)
        scene.becomes("re0", "standby")
        scene.link_is_up()

    return act


def link_cut(scene: Scene) -> None:
    scene.lab.fail("re0", "cut-link")
    scene.apps.expect("state", "re0", peer=scene.port, state="open")
    scene.talk.go_on()
    scene.lab.heal("re0")
    scene.link_is_up()


def link_flaps(scene: Scene) -> None:
    for _ in range(FLAPS):
        link_cut(scene)
        scene.apps.expect("state", "re0", peer=scene.port, state="active")


def lan_cut(scene: Scene) -> None:
    """The owner hands over by itself, for its link works (L11)."""
    scene.lab.fail("re0", "cut-lan")
    scene.becomes("re1", "owner")
    scene.apps.expect("taken_over", "re1", peer=scene.port)
    scene.talk.go_on()
    scene.lab.heal("re0")
    scene.becomes("re0", "standby")
    scene.link_is_up()


def owner_isolated(scene: Scene) -> None:
    """Both cables at once, and the LAN's is back first."""
    scene.lab.fail("re0", "cut-both")
    scene.taken_over()
    scene.talk.go_on()
    scene.falls_silent("re0")
    mend_lan_alone(scene.lab, "re0")
    for _ in range(3):
        ask_who_has(scene.lab)
        scene.talk.go_on()
    assert scene.service("re0")["state"] != "owner" or scene.service("re0")["silent"]
    scene.lab.heal("re0")
    scene.becomes("re0", "standby")
    scene.link_is_up()


def owner_isolated_one_by_one(scene: Scene) -> None:
    """It may have handed over by the link just before that goes."""
    scene.lab.fail("re0", "cut-lan")
    scene.lab.fail("re0", "cut-link")
    scene.taken_over()
    eventually(
        "re0 is silent, or no owner",
        lambda: scene.service("re0")["silent"] or scene.service("re0")["state"] != "owner",
    )
    scene.lab.heal("re0")
    scene.becomes("re0", "standby")
    scene.link_is_up()


def standby_isolated(scene: Scene) -> None:
    """It does not hear the LAN, so that it is the one that is cut off."""
    scene.lab.fail("re1", "cut-both")
    scene.apps.expect("state", "re0", peer=scene.port, state="open")
    scene.talk.go_on()
    mend_lan_alone(scene.lab, "re1")
    for _ in range(3):
        ask_who_has(scene.lab)
        scene.talk.go_on()
    assert scene.service("re1")["state"] == "standby"
    scene.lab.heal("re1")
    scene.link_is_up()


@dataclass(frozen=True)
class Row:
    """``speakers``: who spoke for the service, one after the other; ``owner``: afterwards."""

    act: Callable[[Scene], None]
    speakers: tuple[str, ...] = ("re0", "re1")
    owner: str = "re1"
    family: int = 4


ROWS = {
    "power": Row(fails("power")),
    "application killed": Row(fails("kill-app")),
    "prld killed": Row(fails("kill-prld"), family=6),
    "frozen and thawed": Row(fails("freeze")),
    "link cut": Row(link_cut, ("re0",), "re0"),
    "link flaps": Row(link_flaps, ("re0",), "re0", 6),
    "LAN cut": Row(lan_cut),
    "both cut, owner": Row(owner_isolated),
    "both cut, one by one": Row(owner_isolated_one_by_one, family=6),
    "both cut, standby": Row(standby_isolated, ("re0",), "re0"),
}


@pytest.mark.parametrize("what", ROWS)
def test_outcome(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = ROWS[what]
    with support.pair(f"oc{next(_labs)}") as lab:
        apps = Applications(lab, "obey", row.family)
        with watch(lab, tmp_path) as seen, apps.connect(row.family) as peer, Talk(peer) as talk:
            scene = Scene(lab, apps, talk, peer.port)
            row.act(scene)
            talk.go_on()  # whatever happened: the same session, every answer exact
            assert scene.service(row.owner)["state"] == "owner"
            assert not scene.service(row.owner)["silent"]
            pause = f"{talk.longest_s * 1000:.0f} ms"
        with capsys.disabled():
            sys.stdout.write(f"\n{what}: continued, longest pause {pause}, then {row.owner} owns")
        assert tuple(seen.runs()) == row.speakers
