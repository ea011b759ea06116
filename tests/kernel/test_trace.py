"""The USDT probes are in the datapath, and the tracing scripts find them in a running prld."""

import ast
import re
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

import prl
from prl.bindings.native import ffi, lib
from prl.demo.payload import Payload
from prl.lab import How, Lab
from prl.lab.netns import Namespace
from tests.kernel.bpf_lab import l4_sum
from tests.system import support
from tests.system.support import Applications

pytestmark = pytest.mark.kernel

TREE = Path(__file__).resolve().parent.parent.parent
PROBES = TREE / "userspace/io/probes.h"
ABI = TREE / "bpf" / "prl_abi.h"
TRACE = TREE / "bpf" / "trace"
SCRIPTS = ("holdlat", "flowlife", "takeover", "drops", "linkrtt")
NEEDS = ("root", "netns", "bpf", "af_xdp", "struct_ops", "bpftool", "bcc")
DEBIAN_PYTHON = "/usr/bin/python3"  # bcc is Debian's
SIZE_BYTES = 4 << 20
COMPILE_S = 240.0  # an emulated machine takes a minute
ROW = re.compile(r"^\s*\d+ -> \d+\s*: (\d+)\s*\|", re.MULTILINE)
WITH_TRACEFS = (
    *("unshare", "-m", "sh", "-c"),
    'mountpoint -q "$0" || mount -t tracefs tracefs "$0" && exec "$@"',
    "/sys/kernel/tracing",
)
"""The tracing file system may not be mounted here: mount it where nobody else sees it."""
OPTION = re.compile(r"^  (-\w|--[\w-]+)", re.MULTILINE)


def _extension() -> Path:
    (found,) = Path(prl.__file__).parent.glob("_core*.so")
    return found


def script(name: str) -> Path:
    return TRACE / f"{name}.py"


