"""Options that several commands have."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from prl.config import DEFAULT_PATH

_Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def choice_option(name: str, among: Iterable[str], default: str, words: str) -> _Option:
    """``--name WORD``, one of these; its help tells the default."""
    kind = click.Choice([str(word) for word in among])
    return click.option(name, type=kind, default=str(default), show_default=True, help=words)


def number_option(name: str, low: int, high: int | None, default: int, words: str) -> _Option:
    """``--name NUMBER``, within these limits; its help tells the default."""
    kind = click.IntRange(low, high)
    return click.option(name, type=kind, default=default, show_default=True, help=words)


def config_option(words: str, default: Path = DEFAULT_PATH) -> _Option:
    """``--config FILE``, by default prld's own; ``words`` say what the command does with it."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=default,
        show_default=True,
        metavar="FILE",
        help=words,
    )
