"""`prlctl bench`: figures with their baselines (SPEC section 9)."""

from pathlib import Path

import click

from prl.bench import report
from prl.bench.benches import BENCHES, measure
from prl.cli.output import emit, narrate

ALL = "all"


@click.command("bench")
@click.argument("what", type=click.Choice([*BENCHES, ALL]))
@click.option("--quick", is_flag=True, help="Fewer rounds: all in six to eight minutes.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Write a page with pictures, too.",
)
@click.pass_context
def bench(context: click.Context, what: str, html: Path | None, *, quick: bool) -> None:
    """Measure prl against what a user would build instead, in turns, in labs of its own.

    Figures are medians over interleaved rounds. In full `all` takes some 35 minutes. Exit status 0
    means that all could be measured, 1 that something could not, which the notes name; not that
    every goal is met: `targets` says that of each.
    """
    where = report.machine()
    parts = measure(list(BENCHES) if what == ALL else [what], quick=quick, narrate=narrate)
    found = report.facts(what, parts, quick=quick, where=where)
    if html is not None:
        html.write_text(report.page(found, parts), encoding="utf-8")
    emit(found, report.text(found))
    if not found["is_whole"]:
        context.exit(1)
