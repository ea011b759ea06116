"""`bpftool map dump` of every map that prld pins reads by names, not by bytes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system import support
from tests.system.support import Applications

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

NO_TYPES = {"prl_xsks"}
"""The kernel lets nobody read a map of AF_XDP sockets (net/xdp/xskmap.c)."""
MEMBERS = {
    "prl_awaited": {"wait_ns", "late"},
    "prl_flows": {"handle", "slot"},
    "prl_flow_state": {"key", "handle", "flags", "generation", "out_committed", "sock"},
    "prl_addrs": {"state", "service", "lif", "first_by_ns"},
    "prl_lifs": {"ifindex", "mac"},
    "prl_newborns": {"until_ns", "iss", "tsval", "peer_mac"},
    "prl_node": {"heartbeat_ns", "stale_ns", "bypassed", "silent", "frames"},
    "prl_sample": {"count", "slot"},
    "prl_settle": {"since_ns", "tick_ns"},
    "prl_sieve": {"flows"},
}
"""Some members of each map's values; the other maps' values are numbers."""


def bpftool(*words: str) -> Any:
    done = subprocess.run(["bpftool", "-j", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_every_map_of_a_pair_dumps_by_the_names_of_the_abi() -> None:
    with support.pair("f8m") as lab:
        apps = Applications(lab, "echo")
        with apps.connect():
            (flow,) = support.flows(lab, "re0")
            pins = Path("/sys/fs/bpf/prl") / lab.topology.instance(lab.topology.re0)
            maps = {path.name for path in pins.glob("prl_*")}  # the others are a program and links
            assert maps >= MEMBERS.keys() | NO_TYPES
            dumped = {
                name: bpftool("map", "dump", "pinned", str(pins / name)) for name in maps - NO_TYPES
            }
        for name, entries in dumped.items():
            for entry in entries:
                value = entry["formatted"]["value"]
                if name in MEMBERS:
                    assert value.keys() >= MEMBERS[name], name
                else:
                    assert isinstance(value, int), name
        (key,) = [entry["formatted"]["key"] for entry in dumped["prl_flows"]]
        assert key["remote"][12:] == [192, 0, 2, 1]
        assert key["local"][12:] == [192, 0, 2, 100]
        states = [entry["formatted"]["value"] for entry in dumped["prl_flow_state"]]
        assert [state["handle"] for state in states if state["handle"]] == [flow["handle"]]
