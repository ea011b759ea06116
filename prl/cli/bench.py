"""`prlctl bench`: figures with their baselines (SPEC section 9)."""

from pathlib import Path

import click

from prl.bench import report
from prl.bench.benches import BENCHES, measure
from prl.cli.output import emit, narrate

ALL = "all"


@click.command("bench")
@click.argument("what", type=click.Choice([*BENCHES, ALL]))
@click.option("--quick", is_flag=True, help="Fewer rounds: all in under five minutes.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Write a page with pictures, too.",
)
def bench(what: str, html: Path | None, *, quick: bool) -> None:
    """Measure prl against what a user would build instead, in turns, in labs of its own.

    Figures are medians over interleaved rounds. Exit status 0 means that it could be measured,
    not that every goal is met: `targets` says that of each.
    """
    parts = measure(list(BENCHES) if what == ALL else [what], quick=quick, narrate=narrate)
    found = report.facts(what, parts, quick=quick)
    if html is not None:
        html.write_text(report.page(found, parts), encoding="utf-8")
    emit(found, report.text(found))
