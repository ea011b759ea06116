"""`prlctl events --follow` while a lab is broken: what exists, then what happens, pushed."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.support import Applications

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]


class Follower:
    """`prlctl -j events --follow`, read line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def read(self, until: str, **facts: object) -> list[dict[str, Any]]:
        """The records up to the event ``until`` with these facts."""
        assert self._process.stdout is not None
        found: list[dict[str, Any]] = []
        for line in self._process.stdout:
            document = json.loads(line)
            assert document["schema"] == 1
            found.append(document["event"])
            if found[-1]["event"] == until and facts.items() <= found[-1]["facts"].items():
                return found
        raise AssertionError(f"no {until} {facts} in {found}")

    def end(self) -> int:
        return self._process.wait(support.PATIENCE_S)


@contextmanager
def follower(lab: Lab, node: str, *options: str) -> Iterator[Follower]:
    argv = [support.PRLCTL, "--lab", lab.name, "--node", node, "-j", "events", "--follow", *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Follower(process)
        finally:
            process.kill()


def test_a_follower_sees_what_exists_and_then_the_take_over() -> None:
    with support.pair("follow") as lab:
        apps = Applications(lab, "obey", 4)
        peer = apps.connect(4)
        handle = apps.expect("protected", "re0", peer=peer.port)["handle"]
        with follower(lab, "re1") as followed, follower(lab, "re0") as other:
            told = followed.read("exists", object="end")
            things = {(r["facts"]["object"], r["facts"].get("name")): r["facts"] for r in told}
            assert things["node", "re1"]["safe"] is True
            assert things["link", None]["other"] == "re0"
            assert things["service", "lab"]["state"] == "standby"
            assert things["session", None]["handle"] == handle
            assert things["session", None]["role"] == "secondary"
            assert things["end", None]["sessions"] == 1
            other.read("exists", object="end")

            lab.fail("re0", "power")
            told = followed.read("unsafe")
            names = [record["event"] for record in told]
            assert {"link_down", "takeover", "ownership", "taken_over"} <= set(names)
            (taken,) = (r["facts"] for r in told if r["event"] == "taken_over")
            assert taken["former"] == handle
            assert told[-1]["facts"]["cause"] == "link"
            assert [r["seq"] for r in told] == sorted(r["seq"] for r in told)
            assert other.end() == 4, "its prld has died"
        with follower(lab, "re1", "--from", "start") as followed:
            told = followed.read("exists", object="end")
            assert told[0]["seq"] == 1
            assert "takeover" in [record["event"] for record in told]
        peer.sock.close()
