"""All checks, in the order in which they are told."""

from collections.abc import Iterator
from pathlib import Path

from prl.doctor import (
    arbiter,
    clocks,
    configuration,
    firewall,
    installation,
    interfaces,
    kernel,
    network,
    silence,
    witnesses,
)
from prl.doctor.finding import Finding


def examine(path: Path | None) -> Iterator[Finding]:
    """Look at the host, and at what the configuration in ``path`` says of it."""
    yield from kernel.examine()
    yield from installation.examine()
    yield from clocks.examine()
    config, finding = configuration.load(path)
    yield finding
    yield from configuration.examine(config)
    yield from interfaces.examine(config)
    yield from network.examine(config)
    yield from witnesses.examine(config)
    yield from arbiter.examine(config)
    yield from silence.examine(config)
    yield from firewall.examine(config)
