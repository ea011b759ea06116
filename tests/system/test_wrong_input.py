"""Wrong input to the real commands: one clear line, the exit status of SPEC section 8, no harm.

Checks R29.
"""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prl.lab import Lab
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications, Peer, prlctl

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool"),
]

FAILED, USAGE, DEGRADED, NO_DAEMON = 1, 2, 3, 4
LINK_PORT = 7077
HTTP = b"GET / HTTP/1.1\r\nHost: prl\r\n\r\n"
PRLD = str(Path(sys.executable).with_name("prld"))

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with support.pair("f8w") as made:
        yield made


def refused(done: Done, code: int, *words: str) -> None:
    """One line on standard error, nothing on standard output, no traceback."""
    assert done.returncode == code, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "Traceback" not in line
    for word in words:
        assert word in line, line


@contextmanager
def session(lab: Lab) -> Iterator[Peer]:
    """A protected session while something is done that must not harm it."""
    apps = Applications(lab, "obey")
    with apps.connect() as peer:
        assert peer.ask("before") == "before"
        yield peer
        assert peer.ask("after") == "after"
        flows = support.flows(lab, "re0")  # one of a session before may not be forgotten yet
        (flow,) = (flow for flow in flows if flow["remote"].endswith(f":{peer.port}"))
        assert flow["state"] == "active"
    lab.fail("re1", "kill-app")
    # Before re0 knows, it would give the service to re1 when its own application dies.
    support.eventually("re0 knows", lambda: not _active(lab))
    lab.fail("re0", "kill-app")


def _active(lab: Lab) -> bool:
    return any(flow["state"] == "active" for flow in support.flows(lab, "re0"))


def on(lab: Lab, node: str, *argv: str) -> Done:
    return prlctl("--lab", lab.name, "--node", node, *argv)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("flow", "show", "0x7777"), USAGE, "0x7777"),
        (("flow", "del", "0x7777"), USAGE, "0x7777"),
        (("flow", "show", "banana"), USAGE, "banana"),
        (("flow", "show", "-1"), USAGE, ""),
        (("flow", "show", "0x100000000"), USAGE, "32 bits"),
        (("flow", "show"), USAGE, "HANDLE"),
        (("takeover",), FAILED, "owns it already"),
        (("takeover", "--service", "nothing"), USAGE, "nothing"),
        (("stauts",), USAGE, "stauts"),
        (("status", "--frobnicate"), USAGE, "frobnicate"),
    ],
)
def test_questions_that_make_no_sense(
    lab: Lab, argv: tuple[str, ...], code: int, words: str, as_json: bool
) -> None:
    refused(on(lab, "re0", *(("-j",) if as_json else ()), *argv), code, words)


@pytest.mark.parametrize(
    ("endpoint", "code", "words"),
    [
        ("192.0.2.100", USAGE, "192.0.2.100"),
        ("192.0.2.300:7000", USAGE, "192.0.2.300"),
        ("192.0.2.100:0", USAGE, ":0"),
        ("192.0.2.100:99999", USAGE, "99999"),
        ("2001:db8:0:1::100:7000", USAGE, "bracket"),
        ("192.0.2.77:7000", USAGE, "no service address"),
    ],
)
def test_addresses_that_cannot_be_served(lab: Lab, endpoint: str, code: int, words: str) -> None:
    argv = [support.PRLCTL, "serve", "--listen", endpoint, "--", "cat"]
    done = lab.run(
        "re0", argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20
    )
    refused(done, code, words)


def test_a_port_in_use(lab: Lab) -> None:
    place = Namespace(lab.topology.re0.namespace)
    with place.call(lambda: socket.create_server(("192.0.2.100", 7001))):
        argv = [support.PRLCTL, "serve", "--listen", "192.0.2.100:7001", "--", "cat"]
        done = lab.run(
            "re0", argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20
        )
    refused(done, FAILED, "192.0.2.100:7001", "in use")


