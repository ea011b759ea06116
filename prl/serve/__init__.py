"""Make an inetd-style program non-stop without changing it (SPEC R20)."""

from prl.serve.options import Options
from prl.serve.server import Server

__all__ = ["Options", "Server"]
