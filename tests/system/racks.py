"""A LAN that parts between the nodes, with neighbours on both sides."""

import subprocess

from prl.lab import Lab
from prl.lab.cables import LinkCable
from prl.lab.netns import Namespace


class Racks:
    """re1 and a neighbour of its own stand in a second rack, behind a trunk."""

    NEIGHBOUR = "192.0.2.50"

    def __init__(self, lab: Lab) -> None:
        self._lab, self._far = lab, f"{lab.name}-far"
        switch, port = lab.topology.switch, lab.topology.re1.port
        place = Namespace(self._far)
        place.create()
        for words in (
            "link add br9 type bridge",
            "link set br9 up",
            "link add trunk type veth peer name trunk9",
            "link set trunk master br0",
            "link set trunk9 master br9",
            "link set trunk up",
            "link set trunk9 up",
            f"link add far type veth peer name lan0 netns {self._far}",
            "link set far master br9",
            "link set far up",
            f"link set {port} master br9",
        ):
            self._ip(switch, words)
        self._ip(self._far, f"address add {self.NEIGHBOUR}/24 dev lan0")
        self._ip(self._far, "link set lan0 up")
        for node in lab.topology.nodes:  # both know it
            lab.run(node.name, ["ping", "-q", "-c1", "-W5", self.NEIGHBOUR], check=True)

    def _ip(self, namespace: str, words: str) -> None:
        subprocess.run(["ip", "-n", namespace, *words.split()], check=True)

    def part(self) -> None:
        """Trunk and link at once."""
        with LinkCable(self._lab.topology.re0) as link:
            self._ip(self._lab.topology.switch, "link set trunk down")
            link.cut()

    def join(self) -> None:
        self._ip(self._lab.topology.switch, "link set trunk up")

    def link(self) -> None:
        with LinkCable(self._lab.topology.re0) as link:
            link.mend()

    def remove(self) -> None:
        Namespace(self._far).remove()