def test_no_daemon(lab: Lab, tmp_path: Path) -> None:
    for argv in (
        ("--socket", str(tmp_path / "none"), "status"),
        ("--lab", "f8-none", "--node", "re0", "-j", "status"),
        ("--lab", lab.name, "--node", "re7", "flow", "list"),
    ):
        refused(prlctl(*argv), NO_DAEMON, "no prld answers")
    argv = [support.PRLCTL, "serve", "--listen", "192.0.2.100:7002", "--", "cat"]
    environment = os.environ | {"PRL_SOCKET": str(tmp_path / "none")}
    with lab.exec("re0", argv, env=environment, stderr=subprocess.PIPE, text=True) as serve:
        try:
            assert serve.stderr is not None
            assert "waiting for prld" in serve.stderr.readline()  # as a service it comes up with it
        finally:
            serve.terminate()


def test_a_lab_that_is_there_and_one_that_is_not(lab: Lab) -> None:
    refused(prlctl("lab", "up", "--name", lab.name), FAILED, lab.name, "up already")
    assert support.status(lab, "re0")["services"][0]["state"] == "owner"
    for argv in (
        ("lab", "fail", "re9", "--how", "power", "--name", lab.name),
        ("lab", "fail", "re0", "--how", "earthquake", "--name", lab.name),
        ("lab", "fail", "peer", "--how", "kill-prld", "--name", lab.name),
        ("lab", "exec", "--name", lab.name, "re9", "--", "true"),
        ("lab", "up", "--name", "Not/A/Name"),
    ):
        refused(prlctl(*argv), USAGE)
    refused(prlctl("lab", "fail", "re0", "--how", "power", "--name", "f8-none"), FAILED, "not up")
    refused(prlctl("lab", "exec", "--name", "f8-none", "re0", "--", "true"), FAILED, "not up")


@pytest.mark.parametrize("size", ["0", "9X", "-5M", "1T"])
def test_sizes_that_are_none(size: str) -> None:
    refused(prlctl("demo", "upload", "--size", size), USAGE)


def _as_nobody(argv: list[str]) -> Done:
    command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *argv]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.needs("readable_tree")
def test_without_root(lab: Lab) -> None:
    refused(_as_nobody([support.PRLCTL, "lab", "up", "--name", "f8-no"]), FAILED, "root")
    demo = _as_nobody([support.PRLCTL, "-j", "demo", "upload", "--size", "1M"])
    assert (demo.returncode, demo.stdout) == (FAILED, "")
    assert "root" in demo.stderr.splitlines()[-1]  # after the story
    assert "Traceback" not in demo.stderr
    refused(
        _as_nobody([support.PRLCTL, "--lab", lab.name, "--node", "re0", "status"]),
        NO_DAEMON,
        "Permission denied",
    )
    config = Path("/tmp") / f"f8-{os.getpid()}.toml"  # noqa: S108 - nobody must reach it
    shutil.copy(lab.state.config(lab.topology.re0), config)
    config.chmod(0o644)
    try:
        refused(_as_nobody([PRLD, "--config", str(config)]), FAILED, "root")
    finally:
        config.unlink()
    done = _as_nobody([support.PRLCTL, "-j", "doctor"])
    assert done.returncode == FAILED
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert not checks["root"]["ok"]
    assert not checks["AF_XDP"]["ok"]
    assert "root" in checks["AF_XDP"]["remedy"]


