"""The C client (userspace/client), built with sanitizers, against messages good and bad (R18)."""

import errno
import json
import os
import random
import resource
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prl.control.messages import MESSAGE_MAX_BYTES, MessageError
from prl.control.protocol import Dialogue
from tests.probes import require

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "userspace/client"
TIMEOUT_S = 10.0
MUTATIONS = 20_000
GOOD: list[dict[str, Any]] = [
    {"id": 7, "ok": True, "handle": 0xFFFFFFFF, "state": "active", "reason": ""},
    {"id": 7, "ok": True},
    {"id": 7, "ok": False, "error": 'no flow \u00e9\u20ac\U0001f600 "here" \\ \t', "code": 2},
    {"event": "state", "handle": 9, "state": "open", "reason": "link lost"},
    {"event": "demoted", "handle": 9},
    {"event": "taken_over", "handle": 9, "becomes": 10, "out_bytes": 2**63, "monotonic_ns": 1,
     "streams": [-5, 2**40]},
    {"event": "void", "handle": 9, "reason": "link lost", "more": [1, {"a": [None]}, -2.5e3]},
    {"event": "shadow", "handle": 9, "generation": 4, "local": "1.2.3.4:5", "remote": "[::1]:6",
     "application": "aGVsbG8=", "unread": 3, "in_bytes": 70, "out_bytes": 80, "renew": True},
    {"event": "protectable", "handle": 9},
]  # fmt: skip
PROTO = -errno.EPROTO


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("asan")
    folder = tmp_path_factory.mktemp("client")
    flags: list[str | Path] = ["-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-I", CLIENT]
    sources = [Path(__file__).parent / "client_driver.c", CLIENT / "json.c"]
    subprocess.run(["gcc", *flags, *sources, "-o", folder / "driver"], check=True)
    return folder / "driver"


def judge(driver: Path, messages: list[tuple[bytes, int]]) -> list[list[str]]:
    """What the client takes each message, with so many descriptors, for."""
    fed = b"".join(struct.pack("=II", len(raw), fds) + raw for raw, fds in messages)
    done = subprocess.run(
        [driver, "judge"], input=fed, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    return [line.split(" ") for line in done.stdout.decode().split("\n")[:-1]]


def python_takes(raw: bytes, fds: int) -> bool:
    """Whether the Python clients understand it."""
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(fds)]
    try:
        heard = Dialogue().hear(raw, left := list(opened))
        assert heard is not None or left == opened
    except MessageError as error:
        return "out of range" in str(error)  # C does not look at numbers that it has no use for
    finally:
        for fd in opened:
            os.close(fd)
    return True


def test_good_messages(driver: Path) -> None:
    raw = [(json.dumps(good).encode(), 1 if "local" in good else 0) for good in GOOD]
    raw += [(json.dumps(GOOD[2], ensure_ascii=False).encode(), 0)]
    found = judge(driver, raw)
    assert [line[:5] for line in found] == [
        ["1", "1", "4294967295", "0", "2"],
        ["1", "1", "0", "0", "0"],
        ["1", "1", "0", "2", "0"],
        ["1", "2", "9", "0", "4"],
        ["1", "3", "9", "0", "0"],
        ["1", "5", "9", "0", "0"],
        ["1", "6", "9", "0", "0"],
        ["1", "4", "9", "0", "0"],
        ["1", "7", "9", "0", "0"],
        ["1", "1", "0", "2", "0"],
    ]
    assert (
        bytes.fromhex(found[2][-2]).decode()
        == GOOD[2]["error"]
        == "".join(bytes.fromhex(found[9][-2]).decode())
    )
    assert found[5][5] == str(2**63)
    assert found[7][7:] == ["4", "[1.2.3.4:5]", "[[::1]:6]", "", b"hello".hex()]


