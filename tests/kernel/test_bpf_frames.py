"""The programs that parse packets, against a reference, over generated frames (R1, R29, I4).

Each frame is given to the program that the kernel has loaded (BPF_PROG_TEST_RUN) and to the
reference of frames.py. A failure tells the seed, the number of the frame, and its bytes.
"""

import ctypes
import itertools
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.bench import tcx
from prl.bench.bpfcall import bpf
from prl.bench.errors import BenchError
from tests.kernel.bpf_lab import (
    ETH_IP6,
    ICMP6,
    NODE6,
    NODE_MAC,
    OBJECTS,
    PEER6,
    SERVICE6,
    UDP,
    ethernet,
    ipv6,
    neighbour,
)
from tests.kernel.frames import (
    ADVERT,
    FRAGMENT,
    STANDBY6,
    Flow,
    Frames,
    Node,
    Verdict,
    classify,
    egress,
    elsewhere,
    is_whole,
    table,
)

pytestmark = pytest.mark.needs("root", "bpf", "bpftool")

FRAMES = int(os.environ.get("PRL_FRAMES", "60000"))
"""How many frames each program gets."""
SEED = int(os.environ.get("PRL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
TEST_RUN = 10
LOOPBACK = 1
XDP = {1: "drop", 2: "pass", 4: "redirect"}
INGRESS = {2: "drop", 0xFFFFFFFF: "pass"}
"""TC_ACT_SHOT and TC_ACT_UNSPEC."""
TC = {0xFFFFFFFF: "pass", 7: "steal"}
"""TC_ACT_UNSPEC, and TC_ACT_REDIRECT: to no interface."""
FLAGS = {"active": lib.PRL_FLOW_ACTIVE, "open": lib.PRL_FLOW_OPEN, "shadow": lib.PRL_FLOW_SECONDARY}
COUNTED = (
    *("frames", "malformed", "tunnelled", "fragments", "icmp_quoted", "claims_foreign"),
    "redirect_failed",
)
OUT_BYTES = 4096
SKB_MARK_END = 12
"""Of struct __sk_buff."""
SHORT_MAX = 14 + 40
TABLE = table()


class Program:
    """One loaded program, to be run over frames as though they passed the loopback interface."""

    def __init__(self, program_id: int) -> None:
        self.fd = tcx.open_program(program_id)
        self.out = ctypes.create_string_buffer(OUT_BYTES)

    def run(self, frame: bytes, mark: int = 0) -> tuple[int, bytes]:
        """The action, and the frame with what was put in front of it; ``mark``: tc's alone."""
        data = ctypes.create_string_buffer(frame, len(frame))
        places = ctypes.addressof(data), ctypes.addressof(self.out)
        context = ctypes.create_string_buffer(struct.pack("=3I", 0, 0, mark), SKB_MARK_END)
        given = (SKB_MARK_END, 0, ctypes.addressof(context)) if mark else (0, 0, 0)
        attributes = bytearray(
            struct.pack("=4I2Q4IQ16x", self.fd, 0, len(frame), OUT_BYTES, *places, 1, 0, *given)
        )
        bpf(TEST_RUN, attributes, "BPF_PROG_TEST_RUN")
        result, _, size = struct.unpack_from("=3I", attributes, 4)
        return result, self.out.raw[:size]


def bpftool(*words: str) -> Any:
    done = subprocess.run(["bpftool", "-j", *words], capture_output=True, check=True)
    return json.loads(done.stdout or "null")


class Loaded:
    """The programs and tables of an instance; nothing is attached, and no device is touched.

    There is no AF_XDP socket, no queue and no hold device: what is captured, or held, fails in the
    last step, is dropped and counted.
    """

    def __init__(self, mode: int = lib.PRL_XDP_NATIVE) -> None:
        self.name = f"frames-{os.getpid()}-{mode}"
        self.texts = [ffi.new("char[]", text.encode()) for text in (str(OBJECTS), self.name)]
        error = ffi.new("char[]", lib.PRL_ERROR_BYTES)
        config = {
            "object_dir": self.texts[0],
            "instance": self.texts[1],
            "flows_max": 16,
            "mode": mode,
            "lifs": 1,
            "ifindex": [LOOPBACK],
            "stale_ns": 1 << 40,
        }
        self.kernel = lib.prl_kernel_open(ffi.new("struct prl_kernel_config *", config), error)
        assert self.kernel != ffi.NULL, ffi.string(error)
        self.node = lib.prl_kernel_node(self.kernel)
        self.node.heartbeat_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._enter("prl_lifs", struct.pack("=I", 0), struct.pack("=I6sH", LOOPBACK, NODE_MAC, 0))
        self._enter("prl_lif_of", struct.pack("=I", LOOPBACK), struct.pack("=I", 0))
        self.node.mac_bits = (1 << 64) - 1
        for addresses, state in (
            (TABLE.owned, lib.PRL_ADDR_OWNER),
            (TABLE.standby, lib.PRL_ADDR_STANDBY),
        ):
            for address in addresses:
                self._own(address, state)
        self.flows = [self._flow(flow) for flow in TABLE.flows]

    def close(self) -> None:
        lib.prl_kernel_close(self.kernel, 1)
        lib.prl_kernel_scrub(self.texts[1], 0, ffi.NULL)

    def _enter(self, table: str, key: bytes, value: bytes) -> None:
        """What attaching would."""
        path = f"/sys/fs/bpf/prl/{self.name}/{table}"
        bpftool("map", "update", "pinned", path, "key", *map(str, key), "value", *map(str, value))

    def _own(self, address: bytes, state: int) -> None:
        key = ffi.new("struct prl_addr_key *", {"ifindex": LOOPBACK, "addr": list(address)})
        value = ffi.new("struct prl_addr *", {"state": state})
        assert lib.prl_kernel_addr_set(self.kernel, key, value) == 0

    def _flow(self, flow: Flow) -> Any:
        key = ffi.new("struct prl_flow_key *", {"vlans": flow.vlans, "proto": flow.protocol})
        ffi.buffer(key.local)[:], ffi.buffer(key.remote)[:] = flow.local, flow.remote
        key.local_port, key.remote_port = map(socket.htons, flow.ports)
        state = lib.prl_kernel_flow(self.kernel, flow.slot)
        state.flags, state.out_committed = FLAGS[flow.what], TABLE.committed
        assert lib.prl_kernel_flow_add(self.kernel, key, 0x1000 + flow.slot, flow.slot) == 0
        return state

    def program(self, name: str) -> Program:
        """This instance's: others may have one of that name."""
        node = bpftool("map", "show", "pinned", f"/sys/fs/bpf/prl/{self.name}/prl_node")["id"]
        (found,) = [
            one["id"]
            for one in bpftool("prog", "show")
            if one.get("name") == name and node in one.get("map_ids", [])
        ]
        return Program(found)


@pytest.fixture(scope="module")
def loaded() -> Iterator[Loaded]:
    made = Loaded()
    yield made
    made.close()


def told(number: int, frame: bytes, what: object) -> str:
    return f"frame {number} of PRL_SEED={SEED}: {what}\n{frame.hex()}"


def over(frames: Frames) -> Iterator[tuple[int, bytes]]:
    sys.stdout.write(f"PRL_SEED={SEED}\n")
    for number, frame in enumerate(itertools.islice(frames, FRAMES)):
        yield number, frame if len(frame) > 14 else frame + b"\0"  # newer kernels run none without


@pytest.mark.parametrize(("name", "actions"), [("prl_classify", XDP), ("prl_ingress", INGRESS)])
def test_classify(loaded: Loaded, name: str, actions: dict[int, str]) -> None:
    """Both carriers judge alike; the one puts a packet's flow in front, the other marks it."""
    tried: Counter[str] = Counter()
    program = loaded.program(name)
    for number, frame in over(Frames(SEED)):
        expected = classify(TABLE, frame)
        before = {name: getattr(loaded.node, name) for name in COUNTED}
        try:
            result, out = program.run(frame)
        except BenchError:  # newer kernels give tc none that has not all of its network header
            assert name == "prl_ingress", told(number, frame, "refused")
            assert len(frame) < SHORT_MAX, told(number, frame, "refused")
            continue
        counted = {
            name: getattr(loaded.node, name) - was
            for name, was in before.items()
            if getattr(loaded.node, name) != was
        }
        action = (
            "redirect" if counted.pop("redirect_failed", 0) else actions.get(result, str(result))
        )
        found = (action, counted)
        assert found == (expected.action, expected.counted), told(number, frame, (found, expected))
        tried[expected.action] += 1
        tried.update(expected.counted.keys())
        if expected.flow is None:
            assert out == frame, told(number, frame, out.hex())
            continue
        tried[f"slot {expected.flow.slot}"] += 1
        meta = struct.pack("=II", 0x1000 + expected.flow.slot, expected.flow.slot)
        meta = meta if name == "prl_classify" else b""
        assert out == meta + frame, told(number, frame, out.hex())
        taken_by_the_datapath(number, frame, expected.flow, tried)
    wanted = {"pass", "drop", "redirect", "held", "not held", *COUNTED} - {"redirect_failed"}
    wanted |= {f"slot {flow.slot}" for flow in TABLE.flows if flow.what == "active"}
    assert wanted <= tried.keys(), tried


def test_a_mark_of_somebody_else_s_hides_nothing() -> None:
    """While there is no queue for what is mirrored, no mark says that a frame was judged."""
    loaded = Loaded(lib.PRL_XDP_MIRROR)
    try:
        program = loaded.program("prl_ingress")
        actions: Counter[str] = Counter()
        for number, frame in over(Frames(SEED)):
            if len(frame) < SHORT_MAX:
                continue
            found, marked = (INGRESS[program.run(frame, mark)[0]] for mark in (0, 7))
            assert found == marked, told(number, frame, (found, marked))
            actions[found] += 1
        assert {"pass", "drop"} <= actions.keys()
    finally:
        loaded.close()


def taken_by_the_datapath(number: int, frame: bytes, flow: Flow, tried: Counter[str]) -> None:
    """What is captured is held as the flow's own packet, or for none at all."""
    parsed, key = ffi.new("struct prl_packet *"), ffi.new("struct prl_flow_key *")
    error = lib.prl_packet_parse(frame, len(frame), len(frame), True, parsed)
    assert (error == 0) == is_whole(frame), told(number, frame, "the datapath sees another packet")
    tried["not held" if error else "held"] += 1
    if error:
        return
    l3 = ffi.from_buffer(frame[parsed.l2_bytes :])
    error = lib.prl_packet_flow_key(l3, parsed, 0, key)
    assert error == 0, told(number, frame, "the datapath does not know whose it is")
    ends = (bytes(key.local), socket.ntohs(key.local_port), key.proto, key.vlans)
    assert ends == (flow.local, flow.ports[0], flow.protocol, flow.vlans), told(number, frame, flow)
    if any(flow.remote):
        assert bytes(key.remote) == flow.remote
        assert socket.ntohs(key.remote_port) == flow.ports[1]


def compare_tc(
    loaded: Loaded, name: str, reference: Callable[[Any, bytes], Verdict]
) -> Counter[str]:
    """Run a program over what leaves; it changes nothing."""
    tried: Counter[str] = Counter()
    program = loaded.program(name)
    for number, frame in over(Frames(SEED, out=True)):
        for state in loaded.flows:
            state.out_valid = state.last_valid = 0  # each is the first that is sent
        expected, before = reference(TABLE, frame), loaded.node.redirect_failed
        try:
            result, out = program.run(frame)
        except BenchError:  # newer kernels run none that has not all of its network header
            assert len(frame) < SHORT_MAX, told(number, frame, "refused")
            continue
        action = TC.get(result, str(result))
        if action == "steal" and loaded.node.redirect_failed != before:
            action = "hold"
        assert action == expected.action, told(number, frame, (action, expected))
        assert out == frame, told(number, frame, out.hex())
        tried[action] += 1
    return tried


def test_egress(loaded: Loaded) -> None:
    tried = compare_tc(loaded, "prl_egress", egress)
    assert {"pass", "steal", "hold"} <= tried.keys(), tried


def test_silence(loaded: Loaded) -> None:
    tried = compare_tc(loaded, "prl_silence", elsewhere)
    assert {"pass", "steal"} <= tried.keys(), tried


def test_an_advertisement_of_a_stranger_that_shares_a_bit_is_stolen(loaded: Loaded) -> None:
    """Its source may be any service's, as far as a bit tells; what it says is about one that is."""
    anywhere = Node(TABLE.owned, TABLE.standby, (), ifindex=0)
    taken = {anywhere.bit(address) for address in TABLE.owned | TABLE.standby}
    first = int(IPv6Address("2001:db8:0:2::"))
    source = next(
        one
        for one in map(IPv6Address, range(first, first + (1 << 16)))
        if anywhere.bit(one.packed) in taken
    )
    program = loaded.program("prl_silence")
    for target, action in ((SERVICE6, "steal"), (STANDBY6, "steal"), (NODE6, "pass")):
        frame = ethernet(neighbour(ADVERT, target, source), ETH_IP6)
        assert elsewhere(TABLE, frame).action == action
        assert TC[program.run(frame)[0]] == action


def test_an_error_that_quotes_a_first_fragment_is_its_flow_s(loaded: Loaded) -> None:
    """A datagram that was too big for the way had been cut; the error quotes its first piece."""
    program = loaded.program("prl_classify")
    for fragment, action in ((0x0001, "redirect"), (0x0051, "pass")):
        cut = struct.pack("!BBHI", UDP, 0, fragment, 7) + struct.pack("!HHHH", 7000, 40001, 2000, 0)
        quoted = ipv6(cut, SERVICE6, PEER6, FRAGMENT)
        error = struct.pack("!BBHI", 2, 0, 0, 1280) + quoted
        frame = ethernet(ipv6(error, PEER6, SERVICE6, ICMP6), ETH_IP6)
        expected = classify(TABLE, frame)
        assert expected.action == action
        before = loaded.node.redirect_failed
        program.run(frame)
        assert loaded.node.redirect_failed - before == (action == "redirect")
        if expected.flow:
            taken_by_the_datapath(0, frame, expected.flow, Counter())
