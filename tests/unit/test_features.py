"""Where XDP should run: from the kernel, the drivers and their offloads, which are faked here."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from prl.config import Config, load
from prl.daemon.host import xdp
from prl.daemon.host.xdp import Choice, choose
from prl.doctor.finding import Verdict
from prl.doctor.interfaces import _mode
from prl.errors import KernelError
from prl.kernel import features
from prl.kernel.features import Offload, best_mode, no_generic

NO_QUEUE = "NFQUEUE: Protocol not supported"
EITHER = pytest.mark.parametrize("no_queue", ["", NO_QUEUE])
ON, OFF, FOREVER = Offload(True, False), Offload(False, False), Offload(True, True)


@dataclass
class Nic:
    driver: str
    mtu: int = 1500
    offloads: dict[str, Offload] = field(default_factory=dict)


Host = Callable[..., None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Say which kernel this is, and which interfaces there are."""

    def be(*, multi_buffer: bool, **nics: Nic) -> None:
        monkeypatch.setattr(features, "in_btf", lambda _: multi_buffer)
        monkeypatch.setattr(features, "driver", lambda name: nics[name].driver)
        monkeypatch.setattr(features, "mtu", lambda name: nics[name].mtu)
        monkeypatch.setattr(features, "offloads", lambda name: nics[name].offloads)

    return be


@pytest.mark.parametrize("multi_buffer", [True, False])
@pytest.mark.parametrize("driver", ["e1000e", "ixgbe", "tun", ""])
def test_a_nic_is_asked_for_native_xdp_first(host: Host, driver: str, multi_buffer: bool) -> None:
    host(multi_buffer=multi_buffer, eth0=Nic(driver))
    assert [best_mode(["eth0"], why)[0] for why in ("", NO_QUEUE)] == ["native", "native"]


@EITHER
def test_veth_hands_over_whole_packets_to_what_takes_them(host: Host, no_queue: str) -> None:
    host(multi_buffer=True, lan0=Nic("veth"), eth0=Nic("ixgbe"))
    assert best_mode(["eth0", "lan0"], no_queue) == (
        "generic" if no_queue else "kernel",
        "lan0 (veth) hands over whole TSO packets, native XDP cuts them",
    )
    host(multi_buffer=False, lan0=Nic("veth"))
    assert best_mode(["lan0"], no_queue)[0] == ("native" if no_queue else "kernel")


@pytest.mark.parametrize("multi_buffer", [True, False])
def test_virtio_hands_over_whole_packets_unless_xdp_is_on_it(
    host: Host, multi_buffer: bool
) -> None:
    host(multi_buffer=multi_buffer, eth0=Nic("ixgbe"), eth1=Nic("virtio_net"))
    why = "eth1 (virtio_net) hands over whole packets, single frames with XDP"
    assert best_mode(["eth0", "eth1"], "") == ("kernel", why)
    assert best_mode(["eth0", "eth1"], NO_QUEUE)[0] == "native"


@pytest.mark.parametrize("driver", sorted(features.NO_NATIVE))
def test_an_interface_on_top_of_another_has_no_native_xdp(host: Host, driver: str) -> None:
    host(multi_buffer=True, eth0=Nic("ixgbe"), top=Nic(driver))
    why = f"top ({driver}) has no native XDP"
    assert best_mode(["eth0", "top"], NO_QUEUE) == ("generic", why)
    assert best_mode(["eth0", "top"], "") == ("kernel", why)
    assert no_generic(["top"]) == ""
    host(multi_buffer=False, eth0=Nic("ixgbe"), top=Nic(driver))
    assert best_mode(["eth0", "top"], "") == ("kernel", why)
    assert "gathered" in no_generic(["top"])


def test_what_is_longer_than_a_frame_needs_a_kernel_that_takes_it(host: Host) -> None:
    gathers = Nic("e1000e", offloads={"rx-gro": ON, "rx-lro": OFF})
    host(multi_buffer=True, eth0=gathers)
    assert no_generic(["eth0"]) == ""
    host(multi_buffer=False, eth0=gathers)
    assert "`ethtool -K eth0 gro off lro off`" in no_generic(["eth0"])
    host(multi_buffer=False, eth0=Nic("e1000e", offloads={"rx-gro": OFF, "rx-lro": ON}))
    assert "`ethtool -K eth0 gro off lro off`" in no_generic(["eth0"])
    host(multi_buffer=False, eth0=Nic("e1000e", offloads={"rx-gro": OFF, "rx-lro": OFF}))
    assert no_generic(["eth0"]) == ""


def test_what_the_host_of_a_virtual_machine_gathers_counts_if_it_stays(host: Host) -> None:
    quiet = {"rx-gro": OFF, "rx-lro": OFF}
    host(multi_buffer=False, eth0=Nic("virtio_net", offloads=quiet | {"rx-gro-hw": ON}))
    assert no_generic(["eth0"]) == ""  # attaching generic XDP switches it off
    host(multi_buffer=False, eth0=Nic("virtio_net", offloads=quiet | {"rx-gro-hw": FOREVER}))
    assert "switched off" in no_generic(["eth0"])


def test_long_frames_and_veth_are_told_what_to_do(host: Host) -> None:
    host(multi_buffer=False, eth0=Nic("e1000e", mtu=9000), lan0=Nic("veth"))
    assert f"`ip link set eth0 mtu {features.FRAME_MTU_MAX}`" in no_generic(["eth0"])
    assert 'mode = "kernel" or "native"' in no_generic(["lan0"])


CONFIG = """
node = "re0"
instance = "t"
index = 0
socket = "/run/prl/t.sock"
mode = "{mode}"
[lan]
interface = "eth0"
address = "192.0.2.10"
peer_address = "192.0.2.11"
[link]
interface = "link0"
local = "198.51.100.10"
remote = "198.51.100.11"
[[service]]
name = "web"
addresses = ["192.0.2.100"]
owner = "re0"
"""
GATHERS = {"rx-gro": ON}


