"""Figures that a test measures in passing: for people, judged by nobody."""

import sys


def figure(what: str, value: str) -> None:
    """Print a figure; nobody judges it."""
    sys.stdout.write(f"figure: {what}: {value}\n")
