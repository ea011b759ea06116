"""prlctl: exit statuses, one-line errors, JSON that stands alone on standard output."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prl.bindings.facts import Primary, Reason, Secondary
from prl.cli import main as program
from prl.cli.flow import STATES
from prl.cli.output import COLUMNS, table
from prl.control.messages import MESSAGE_MAX_BYTES
from prl.daemon import main as daemon
from prl.daemon.monitoring.remedies import CAUSES, cause_of

Run = Callable[..., tuple[int, str, str]]

STATUS: dict[str, Any] = {
    "version": "0.2.0",
    "node": "re0",
    "index": 0,
    "mode": "native",
    "mode_because": "",
    "switchover_safe": True,
    "because": "all is well",
    "link": {"state": "up", "other": "re1", "reason": "", "rtt_ms": 0.1, "plain": False},
    "epoch": "00",
    "bypassed": False,
    "services": [
        {
            "name": "lab",
            "addresses": ["192.0.2.100"],
            "state": "owner",
            "silent": "",
            "term": 1,
        }
    ],
    "other_node": {"state": "alive", "pass_ms": 3.5, "answered_ms": {"lan": 1.0, "link": 2.0}},
    "lease": {"takeover_for_ms": 0.0, "open_in_ms": 0.0, "over": False},
    "policy": {"configured": "continue", "in_force": "stop"},
    "flows": {"primary": 0, "secondary": 0, "active": 0, "unprotected": 0},
    "behind": {"packets": 0, "bytes": 0},
    "oldest_unacknowledged_ms": 0.0,
}
FLOW = {
    "handle": 1,
    "role": "primary",
    "state": "active",
    "local": "192.0.2.100:179",
    "remote": "198.51.100.1:2",
    "service": "lab",
    "generation": 1,
    "queue": {"packets": 0, "bytes": 0},
    "reason": "",
}


class FakePrld:
    """Answers each operation from a table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                while raw := client.recv(MESSAGE_MAX_BYTES):
                    request = json.loads(raw)
                    self.asked.append(request)
                    answers = self.answers[request["op"]]
                    answer = answers.pop(0) if len(answers) > 1 else answers[0]
                    client.send(json.dumps({"id": request["id"], "ok": True} | answer).encode())

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def prld(tmp_path: Path) -> Iterator[FakePrld]:
    found = FakePrld(tmp_path / "prld.sock")
    yield found
    found.stop()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = program.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_bare_prlctl_is_status(prld: FakePrld, run: Run) -> None:
    prld.answers["status"] = [STATUS]
    assert run("--socket", prld.path) == run("--socket", prld.path, "status")
    code, out, _ = run("--socket", prld.path)
    assert code == 0
    assert "switchover-safe: yes, because all is well" in out


def test_status_that_is_not_safe_ends_with_3(prld: FakePrld, run: Run) -> None:
    prld.answers["status"] = [STATUS | {"switchover_safe": False, "because": "the link is down"}]
    code, out, _ = run("--socket", prld.path, "-j")
    facts = json.loads(out)
    assert code == 3
    assert facts["schema"] == 1
    assert facts["because"] == "the link is down"


@pytest.mark.parametrize("said", [{"plain": True}, {}], ids=["configured", "an earlier prld"])
def test_status_says_that_the_link_is_in_clear(
    prld: FakePrld, run: Run, said: dict[str, Any]
) -> None:
    words = "in clear, and open to whoever is on its network"
    prld.answers["status"] = [STATUS]
    assert words not in run("--socket", prld.path)[1]
    link = {name: value for name, value in STATUS["link"].items() if name != "plain"}
    prld.answers["status"] = [STATUS | {"link": link | said}]
    assert words in run("--socket", prld.path)[1]


def test_status_says_what_is_not_checked_of_mirrored_packets_or_why_none_is(
    prld: FakePrld, run: Run
) -> None:
    """R33."""
    on = {"interface": "link0", "on": True, "because": ""}
    off = on | {"on": False, "because": "the other node does not mirror"}
    unchecked = "their bytes are not compared (R12a), nor kept (R8)"
    for mirror, words in (
        (on, f"mirror: long packets go by link0, in clear; {unchecked}"),
        (off, "mirror: all input goes over the link: the other node does not mirror"),
    ):
        prld.answers["status"] = [STATUS | {"mode": "mirror", "mirror": mirror}]
        _, out, _ = run("--socket", prld.path)
        assert words in " ".join(out.split())
        assert out.count("mirror:") == 1
    prld.answers["status"] = [STATUS | {"mirror": None}]
    assert "mirror" not in run("--socket", prld.path)[1]


def test_without_prld_the_exit_status_is_4(tmp_path: Path, run: Run) -> None:
    code, out, err = run("--socket", tmp_path / "none", "flow", "list")
    assert (code, out) == (4, "")
    assert err.startswith("error: no prld answers")
    assert err.count("\n") == 1


