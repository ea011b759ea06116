"""etcd beside a lab: three members in namespaces of their own, on a network that both nodes reach.

re0 ─ mgmt0 ─┐             ┌─ etcd0
re1 ─ mgmt0 ─┼── LAB-mgmt ─┼─ etcd1
             │   (bridge)  └─ etcd2
"""

import base64
import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from prl.lab import Lab, stretch
from prl.lab.netns import Namespace, exec_in
from tests.system.support import eventually

MEMBERS = 3
CLIENT_PORT, PEER_PORT = 2379, 2380
NETWORK = "203.0.113"
HEARTBEAT_MS, ELECTION_MS = 100, 1000  # etcd's defaults
ENDPOINTS = [f"http://{NETWORK}.{101 + n}:{CLIENT_PORT}" for n in range(MEMBERS)]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Etcd:
    """The members, and the cables to them."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab, self._folder = lab, folder
        self._switch = f"{lab.name}-mgmt"
        self._members: dict[int, subprocess.Popen[bytes]] = {}

    def _plug(self, namespace: str, port: str, address: str) -> None:
        _ip(
            "-n",
            namespace,
            "link",
            "add",
            "mgmt0",
            "type",
            "veth",
            "peer",
            port,
            "netns",
            self._switch,
        )
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "mgmt0")
        for where, name in ((namespace, "lo"), (namespace, "mgmt0"), (self._switch, port)):
            _ip("-n", where, "link", "set", name, "up")
        _ip("-n", self._switch, "link", "set", port, "master", "br0")

    def _place(self, number: int) -> str:
        return f"{self._lab.name}-etcd{number}"

    def build(self, stack: ExitStack) -> None:
        """The network; the members do not run yet."""
        for name in (self._switch, *map(self._place, range(MEMBERS))):
            place = Namespace(name)
            place.create()
            stack.callback(place.remove)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for node in self._lab.topology.nodes:
            self._plug(node.namespace, f"to-{node.name}", f"{NETWORK}.{10 + node.index}")
        for number in range(MEMBERS):
            self._plug(self._place(number), f"to-etcd{number}", f"{NETWORK}.{101 + number}")
        stack.callback(self.stop)

    def start(self) -> None:
        """Every member that does not run; returns when a majority answers."""
        factor = stretch.factor()
        cluster = ",".join(f"m{n}=http://{NETWORK}.{101 + n}:{PEER_PORT}" for n in range(MEMBERS))
        for number in range(MEMBERS):
            if number in self._members:
                continue
            url = f"http://{NETWORK}.{101 + number}"
            argv = [
                *("etcd", "--name", f"m{number}", "--data-dir", str(self._folder / f"m{number}")),
                *("--listen-client-urls", f"{url}:{CLIENT_PORT}"),
                *("--advertise-client-urls", f"{url}:{CLIENT_PORT}"),
                *("--listen-peer-urls", f"{url}:{PEER_PORT}"),
                *("--initial-advertise-peer-urls", f"{url}:{PEER_PORT}"),
                *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
                *("--heartbeat-interval", str(HEARTBEAT_MS * factor)),
                *("--election-timeout", str(ELECTION_MS * factor)),
            ]
            with (self._folder / f"m{number}.log").open("ab") as log:
                self._members[number] = exec_in(
                    self._place(number), argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL
                )
        eventually("etcd has a leader", lambda: self._answers(min(self._members)))

    def stop(self, *numbers: int) -> None:
        """Kill members; all without a word."""
        for number in numbers or tuple(self._members):
            member = self._members.pop(number)
            member.kill()
            member.wait()

    def cut(self, node: str, *, cut: bool = True) -> None:
        """The cable between a node and this network."""
        _ip("-n", self._switch, "link", "set", f"to-{node}", "down" if cut else "up")

    def _ask(self, number: int, path: str, body: dict[str, str]) -> dict[str, object]:
        def ask() -> dict[str, object]:
            connection = http.client.HTTPConnection(
                f"{NETWORK}.{101 + number}", CLIENT_PORT, timeout=5 * stretch.factor()
            )
            try:
                connection.request("POST", path, json.dumps(body))
                found: dict[str, object] = json.loads(connection.getresponse().read())
                return found
            finally:
                connection.close()

        return Namespace(self._place(number)).call(ask)

    def _answers(self, number: int) -> bool:
        try:
            return "header" in self._ask(number, "/v3/kv/range", {"key": "eA=="})
        except (OSError, ValueError):
            return False

    def holder(self) -> str:
        """What the store says of this pair: who goes on alone; "-" or nothing: neither."""
        key = base64.b64encode(f"/prl/{self._lab.name}".encode()).decode()
        answer = self._ask(min(self._members), "/v3/kv/range", {"key": key})
        kvs = answer.get("kvs", [])
        assert isinstance(kvs, list)
        return base64.b64decode(kvs[0]["value"]).decode() if kvs else ""


@contextmanager
def etcd(lab: Lab, folder: Path) -> Iterator[Etcd]:
    """Three members that serve; gone without a trace afterwards."""
    with ExitStack() as stack:
        made = Etcd(lab, folder)
        made.build(stack)
        made.start()
        yield made
