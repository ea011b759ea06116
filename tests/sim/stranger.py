"""Somebody on the LAN who hears the nodes' claims and says them again, or something like them."""

import random
from typing import TYPE_CHECKING

from tests.sim.core import MS

if TYPE_CHECKING:
    from tests.sim.node import Node
    from tests.sim.world import World

RECORDED_MAX = 60
"""Of the newest so many claims that were heard."""
FORGED = 0.3
"""The share of what is said that has a bit changed."""
HEAD_BYTES = 8
"""Of a trailer; what is behind it says something."""
NEVER_OWNED = -1


class Stranger:
    """Says something every few milliseconds, by chance of its own."""

    def __init__(self, world: "World") -> None:
        self._world, self._random = world, random.Random(-1 - world.seed)
        self._recorded: list[tuple[int, int, bytes, int]] = []
        """The claimant, the service, the trailer, how often it had been the other node's."""
        world.at(0, self._speak)

    def hears(self, sender: "Node", service: int, trailer: bytes) -> None:
        """A claim leaves."""
        owned = sender.other.owned(service)
        self._recorded = [
            *self._recorded[1 - RECORDED_MAX :],
            (sender.index, service, trailer, owned),
        ]

    def _speak(self) -> None:
        world, chance = self._world, self._random
        world.at(world.now_ns + int((1 + 40 * chance.random()) * MS), self._speak)
        if not self._recorded:
            return
        claimant, service, trailer, owned = chance.choice(self._recorded)
        node = chance.choice(world.nodes)
        if chance.random() < FORGED:
            at = chance.randrange((len(trailer) - HEAD_BYTES) * 8)
            trailer = (int.from_bytes(trailer) ^ 1 << at).to_bytes(len(trailer))
            owned = NEVER_OWNED
        if node.index == claimant:
            owned = NEVER_OWNED
        if node.hears_lan and not node.asleep:  # its kernel judges; prld is not woken by that
            node.hear_stranger(service, trailer, owned)
