"""`prlctl doctor`: what this host can do, what is in the way, and how to mend it (R24)."""

from pathlib import Path

import click

from prl.cli.output import emit, table
from prl.doctor import Finding, Verdict, examine
from prl.errors import NotSafeError

EXIT_MISSING = 1


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The node's configuration; without it, that of prld if there is one.",
)
@click.pass_context
def doctor(context: click.Context, config: Path | None) -> None:
    """Find out what this host can do, and what is in the way.

    Exit status 1: something that prld needs is missing; 3: it works, but is not safe. What is
    optional (a note) counts for nothing.
    """
    findings = list(examine(config))
    verdicts = {finding.verdict for finding in findings}
    facts = {
        "healthy": Verdict.MISSING not in verdicts,
        "checks": [finding.facts() for finding in findings],
    }
    emit(facts, findings_text(findings))
    if Verdict.MISSING in verdicts:
        context.exit(EXIT_MISSING)
    if Verdict.WARNING in verdicts:
        context.exit(NotSafeError.exit_code)


def findings_text(findings: list[Finding]) -> str:
    """For people: all of them, then what is to be done."""
    rows = [["", "WHAT", "FOUND"], *([f.verdict, f.name, f.found] for f in findings)]
    todo = [
        line
        for finding in findings
        if finding.verdict != Verdict.OK
        for line in (
            f"{finding.verdict}: {finding.name}: {finding.remedy}",
            *([f"    {finding.paste}"] if finding.paste else []),
        )
    ]
    return "\n".join([table(rows), *(["", "TO DO", *todo] if todo else [])])
