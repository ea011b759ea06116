"""Hooks on a lab: the example moves an address at a take-over, which waits for no hook."""

import sys
from pathlib import Path

import pytest

from prl.lab import Lab
from tests.system import support
from tests.system.support import Applications, events, eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]

EXAMPLE = Path(__file__).parents[2] / "docs/examples/move_address.py"
CLOUD = """#!/bin/sh
cd "$(dirname "$0")"
if [ "$1" = holder ]; then cat "addr-$2" 2>/dev/null; exit 0; fi
echo "$3" >"addr-$2.$3" && mv "addr-$2.$3" "addr-$2"
"""
TELL = """#!/bin/sh
env | grep ^PRL_ | sort >>"$1"
sleep 600
"""


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def holder(folder: Path, address: str) -> str:
    path = folder / f"addr-{address}"
    return path.read_text().strip() if path.exists() else ""


def failures(lab: Lab, node: str) -> list[str]:
    return [e["facts"]["hook"] for e in events(lab, node) if e["event"] == "hook_failed"]


def test_an_address_follows_a_take_over_and_no_hook_is_in_its_way(tmp_path: Path) -> None:
    cloud, tell = program(tmp_path / "cloud", CLOUD), program(tmp_path / "tell", TELL)
    hooks = {
        "role": [sys.executable, str(EXAMPLE), "--prlctl", support.PRLCTL, str(cloud)],
        "safety": [str(tell), str(tmp_path / "safety")],  # and hangs
        "lost": [str(tell), str(tmp_path / "lost")],
    }
    with support.pair("hooks", hooks=hooks) as lab:
        addresses = [str(lab.topology.service.ipv4), str(lab.topology.service.ipv6)]
        eventually(
            "the addresses are where the service is",
            lambda: [holder(tmp_path, address) for address in addresses] == ["re0", "re0"],
        )
        apps = Applications(lab, "obey", 4)
        good, bad = apps.connect(4), apps.connect(4)
        for peer in (good, bad):
            handle = apps.expect("protected", "re0", peer=peer.port)["handle"]
        done = support.prlctl("--lab", lab.name, "--node", "re0", "flow", "del", str(handle))
        assert done.returncode == 0, done.stderr
        apps.expect("void", "re1", peer=bad.port)

        lab.fail("re0", "power")
        assert good.ask("and you?") == "and you?"
        eventually(
            "the addresses have moved",
            lambda: [holder(tmp_path, address) for address in addresses] == ["re1", "re1"],
        )
        eventually("the lost session was told", (tmp_path / "lost").exists)
        lost = (tmp_path / "lost").read_text()
        assert "PRL_COUNT=1\n" in lost
        assert "PRL_NODE=re1\n" in lost
        eventually(
            "what hangs is killed", lambda: sorted(set(failures(lab, "re1"))) == ["lost", "safety"]
        )
        assert "PRL_SAFE=no\n" in (tmp_path / "safety").read_text()
        assert "PRL_CAUSE=link\n" in (tmp_path / "safety").read_text()
        for peer in (good, bad):
            peer.sock.close()
