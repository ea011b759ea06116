"""A flow of packets from the peer through our router and back: how long it is interrupted.

The peer sends to an address that it announces itself, by way of the service address; the router
has learnt by BGP where that is, and its kernel sends the packets back. So one cable shows whether
the routes work, whoever owns the service.
"""

import argparse
import json
import select
import socket
import subprocess
import sys
import threading
from ipaddress import ip_address
from typing import Any

from prl.demo.pauses import Gaps, boottime_ns
from prl.demo.player import DemoError
from prl.endpoint import Address
from prl.lab import Lab
from prl.lab.netns import Namespace
from prl.lab.topology import LAN_INTERFACE

PORT = 7009
INTERVAL_S = 0.001
HOPS = 2
"""To the router and back: a packet that nobody takes does not go round."""
TABLE = "77"
START_TIMEOUT_S = END_TIMEOUT_S = 10.0
_PEER_SYSCTLS: dict[str, int | str] = {
    "net/ipv4/conf/all/rp_filter": 0,
    f"net/ipv4/conf/{LAN_INTERFACE}/rp_filter": 0,
    f"net/ipv4/conf/{LAN_INTERFACE}/accept_local": 1,  # packets come that have its own source
    f"net/ipv4/conf/{LAN_INTERFACE}/accept_redirects": 0,
    f"net/ipv6/conf/{LAN_INTERFACE}/accept_redirects": 0,
}
_NODE_SYSCTLS: dict[str, int | str] = {
    "net/ipv4/ip_forward": 1,
    "net/ipv6/conf/all/forwarding": 1,
    "net/ipv4/conf/all/send_redirects": 0,
    f"net/ipv4/conf/{LAN_INTERFACE}/send_redirects": 0,
}


def let_forward(lab: Lab, node: str) -> None:
    """Make a router of the node's kernel."""
    Namespace(lab.topology.node(node).namespace).set_sysctls(_NODE_SYSCTLS)


class Hairpin:
    """The flow, from its making on; end() stops it.

    Args:
        lab: in which the peer is.
        to: an address of which the router knows that it is the peer's.
        via: the service address.

    Raises:
        DemoError: no packet comes back.
    """

    def __init__(self, lab: Lab, to: Address, via: Address) -> None:
        peer = lab.topology.peer
        Namespace(peer.namespace).set_sysctls(_PEER_SYSCTLS)
        ip = ["ip", f"-{to.version}"]
        for command in (
            ["route", "add", str(to), "via", str(via), "dev", LAN_INTERFACE],
            ["rule", "add", "iif", LAN_INTERFACE, "lookup", TABLE],
            ["route", "add", "local", str(to), "dev", "lo", "table", TABLE],
        ):
            lab.run("peer", [*ip, *command], check=True, capture_output=True)
        argv = [sys.executable, "-m", "prl.demo.hairpin", str(to)]
        self._process = lab.exec("peer", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._marks: list[tuple[str, int]] = []
        assert self._process.stdout is not None
        poller = select.poll()
        poller.register(self._process.stdout, select.POLLIN)
        if not poller.poll(START_TIMEOUT_S * 1000) or not self._process.stdout.readline():
            self._process.kill()
            raise DemoError("no packet comes back from the router")

    def mark(self, what: str) -> None:
        """What interrupts the flow from now on is of this."""
        self._marks.append((what, boottime_ns()))

    def end(self) -> dict[str, list[float]]:
        """Stop it.

        Returns:
            The longest interruption that began or ended after each mark and before the next one,
            in milliseconds, by what was marked.

        Raises:
            DemoError: it has told nothing.
        """
        try:
            said, _ = self._process.communicate(b"", timeout=END_TIMEOUT_S)
            found: dict[str, Any] = json.loads(said)
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise DemoError(f"the flow of packets has told nothing: {error}") from error
        ends = [*(at for _, at in self._marks[1:]), boottime_ns()]
        longest: dict[str, list[float]] = {}
        for (what, begin), end in zip(self._marks, ends, strict=True):
            inside = [b - a for a, b in found["spans"] if b > begin and a < end]
            longest.setdefault(what, []).append(round(max(inside, default=0) / 1e6, 3))
        return longest


def main() -> None:
    """Send and receive until standard input ends; then tell of the gaps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("to")
    to = ip_address(parser.parse_args().to)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6  # noqa: PLR2004
    over = threading.Event()
    gaps, is_flowing = Gaps(), False
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOPS)
        sock.bind(("", PORT))
        sock.settimeout(INTERVAL_S)

        def send() -> None:
            while not over.wait(INTERVAL_S):
                try:
                    sock.sendto(b"", (str(to), PORT))
                except OSError:
                    continue  # nobody answers for the service address just now

        sender = threading.Thread(target=send)
        sender.start()

        def listen() -> None:
            sys.stdin.read()
            over.set()

        listener = threading.Thread(target=listen)
        listener.start()
        while not over.is_set():
            try:
                sock.recv(1)
            except TimeoutError:
                continue
            except OSError:
                continue  # an ICMP error of a packet before
            if not is_flowing:
                print("flowing", flush=True)  # noqa: T201 - to the demo, as below
                is_flowing = True
            gaps.note()
        sender.join()
        listener.join()
    print(json.dumps({"spans": gaps.spans}))  # noqa: T201


if __name__ == "__main__":
    main()
