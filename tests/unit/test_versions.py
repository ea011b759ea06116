"""Two nodes of different protocol versions (R13, R14): recorded exchanges, and a second build."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.bindings import wire
from prl.bindings.facts import Capability, Message, Tlv
from prl.bindings.wire import Element
from prl.daemon.link import hello
from prl.daemon.link.hello import HelloError
from tests import second_build
from tests.link_capture import EXCHANGES, HALF_BYTES, SENT

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / "tests/version_peer.py"
PATIENCE_S = 60
OWN = sorted(str(one.name) for one in hello.OWN_CAPABILITIES | Capability.KERNEL_ANSWERS)


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second build, one protocol version ahead of this one."""
    return second_build.make(tmp_path_factory.mktemp("second"))


def start(tree: Path, *arguments: str, fd: int | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, PEER, *arguments],
        env=os.environ | {"PYTHONPATH": str(tree)},
        pass_fds=() if fd is None else (fd,),
        stdout=subprocess.PIPE,
    )


def result(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


def exchange(first: Path, second: Path, *more: str) -> list[dict[str, Any]]:
    """Node 0 is run by the build in ``first``, node 1 by the one in ``second``."""
    pair = socket.socketpair()
    processes = []
    for index, (tree, sock) in enumerate(zip((first, second), pair, strict=True)):
        processes.append(
            start(tree, "exchange", str(sock.fileno()), str(index), *more, fd=sock.fileno())
        )
    for sock in pair:
        sock.close()
    return [result(process) for process in processes]


# -- a second build


@pytest.mark.parametrize("newer_is", [0, 1])
def test_old_and_new_build_run_on_what_both_know(newer: Path, newer_is: int) -> None:
    trees = (newer, ROOT) if newer_is == 0 else (ROOT, newer)
    sides = exchange(*trees)
    everything = sorted(kind.name for kind in Message)
    for side in sides:
        assert side["version"] == 1
        assert side["hello_version"] == 1
        assert sorted(side["capabilities"]) == OWN
        assert sorted([*side["received"], "HELLO"]) == everything
        assert side["versions"] == [1]
        assert (side["ended"], side["refused"]) == (0, 0)
    assert sides[newer_is]["unsent"] == {second_build.MESSAGE: -errno.ENOTSUP}
    assert sides[1 - newer_is]["unsent"] == {}


def test_two_new_builds_use_what_is_new(newer: Path) -> None:
    for side in exchange(newer, newer):
        assert side["version"] == side["versions"][0] == second_build.VERSION
        assert side["hello_version"] == 1
        assert sorted(side["capabilities"]) == sorted([*OWN, "NEXT"])
        assert second_build.MESSAGE in side["received"]
        assert side["unsent"] == {}


def test_what_must_not_be_skipped_is_refused_by_the_old_build(newer: Path) -> None:
    for newer_is in (0, 1):
        trees = (newer, ROOT) if newer_is == 0 else (ROOT, newer)
        old = exchange(*trees, "--rude")[1 - newer_is]
        assert (old["ended"], old["refused"]) == (-errno.ENOTSUP, 1)


# -- recorded exchanges

SESSIONS = ("IPv4", "IPv6")
RECORDED = {path.stem.rpartition("-")[0] for path in EXCHANGES.glob("*.bin")}
NEWER = {"v1": None, "v1-newer0": 0, "v1-newer1": 1}


def test_every_exchange_is_there() -> None:
    assert set(NEWER) == RECORDED


@pytest.mark.parametrize("build", ["this", "newer"])
@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_exchange_is_understood(
    request: pytest.FixtureRequest, name: str, build: str
) -> None:
    tree = request.getfixturevalue("newer") if build == "newer" else ROOT
    sides = [
        result(start(tree, "replay", str(EXCHANGES / f"{name}-node{side}.bin"))) for side in (0, 1)
    ]
    for index, side in enumerate(sides):
        ahead = NEWER[name] == index
        assert side["node"] == f"re{index}"
        assert side["versions"] == [1, 2 if ahead else 1]
        assert set(side["capabilities"]) >= {"OUTPUT", "L3_ELISION"}
        assert ("NEXT" in side["capabilities"]) == (ahead and build == "newer")
        assert (side["left_bytes"], side["ended"]) == (0, 0)
        assert side["counts"]["HELLO"] == 1
        assert side["counts"]["LEASE"] > 1
    primary, secondary = (side["counts"] for side in sides)
    assert primary["SETUP"] == secondary["SETUP_DONE"] == len(SESSIONS)
    assert primary["CLOSE"] > 0
    assert 0 < secondary["OUTPUT_ACK"] <= primary["OUTPUT"]
    assert 0 < secondary["ACK"] <= primary["REPLICATE"] == sides[0]["elided"]
    for replicated in sides[0]["replicated"]:
        assert SENT.endswith(bytes.fromhex(replicated))
        assert len(bytes.fromhex(replicated)) >= HALF_BYTES


# -- the rules one by one


def unknown(*, mandatory: bool) -> bytes:
    out, at = ffi.new("uint8_t[]", 64), ffi.new("size_t *")
    assert lib.prl_tlv_put(out, 64, at, 999, mandatory, b"later", 5) == 0
    return bytes(ffi.buffer(out, at[0]))


def test_python_skips_what_it_may_and_refuses_what_it_must_not() -> None:
    known = wire.encode_tlvs([Element(Tlv.TEXT, b"words")])
    found = list(wire.decode_tlvs(unknown(mandatory=False) + known))
    assert found == [Element(Tlv.TEXT, b"words")]
    with pytest.raises(wire.WireError, match=r"element 999 .* upgrade this node"):
        list(wire.decode_tlvs(known + unknown(mandatory=True)))


def test_python_marks_as_mandatory_what_the_table_does() -> None:
    for kind in Tlv:
        encoded = wire.encode_tlvs([Element(kind, b"value")])
        assert bool(encoded[0] & 0x80) == bool(lib.prl_tlv_is_mandatory(kind))
    assert not lib.prl_tlv_is_mandatory(Tlv.CAPABILITIES)
    assert lib.prl_tlv_is_mandatory(Tlv.EPOCH)
    assert not lib.prl_tlv_is_mandatory(999)


@pytest.mark.parametrize(
    ("other", "common"),
    [((1, 1), 1), ((1, 2), 1), ((1, 255), 1), ((2, 3), 0), ((0, 0), 0), ((0, 1), 1)],
)
def test_the_version_that_both_know(other: tuple[int, int], common: int) -> None:
    assert lib.prl_wire_common_version(*other) == common


def test_capabilities_that_only_one_has_are_not_used() -> None:
    def side(bits: int) -> hello.Hello:
        return hello.Hello(
            node="re0",
            index=0,
            versions=(1, 1),
            epoch=1,
            capabilities=bits,
            claim_token=bytes(16),
            lan_key_half=bytes(32),
            services=(),
        )

    both = hello.common_capabilities(side(hello.OWN_CAPABILITIES), side(1 << 63 | 1))
    assert both == Capability.OUTPUT
    assert hello.common_capabilities(side(0), side(2**64 - 1)) == Capability(0)


def test_a_message_is_never_sent_in_a_version_that_lacks_it() -> None:
    msg, out = ffi.new("struct prl_msg *"), ffi.new("uint8_t[]", 64)
    msg.type = lib.PRL_MSG_ACK
    assert lib.prl_wire_encode(msg, ffi.NULL, 0, out, 64) > 0
    assert (msg.version, out[0]) == (lib.PRL_WIRE_VERSION, lib.PRL_WIRE_VERSION)
    hello_msg = ffi.new("struct prl_msg *", {"type": lib.PRL_MSG_HELLO})
    assert lib.prl_wire_encode(hello_msg, ffi.NULL, 0, out, 64) > 0
    assert out[0] == lib.PRL_WIRE_VERSION_MIN


def test_a_node_without_a_common_version_is_told_what_to_do() -> None:
    members = {
        "epoch": 1,
        "capabilities": 0,
        "claim_token": bytes(16),
        "lan_key_half": bytes(32),
        "services": (),
    }
    own = hello.Hello(node="re0", index=0, versions=(1, 1), **members)
    other = hello.Hello(node="re1", index=1, versions=(2, 3), **members)
    with pytest.raises(HelloError, match=r"versions 2 to 3.*upgrade the older"):
        hello.check(own, other)
