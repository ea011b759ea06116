"""`prlctl serve`: unchanged programs whose connections outlive their host (R20)."""

import hashlib
import os
import signal
import subprocess
import threading

import pytest

from prl.demo.payload import Payload
from prl.lab import Lab, processes
from prl.lab.netns import Namespace
from tests.system.serving import PORT, Client, serving

pytestmark = pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat")

BOTH = ("re0", "re1")
DATA = b"".join(bytes(Payload(24 << 20).at(offset)) for offset in range(0, 24 << 20, 1 << 20))
HALF = len(DATA) // 2


@pytest.mark.parametrize("address", ["192.0.2.100", "[2001:db8:0:1::100]"])
def test_the_power_goes_in_mid_stream_and_the_digest_is_right(lab: Lab, address: str) -> None:
    with (
        serving(lab, ["sha256sum"], address=address, nodes=BOTH) as serves,
        Client(lab, address) as client,
    ):
        client.send(DATA[:HALF])
        serves["re0"].await_log("protected")
        lab.fail("re0", "power")
        client.send(DATA[HALF:])
        client.hang_up()
        assert client.receive() == f"{hashlib.sha256(DATA).hexdigest()}  -\n".encode()
        assert client.status() == 0
        serves["re1"].await_log("taken over, going on at byte 0")


def test_both_directions_go_on_at_the_right_byte(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
        sender = threading.Thread(target=_send_all, args=(client,))
        sender.start()
        head = client.receive(HALF)
        serves["re0"].await_log("protected")
        lab.fail("re0", "power")
        tail = client.receive()
        sender.join()
        assert head + tail == DATA
        assert client.status() == 0
        serves["re1"].await_log("taken over")


def test_output_larger_than_what_the_standby_may_hold(lab: Lab) -> None:
    numbers = 12_000_000  # 99 MB
    with (
        serving(lab, ["seq", str(numbers)], nodes=BOTH) as serves,
        Client(lab, listens_only=True) as client,
    ):
        digest = hashlib.sha256(client.receive(80 << 20))
        lab.fail("re0", "power")
        digest.update(client.receive())
        assert client.status() == 0
        serves["re1"].await_log("taken over")
    made = subprocess.run(["seq", str(numbers)], capture_output=True, check=True).stdout
    assert digest.hexdigest() == hashlib.sha256(made).hexdigest()


def test_the_death_of_the_program_alone_is_no_end(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
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
        client.send(DATA[:1000])
        assert client.receive(1000) == DATA[:1000]
        lab.fail("re0", "kill-app")
        client.send(DATA[1000:3000])
        assert client.receive(2000) == DATA[1000:3000]
        serves["re1"].await_log("taken over")


def test_a_deliberate_end_is_the_end_on_both_nodes(lab: Lab) -> None:
    with serving(lab, ["echo", "hello"], nodes=BOTH) as serves:
        for _ in range(3):
            with Client(lab, listens_only=True) as client:
                assert client.receive() == b"hello\n"
                assert client.status() == 0
        serves["re0"].await_log("ended")
        serves["re1"].await_log("not needed any more")
        assert not any("taken over" in line for line in serves["re1"].log)


def test_without_the_other_node_it_serves_unprotected_and_says_so(lab: Lab) -> None:
    with serving(lab, ["sha256sum"], nodes=["re0"]) as serves, Client(lab) as client:
        client.send(DATA)
        client.hang_up()
        assert client.receive() == f"{hashlib.sha256(DATA).hexdigest()}  -\n".encode()
        serves["re0"].await_log("not protected: no application waits")


def test_sigterm_ends_serve_and_leaves_its_sessions_to_the_other_node(lab: Lab) -> None:
    with serving(lab, ["cat"], nodes=BOTH) as serves, Client(lab) as client:
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


def _send_all(client: Client) -> None:
    client.send(DATA)
    client.hang_up()


def _programs(lab: Lab, node: str, name: str) -> list[int]:
    place = Namespace(lab.topology.node(node).namespace)
    return [pid for pid in processes.pids_in(place) if _name(pid) == name]


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:  # noqa: PTH123
            return file.read().strip()
    except FileNotFoundError:
        return ""