def _configured(lab: Lab, tmp_path: Path, change: Callable[[str], str]) -> Path:
    path = tmp_path / "prld.toml"
    path.write_text(change(lab.state.config(lab.topology.re0).read_text()))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text + "\n=", ""),
        (lambda text: text + "\nfrobnicate = 1\n", "frobnicate"),
        (lambda text: re.sub('mode = "[a-z]+"', 'mode = "magic"', text), "mode"),
        (lambda text: text.replace("index = 0", "index = 5"), "index"),
        (lambda text: text.replace('"192.0.2.100"', '"192.0.2.300"'), "192.0.2.300"),
        (lambda text: text.replace('node = "re0"', ""), "node"),
        (lambda text: text + "\n[timing]\nhold_ms = 10\n", "hold_ms"),
        (lambda _: "\udcff", ""),
    ],
)
def test_a_configuration_that_cannot_be_used(
    lab: Lab, tmp_path: Path, change: Callable[[str], str], words: str
) -> None:
    path = tmp_path / "prld.toml"
    text = change(lab.state.config(lab.topology.re0).read_text())
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    done = subprocess.run(
        [PRLD, "--config", str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    refused(done, USAGE, str(path), words)


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        done = subprocess.run(
            [PRLD, "--config", str(path)], capture_output=True, text=True, timeout=20, check=False
        )
        refused(done, USAGE, str(path))


def test_a_second_prld_beside_the_first_harms_nothing(lab: Lab) -> None:
    argv = [PRLD, "--config", str(lab.state.config(lab.topology.re0))]
    with session(lab):
        done = lab.run("re0", argv, capture_output=True, text=True, timeout=20)
        refused(done, FAILED, "another prld")


def _shout(lab: Lab, node: str, target: str, data: bytes) -> None:
    """Say ``data`` to the link's port from ``node`` and listen until the other end hangs up."""
    place = Namespace(lab.topology.namespaces[node])
    with (
        suppress(OSError),  # being thrown out is what is expected
        place.call(socket.socket) as sock,
    ):
        sock.settimeout(3)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)  # others do not come in (RFC 5082)
        sock.connect((target, LINK_PORT))
        sock.sendall(data)
        while sock.recv(4096):
            pass


def test_garbage_on_the_link_port_while_a_session_runs(lab: Lab) -> None:
    """From strangers, and from the other node's own address."""
    noise = random.Random(8).randbytes(100_000)
    with session(lab) as peer:
        epoch = support.status(lab, "re1")["epoch"]
        for node in ("re0", "re1"):
            for data in (HTTP, noise, b"", b"\x01" * 16):
                _shout(lab, node, "198.51.100.11", data)
                assert peer.ask("still protected") == "still protected"
        assert support.status(lab, "re1")["epoch"] == epoch


GARBAGE = [
    b"\xff" * 100,
    b"{",
    b"[]",
    b"null",
    b'{"op": 7, "id": 1}',
    b'{"op": "nothing", "id": 1}',
    b'{"op": "flow_show", "id": {}, "handle": "x"}',
    b'{"op": "flow_show", "id": 1, "handle": -1}',
    b'{"op": "replicate", "id": 1}',
    b'{"op": "offer", "id": 1, "endpoint": 5}',
    b'{"op": "offer", "id": 1, "endpoint": "' + b"x" * 5000 + b'"}',
    b"[" * 60_000,
    b'{"op": "status", "id": 1' + b" " * 66_000 + b"}",
]


def test_garbage_on_the_control_socket(lab: Lab) -> None:
    with session(lab):
        for data in GARBAGE:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(5)
                sock.connect(str(lab.state.socket(lab.topology.re0)))
                sock.send(data)
                answer = json.loads(sock.recv(1 << 16))
                assert answer["ok"] is False
                assert answer["code"] == USAGE
                assert "\n" not in answer["error"]
    assert not [r for r in support.events(lab, "re0") if r["event"] == "request_failed"]


def test_json_is_all_there_is_on_standard_output(lab: Lab) -> None:
    for argv in ("status", "stats", "events", "link show", "flow list", "doctor"):
        done = on(lab, "re0", "-j", *argv.split())
        assert done.returncode in {0, DEGRADED}, done
        assert json.loads(done.stdout)["schema"] == 1
    for argv in ("lab status", "lab down"):
        done = prlctl("-j", *argv.split(), "--name", "f8-none")
        assert json.loads(done.stdout)["schema"] == 1


def test_doctor_names_what_is_missing() -> None:
    """Without bpffs, as on a host where nobody mounted it."""
    script = f"umount /sys/fs/bpf && exec {support.PRLCTL} -j doctor"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == FAILED, done
    facts = json.loads(done.stdout)
    assert facts["healthy"] is False
    (missing,) = [c for c in facts["checks"] if c["needed"] and not c["ok"]]
    assert missing["name"] == "bpffs"
    assert "mount -t bpf" in missing["remedy"]


def test_prld_names_what_is_missing(lab: Lab) -> None:
    config = lab.state.config(lab.topology.re0)
    script = f"umount /sys/fs/bpf && exec {PRLD} --config {config}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    refused(done, FAILED, "mount -t bpf")
