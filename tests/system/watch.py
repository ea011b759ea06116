"""A conversation that is timed, and a switch that notes who speaks for the service addresses."""

import itertools
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from prl.daemon.ownership.probe import probe_frame
from prl.lab import Lab
from prl.lab.cables import LanCable
from tests.system import support
from tests.system.support import PATIENCE_S, Peer

BETWEEN_S = 0.01


class Talk:
    """The peer asks again and again, each question once the last one was answered."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self.answers = 0
        self.longest_s = 0.0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.go_on(3)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        try:
            while not self._stop.wait(BETWEEN_S):
                began = time.monotonic()
                assert self._peer.ask(f"{self.answers}") == f"{self.answers}"
                with self._changed:
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.answers += 1
                    self._changed.notify_all()
        except (OSError, AssertionError) as error:
            with self._changed:
                self.error = error
                self._changed.notify_all()

    def go_on(self, answers: int = 10) -> None:
        """Wait for so many more answers."""
        with self._changed:
            wanted = self.answers + answers
            done = self._changed.wait_for(lambda: self.error or self.answers >= wanted, PATIENCE_S)
        assert self.error is None, repr(self.error)
        assert done, "the conversation hangs"


class Watch:
    """What each node said for the service addresses, as the switch received it."""

    def __init__(self, lab: Lab, pcaps: dict[str, Path]) -> None:
        self._lab, self._pcaps = lab, pcaps

    def runs(self) -> list[str]:
        """The nodes that spoke, in order; a node twice in a row counts once."""
        service = self._lab.topology.service
        speaks = (
            f"src host {service.ipv4} or arp src host {service.ipv4} or src host {service.ipv6} or "
            f"(icmp6 and ip6[40] == 136 and ip6[48:4] == 0x{service.ipv6.packed[:4].hex()} and "
            f"ip6[60:4] == 0x{service.ipv6.packed[12:].hex()})"
        )
        said = [
            (float(line.split()[0]), node)
            for node, pcap in self._pcaps.items()
            for line in support.captured(pcap, 0, [speaks])
            if re.match(r"\d+\.", line)
        ]
        return [node for node, _ in itertools.groupby(node for _, node in sorted(said))]


@contextmanager
def watch(lab: Lab, folder: Path) -> Iterator[Watch]:
    """Capture what both nodes send, at their switch ports."""
    pcaps = {node.name: folder / f"{node.name}.pcap" for node in lab.topology.nodes}
    with ExitStack() as stack:
        for node in lab.topology.nodes:
            own = f"ether src {node.lan.mac}"
            stack.enter_context(support.capture(lab, node.port, pcaps[node.name], own))
        yield Watch(lab, pcaps)


def mend_lan_alone(lab: Lab, node: str) -> None:
    """The LAN's cable of a node is back, its link is not."""
    with LanCable(lab.topology, lab.topology.member(node)) as lan:
        lan.mend()


def ask_who_has(lab: Lab) -> None:
    """The peer asks the whole LAN for the service addresses."""
    peer, service = lab.topology.peer, lab.topology.service
    mac = bytes.fromhex(peer.lan.mac.replace(":", ""))
    frames = [probe_frame(mac, ip_address(a)) for a in (service.ipv4, service.ipv6)]
    support.send_frames(lab, "peer", frames)
