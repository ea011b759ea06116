"""Where XDP runs: in the driver, or in the stack where a driver does not take it."""

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from prl.bench import tcx
from prl.bench.errors import BenchError
from prl.bindings.programs import Guard, Kernel
from prl.daemon.events.log import EventLog
from prl.daemon.host import xdp
from prl.daemon.host.xdp import Choice
from prl.errors import KernelError
from prl.kernel.features import Mode
from prl.lab.netns import Namespace

pytestmark = [pytest.mark.kernel, pytest.mark.needs("root", "netns", "bpf")]

BOTH = ("lan0", "br0")
REFUSAL = "cannot attach native XDP to br0: .*does not support XDP.*: Operation not supported"
NATIVE, GENERIC = 1, 2  # as `ip -d link` tells where a program is (linux/if_link.h, XDP_ATTACHED_…)


@pytest.fixture
def place() -> Iterator[Namespace]:
    """A host with a veth device, whose driver has native XDP, and a bridge, which has none."""
    made = Namespace(f"prl-xdp-{os.getpid()}")
    made.create()
    try:
        for line in ("link add lan0 type veth peer name far0", "link add br0 type bridge"):
            ip(made, *line.split())
        yield made
    finally:
        made.remove()


def ip(place: Namespace, *words: str) -> str:
    command = ["ip", "-n", place.name, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def where(place: Namespace, interface: str) -> int:
    (found,) = json.loads(ip(place, "-d", "-j", "link", "show", interface))
    return int(found.get("xdp", {}).get("mode", 0))


def qdiscs(place: Namespace) -> str:
    command = place.command(["tc", "qdisc"])
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def kernel(place: Namespace, *interfaces: str, mode: Mode, fallback: Mode | None = None) -> Kernel:
    def make() -> Kernel:
        return Kernel(
            instance=place.name,
            flows_max=16,
            mode=mode,
            fallback=fallback,
            lan_ifindexes=[socket.if_nametoindex(name) for name in interfaces],
            inject_ifindex=0,
            hold_ifindex=0,
            stale_ms=200,
        )

    return place.call(make)


def test_where_a_driver_has_no_native_xdp_all_run_in_the_stack(place: Namespace) -> None:
    events = EventLog([].append)
    made = kernel(place, "lan0", "br0", mode="native", fallback="generic")
    try:
        place.call(lambda: xdp.attach(made, Choice("native", "generic", "", ""), events))
        assert made.mode == "generic"
        assert [where(place, name) for name in BOTH] == [GENERIC, GENERIC]
        assert re.fullmatch(REFUSAL, made.mode_because)
        (told,) = events.after(0, 10)
        assert (told.level, told.event) == ("warning", "xdp_mode")
        assert re.fullmatch(f"XDP runs in generic mode: {REFUSAL}", told.text)
    finally:
        place.call(made.close)
    assert [where(place, name) for name in BOTH] == [0, 0]


@pytest.mark.needs("nfqueue")
def test_where_a_driver_has_no_native_xdp_packets_wait_in_the_kernel(place: Namespace) -> None:
    events = EventLog([].append)
    made = kernel(place, "lan0", "br0", mode="native", fallback="kernel")
    try:
        place.call(lambda: xdp.attach(made, Choice("native", "kernel", "", ""), events))
        assert made.mode == "kernel"
        assert [where(place, name) for name in BOTH] == [0, 0]
        assert re.fullmatch(REFUSAL, made.mode_because)
        (told,) = events.after(0, 10)
        words = rf"no XDP: input waits in the kernel \(NFQUEUE\): {REFUSAL}"
        assert told.level == "info"
        assert re.fullmatch(words, told.text)
    finally:
        place.call(made.close)


def test_that_packets_cannot_wait_in_the_kernel_is_said(place: Namespace) -> None:
    events = EventLog([].append)
    made = kernel(place, "lan0", mode="generic")
    try:
        chosen = Choice("generic", None, "as it suits", "", "no queues here")
        place.call(lambda: xdp.attach(made, chosen, events))
        (told,) = events.after(0, 10)
        assert (told.level, told.text) == ("warning", "XDP runs in generic mode: no queues here")
        assert made.mode_because == "no queues here"
    finally:
        place.call(made.close)


def test_a_driver_that_takes_it_is_used(place: Namespace) -> None:
    events = EventLog([].append)
    made = kernel(place, "lan0", mode="native", fallback="generic")
    try:
        place.call(lambda: xdp.attach(made, Choice("native", "generic", "as it suits", ""), events))
        assert (made.mode, made.mode_because) == ("native", "")
        assert where(place, "lan0") == NATIVE
        assert [told.text for told in events.after(0, 10)] == [
            "XDP runs in native mode: as it suits"
        ]
    finally:
        place.call(made.close)


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [("", ".*, or generic XDP$"), ("generic: lost, too", ".*; generic: lost, too$")],
)
def test_native_xdp_alone_is_refused_with_the_kernel_s_words_and_a_remedy(
    place: Namespace, trouble: str, remedy: str
) -> None:
    made = kernel(place, "lan0", "br0", mode="native")
    try:
        with pytest.raises(KernelError, match=f"{REFUSAL}; {remedy}"):
            place.call(lambda: xdp.attach(made, Choice("native", None, "", trouble), EventLog()))
        assert [where(place, name) for name in BOTH] == [0, 0]
        assert "clsact" not in qdiscs(place)
    finally:
        place.call(made.close)


