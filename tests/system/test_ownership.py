"""Claims of strangers (L7), policies and fencing (L5), between two real nodes."""

import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.core.datapath import mapped
from prl.daemon.probe import probe_frame
from prl.lab import Lab, processes
from prl.lab.cables import LinkCable
from prl.lab.lab import PIN_DIRECTORY
from prl.lab.netns import Namespace
from prl.lab.topology import BRIDGE, Node
from tests.system import support
from tests.system.support import Applications, eventually, prlctl
from tests.system.watch import Talk, watch

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

ROGUE = bytes.fromhex("02000bad0bad")
STORM = 20
TOKEN_AT = ffi.offsetof("struct prl_addr", "token")
_labs = itertools.count()


@contextmanager
def obedient(**up: Any) -> Iterator[tuple[Lab, Applications]]:
    with support.pair(f"ow{next(_labs)}", **up) as lab:
        yield lab, Applications(lab, "obey")


def ask(lab: Lab, node: str, *words: str) -> dict[str, Any]:
    done = prlctl("--lab", lab.name, "--node", node, "-j", *words)
    assert done.returncode in {0, 3}, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def heard(lab: Lab, node: str, event: str) -> list[str]:
    return [record["text"] for record in support.events(lab, node) if record["event"] == event]


def rogue_frames(address: IPv4Address | IPv6Address, token: bytes | None) -> list[bytes]:
    """A stranger says that the address is his: by ARP request and reply, or by NA."""
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    given = ffi.NULL if token is None else ffi.from_buffer(token)
    if isinstance(address, IPv6Address):
        size = lib.prl_packet_claim_na(mapped(address), ROGUE, given, out)
        return [bytes(ffi.buffer(out, size))]
    sizes = (
        (reply, lib.prl_packet_claim_arp(mapped(address), ROGUE, reply, given, out))
        for reply in (False, True)
    )
    return [bytes(ffi.buffer(out, size)) for _, size in sizes]


@pytest.mark.parametrize("family", support.FAMILIES)
def test_strangers_claims_never_silence_and_are_answered(family: int, tmp_path: Path) -> None:
    """The peer's own neighbour entry is poisoned; the owner's defence puts it right."""
    with support.pair(f"ow{next(_labs)}") as lab:
        apps = Applications(lab, "obey", family)
        service = lab.topology.service
        address = service.ipv4 if family == 4 else service.ipv6
        spoofed = rogue_frames(address, None) + rogue_frames(address, bytes(range(16)))
        spoofed.append(probe_frame(ROGUE, address))  # a stranger who wants it: DAD, RFC 5227
        switch = Namespace(lab.topology.switch)
        with (
            watch(lab, tmp_path) as seen,
            apps.connect(family) as peer,
            Talk(peer) as talk,
            switch.call(lambda: support.raw_socket(BRIDGE)) as stranger,
        ):
            for _ in range(STORM):
                for frame in spoofed:
                    stranger.send(frame)
                talk.go_on(1)
            eventually("an alarm", lambda: heard(lab, "re0", "alarm"))
            assert str(address) in heard(lab, "re0", "alarm")[0]
            talk.go_on()
            assert support.status(lab, "re0")["services"][0]["state"] == "owner"
            counters = ask(lab, "re0", "stats")
            assert counters["kernel"]["claims_foreign"] >= STORM * (len(spoofed) - 1)
            assert counters["kernel"]["claims_obeyed"] == 0
            # Rate-limited: not an answer for each.
            assert 0 < counters["datapath"]["defences"] < STORM * (len(spoofed) - 1)
        assert set(seen.runs()) == {"re0"}


def test_with_policy_stop_an_owner_alone_is_silent_until_the_operator_vouches() -> None:
    with obedient(policy="stop") as (lab, apps), apps.connect() as peer:
        assert peer.ask("before") == "before"
        assert support.status(lab, "re0")["policy"] == {"configured": "stop", "in_force": "stop"}
        lab.fail("re1", "power")
        eventually(
            "re0 is silent by policy",
            lambda: "policy stop" in support.status(lab, "re0")["services"][0]["silent"],
        )
        peer.send(b"say held\n")
        done = prlctl("--lab", lab.name, "--node", "re0", "takeover")
        assert (done.returncode, "owns it already" in done.stderr) == (1, True)
        assert not ask(lab, "re0", "takeover", "--fenced")["services"][0]["silent"]
        assert peer.line() == "held"


