"""What can be shown, by name."""

from collections.abc import Callable
from typing import Any

from prl.demo import facts
from prl.demo.bgp import bgp
from prl.demo.crowd import sessions
from prl.demo.echo import echo
from prl.demo.facts import Measured, Scenario
from prl.demo.stage import Narrator, Options, Stage
from prl.demo.switchover import switchover
from prl.demo.transfer import download, upload

SCENARIOS: dict[str, Callable[[Stage], tuple[Scenario, Measured]]] = {
    "upload": upload,
    "download": download,
    "echo": echo,
    "bgp": bgp,
    "sessions": sessions,
    "switchover": switchover,
}


def show(name: str, options: Options, narrate: Narrator) -> dict[str, Any]:
    """Play a scenario in a lab of its own and return the facts of SPEC section 8.

    Raises:
        PrlError: the lab could not be built, or what is needed is missing.
    """
    with Stage(options, narrate) as stage:
        scenario, measured = SCENARIOS[name](stage)
    return facts.facts(scenario, measured)
