"""Every program of docs/examples/ on both nodes of one lab; then the power goes."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prl.demo.payload import Payload
from prl.demo.player import Cast, Deadline
from prl.lab import Lab
from tests.system.serving import lab_name
from tests.system.support import PATIENCE_S, Peer, listen_on, pair

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops")

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
CLIENT = ROOT / "prl/c"
PORTS = {"echo.c": 7000, "echo_threads.py": 7001, "echo_asyncio.py": 7002, "meter.py": 7003}
ECHOES = [name for name in PORTS if name.startswith("echo")]
SIZE = 12 << 20
CHUNK = 24 << 10
NUMBERS = 4000


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with pair(lab_name("examples")) as made:
        yield made


@pytest.fixture(scope="module")
def echo_c(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("c") / "echo"
    build = ["gcc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", EXAMPLES / "echo.c"]
    flags = ["-I", CLIENT, "-L", CLIENT, "-lprl_client", f"-Wl,-rpath,{CLIENT}"]
    subprocess.run([*build, *flags, "-o", program], check=True)
    return program


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.*")} == set(PORTS)


def test_the_peers_notice_nothing_but_a_pause(lab: Lab, echo_c: Path, tmp_path: Path) -> None:
    exports = {node: tmp_path / f"{node}.sock" for node in ("re0", "re1")}
    casts = {}
    for number, (name, port) in enumerate(PORTS.items()):
        program = [str(echo_c)] if name == "echo.c" else [sys.executable, str(EXAMPLES / name)]
        own = {node: [str(path)] if name == "meter.py" else [] for node, path in exports.items()}
        casts[name] = Cast(lab, [*program, listen_on(_family(number), port)], own)
    for cast in casts.values():
        for node in exports:
            cast.expect({"listening"}, node, Deadline(PATIENCE_S))
    peers = {}
    for number, (name, port) in enumerate(PORTS.items()):
        peers[name] = peer = Peer(lab, _family(number), port)
        casts[name].expect({"protected"}, "re0", Deadline(PATIENCE_S), peer=peer.port)
        casts[name].expect({"standby"}, "re1", Deadline(PATIENCE_S), peer=peer.port)
    meter = peers["meter.py"]
    _add(meter, 0, NUMBERS)
    for node, role in (("re0", "owner"), ("re1", "standby")):
        facts = _scrape(exports[node])
        labels = f'{{peer="{meter.port}",role="{role}"}}'
        assert facts[f"meter_total{labels}"] == NUMBERS * (NUMBERS - 1) // 2
        assert facts[f"meter_received_bytes{labels}"] == meter.sent
    for name in ECHOES:
        peers[name].converse(Payload(SIZE), CHUNK)
    for name in ECHOES:
        peers[name].await_bytes(SIZE // 2)
    adding = threading.Thread(target=_add, args=(meter, NUMBERS, 3 * NUMBERS))
    adding.start()

    lab.fail("re0", "power")

    whole = Payload(SIZE).sha256()
    for name in ECHOES:
        peers[name].finish()
        assert (peers[name].received, peers[name].sha256()) == (SIZE, whole), name
        told = casts[name].expect({"taken_over"}, "re1", Deadline(PATIENCE_S))
        assert 0 < told["bytes"] < SIZE
        casts[name].expect({"end"}, "re1", Deadline(PATIENCE_S), peer=peers[name].port)
        peers[name].sock.close()
    adding.join(PATIENCE_S)
    meter.send(b"0\n")
    assert meter.line() == str(3 * NUMBERS * (3 * NUMBERS - 1) // 2)
    meter.sock.close()


def _family(number: int) -> int:
    return (4, 6)[number % 2]


def _add(peer: Peer, first: int, end: int) -> None:
    """Send numbers; every sum must come back."""
    total = first * (first - 1) // 2
    for number in range(first, end):
        peer.send(b"%d\n" % number)
        total += number
        assert peer.line() == str(total)


def _scrape(path: Path) -> dict[str, float]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        with sock.makefile() as lines:
            return {name: float(value) for name, value in (line.split() for line in lines)}
