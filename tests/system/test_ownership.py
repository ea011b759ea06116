"""Claims of strangers (L7), policies and fencing (L5), between two real nodes."""

import itertools
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.daemon.ownership.probe import probe_frame
from prl.endpoint import mapped
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
KEY = slice(
    ffi.offsetof("struct prl_node", "claim_key"), ffi.offsetof("struct prl_node", "claim_epoch")
)
ETH_P_ALL = 3
MAGIC = bytes([lib.PRL_ND_OPT_CLAIM, ffi.sizeof("struct prl_claim") // 8]) + b"PR"
"""What a claim's trailer begins with."""
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


def rogue_frames(address: IPv4Address | IPv6Address, trailer: Any = None) -> list[bytes]:
    """A stranger says that the address is his: by ARP request and reply, or by NA."""
    out = ffi.new("uint8_t[]", lib.PRL_CRAFT_MAX)
    given = ffi.new("struct prl_trailer *") if trailer is None else trailer
    if isinstance(address, IPv6Address):
        size = lib.prl_packet_claim_na(mapped(address), ROGUE, given, out)
        return [bytes(ffi.buffer(out, size))]
    sizes = (
        (reply, lib.prl_packet_claim_arp(mapped(address), ROGUE, reply, given, out))
        for reply in (False, True)
    )
    return [bytes(ffi.buffer(out, size)) for _, size in sizes]


def forged_frames(address: IPv4Address | IPv6Address) -> list[bytes]:
    """With a token of an earlier release's, and with a MAC of no key."""
    trailer = ffi.new("struct prl_trailer *")
    lib.prl_packet_trailer_token(bytes(range(16)), trailer)
    frames = rogue_frames(address, trailer)
    claimed = ffi.new("struct prl_claimed *", {"term": 2**63, "number": 2**63})
    lib.prl_packet_trailer(claimed, 2**63 + 1, trailer)
    return [*frames, *rogue_frames(address, trailer)]


@pytest.mark.parametrize("family", support.FAMILIES)
def test_strangers_claims_never_silence_and_are_answered(family: int, tmp_path: Path) -> None:
    """The peer's own neighbour entry is poisoned; the owner's defence puts it right."""
    with support.pair(f"ow{next(_labs)}") as lab:
        apps = Applications(lab, "obey", family)
        service = lab.topology.service
        address = service.ipv4 if family == 4 else service.ipv6
        spoofed = rogue_frames(address) + forged_frames(address)
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


@contextmanager
def listening(lab: Lab) -> Iterator[socket.socket]:
    """A stranger's socket on the LAN: it hears what is said to all, and says what it likes."""

    def opened() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))

    with Namespace(lab.topology.switch).call(opened) as sock:
        sock.bind((BRIDGE, ETH_P_ALL))
        sock.setblocking(False)
        yield sock


def claims_heard(stranger: socket.socket) -> list[bytes]:
    """The claims among what has come since the last call, each once."""
    heard: dict[bytes, None] = {}
    while True:
        try:
            frame, sender = stranger.recvfrom(256)
        except BlockingIOError:
            return list(heard)
        if MAGIC in frame and sender[2] != socket.PACKET_OUTGOING:
            heard[frame] = None


def move(lab: Lab, taker: str) -> None:
    done = prlctl("--lab", lab.name, "--node", taker, "switchover")
    assert done.returncode == 0, done.stderr
    eventually(
        f"{taker} owns the service",
        lambda: support.status(lab, taker)["services"][0]["state"] == "owner",
    )


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("family", support.FAMILIES)
def test_recorded_claims_silence_nobody(family: int, plain: bool, tmp_path: Path) -> None:
    """F17: what the other node said when it took over is said again once the service is back, by
    somebody who has changed it, too. In the epoch in which it was said, and under the same key."""
    with support.pair(f"ow{next(_labs)}", plain_link=plain) as lab:
        apps = Applications(lab, "obey", family)
        with (
            watch(lab, tmp_path) as seen,
            apps.connect(family) as peer,
            listening(lab) as stranger,
        ):
            epoch = ask(lab, "re0", "link", "show")["epoch"]
            # Its applications do not know what was asked, and not answered, before they joined.
            assert peer.ask("there") == "there"
            move(lab, "re1")
            apps.expect("taken_over", "re1", peer=peer.port)
            recorded = claims_heard(stranger)
            assert recorded
            eventually("re1 protects it", lambda: heard(lab, "re1", "active"))
            assert peer.ask("and back") == "and back"
            move(lab, "re0")
            apps.expect("taken_over", "re0", peer=peer.port)
            of_re0 = claims_heard(stranger)
            before = ask(lab, "re0", "stats")["kernel"]
            again = [
                *(*reversed(recorded), *of_re0),
                *(frame[:-1] + bytes([frame[-1] ^ 1]) for frame in recorded),
            ]
            said = [frame[:6] + ROGUE + frame[12:] for frame in again]  # watch() goes by MACs
            with Talk(peer) as talk:
                for frame in said:
                    stranger.send(frame)
                    if frame is said[len(said) // 2]:
                        talk.go_on(1)
                eventually("an alarm", lambda: heard(lab, "re0", "alarm"))
                talk.go_on()
                after = ask(lab, "re0", "stats")["kernel"]
                assert after["claims_replayed"] - before["claims_replayed"] >= len(recorded)
                assert after["claims_foreign"] - before["claims_foreign"] >= len(recorded)
                assert after["claims_obeyed"] == before["claims_obeyed"]
                assert support.status(lab, "re0")["services"][0]["state"] == "owner"
                assert support.status(lab, "re1")["services"][0]["state"] == "standby"
                assert ask(lab, "re0", "link", "show")["epoch"] == epoch
                assert len(heard(lab, "re0", "alarm")) < len(said)
        assert seen.runs() == ["re0", "re1", "re0"]


def forget_key(lab: Lab, node: Node) -> None:
    """What comes with a claim says nothing to the node's kernel any more."""
    path = str(PIN_DIRECTORY / lab.topology.instance(node) / "prl_node")
    dump = subprocess.run(
        ["bpftool", "-j", "map", "dump", "pinned", path], check=True, capture_output=True
    )
    (entry,) = json.loads(dump.stdout)
    value = list(entry["value"])
    value[KEY] = ["0x00"] * (KEY.stop - KEY.start)
    words = ["key", "hex", *entry["key"], "value", "hex", *value]
    plain = [word.removeprefix("0x") for word in words]
    subprocess.run(["bpftool", "map", "update", "pinned", path, *plain], check=True)


def test_an_owner_that_missed_all_claims_is_fenced_by_a_heartbeat() -> None:
    """As one whose network card was full of other frames while its machine was paused."""
    with obedient() as (lab, _apps):
        re0 = lab.topology.re0
        processes.freeze(Namespace(re0.namespace))
        forget_key(lab, re0)
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
