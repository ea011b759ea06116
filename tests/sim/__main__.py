"""Replay one seed with its trace: ``python -m tests.sim SEED [patient]``."""

import sys

from tests.sim.build import product
from tests.sim.tcp import ViolationError
from tests.sim.world import World


def main() -> int:
    """Print the trace and the violation, if there is one."""
    trace: list[str] = []
    world = World(int(sys.argv[1]), product(), trace, patient=len(sys.argv) > 2)
    try:
        world.run()
    except ViolationError as violation:
        trace.append(f"{world.now_ns / 1e6:10.3f} ms  VIOLATION: {violation}")
        return 1
    finally:
        sys.stdout.write("\n".join([*trace, ""]))
    sys.stdout.write(f"good: {world.events_run} events\n")
    return 0


sys.exit(main())
