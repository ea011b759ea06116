"""``python -m tests.fuzz [--seconds N] [TARGET...]``: fuzz for long, and tell what was reached."""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz.targets import CORPUS, KEPT, ROOT, TARGETS, Outcome, build, run

SECONDS = 600


def main(arguments: list[str] | None = None) -> int:
    """Run the targets, as many at a time as there are CPUs; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target")
    parser.add_argument("target", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args(arguments)
    names = options.target or list(TARGETS)
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}; there are: {', '.join(TARGETS)}")
    try:
        programs = build(names, KEPT / "build")
    except subprocess.CalledProcessError:
        return 1
    found = 0

    def one(name: str) -> tuple[str, Outcome]:
        grown = KEPT / "corpus" / name
        grown.mkdir(parents=True, exist_ok=True)
        corpora = [grown, CORPUS / name]
        crashes = KEPT / "crashes" / name
        return name, run(programs[name], seconds=options.seconds, corpora=corpora, crashes=crashes)

    heads = f"{'target':10}{'executions':>12}{'edges, of':>14}{'last new':>12}{'features':>10}"
    _print(heads)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, outcome in pool.map(one, names):
            edges = f"{outcome.edges}/{outcome.edges_all}"
            verdict = f"  FOUND: status {outcome.status}" if outcome.status else ""
            figures = (
                f"{outcome.executions:12}{edges:>14}{outcome.grown_at:12}{outcome.features:10}"
            )
            _print(f"{name:10}{figures}{verdict}")
            if outcome.status:
                found += 1
                _print("\n".join(outcome.output.splitlines()[-60:]))
    if found:
        folder = (KEPT / "crashes").relative_to(ROOT)
        _print(f"{found} targets found something; the inputs are in {folder}/TARGET")
    return 1 if found else 0


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
