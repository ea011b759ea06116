"""Where XDP runs when the configuration leaves it open, and on which CPUs the datapath does.

Checks R24.
"""

import platform
import re

import pytest

from prl.daemon.node import place
from prl.errors import KernelError
from prl.kernel.features import xdp_mode
from prl.lab.netns import Namespace
from tests.system import support
from tests.system.support import Applications

pytestmark = [
    pytest.mark.system,
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops"),
]

WHOLE_PACKETS_SINCE = 6, 6
"""AF_XDP takes packets of several frames, and veth hands over whole ones to generic XDP alone."""
KERNEL = tuple(int(number) for number in re.findall(r"\d+", platform.release())[:2])


def test_whole_packets_are_taken_where_the_driver_has_them() -> None:
    with support.pair("auto", mode="auto") as lab:
        node = Namespace(lab.topology.re0.namespace)
        mode, why = node.call(lambda: xdp_mode(["lan0"]))
        assert mode == ("generic" if KERNEL >= WHOLE_PACKETS_SINCE else "native"), why
        assert support.status(lab, "re0")["mode"] == mode
        told = [e["text"] for e in support.events(lab, "re0") if e["event"] == "xdp_mode"]
        assert told == [f"XDP runs in {mode} mode: {why}"]
        apps = Applications(lab, "obey")
        with apps.connect() as peer:
            assert peer.ask("protected") == "protected"


def test_a_cpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(KernelError, match=r"datapath.cpus \[8191\].*prld may use \[0"):
        place([8191])
