"""The lab: two nodes, a peer and a switch in network namespaces (SPEC section 8)."""

from prl.lab.lab import How, Lab, Mode
from prl.lab.topology import DEFAULT_NAME, Topology

__all__ = ["DEFAULT_NAME", "How", "Lab", "Mode", "Topology"]
