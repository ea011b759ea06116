"""A server that sends datagrams back, and goes on from failure to failure, for the campaign.

``python udp_app.py --listen ADDR:PORT``, the same line on both nodes. Who owns the service binds
the socket and hands it to prld; who stands by takes the shadow. What was read and not answered when
the other node took over is not answered: these are datagrams.
"""

import argparse
import socket
import sys
import threading
from contextlib import suppress

from prl.client import Node, NotProtectedError, Session, Shadow
from prl.control.protocol import OVER
from prl.endpoint import Endpoint
from prl.errors import PrlError

LOOK_S = 0.1
BYTES_MAX = 2048


class Server:
    """One socket for all peers: this node's own, or a shadow's."""

    def __init__(self, node: Node, endpoint: Endpoint) -> None:
        self._node, self._endpoint = node, endpoint
        self._lock = threading.Lock()
        self._serving = 0

    def run(self) -> None:
        """Own it whenever this node owns the service and has nothing of it yet."""
        self._node.offer(f"udp:{self._endpoint}")
        threading.Thread(target=self._follow_all, daemon=True).start()
        tick = threading.Event()
        while not tick.wait(LOOK_S):
            with suppress(PrlError, OSError):
                if not self._serving and self._owns():
                    self._own()

    def _owns(self) -> bool:
        services = self._node.request({"op": "status"})["services"]
        return bool(services[0]["state"] == "owner")

    def _own(self) -> None:
        with socket.socket(self._endpoint.family, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((str(self._endpoint.address), self._endpoint.port))
            try:
                session = self._node.replicate(sock)
            except NotProtectedError as error:
                session = error.session
            self._answer(sock, session)

    def _answer(self, sock: socket.socket, session: Session) -> None:
        sock.settimeout(LOOK_S)
        while session.state not in OVER:
            with suppress(TimeoutError, ConnectionError):
                data, sender = sock.recvfrom(BYTES_MAX)
                with suppress(OSError):  # while somebody has taken away the address, for example
                    sock.sendto(data, sender)

    def _follow_all(self) -> None:
        for shadow in self._node.shadows():
            threading.Thread(target=self._follow, args=(shadow,), daemon=True).start()

    def _follow(self, shadow: Shadow) -> None:
        with self._lock:
            self._serving += 1
        try:
            while shadow.takeover is None:
                shadow.recvfrom(BYTES_MAX)
            self._answer(shadow.sock, shadow.session)
        except (PrlError, OSError):
            pass  # it is void, and another one comes
        finally:
            with suppress(PrlError, OSError):
                shadow.close()
            with self._lock:
                self._serving -= 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=Endpoint.parse, required=True)
    options = parser.parse_args()
    with Node() as node:
        Server(node, options.listen).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
