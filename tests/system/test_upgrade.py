"""A pair is upgraded from the last release, one node after the other, under live sessions (R14)."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from prl import __version__
from prl.lab import Lab
from tests import previous_build
from tests.link_capture import await_link, start
from tests.previous_build import running
from tests.probes import long_packets, nfqueue
from tests.system import support
from tests.system.serving import PATIENCE_S, Client, Serve, lab_name
from tests.system.support import eventually

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),  # the last release is built
    pytest.mark.needs("root", "netns", "bpf", "af_xdp", "struct_ops", "socat", "released"),
]

NODES = ("re0", "re1")
ADDRESSES = ("192.0.2.100", "[2001:db8:0:1::100]")
LINE = bytes(range(256)) * 64


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return previous_build.make(tmp_path_factory.mktemp("old"))


@pytest.fixture
def bare(mode: str) -> Iterator[Lab]:
    lab = Lab(lab_name("upgrade"))
    lab.up("auto" if mode == "mirror" else mode, start_prld=False)  # the last release lacks it
    try:
        yield lab
    finally:
        lab.down()


def secrecy(lab: Lab, node: str, line: str | None) -> None:
    """What the node's [link] says of TLS: ``line``; None: the lab's pair key is used."""
    path = lab.state.config(lab.topology.node(node))
    lines = path.read_text().splitlines()
    lines = [one for one in lines if one.split(" = ")[0] not in {"key", "plain"}]
    line = f'key = "{lab.state.link_key}"' if line is None else line
    lines.insert(lines.index("[link]") + 1, line)
    path.write_text("\n".join(lines))


def start_in_clear(lab: Lab) -> None:
    """As the last release does, which does not know otherwise."""
    for node in NODES:
        secrecy(lab, node, "")
    start(lab)
    await_link(lab)


def are_in_clear(lab: Lab) -> list[bool]:
    return [support.status(lab, node)["link"]["plain"] for node in NODES]


def ask_for(lab: Lab, node: str, mode: str) -> None:
    path = lab.state.config(lab.topology.node(node))
    path.write_text(path.read_text().replace('mode = "auto"', f'mode = "{mode}"'))


def replace(lab: Lab, node: str) -> None:
    """As the package's postinst does: the prld that runs stops, the new one starts."""
    member = lab.topology.node(node)
    pid = lab.state.pid(member)
    assert pid is not None
    with os.fdopen(os.pidfd_open(pid)) as ended:
        os.kill(pid, signal.SIGTERM)
        assert select.select([ended], [], [], PATIENCE_S)[0]
    lab._start_prld(member)


def is_safe(lab: Lab, node: str) -> bool:
    facts = support.status(lab, node)
    flows = facts["flows"]
    return bool(
        facts["switchover_safe"] and flows["active"] == len(ADDRESSES) and not flows["unprotected"]
    )


def carriers_of(mode: str) -> tuple[str, str]:
    """What the last release takes on veth, which lacks ``mirror``, and this one."""
    if mode == "native":
        return mode, mode
    before = "generic" if long_packets() else "native"
    auto = "kernel" if nfqueue() else before
    return before, auto if mode == "auto" else mode


def tells_of_the_cable(lab: Lab, mode: str, told: str, *nodes: str) -> None:
    """Where nodes are to mirror, each of these has said whether long packets go by the cable."""
    for node in nodes if mode == "mirror" else ():
        eventually(f"{node}: {told}", lambda n=node: support.told(lab, n, told))  # type: ignore[misc]
        assert support.status(lab, node)["mirror"]["on"] == (told == "mirror_on")


def joined(lab: Lab) -> int:
    """Packets whose payload came from kernel to kernel, on either node."""
    return sum(support.stats(lab, node)["datapath"]["mirror_fed"] for node in NODES)


def owner(lab: Lab, *nodes: str) -> str:
    (found,) = [n for n in nodes if support.status(lab, n)["services"][0]["state"] == "owner"]
    return found


@pytest.mark.parametrize(
    ("dies", "mode"),
    [
        ("half way", "native"),
        ("at the end", "native"),
        ("half way", "auto"),
        ("at the end", "auto"),
        pytest.param("half way", "mirror", marks=pytest.mark.needs("nfqueue")),
        pytest.param("at the end", "mirror", marks=pytest.mark.needs("nfqueue")),
    ],
)
@pytest.mark.parametrize("order", [("re1", "re0"), ("re0", "re1")], ids=["standby", "owner"])
def test_sessions_live_through_an_upgrade_of_both_nodes(
    bare: Lab, old: Path, order: tuple[str, str], dies: str, mode: str
) -> None:
    """With ``mode`` auto the last release takes generic XDP, and this one its own choice."""
    with ExitStack() as stack:
        with running(old):
            start_in_clear(bare)
            for address in ADDRESSES:
                for node in NODES:
                    stack.enter_context(Serve(bare, node, address))
        clients = [stack.enter_context(Client(bare, address)) for address in ADDRESSES]

        def go_on() -> None:
            for client in clients:
                assert client.exchange(LINE, len(LINE)) == LINE

        def are_safe() -> None:
            for node in NODES:
                eventually(f"{node} is safe", lambda n=node: is_safe(bare, n))  # type: ignore[misc]

        go_on()
        are_safe()
        assert "version" not in support.status(bare, "re0")
        carriers = carriers_of(mode)
        assert [support.status(bare, node)["mode"] for node in NODES] == [carriers[0]] * 2
        for number, node in enumerate(order):
            secrecy(bare, node, "plain = true")  # docs/link-security.md: before the upgrade
            ask_for(bare, node, mode)
            replace(bare, node)
            go_on()
            are_safe()
            tells_of_the_cable(bare, mode, "mirror_on" if number else "mirror_off", node)
            facts = support.status(bare, node)
            assert (facts["version"], facts["mode"]) == (__version__, carriers[1])
            if not number and dies == "half way":
                break
        else:
            assert are_in_clear(bare) == [True, True]
            for node in NODES:
                secrecy(bare, node, None)
                replace(bare, node)
                go_on()
            are_safe()
            assert are_in_clear(bare) == [False, False]
            tells_of_the_cable(bare, mode, "mirror_on", *NODES)
            go_on()
            go_on()  # the first long packet has its flow mirror the next one
            assert (joined(bare) > 0) == (mode == "mirror")
        owns = owner(bare, *NODES)
        bare.fail(owns, "power")
        go_on()
        (other,) = set(NODES) - {owns}
        assert owner(bare, other) == other