class Tracer:
    """A script that traces one prld, ready as soon as it says so."""

    def __init__(self, name: str, pid: int, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*WITH_TRACEFS, DEBIAN_PYTHON, "-u", str(script(name)), "-p", str(pid), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert "Tracing" in first, self.process.communicate(timeout=5)

    def await_line(self, words: str) -> str:
        """Read until a line has these words; a script that does not tell them in time is ended."""
        assert self.process.stdout is not None
        seen = []
        patience = threading.Timer(support.PATIENCE_S, self.process.kill)
        patience.start()
        try:
            for line in self.process.stdout:
                seen.append(line)
                if words in line:
                    return "".join(seen)
        finally:
            patience.cancel()
        raise AssertionError(f"{words!r} not in {seen}")

    def end(self) -> str:
        """Ctrl-C; returns the rest of what it shows."""
        self.process.send_signal(signal.SIGINT)
        shown, complaints = self.process.communicate(timeout=COMPILE_S)
        assert self.process.returncode == 0, complaints
        return shown


@contextmanager
def tracing(
    lab: Lab, name: str, node: str = "re0", options: Sequence[str] = ()
) -> Iterator[Tracer]:
    tracer = Tracer(name, lab.state.pid(lab.topology.member(node)), options)
    with tracer.process:
        try:
            yield tracer
        finally:
            tracer.process.kill()


def histograms(shown: str) -> dict[str, int]:
    """How much each titled histogram has counted."""
    parts = re.split(r"^(\w.*, .*|LEASE .*)$", shown, flags=re.MULTILINE)
    return {
        title: sum(map(int, ROW.findall(body)))
        for title, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_documented_probe_is_in_the_extension() -> None:
    documented = set(re.findall(r"^ \*     (\w+)\(", PROBES.read_text(), re.MULTILINE))
    assert "reinject" in documented
    notes = subprocess.run(
        ["readelf", "-n", str(_extension())], capture_output=True, text=True, check=True
    ).stdout
    found = set(re.findall(r"Provider: prl\n\s*Name: (\w+)", notes))
    assert found == documented


@pytest.mark.needs(*NEEDS)
def test_holdlat_and_linkrtt_show_how_long_packets_were_held_and_why() -> None:
    """On re0 while the peer talks to an echo there: input and output are both held."""
    with support.pair("f8t") as lab:
        apps = Applications(lab, "echo")
        with tracing(lab, "holdlat") as held, tracing(lab, "linkrtt") as round_trips:
            with apps.connect() as peer:
                peer.converse(Payload(SIZE_BYTES), 10_000)
                peer.finish()
            counts = histograms(held.end())
            assert set(counts) == {"input, received to reinjected", "output, held to released"}
            assert all(counts.values()), counts
            counts = histograms(round_trips.end())
            assert len(counts) == 3
            assert all(counts.values()), counts


@pytest.mark.needs(*NEEDS)
def test_flowlife_and_takeover_tell_a_failure_from_set_up_to_the_first_packet() -> None:
    with support.pair("f8t") as lab:
        apps = Applications(lab, "echo")
        with (
            tracing(lab, "flowlife", "re0") as primary,
            tracing(lab, "flowlife", "re1") as secondary,
            tracing(lab, "takeover", "re1") as standby,
            apps.connect() as peer,
        ):
            peer.converse(Payload(SIZE_BYTES), 10_000)
            peer.await_bytes(SIZE_BYTES // 2)
            steps = primary.await_line("primary   active")
            begun = max(map(steps.index, ("SETUP sent", "primary   setup")))  # in either order
            assert begun < steps.index("activ")
            lab.fail("re0", How.POWER)
            story = standby.await_line("taken over")
            peer.finish()
            steps = secondary.await_line("secondary owner")
            assert steps.index("SETUP received") < steps.index("shadow entered")
        service = support.service_address(4)
        order = ["take over", f"{service} owner", f"leaves  from {service}", "session owner"]
        places = [story.index(words) for words in order[:2]]
        assert places == sorted(places), story
        assert all(words in story for words in order), story
        assert "1 sessions go on here" in story


def segment_of(peer: support.Peer, words: int) -> bytes:
    """A pure ACK far outside every window, whose header claims to be so many words long."""
    source, target = IPv4Address(peer.sock.getsockname()[0]), support.service_address(4)
    header = struct.pack("!HHIIBBHHH", peer.port, support.PORT, 1, 1, words << 4, 0x10, 1024, 0, 0)
    checksum = l4_sum(source, IPv4Address(target), socket.IPPROTO_TCP, header)
    return header[:16] + struct.pack("!H", checksum) + header[18:]


@pytest.mark.needs(*NEEDS)
def test_drops_names_the_counter_of_what_prld_dropped_and_the_kernels_own_reason() -> None:
    """A segment that is longer than its packet is dropped by prld, one out of the window by TCP."""
    with support.pair("f8t") as lab:
        apps = Applications(lab, "echo")
        place = Namespace(lab.topology.peer.namespace)
        maps = Path("/sys/fs/bpf/prl") / lab.topology.instance(lab.topology.re0)
        with (
            tracing(lab, "drops", options=["-m", str(maps)]) as drops,
            apps.connect() as peer,
            place.call(
                lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
            ) as forger,
        ):
            (flow,) = support.flows(lab, "re0")
            for words in (15, 15, 15, 5):
                forger.sendto(segment_of(peer, words), (support.service_address(4), 0))
            peer.converse(Payload(10_000), 1_000)  # behind them, in order
            peer.finish()
            shown = drops.end()
    rows = [line.split() for line in shown.splitlines()[2:]]
    assert ["prld", "rx_malformed", f"{flow['handle']:#010x}", "3"] in rows, shown
    assert any(row[0] == "kernel" and "SEQUENCE" in row[1] for row in rows), shown


def constant(name: str, of: str) -> Any:
    """A constant of a script: it runs without prl, and has copies of prl's names."""
    for node in ast.parse(script(of).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f"{of} has no {name}")


def test_takeover_knows_the_states_of_an_address() -> None:
    names = ffi.typeof("enum prl_addr_state").elements
    known = [names[number].removeprefix("PRL_ADDR_").lower() for number in range(len(names))]
    assert list(constant("STATES", "takeover")) == known


NO_DROPS = {
    "prl_node": {
        *("frames", "icmp_quoted", "reentered"),
        *("claims_obeyed", "claims_replayed", "claims_foreign"),
        *("births", "births_late", "births_evicted"),  # sessions
        "strays",  # counted by gate_refused or elsewhere_silenced, too
    },
    "prl_flow": {
        *("in_redirected", "in_passed", "out_passed", "out_held_packets"),
        "out_duplicates",  # what is held already
    },
}
"""The counters of packets that went where they should."""


@pytest.mark.parametrize(
    ("structure", "name"), [("prl_node", "NODE_COUNTERS"), ("prl_flow", "FLOW_COUNTERS")]
)
def test_drops_knows_the_counters_of_drops(structure: str, name: str) -> None:
    whole = re.compile(rf"^struct {structure} {{$(.*?)^}};$", re.MULTILINE | re.DOTALL)
    (body,) = whole.findall(ABI.read_text())
    counters = set(re.findall(r"__u64\s+(\w+);", body.partition("/* counters, packets */")[2]))
    assert counters - {"shadow_stray_ns"} == {*constant(name, "drops")} | NO_DROPS[structure]


def test_drops_knows_the_release_mark() -> None:
    assert constant("MARK_RELEASE", "drops") == lib.PRL_MARK_RELEASE


@pytest.mark.needs("bcc")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_has_examples_and_a_manual_page_with_every_option(name: str) -> None:
    assert script(name).read_text().startswith(f"#!{DEBIAN_PYTHON}\n")
    shown = subprocess.run(
        [DEBIAN_PYTHON, str(script(name)), "-h"], capture_output=True, text=True, check=True
    ).stdout
    assert f"./{name}.py" in shown.partition("examples:")[2]
    page = script(name).with_suffix(".8").read_text().replace("\\-", "-")
    sections = ["NAME", "SYNOPSIS", "DESCRIPTION", "REQUIREMENTS", "OPTIONS", "EXAMPLES"]
    sections += ["FIELDS", "OVERHEAD", "SEE ALSO"]
    assert re.findall(r"^\.SH (.*)$", page, re.MULTILINE) == sections
    for option in OPTION.findall(shown):
        assert re.search(rf"^{option}\b", page, re.MULTILINE), option


@pytest.mark.needs("bcc")
def test_every_script_is_tested_here() -> None:
    assert {path.stem for path in TRACE.glob("*.py")} == {*SCRIPTS, "prltrace"}
    assert {path.stem for path in TRACE.glob("*.8")} == set(SCRIPTS)


@pytest.mark.needs(*NEEDS)
def test_a_script_finds_prlds_without_what_they_have_forked() -> None:
    """A sentinel has its prld's command line. With several prlds it says which there are."""
    with support.pair("whotrace") as lab:
        done = subprocess.run(
            [*WITH_TRACEFS, DEBIAN_PYTHON, str(script("holdlat"))],
            capture_output=True,
            text=True,
            timeout=COMPILE_S,
            check=False,
        )
        ours = {lab.state.pid(node) for node in lab.topology.nodes}
        children = {
            int(child)
            for pid in ours
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        }
    named = re.fullmatch(r".*several prlds run here \(([\d, ]+)\).*\n", done.stderr)
    assert named is not None, done.stderr
    found = {int(pid) for pid in named[1].split(", ")}
    assert children
    assert ours <= found
    assert not found & children


@pytest.mark.needs("root", "bcc")
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_wants_a_process_that_is_there(name: str) -> None:
    more = ["-m", "/"] if name == "drops" else []
    done = subprocess.run(
        [*WITH_TRACEFS, DEBIAN_PYTHON, str(script(name)), "-p", "99999999", *more],
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
