"""What `prlctl serve` was told."""

from dataclasses import dataclass
from pathlib import Path

from prl.serve.history import HISTORY_BYTES

CONNECTIONS_MAX = 256
"""Default of --max-connections."""


@dataclass(frozen=True, slots=True)
class Options:
    """The program, and limits."""

    argv: tuple[str, ...]
    socket_path: Path | None = None
    """prld's control socket; None: the default."""
    connections_max: int = CONNECTIONS_MAX
    """Connections served, and shadows stood by for, at a time."""
    history_bytes: int = HISTORY_BYTES
    """Input of a session that is kept for a program that begins anew on the other node."""