def config(tmp_path: Path, mode: str) -> Config:
    path = tmp_path / f"{mode}.toml"
    path.write_text(CONFIG.format(mode=mode))
    return load(path)


def with_queues(monkeypatch: pytest.MonkeyPatch, no_queue: str) -> None:
    monkeypatch.setattr(xdp, "queue_refusal", lambda: no_queue)


def test_prld_falls_back_only_where_nothing_is_lost_and_only_by_itself(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_queues(monkeypatch, NO_QUEUE)
    host(multi_buffer=True, eth0=Nic("e1000e", offloads=GATHERS))
    chosen = choose(config(tmp_path, "auto"))
    assert (chosen.mode, chosen.fallback, chosen.no_queue) == ("native", "generic", NO_QUEUE)
    assert choose(config(tmp_path, "native")) == Choice("native", None, "", "")
    assert choose(config(tmp_path, "generic")) == Choice("generic", None, "", "")
    host(multi_buffer=False, eth0=Nic("e1000e", offloads=GATHERS))
    chosen = choose(config(tmp_path, "auto"))
    assert (chosen.mode, chosen.fallback) == ("native", None)
    assert "ethtool -K eth0 gro off lro off" in chosen.no_generic
    with pytest.raises(KernelError, match="ethtool -K eth0 gro off lro off"):
        choose(config(tmp_path, "generic"))


@pytest.mark.parametrize("multi_buffer", [True, False])
def test_what_prld_falls_back_to_where_packets_can_wait_in_the_kernel(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multi_buffer: bool
) -> None:
    with_queues(monkeypatch, "")
    host(multi_buffer=multi_buffer, eth0=Nic("e1000e", offloads=GATHERS))
    chosen = choose(config(tmp_path, "auto"))
    assert (chosen.mode, chosen.fallback) == ("native", "kernel")
    host(multi_buffer=multi_buffer, eth0=Nic("bridge"))
    chosen = choose(config(tmp_path, "auto"))
    assert (chosen.mode, chosen.fallback) == ("kernel", "generic" if multi_buffer else None)
    with_queues(monkeypatch, NO_QUEUE)
    if multi_buffer:
        assert choose(config(tmp_path, "auto")).mode == "generic"
        return
    with pytest.raises(KernelError, match=f"has gathered; .*; {NO_QUEUE}"):
        choose(config(tmp_path, "auto"))


def test_what_was_asked_for_by_name_is_not_looked_into(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_queues(monkeypatch, NO_QUEUE)
    host(multi_buffer=True, eth0=Nic("veth"))
    for mode in ("native", "generic", "kernel"):
        assert choose(config(tmp_path, mode)) == Choice(mode, None, "", "")


@pytest.mark.parametrize("driver", ["bonding", "team", "bridge"])
def test_native_xdp_that_would_capture_nothing_is_refused_by_prld_and_doctor(
    host: Host, tmp_path: Path, driver: str
) -> None:
    """A bond takes the program and has its ports run it, as whose frames they are not protected."""
    host(multi_buffer=True, eth0=Nic(driver))
    refusal = f"eth0 ({driver}) has no native XDP"
    with pytest.raises(KernelError) as raised:
        choose(config(tmp_path, "native"))
    assert str(raised.value) == f"{refusal}; {features.INSTEAD_OF_NATIVE}"
    found = _mode(config(tmp_path, "native"), ["eth0"], "")
    assert (found.verdict, found.found) == (Verdict.MISSING, refusal)
    assert found.remedy == features.INSTEAD_OF_NATIVE
    for mode in ("auto", "kernel", "generic"):
        assert _mode(config(tmp_path, mode), ["eth0"], "").verdict == Verdict.OK


def test_doctor_says_what_prld_does(host: Host, tmp_path: Path) -> None:
    host(multi_buffer=True, eth0=Nic("e1000e", offloads=GATHERS))
    for mode in ("auto", "native", "generic", "kernel"):
        assert _mode(config(tmp_path, mode), ["eth0"], "").verdict == Verdict.OK
    assert "if it refuses: kernel" in _mode(config(tmp_path, "auto"), ["eth0"], "").found
    found = _mode(config(tmp_path, "auto"), ["eth0"], NO_QUEUE)
    assert (found.verdict, "modprobe" in found.paste) == (Verdict.NOTE, True)
    assert found.found.endswith(f"if it refuses: generic ({NO_QUEUE})")
    assert _mode(config(tmp_path, "kernel"), ["eth0"], NO_QUEUE).verdict == Verdict.MISSING
    assert _mode(config(tmp_path, "generic"), ["eth0"], NO_QUEUE).verdict == Verdict.OK
    host(multi_buffer=False, eth0=Nic("e1000e", offloads=GATHERS))
    assert "gro off lro off" in _mode(config(tmp_path, "auto"), ["eth0"], NO_QUEUE).found
    found = _mode(config(tmp_path, "generic"), ["eth0"], "")
    assert (found.verdict, found.paste) == (Verdict.MISSING, "ethtool -K eth0 gro off lro off")


def test_offloads_and_mtu_are_those_that_the_kernel_tells() -> None:
    """The loopback device is one, for good, and no hardware gathers segments for it."""
    (name,) = [name for _, name in socket.if_nameindex() if name == "lo"]
    found = features.offloads(name)
    assert found["loopback"] == FOREVER
    assert found["rx-gro-hw"] == Offload(False, True)
    assert features.mtu(name) >= 65535
    assert features.offloads("no-such-device") == {}
    assert features.mtu("no-such-device") == 0
