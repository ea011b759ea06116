"""A live session between a build and the next one (R14), and what elision saves (R15)."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from prl.lab import Lab
from tests import second_build
from tests.link_capture import await_link, start
from tests.system.serving import Client, lab_name, serving

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat")

BOTH = ("re0", "re1")
DATA = bytes(range(256)) * (16 << 12)
SAVED_BYTES = {"192.0.2.100": 12, "[2001:db8:0:1::100]": 32}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return second_build.make(tmp_path_factory.mktemp("second"))


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> Iterator[Lab]:
    lab = Lab(lab_name(request.node.originalname.removeprefix("test_")))
    lab.up(start_prld=False)
    try:
        yield lab
    finally:
        lab.down()


def link(lab: Lab, node: str) -> dict[str, object]:
    done = lab.run(node, ["prlctl", "-j", "link", "show"], check=True, capture_output=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("newer", BOTH)
def test_next_version_on_one_node_survives(bare: Lab, tree: Path, newer: str) -> None:
    start(bare, newer, tree)
    await_link(bare)
    for node in BOTH:
        facts = link(bare, node)
        assert facts["version"] == 1
        assert facts["other_versions"] == [1, 1 if node == newer else second_build.VERSION]
        assert "next" not in facts["capabilities"]
        shown = f"bit_{second_build.CAPABILITY_BIT}" in facts["other_capabilities"]
        assert shown == (node != newer)
    with serving(bare, ["sha256sum"], nodes=BOTH) as serves, Client(bare) as client:
        client.send(DATA)
        serves["re0"].await_log(": protected")
        client.send(DATA)
        bare.fail("re0", "power")
        client.send(DATA)
        client.hang_up()
        assert client.receive() == f"{hashlib.sha256(3 * DATA).hexdigest()}  -\n".encode()
        serves["re1"].await_log("taken over")


@pytest.mark.parametrize("address", SAVED_BYTES)
def test_what_elision_saves_is_told(lab: Lab, address: str) -> None:
    with serving(lab, ["sha256sum"], address=address, nodes=BOTH) as serves:
        with Client(lab, address) as client:
            client.send(b"first")
            serves["re0"].await_log(": protected")
            client.send(DATA)
            client.hang_up()
            assert (
                client.receive() == f"{hashlib.sha256(b'first' + DATA).hexdigest()}  -\n".encode()
            )
        facts = link(lab, "re0")
    sent = facts["sent"]
    assert isinstance(sent, dict)
    assert facts["elided_packets"] == sent["REPLICATE"] > 0
    assert facts["elided_bytes"] == SAVED_BYTES[address] * sent["REPLICATE"]
