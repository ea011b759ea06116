"""Options that several commands have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from prl.config import DEFAULT_PATH


def config_option(words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--config FILE``, by default prld's own; ``words`` say what the command does with it."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        default=DEFAULT_PATH,
        show_default=True,
        metavar="FILE",
        help=words,
    )
