"""``python -m tests.kernels``: fetch kernels, run a command or the whole lane on them."""

import argparse
import signal
import sys
from pathlib import Path

from tests.kernels import debian, guest, lane

COMMAND_TIMEOUT_S = 600.0


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parts = parser.add_subparsers(dest="action", required=True)
    fetch = parts.add_parser("fetch", help="download the kernels, or bring them up to date")
    fetch.add_argument("kernels", nargs="*", default=debian.SERIES, metavar="KERNEL")
    run = parts.add_parser("run", help="boot a kernel and run a command in this folder")
    run.add_argument("kernel", help=f"a series, {' or '.join(debian.SERIES)}")
    run.add_argument("--timeout", type=float, default=COMMAND_TIMEOUT_S, metavar="SECONDS")
    run.add_argument("--memory", type=int, default=guest.MEMORY_MIB, metavar="MIB")
    run.add_argument("--results", type=Path, help="folder for what it puts into $GUEST_RESULTS")
    run.add_argument("command", nargs="+", help="the command, after --")
    programs = parts.add_parser("programs", help="on Debian 12's: BPF, beside what goes by a clock")
    programs.add_argument("results", type=Path, help="folder of the records of what ran")
    short = parts.add_parser("short", help="on Debian 12's: some demos, what the host has not run")
    short.add_argument("results", type=Path, help="folder of the records of what ran, for one more")
    whole = parts.add_parser("whole", help="all demos, tests/kernel, a part of tests/system")
    whole.add_argument("results", type=Path)
    whole.add_argument("kernels", nargs="*", default=debian.SERIES, metavar="KERNEL")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))  # what is under way cleans up
    try:
        if asked.action == "fetch":
            for name in asked.kernels:
                with debian.kernel(name) as kernel:
                    print(name, kernel.release)
            return 0
        if asked.action == "programs":
            return 0 if lane.run_programs(asked.results) else 1
        if asked.action == "short":
            return 0 if lane.run_short(asked.results) else 1
        if asked.action == "whole":
            return 0 if lane.run_whole(asked.kernels, asked.results) else 1
        with debian.kernel(asked.kernel) as kernel:
            outcome = guest.run(
                kernel,
                asked.command,
                timeout=asked.timeout,
                folder=Path.cwd(),
                results=asked.results,
                memory_mib=asked.memory,
                tell=sys.stdout.write,
            )
    except debian.KernelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    took = f"booted in {outcome.boot_s:.0f} s, ran {outcome.run_s:.0f} s"
    print(f"{kernel.release}: exit status {outcome.status}, {took}", file=sys.stderr)
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
