"""A router of two nodes with two peers, in a lab that stays up: ``prlctl lab router``."""

import json
import shlex
from dataclasses import asdict, dataclass

from prl.demo.fronted import NODES, RouterPair, Setting
from prl.demo.hairpin import let_forward
from prl.demo.routers import many_routes
from prl.lab import Lab

_FOLDER, _OPTIONS = "router", "options.json"
_LAB_MODE = 0o711
"""BGP daemons are not root, and have their folders below the lab's."""
_SECOND_FROM = 1 << 15
"""The second peer's routes are so far behind the first one's."""


@dataclass(frozen=True, slots=True)
class Options:
    """What it is made of: ``daemon``, ``peer`` and ``second`` are keys of ROUTERS.

    Attributes:
        family: the version of IP.
        routes: how many each of the three announces.
    """

    daemon: str
    peer: str
    second: str
    family: int
    routes: int

    def setting(self) -> Setting:
        """The same, for a pair."""
        theirs = many_routes(self.family, 0, _SECOND_FROM + self.routes)
        return Setting(
            daemon=self.daemon,
            peer=self.peer,
            version=self.family,
            ours=many_routes(self.family, 1, self.routes),
            theirs=theirs[: self.routes],
            later=(),
            second=self.second,
            seconds=theirs[_SECOND_FROM:],
        )


def stand(lab: Lab, options: Options) -> tuple[RouterPair, list[str]]:
    """Build it in a lab that is up, or start what of it does not run any more.

    Returns:
        It, and what was started, in words. One that is there already is as it was built.

    Raises:
        DemoError: a session does not come to be.
    """
    folder = lab.state.path / _FOLDER
    kept = folder / _OPTIONS
    is_new = not kept.exists()
    if is_new:
        lab.state.path.chmod(_LAB_MODE)
        folder.mkdir(exist_ok=True)
        kept.write_text(json.dumps(asdict(options)))
    else:
        options = Options(**json.loads(kept.read_text()))
    pair = RouterPair(lab, folder, options.setting())
    for node in NODES:
        let_forward(lab, node)
    if not is_new:
        return pair, pair.mend()
    pair.start()
    return pair, ["all"]


def hints(pair: RouterPair) -> dict[str, str]:
    """Commands to look at it, by whose they are."""
    name = pair.lab.topology.name
    found = {}
    for node in NODES:
        found[f"front of {node}"] = f"prlctl bgp status --config {pair.fronts[node].config}"
    speakers = [("peer", "peer", pair.peer), ("second peer", "peer", pair.second)]
    speakers += [(f"daemon of {node}", node, daemon) for node, daemon in pair.daemons.items()]
    for whose, machine, speaker in speakers:
        if speaker is not None:
            console = shlex.join(speaker.console())
            found[whose] = f"prlctl lab exec --name {name} {machine} -- {console}"
    return found