@pytest.mark.parametrize(
    ("raw", "result"),
    [
        (b'{"event":"news of a later version","handle":{}}', 0),
        (b'{"event":"state","handle":1,"state":"of a later version"}', 1),
        (b' {"event" : "demoted" ,\n"handle":1 } ', 1),
        (b'{"event":"\\u0064emoted","handle":1}', 1),
        (b'{"event":"state","handle":1,"state":"open","reason":"%s"}' % (b"\xc3\xa9" * 9000), 1),
        (b'{"event":"demoted","handle":4294967296}', PROTO),
        (b'{"event":"demoted","handle":-1}', PROTO),
        (b'{"event":"demoted","handle":1.0}', PROTO),
        (b'{"event":"demoted","handle":"1"}', PROTO),
        (b'{"event":"demoted"}', PROTO),
        (b'{"event":"demoted","handle":99999999999999999999999999}', PROTO),
        (b'{"event":"taken_over","handle":1,"becomes":2,"monotonic_ns":1}', PROTO),
        (b'{"event":"taken_over","handle":1,"out_bytes":2,"monotonic_ns":1}', 1),
        (b'{"event":"void","handle":1,"unused":%d}' % 2**64, 1),
        (b'{"event":"shadow","handle":1,"application":"a"}', PROTO),
        (b'{"event":"demoted","handle":01}', PROTO),
        (b'{"event":"demoted","handle":1}x', PROTO),
        (b'{"event":"demoted","handle":1,}', PROTO),
        (b'{"event":"demoted" "handle":1}', PROTO),
        (b'{"event":"demoted\n","handle":1}', PROTO),
        (b'{"event":"demoted","handle":1,"x":"\xc0\x80"}', PROTO),
        (b'{"event":"demoted","handle":1,"x":"\xed\xa0\x80"}', PROTO),
        (b'{"event":"demoted","handle":1,"x":"\\ud800"}', PROTO),
        (b'{"event":"demoted","handle":1,"x":"\\u0000"}', PROTO),
        (b'{"event":"demoted","handle":1,"x":' + b"[" * 16 + b"]" * 16 + b"}", 1),
        (b'{"event":"demoted","handle":1,"x":' + b"[" * 17 + b"]" * 17 + b"}", PROTO),
        (b'{"event":"demoted","handle":1,"x":' + b"[" * 60_000, PROTO),
        (b'{"id":null,"ok":false,"error":"only root may use prld","code":1}', PROTO),
        (b'{"id":1}', PROTO),
        (b"", PROTO),
        (b"{", PROTO),
        (b"[]", PROTO),
        (b"\0", PROTO),
    ],
)  # fmt: skip
def test_odd_messages(driver: Path, raw: bytes, result: int) -> None:
    assert judge(driver, [(raw, 0)])[0][0] == str(result)


def test_descriptors_where_none_belongs_are_closed(driver: Path) -> None:
    shadow = json.dumps(GOOD[-2]).encode()
    demoted = json.dumps(GOOD[4]).encode()
    found = judge(driver, [(shadow, 0), (shadow, 2), (shadow, 4), (demoted, 4), (shadow, 1)])
    assert [line[0] for line in found] == [str(PROTO)] * 3 + ["1", "1"]


def test_mutated_messages_are_taken_as_python_takes_them(driver: Path) -> None:
    messages = list(_mutations(random.Random(4)))
    found = judge(driver, messages)
    assert len(found) == len(messages)
    taken = 0
    for (raw, fds), line in zip(messages, found, strict=True):
        result = int(line[0])
        assert result in {0, 1, PROTO}, raw
        taken += result >= 0
        if result == 1:  # nothing is an event for C alone
            assert python_takes(raw, fds), raw
    assert MUTATIONS // 20 < taken < MUTATIONS


def _mutations(chance: random.Random) -> Iterator[tuple[bytes, int]]:
    pieces = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\\u0000",
        b"null",
        b"-",
        b"e9",
        b"\xff",
    ]
    for _ in range(MUTATIONS):
        good = chance.choice(GOOD)
        raw = bytearray(json.dumps(good, ensure_ascii=chance.random() < 0.5).encode())
        for _ in range(chance.randrange(4)):
            at = chance.randrange(len(raw) + 1)
            match chance.randrange(4):
                case 0:
                    raw[at:at] = chance.choice(pieces)
                case 1:
                    del raw[at : at + chance.randrange(1, 9)]
                case 2:
                    raw[at : at + 1] = bytes([chance.randrange(256)])
                case 3:
                    other = json.dumps(chance.choice(GOOD)).encode()
                    start = chance.randrange(len(other))
                    raw[at:at] = other[start : start + chance.randrange(1, 20)]
        yield bytes(raw), chance.choice((0, 1, 1, 2)) if "local" in good else 0