def test_the_environment_names_the_socket(
    prld: FakePrld, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRL_SOCKET", str(prld.path))
    prld.answers["status"] = [STATUS]
    assert run()[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["flow", "show"],
        ["flow", "show", "x"],
        ["flow", "show", "-1"],
        ["flow", "show", "0x100000000"],
        ["--node", "re0", "--socket", "/x", "status"],
        ["--node", "../x", "status"],
    ],
)
def test_bad_usage_ends_with_2_and_one_line(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("group", ["link", "flow", "lab"])
def test_a_group_without_a_command_shows_its_help(run: Run, group: str) -> None:
    code, out, err = run(group)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"Usage: prlctl {group} [OPTIONS] COMMAND [ARGS]..."
    assert "Commands:" in err.splitlines()


def test_a_node_is_found_in_its_lab(run: Run) -> None:
    assert "/run/prl/nolab/re7.sock" in run("--lab", "nolab", "--node", "re7")[2]


def test_prld_s_errors_keep_their_exit_status(prld: FakePrld, run: Run) -> None:
    prld.answers["flow_show"] = [{"ok": False, "error": "no flow 0x5 here", "code": 2}]
    assert run("--socket", prld.path, "flow", "show", "5") == (2, "", "error: no flow 0x5 here\n")
    prld.answers["takeover"] = [{"ok": False, "error": "the lease is over", "code": 1}]
    assert run("--socket", prld.path, "takeover")[0] == 1


def test_a_long_list_is_read_in_parts(prld: FakePrld, run: Run) -> None:
    prld.answers["flow_list"] = [
        {"flows": [FLOW], "next": 1},
        {"flows": [FLOW | {"handle": 2}], "next": None},
    ]
    _, out, _ = run("--socket", prld.path, "-j", "flow", "list")
    assert [flow["handle"] for flow in json.loads(out)["flows"]] == [1, 2]
    assert [request["after"] for request in prld.asked] == [0, 1]


FLOWS = [
    FLOW,
    FLOW | {"handle": 2, "state": "open", "remote": "[2001:db8::7]:2", "reason": "link lost"},
    FLOW | {"handle": 3, "role": "secondary", "state": "void", "service": "other"},
    FLOW | {"handle": 4, "remote": "198.51.100.1:3"},
    FLOW | {"handle": 5, "remote": "*"},
]


@pytest.mark.parametrize(
    ("arguments", "handles"),
    [
        ([], [2, 3, 1, 4, 5]),
        (["--unsafe"], [2, 3]),
        (["--state", "active"], [1, 4, 5]),
        (["--state", "open", "--state", "void"], [2, 3]),
        (["--service", "other"], [3]),
        (["--peer", "198.51.100.1"], [3, 1, 4]),
        (["--peer", "198.51.100.0/24", "--unsafe"], [3]),
        (["--peer", "198.51.100.1:3"], [4]),
        (["--peer", "2001:db8::7"], [2]),
        (["--peer", "[2001:db8::7]:2"], [2]),
        (["--peer", "[2001:db8::7]:3"], []),
    ],
)
def test_flows_are_chosen_and_those_in_trouble_come_first(
    prld: FakePrld, run: Run, arguments: list[str], handles: list[int]
) -> None:
    prld.answers["flow_list"] = [{"flows": FLOWS, "next": None}]
    code, out, _ = run("--socket", prld.path, "-j", "flow", "list", *arguments)
    assert code == 0
    assert [flow["handle"] for flow in json.loads(out)["flows"]] == handles


def test_every_state_of_a_flow_can_be_chosen() -> None:
    known = {state.name.lower() for kind in (Primary, Secondary) for state in kind}
    assert set(STATES) == known - {"gone"}


@pytest.mark.parametrize("peer", ["x", "192.0.2.1:", "192.0.2.1/33", "2001:db8::1:x"])
def test_a_peer_that_is_none_is_a_usage_error(run: Run, peer: str) -> None:
    code, _, err = run("flow", "list", "--peer", peer)
    assert code == 2
    assert "ADDRESS/LENGTH" in err


def test_every_reason_is_explained_with_what_helps() -> None:
    assert set(CAUSES) == set(Reason)
    words = [part for cause in CAUSES.values() for part in cause]
    assert all(part and not part.endswith(".") and part[0] == part[0].lower() for part in words)
    assert len({cause.meaning for cause in CAUSES.values()}) == len(CAUSES)
    assert "200" in cause_of(200).meaning


def test_a_flow_that_is_not_protected_is_explained(prld: FakePrld, run: Run) -> None:
    meaning, remedy = CAUSES[Reason.LINK_LOST]
    words = {"cause": "link_lost", "meaning": meaning, "remedy": remedy}
    prld.answers["flow_show"] = [{"flow": FLOWS[1] | words}, {"flow": FLOW | words}]
    _, out, _ = run("--socket", prld.path, "flow", "show", "2")
    said = " ".join(out.partition("\n\n")[0].split())
    assert "is not protected (open). Why: link lost. That means: the link to the other" in said
    assert said.endswith(f"What helps: {remedy}.")
    _, out, _ = run("--socket", prld.path, "flow", "show", "1")
    assert "not protected" not in out


def test_status_fits_80_columns(prld: FakePrld, run: Run) -> None:
    service = STATUS["services"][0] | {
        "addresses": [
            "192.0.2.100",
            *(f"2001:db8:1234:5678:9abc:def0:1234:{n:x}" for n in range(9)),
        ],
        "silent": "it does not hear the LAN, and nobody has told it that it may go on speaking yet",
    }
    prld.answers["status"] = [
        STATUS
        | {
            "services": [service],
            "because": "every session has a good shadow or its owner next to it",
            "lease": {"takeover_for_ms": 123.456, "open_in_ms": 234.567, "over": True},
            "epoch": "0123456789abcdef",
            "flows": dict.fromkeys(STATUS["flows"], 123456),
            "mode_because": "native XDP was refused by the driver of lan0: " + "reason " * 20,
        }
    ]
    _, out, _ = run("--socket", prld.path)
    assert "other node: alive, its datapath had a pass 3.5 ms ago" in out
    assert max(map(len, out.splitlines())) <= COLUMNS
    assert "prlctl flow list --unsafe" in " ".join(out.split())


@pytest.mark.parametrize(
    ("setting", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colours_and_indented_json_are_for_terminals(
    prld: FakePrld, run: Run, setting: dict[str, str], coloured: bool
) -> None:
    prld.answers["status"] = [STATUS]
    environment = {"TERM": "xterm", "PATH": "/usr/bin:/bin", **setting}
    assert ("\x1b[" in on_terminal(prld, environment)) == coloured
    assert json.loads(on_terminal(prld, environment, "-j"))["node"] == "re0"
    assert on_terminal(prld, environment, "-j").count("\n") > len(STATUS)
    _, out, _ = run("--socket", prld.path)
    assert "\x1b" not in out
    _, out, _ = run("--socket", prld.path, "-j")
    assert out.count("\n") == 1


def on_terminal(prld: FakePrld, environment: dict[str, str], *arguments: str) -> str:
    """What prlctl writes to a terminal."""
    ours, its = os.openpty()
    command = [sys.executable, "-m", "prl.cli.main", "--socket", str(prld.path), *arguments]
    with subprocess.Popen(command, env=environment, stdin=its, stdout=its) as process:
        os.close(its)
        found = b""
        with contextlib.suppress(OSError):  # EIO: it has ended
            while more := os.read(ours, 4096):
                found += more
        os.close(ours)
        assert process.wait() == 0
    return found.decode()


def test_takeover_passes_its_options_on(prld: FakePrld, run: Run) -> None:
    prld.answers["takeover"] = [STATUS]
    assert run("--socket", prld.path, "takeover", "--service", "lab", "--fenced")[0] == 0
    assert (prld.asked[0]["service"], prld.asked[0]["fenced"]) == ("lab", True)


def test_events_are_all_shown(prld: FakePrld, run: Run) -> None:
    record = {"seq": 1, "time": "now", "level": "info", "event": "ready", "text": "here"}
    prld.answers["events"] = [{"events": [record]}, {"events": []}]
    assert "ready: here" in run("--socket", prld.path, "events")[1]


def test_top_shows_what_is_in_trouble_first(prld: FakePrld, run: Run) -> None:
    prld.answers["status"] = [STATUS]
    trouble = FLOW | {"handle": 2, "state": "open", "reason": "link lost"}
    prld.answers["flow_list"] = [{"flows": [FLOW, trouble], "next": None}]
    arguments = ("top", "--count", "2", "--interval", "0.1")
    code, out, _ = run("--socket", prld.path, "-j", *arguments)
    views = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [[flow["handle"] for flow in view["flow_list"]] for view in views] == [[2, 1]] * 2
    assert "link lost" in run("--socket", prld.path, *arguments)[1]


def test_doctor_needs_no_prld(run: Run) -> None:
    code, out, _ = run("-j", "doctor")
    facts = json.loads(out)
    assert code in {0, 1, 3}
    assert {check["name"] for check in facts["checks"]} >= {"kernel", "AF_XDP", "TCP_REPAIR"}
    assert all(check["remedy"] for check in facts["checks"] if not check["ok"])


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for command in (
        "status",
        "flow",
        "link",
        "takeover",
        "events",
        "stats",
        "top",
        "doctor",
        "lab",
    ):
        assert command in out


def test_columns_are_aligned() -> None:
    assert table([["A", "B"], ["long", "x"]]) == "A     B\nlong  x"


def test_prld_without_configuration_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert daemon.main(["--config", str(tmp_path / "none.toml")]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_whoever_started_prld_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prl.daemon.main", "--config", str(tmp_path / "none.toml")]
    environment = {"PRL_READY_FD": "1", "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == done.stderr
    assert done.stdout.startswith("error: ")
