"""`prlctl serve`: unchanged programs whose connections outlive their host (R20)."""

import hashlib
import os
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from prl.demo.payload import Payload
from prl.kernel import procfs
from prl.lab import Lab, processes
from prl.lab.netns import Namespace
from tests.system.serving import PORT, Client, Serve, narrow, serving
from tests.system.support import Peer, events, flows

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat")

BOTH = ("re0", "re1")
DATA = b"".join(bytes(Payload(24 << 20).at(offset)) for offset in range(0, 24 << 20, 1 << 20))
HALF = len(DATA) // 2
COUNT = ["sh", "-c", 'n=0; while read -r w; do n=$((n+1)); echo "$n $w"; done']


def on_re1(script: str) -> str:
    """A shell script's piece that runs on re1 alone."""
    return f'case "$PRL_SOCKET" in */re1.sock) {script};; esac; '


@pytest.mark.parametrize("address", ["192.0.2.100", "[2001:db8:0:1::100]"])
def test_the_power_goes_in_mid_stream_and_the_digest_is_right(lab: Lab, address: str) -> None:
    with (
        serving(lab, ["sha256sum"], address=address, nodes=BOTH) as serves,
        Client(lab, address) as client,
    ):
        client.send(DATA[:HALF])
        serves["re0"].await_log(": protected")
        lab.fail("re0", "power")
        client.send(DATA[HALF:])
        client.hang_up()
        assert client.receive() == f"{hashlib.sha256(DATA).hexdigest()}  -\n".encode()
        assert client.status() == 0
        serves["re1"].await_log("taken over, going on at byte 0")