class Prld:
    """One connection of the driver's, answered by the test."""

    def __init__(self, driver: Path, tmp_path: Path) -> None:
        path = tmp_path / "prld.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._process = subprocess.Popen(
            [driver, "live"],
            env={**os.environ, "PRL_SOCKET": str(path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._listener.settimeout(TIMEOUT_S)
        self.sock, _ = self._listener.accept()
        self.sock.settimeout(TIMEOUT_S)
        self._listener.close()

    def hear(self) -> tuple[dict[str, Any], int]:
        raw, fds, _, _ = socket.recv_fds(self.sock, MESSAGE_MAX_BYTES, 4)
        for fd in fds:
            os.close(fd)
        found: dict[str, Any] = json.loads(raw)
        return found, len(fds)

    def say(self, message: dict[str, Any] | bytes, fds: int = 0) -> None:
        raw = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.send_fds(self.sock, [raw], [self.sock.fileno()] * fds)

    def introduce(self) -> None:
        """Answer the driver's first requests, an event between them."""
        offer, protect, give_up = self.hear(), self.hear(), self.hear()
        assert offer == ({"op": "offer", "id": 1, "endpoint": '192.0.2.100:7000 "\\\n'}, 0)
        assert protect == ({"op": "replicate", "id": 2, "application": "c3RhdGU="}, 1)
        assert give_up == ({"op": "close", "id": 3, "handle": 9, "generation": 4}, 0)
        self.say({"id": 1, "ok": True})
        self.say({"event": "state", "handle": 9, "state": "setup", "reason": ""})
        self.say({"id": 3, "ok": True})
        self.say({"id": 2, "ok": True, "handle": 9, "state": "active", "reason": ""})

    def limit(self, limits: tuple[int, int] | None) -> tuple[int, int]:
        """How many descriptors the driver may have (None: no more); returns what that was."""
        fds = Path(f"/proc/{self._process.pid}/fd")
        least = max(int(entry.name) for entry in fds.iterdir()) + 1
        before = resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, limits or (least, before[1]))
        return before

    def end(self) -> list[list[str]]:
        """What the driver has told; it has ended without a leak."""
        self.sock.close()
        told, errors = self._process.communicate(timeout=TIMEOUT_S)
        assert self._process.returncode == 0, errors
        return [line.split(" ") for line in told.split("\n")[:-1]]


def test_a_life_with_a_signal_every_half_millisecond(driver: Path, tmp_path: Path) -> None:
    prld = Prld(driver, tmp_path)
    prld.introduce()
    for _ in range(300):
        prld.say(GOOD[-2], fds=1)
        prld.say(GOOD[3])
    told = prld.end()
    assert [line[:2] for line in told[:3]] == [["0", "1"], ["0", "1"], ["1", "2"]]
    assert [line[1] for line in told[3:-1]] == ["4", "2"] * 300
    assert told[-1][0] == str(-errno.ECONNRESET)


@pytest.mark.parametrize(
    ("raw", "fds"),
    [
        (b'{"event":"shadow","handle":9}', 60),
        (b'{"event":"demoted","handle":9}', 60),
        (b'{"event":"demoted","handle":9', 3),
        (b" " * MESSAGE_MAX_BYTES + b'{"event":"demoted","handle":9}', 1),
        (b'{"id":9,"ok":true}', 1),
    ],
)
def test_nonsense_ends_the_connection_and_leaks_nothing(
    driver: Path, tmp_path: Path, raw: bytes, fds: int
) -> None:
    prld = Prld(driver, tmp_path)
    prld.introduce()
    prld.say(raw, fds)
    assert prld.end()[-1][0] == str(PROTO)


def test_a_shadow_for_which_there_is_no_descriptor_is_given_back(
    driver: Path, tmp_path: Path
) -> None:
    prld = Prld(driver, tmp_path)
    prld.introduce()
    limits = prld.limit(None)
    prld.say(GOOD[-2], fds=1)
    assert prld.hear() == ({"op": "close", "id": 0, "handle": 9, "generation": 4}, 0)
    prld.say({"id": 0, "ok": True})
    prld.limit(limits)
    prld.say(GOOD[-2] | {"handle": 10}, fds=1)
    assert [line[1:3] for line in prld.end()[3:-1]] == [["4", "10"]]


def test_prld_dies_while_an_answer_is_awaited(driver: Path, tmp_path: Path) -> None:
    prld = Prld(driver, tmp_path)
    for _ in range(3):
        prld.hear()
    assert prld.end()[-1][0] == str(-errno.ECONNRESET)


def test_the_installed_library_is_usable(tmp_path: Path) -> None:
    source = tmp_path / "open.c"
    source.write_text(
        "#include <errno.h>\n#include <prl_client.h>\n"
        "int main(void) { struct prl_client *c;\n"
        'return prl_client_open(&c, "/nowhere") != -ENOENT; }\n'
    )
    folder = ROOT / "prl/c"
    for how in ([f"-L{folder}", "-lprl_client", f"-Wl,-rpath,{folder}"], ["-l:libprl_client.a"]):
        out = tmp_path / "open"
        flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic-errors", f"-I{folder}"]
        subprocess.run(["gcc", *flags, source, f"-L{folder}", *how, "-o", out], check=True)
        assert subprocess.run([out], check=False).returncode == 0
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", folder / "libprl_client.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(line.split()[-1].startswith("prl_client_") for line in symbols.splitlines())