def forget_tokens(lab: Lab, node: Node) -> None:
    """What comes with a claim says nothing to the node's kernel any more."""
    path = str(PIN_DIRECTORY / lab.topology.instance(node) / "prl_addrs")
    dump = subprocess.run(
        ["bpftool", "-j", "map", "dump", "pinned", path], check=True, capture_output=True
    )
    token = slice(TOKEN_AT, TOKEN_AT + lib.PRL_TOKEN_BYTES)
    for entry in json.loads(dump.stdout):
        value = list(entry["value"])
        value[token] = ["0x00"] * lib.PRL_TOKEN_BYTES
        words = ["key", "hex", *entry["key"], "value", "hex", *value]
        plain = [word.removeprefix("0x") for word in words]
        subprocess.run(["bpftool", "map", "update", "pinned", path, *plain], check=True)


def test_an_owner_that_missed_all_claims_is_fenced_by_a_heartbeat() -> None:
    """As one whose network card was full of other frames while its machine was paused."""
    with obedient() as (lab, _apps):
        re0 = lab.topology.re0
        processes.freeze(Namespace(re0.namespace))
        forget_tokens(lab, re0)
        with LinkCable(re0) as link:
            link.cut()
            eventually(
                "re1 has taken over",
                lambda: support.status(lab, "re1")["services"][0]["state"] == "owner",
            )
            processes.thaw(Namespace(re0.namespace))
            eventually(
                "re0 is fenced",
                lambda: any("is fenced" in t for t in heard(lab, "re0", "ownership")),
            )
            assert link.is_cut()
            link.mend()


def test_a_standby_whose_only_neighbour_is_gone_asks_all_nodes() -> None:
    """The kernel's table keeps machines that were switched off long ago."""
    with support.pair(f"ow{next(_labs)}") as lab:
        re1 = lab.topology.re1
        place = Namespace(re1.namespace)
        gone = ["192.0.2.77", "lladdr", "02:00:00:00:00:77", "nud", "permanent"]
        subprocess.run(place.command(["ip", "neigh", "replace", *gone, "dev", "lan0"]), check=True)

        def knows_nobody_else() -> bool:
            for family in ("-4", "-6"):
                flush = ["ip", family, "neigh", "flush", "dev", "lan0"]
                subprocess.run(place.command(flush), check=True)
            return bool(support.status(lab, "re1")["neighbours"] == 1)

        eventually("re1 knows nobody else", knows_nobody_else)
        lab.fail("re0", "power")
        eventually(
            "re1 has taken over",
            lambda: support.status(lab, "re1")["services"][0]["state"] == "owner",
        )


def test_with_policy_stop_a_standby_takes_over_without_a_lease(tmp_path: Path) -> None:
    with obedient(policy="stop") as (lab, apps):
        with watch(lab, tmp_path) as seen, apps.connect() as peer, Talk(peer) as talk:
            support.both_stop(lab)
            apps.expect("taken_over", "re1", peer=peer.port)
            talk.go_on()
        assert seen.runs() == ["re0", "re1"]


@pytest.mark.parametrize("succeeds", [True, False])
def test_beyond_the_lease_the_fence_command_decides(succeeds: bool, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    command = tmp_path / "fence"
    command.write_text(
        f"#!/bin/sh\necho no >> {ran}\necho cannot reach it\nexit {not succeeds:d}\n"
    )
    command.chmod(0o700)
    with (
        obedient(fence_command=[str(command)]) as (lab, apps),
        apps.connect() as peer,
        Talk(peer) as talk,
    ):
        support.both_stop(lab)
        if not succeeds:
            eventually("the hook has failed", lambda: heard(lab, "re1", "fence_failed"))
            assert "cannot reach it" in heard(lab, "re1", "fence_failed")[0]
            assert support.status(lab, "re1")["services"][0]["state"] == "standby"
            assert support.status(lab, "re1")["lease"]["over"] is True
            ask(lab, "re1", "takeover", "--fenced")
        apps.expect("taken_over", "re1", peer=peer.port)
        talk.go_on()
        assert ran.read_text() == "no\n", support.events(lab, "re1")
