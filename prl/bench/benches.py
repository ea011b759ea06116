"""All benches by name."""

import os
import signal
from collections.abc import Callable, Sequence

from prl.bench.births import births
from prl.bench.bulk import bulk, cpu
from prl.bench.flap import flap
from prl.bench.hogs import hogs
from prl.bench.latency import latency
from prl.bench.moves import moves
from prl.bench.passthrough import passthrough
from prl.bench.protect import protect
from prl.bench.run import Bench, Narrator, Part, bench
from prl.bench.secrecy import secrecy
from prl.bench.sessions import flows, sessions
from prl.bench.takeover import takeover
from prl.errors import PrlError

BENCHES: dict[str, Callable[[Bench], Part]] = {
    "latency": latency,
    "bulk": bulk,
    "cpu": cpu,
    "flows": flows,
    "sessions": sessions,
    "protect": protect,
    "births": births,
    "takeover": takeover,
    "flap": flap,
    "moves": moves,
    "passthrough": passthrough,
    "secrecy": secrecy,
    "hogs": hogs,
}
_COVERED = {"cpu": "bulk"}
"""What another one measures as well, when both are asked for."""


def measure(names: Sequence[str], *, quick: bool, narrate: Narrator) -> list[Part]:
    """Run the benches called ``names``, one after the other; one that fails costs itself alone.

    SIGTERM unwinds, as Ctrl-C does.
    """
    handler = signal.signal(signal.SIGTERM, _interrupt_only(os.getpid()))
    try:
        with bench(quick=quick, narrate=narrate) as run:
            chosen = [name for name in names if _COVERED.get(name) not in names]
            return [_part(name, run) for name in chosen]
    finally:
        signal.signal(signal.SIGTERM, handler)


def _part(name: str, run: Bench) -> Part:
    try:
        return BENCHES[name](run)
    except Exception as error:  # noqa: BLE001 - what the others find must not be lost with it
        why = str(error) if isinstance(error, PrlError) else repr(error)
        run.narrate(f"{name}: {why}")
        part = Part(name)
        part.lacks(name, why)
        return part


def _interrupt_only(pid: int) -> Callable[[int, object], None]:
    """Not for forked children: pyroute2 forks and ends them with SIGTERM."""

    def handle(number: int, _: object) -> None:
        if os.getpid() != pid:
            os._exit(128 + number)
        raise KeyboardInterrupt

    return handle
