"""`prlctl support-bundle`: what a bug report needs, in one file."""

import platform
import time
from dataclasses import asdict
from pathlib import Path

import click

from prl.cli.options import config_option
from prl.cli.output import emit, settings, wrapped
from prl.control.messages import default_socket
from prl.support.bundle import Bundle


@click.command("support-bundle")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@config_option("The node's configuration.")
def support_bundle(file: Path | None, config: Path) -> None:
    """Collect what a bug report needs into FILE, a new .tar.gz.

    Run it as root on the node, and on the other one, too. It has addresses, names and counters, but
    no secrets, no keys and nothing that a session carried; look into it all the same before you
    hand it on. Also where prld is down, or hangs: a minute at most.
    """
    target = file or Path(
        f"prl-support-{platform.node()}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz"
    )
    bundle = Bundle(settings().socket or default_socket(), config)
    bundle.write(target)
    entries = [asdict(entry) for entry in bundle.entries]
    missing = [entry for entry in bundle.entries if entry.trouble]
    lines = [f"{target}: {len(entries)} parts, {target.stat().st_size} bytes"]
    lines += [wrapped(f"  {entry.name}: {entry.trouble}") for entry in missing]
    emit({"file": str(target), "parts": entries}, "\n".join(lines))
