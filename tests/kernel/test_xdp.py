"""Where XDP runs: in the driver, or in the stack where a driver does not take it."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from prl.bindings.programs import Kernel
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
        assert re.fullmatch(REFUSAL, made.xdp_refusal)
        (told,) = events.after(0, 10)
        assert (told.level, told.event) == ("warning", "xdp_mode")
        assert re.fullmatch(f"XDP runs in generic mode: {REFUSAL}", told.text)
    finally:
        place.call(made.close)
    assert [where(place, name) for name in BOTH] == [0, 0]


def test_a_driver_that_takes_it_is_used(place: Namespace) -> None:
    events = EventLog([].append)
    made = kernel(place, "lan0", mode="native", fallback="generic")
    try:
        place.call(lambda: xdp.attach(made, Choice("native", "generic", "as it suits", ""), events))
        assert (made.mode, made.xdp_refusal) == ("native", "")
        assert where(place, "lan0") == NATIVE
        assert [told.text for told in events.after(0, 10)] == [
            "XDP runs in native mode: as it suits"
        ]
    finally:
        place.call(made.close)


@pytest.mark.parametrize(
    ("trouble", "remedy"),
    [("", 'mode = "auto" takes generic XDP then'), ("generic: lost, too", "generic: lost, too")],
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
