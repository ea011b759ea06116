"""prlctl on a node with sessions: why one is not protected, and a bundle without secrets."""

import base64
import json
import tarfile
from pathlib import Path

import pytest

from prl.client import NotProtectedError
from prl.config import link_key
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.support.bundle import MANIFEST
from tests.system.support import PRLCTL, eventually, prlctl
from tests.system.tcp_pair import Pair

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

KEY = b"the-key-of-a-session"
INPUT = b"what-a-customer-sent"
OUTPUT = b"what-a-customer-gets"
SYSCTLS = {
    "net/ipv4/tcp_fastopen_key": "c0ffee00-c0ffee01-c0ffee02-c0ffee03",
    "net/ipv6/conf/lan0/stable_secret": "2001:db8:5ec:5ec:5ec:5ec:5ec:5ec",
}


def forms(secret: bytes) -> list[bytes]:
    """As a text, a dump or a JSON document may have it."""
    plain = secret.hex()
    pairs = [plain[at : at + 2] for at in range(0, len(plain), 2)]
    texts = (plain, " ".join(pairs), ":".join(pairs), '","'.join(f"0x{pair}" for pair in pairs))
    return [secret, *(text.encode() for text in texts), base64.b64encode(secret).rstrip(b"=")[:-1]]


def test_a_bundle_has_all_but_what_is_secret(lab: Lab, tmp_path: Path) -> None:
    re0 = lab.topology.node("re0")
    Namespace(re0.namespace).set_sysctls(SYSCTLS)
    target = tmp_path / "bundle.tar.gz"
    with Pair(lab) as pair:
        live = pair.session(4, key=KEY)
        live.peer.sendall(INPUT)
        live.app.sendall(OUTPUT)
        eventually("the input is there, unread", lambda: live.app.recv(99, 2) == INPUT)
        argv = [PRLCTL, "support-bundle", str(target), "--config", str(lab.state.config(re0))]
        lab.run("re0", argv, check=True, capture_output=True)
        with tarfile.open(target) as tar:
            found = {
                entry.name.partition("/")[2]: file.read()
                for entry in tar
                if (file := tar.extractfile(entry)) is not None
            }
        handle = live.session.handle
    for name, content in found.items():
        pair_keys = link_key.load(lab.state.link_key)
        values = [value.encode() for value in SYSCTLS.values()]
        for secret in (KEY, INPUT, OUTPUT, *pair_keys, *values):
            for form in forms(secret):
                assert form not in content, name
    trouble = {one["name"]: one["trouble"] for one in json.loads(found[MANIFEST])["parts"]}
    for name in ("status", "stats", "link", "events", "flows", f"flow-{handle:#x}"):
        assert not trouble[f"prld/{name}.json"]
        assert json.loads(found[f"prld/{name}.json"])["schema"] == 1
    assert json.loads(found["prld/flows.json"])["flows"][0]["state"] == "active"
    assert {one["name"] for one in json.loads(found["bpf/programs.json"])} >= {"prl_classify"}
    assert json.loads(found["bpf/maps.json"])
    assert json.loads(found["config.json"])["node"] == "re0"
    assert b"lan0" in found["net/link.txt"]
    assert b"tcp_fastopen_key = (removed)" in found["host/sysctl.txt"]


def test_a_session_that_nobody_waits_for_is_named_and_explained(lab: Lab) -> None:
    here = ("--lab", lab.name, "--node", "re0")
    with Pair(lab) as pair:
        _, app = pair.connect(4)
        with pytest.raises(NotProtectedError):
            pair.node("re0").replicate(app)
        listed = json.loads(prlctl(*here, "-j", "flow", "list", "--unsafe").stdout)["flows"]
        (flow,) = listed
        assert flow["service"] == "lab"
        shown = prlctl(*here, "flow", "show", str(flow["handle"]))
        assert "start the same program on the other node" in " ".join(shown.stdout.split())
        assert "cause: no_application" in shown.stdout.splitlines()
        assert "prlctl flow list --unsafe" in " ".join(prlctl(*here, "status").stdout.split())