def ingress(place: Namespace, interface: str) -> list[str]:
    """Which programs judge what comes in, first to last."""
    found = place.call(lambda: tcx.programs(socket.if_nametoindex(interface), tcx.INGRESS))
    return [tcx.name(one) for one in found or []]


def some_program(name: str) -> int:
    """A descriptor of a program of this name; those of other labs may just be going."""
    done = subprocess.run(["bpftool", "-j", "prog", "show"], check=True, capture_output=True)
    for one in json.loads(done.stdout):
        with contextlib.suppress(BenchError):
            if one.get("name") == name:
                return tcx.open_program(int(one["id"]))
    raise AssertionError(name)


def attached(place: Namespace, mode: Mode) -> Kernel:
    made = kernel(place, "lan0", mode=mode)
    place.call(lambda: xdp.attach(made, Choice(mode, None, "", ""), EventLog()))
    assert made.mode == mode
    return made


@pytest.mark.needs("tcx")
def test_a_prld_with_the_other_carrier_takes_over_from_a_dead_one(place: Namespace) -> None:
    for mode, xdp_there, tc_there in (
        ("native", NATIVE, []),
        ("kernel", 0, ["prl_ingress"]),
        ("generic", GENERIC, []),
        ("kernel", 0, ["prl_ingress"]),
    ):
        made = attached(place, mode)
        assert (where(place, "lan0"), ingress(place, "lan0")) == (xdp_there, tc_there)
        place.call(lambda made=made: made.close(keep_silence=True))
    made = attached(place, "kernel")
    place.call(made.close)
    assert (where(place, "lan0"), ingress(place, "lan0")) == (0, [])


@pytest.mark.needs("tcx")
def test_what_captures_is_first_in_line_on_what_comes_in(place: Namespace) -> None:
    made = attached(place, "kernel")
    try:
        lan = place.call(lambda: socket.if_nametoindex("lan0"))
        foreign = some_program("prl_pick")  # it ends the list
        try:
            place.call(lambda: tcx.put_first(lan, foreign, tcx.INGRESS))
            assert ingress(place, "lan0") == ["prl_pick", "prl_ingress"]
            guard, words = place.call(lambda: made.guard(lan))
            assert (guard, words.partition(" (")[0]) == (Guard.PASSED_BY, "tcx program prl_pick")
            assert ingress(place, "lan0") == ["prl_ingress", "prl_pick"]
            assert place.call(lambda: made.guard(lan)) == (Guard.KEPT, "")
        finally:
            os.close(foreign)
    finally:
        place.call(made.close)