def test_both_directions_go_on_at_the_right_byte(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
        serves["re0"].await_log(": protected")
        assert client.exchange(DATA[:HALF], HALF - 100_000) == DATA[: HALF - 100_000]
        lab.fail("re0", "power")
        rest = client.exchange(DATA[HALF:], hang_up=True)
        assert rest == DATA[HALF - 100_000 :]
        assert client.status() == 0
        serves["re1"].await_log("taken over")


def test_output_larger_than_what_the_standby_may_hold(lab: Lab) -> None:
    numbers = 12_000_000  # 99 MB
    narrow(lab)
    with (
        serving(lab, ["seq", str(numbers)], nodes=BOTH) as serves,
        Client(lab, listens_only=True) as client,
    ):
        digest = hashlib.sha256(client.receive(80 << 20))
        serves["re0"].await_log(": protected")
        lab.fail("re0", "power")
        digest.update(client.receive())
        assert client.status() == 0
        serves["re1"].await_log("taken over")
    made = subprocess.run(["seq", str(numbers)], capture_output=True, check=True).stdout
    assert digest.hexdigest() == hashlib.sha256(made).hexdigest()


def test_the_death_of_the_program_alone_is_no_end(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
        serves["re0"].await_log(": protected")
        client.send(b"before")
        assert client.receive(6) == b"before"
        (program,) = _programs(lab, "re0", "cat")
        os.kill(program, signal.SIGKILL)
        serves["re1"].await_log("taken over")
        client.send(b"after")
        assert client.receive(5) == b"after"
        client.hang_up()
        assert client.receive() == b""
        assert client.status() == 0


def test_the_death_of_serve_is_no_end(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
        serves["re0"].await_log(": protected")
        client.send(DATA[:1000])
        assert client.receive(1000) == DATA[:1000]
        lab.fail("re0", "kill-app")
        client.send(DATA[1000:3000])
        assert client.receive(2000) == DATA[1000:3000]
        serves["re1"].await_log("taken over")


def test_a_deliberate_end_is_the_end_on_both_nodes(lab: Lab) -> None:
    command = ["sh", "-c", "read -r name; echo hello $name"]
    with serving(lab, command, nodes=BOTH) as serves:
        for number in range(1, 4):
            with Client(lab) as client:
                serves["re0"].await_log(": protected", number)
                client.send_and_hang_up(b"you\n")
                assert client.receive() == b"hello you\n"
                assert client.status() == 0
            serves["re0"].await_log("ended", number)
            serves["re1"].await_log("not needed any more", number)
        assert not any("taken over" in line for line in serves["re1"].log)


def test_without_the_other_node_it_serves_unprotected_and_says_so(lab: Lab) -> None:
    with serving(lab, ["sha256sum"], nodes=["re0"]) as serves, Client(lab) as client:
        client.send(DATA)
        client.hang_up()
        assert client.receive() == f"{hashlib.sha256(DATA).hexdigest()}  -\n".encode()
        serves["re0"].await_log("not protected: no application")


def test_sigterm_ends_serve_and_leaves_its_sessions_to_the_other_node(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
        serves["re0"].await_log(": protected")
        client.send(b"one")
        assert client.receive(3) == b"one"
        serves["re0"].process.terminate()
        assert serves["re0"].process.wait(15) == 0
        assert not _programs(lab, "re0", "cat")
        client.send(b"two")
        assert client.receive(3) == b"two"


def test_a_port_in_use_is_one_clear_line(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=["re0"]):
        done = lab.run(
            "re0",
            ["prlctl", "serve", "--listen", f"192.0.2.100:{PORT}", "--", "cat"],
            capture_output=True,
            text=True,
            timeout=15,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot listen on 192.0.2.100:7000" in done.stderr


def _programs(lab: Lab, node: str, name: str) -> list[int]:
    place = Namespace(lab.topology.node(node).namespace)
    return [pid for pid in processes.pids_in(place) if procfs.program_of(pid) == name]


def test_curl_has_a_file_that_dd_reads(lab: Lab, tmp_path: Path) -> None:
    """The program dies while dd still says it, and the other node's dd goes on."""
    narrow(lab)
    file = tmp_path / "file"
    file.write_bytes(DATA)
    script = (
        "while read -r line && [ ${#line} -gt 1 ]; do :; done; "
        f"printf 'HTTP/1.0 200 OK\\r\\nContent-Length: {len(DATA)}\\r\\n\\r\\n'; "
        f"exec dd if={file} bs=64k status=none"
    )
    with serving(lab, ["sh", "-c", script], nodes=BOTH) as serves:
        url = f"http://192.0.2.100:{PORT}/file"
        with lab.exec("peer", ["curl", "-sS", "-m", "60", url], stdout=subprocess.PIPE) as curl:
            assert curl.stdout is not None
            head = curl.stdout.read(HALF)
            serves["re0"].await_log(": protected")
            (program,) = _programs(lab, "re0", "dd")
            os.kill(program, signal.SIGKILL)
            assert head + curl.stdout.read() == DATA
            assert curl.wait(30) == 0
        serves["re1"].await_log("taken over")


def test_from_failure_to_failure_a_fresh_program_goes_on(lab: Lab) -> None:
    """R23: the healed node's program is given the whole input again, its output cut off."""
    with ExitStack() as stack:
        serves = {node: stack.enter_context(Serve(lab, node, command=COUNT)) for node in BOTH}
        client = stack.enter_context(Client(lab))
        said = 0
        for owner in (*BOTH, "re0"):
            serves[owner].await_log(": protected")
            for _ in range(3):
                said += 1
                client.send(b"again\n")
                assert client.line() == f"{said} again"
            lab.fail(owner, "power")
            said += 1
            client.send(b"meanwhile\n")
            assert client.line() == f"{said} meanwhile"
            lab.heal(owner)
            serves[owner] = stack.enter_context(Serve(lab, owner, command=COUNT))
        client.hang_up()
        assert client.receive() == b""
        assert client.status() == 0


def test_more_input_than_the_history_holds_is_said(lab: Lab) -> None:
    options = ["--history", "1000"]
    with (
        serving(lab, ["cat"], nodes=BOTH, options=options) as serves,
        Client(lab) as client,
    ):
        serves["re0"].await_log(": protected")
        client.send(DATA[:3000])
        assert client.receive(3000) == DATA[:3000]
        lab.fail("re0", "power")
        lab.heal("re0")
        with Serve(lab, "re0", command=["cat"], options=options):
            serves["re1"].await_log("more input than is kept of it (--history 1000 bytes)")
            (flow,) = flows(lab, "re1")
            assert "--history 1000" in flow["reason"]
            client.send(b"goes on")
            assert client.receive(7) == b"goes on"


def test_a_program_that_says_something_else_is_found_out(lab: Lab) -> None:
    with (
        serving(lab, ["sh", "-c", "head -c 100000 /dev/urandom; cat"], nodes=BOTH) as serves,
        Client(lab) as client,
    ):
        assert len(client.receive(100_000)) == 100_000
        serves["re1"].await_log("it is not deterministic")
        serves["re0"].await_log("not protected: the standby's program gave other output")
        (flow,) = flows(lab, "re0")
        assert flow["reason"] == "the standby's program gave other output"
        assert "shadow_rejected" in [event["event"] for event in events(lab, "re1")]
        client.send(b"goes on")
        assert client.receive(7) == b"goes on"
        serves["re1"].process.terminate()
        assert serves["re1"].process.wait(15) == 3


def test_wrong_output_is_never_heard_after_a_take_over(lab: Lab) -> None:
    """The standby's program comes to its output only when it is the session."""
    hold = Path(f"/run/prl/{lab.name}/hold")
    hold.touch()
    wait = f"while [ -e {hold} ]; do sleep 0.05; done; printf x"
    command = ["sh", "-c", on_re1(wait) + "cat"]
    try:
        with serving(lab, command, nodes=BOTH) as serves, Peer(lab) as peer:
            serves["re0"].await_log(": protected")
            peer.send(b"right")
            assert peer.receive() == b"right"
            lab.fail("re0", "power")
            serves["re1"].await_log("taken over, going on at byte 5")
            hold.unlink()
            with pytest.raises(ConnectionResetError):
                peer.receive()
            serves["re1"].await_log("it is not deterministic")
            assert "session_aborted" in [event["event"] for event in events(lab, "re1")]
    finally:
        hold.unlink(missing_ok=True)


def test_a_program_that_is_slower_over_there_goes_on_exactly(lab: Lab) -> None:
    command = ["sh", "-c", on_re1("sleep 2") + "exec tr a-z A-Z"]
    text = b"The quick brown fox jumps over the lazy dog.\n" * 40_000
    half = len(text) // 2
    with serving(lab, command, nodes=BOTH) as serves, Client(lab) as client:
        serves["re0"].await_log(": protected")
        heard = half - 100_000  # tr writes whole blocks
        assert client.exchange(text[:half], heard) == text.upper()[:heard]
        lab.fail("re0", "power")
        assert client.exchange(text[half:], hang_up=True) == text.upper()[heard:]
        assert client.status() == 0
        serves["re1"].await_log("taken over")


def test_stderr_is_logged_half_a_close_passed_on_and_connections_limited(lab: Lab) -> None:
    command = ["sh", "-c", "echo said; echo complaint >&2; exec 1>&-; sha256sum >&2"]
    options = ["--max-connections", "1"]
    with serving(lab, command, nodes=BOTH, options=options) as serves, Peer(lab) as peer:
        serves["re0"].await_log(": protected")
        assert peer.line() == "said"
        assert peer.receive() == b""  # the program has ended its output, and reads on
        with Peer(lab) as second:
            assert second.receive() == b""
        serves["re0"].await_log("connection refused: 1 are being served")
        for serve in serves.values():
            serve.await_log("stderr: complaint")
        peer.send(DATA[:1000])
        peer.sock.shutdown(socket.SHUT_WR)
        digest = hashlib.sha256(DATA[:1000]).hexdigest()
        # The session is over, and the standby's program may be stopped before it says that.
        serves["re0"].await_log(f"stderr: {digest}")
        serves["re0"].await_log("ended")
