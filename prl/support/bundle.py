"""Writes the bundle: every part within its bounds, and a list of what is in it and what is not."""

import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from prl.support import parts, program
from prl.support.parts import Part
from prl.support.secrets import Redactor

PART_BYTES_MAX: Final = 8 << 20
"""Of one program's output: the last bytes."""
BUNDLE_BYTES_MAX: Final = 64 << 20
"""Of all parts, before they are compressed."""
PART_S: Final = 10.0
"""How long one program may take."""
BUNDLE_S: Final = 60.0
"""How long all may take."""
MANIFEST: Final = "manifest.json"
_ROOTS_PATH = "/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of a part."""

    name: str
    command: str
    bytes: int
    trouble: str = ""
    """Why it is not whole; empty where it is."""


class Bundle:
    """One bundle. ``part_s`` and ``bundle_s`` are its bounds in time."""

    def __init__(
        self,
        prld: Path,
        config: Path,
        *,
        part_s: float = PART_S,
        bundle_s: float = BUNDLE_S,
    ) -> None:
        self._prld, self._config, self._part_s = prld, config, part_s
        self._redactor = Redactor(config)
        self._deadline = time.monotonic() + bundle_s
        self._left_bytes = BUNDLE_BYTES_MAX
        self._prld_hangs = False
        self.entries: list[Entry] = []

    def write(self, path: Path) -> None:
        """Collect, and write a new file that only its owner may read.

        Raises:
            FileExistsError: it is there already.
            OSError: it cannot be written; nothing is left then.
        """
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
                self._fill(tar, path.name.split(".")[0])
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _fill(self, tar: tarfile.TarFile, folder: str) -> None:
        for name, content in self._contents():
            _add(tar, f"{folder}/{name}", content)
        facts = {
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
            "root": os.geteuid() == 0,
            "parts": [asdict(entry) for entry in self.entries],
        }
        _add(tar, f"{folder}/{MANIFEST}", json.dumps(facts, indent=1).encode())

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        if self._redactor.trouble:
            self.entries.append(Entry("config.json", "", 0, self._redactor.trouble))
        else:
            content = json.dumps(self._redactor.configuration, indent=1, default=str).encode()
            self.entries.append(Entry("config.json", str(self._config), len(content)))
            yield "config.json", content
        flows = b""
        for part in parts.of_prld(self._prld):
            content = self._collect(part)
            yield part.name, content
            if part.name.endswith("flows.json"):
                flows = content
        interfaces = [name for _, name in socket.if_nameindex()]
        for part in (
            *parts.of_flows(self._prld, flows),
            *parts.of_host(self._config, interfaces),
        ):
            yield part.name, self._collect(part)

    def _collect(self, part: Part) -> bytes:
        command = " ".join(part.argv)
        left_s = self._deadline - time.monotonic()
        why = "the bundle took too long" if left_s <= 0 else "the bundle is full"
        if part.asks_prld and self._prld_hangs:
            left_s, why = 0.0, "prld does not answer"
        if left_s <= 0 or self._left_bytes <= 0:
            self.entries.append(Entry(part.name, command, 0, f"left out: {why}"))
            return b""
        limit = min(PART_BYTES_MAX, self._left_bytes)
        timeout_s = min(self._part_s, left_s)
        outcome = program.run(
            part.argv, bytes_max=limit, timeout_s=timeout_s, environment=_environment()
        )
        self._prld_hangs |= part.asks_prld and outcome.ended.startswith("killed")
        content = self._redactor.text(
            part.select(outcome.output) if part.select else outcome.output
        )
        trouble = [outcome.ended] * bool(outcome.ended)
        if outcome.left_out_bytes:
            trouble.append(f"the first {outcome.left_out_bytes} bytes are left out")
        self._left_bytes -= limit if outcome.left_out_bytes else len(content)
        self.entries.append(Entry(part.name, command, len(content), "; ".join(trouble)))
        return content


def _environment() -> dict[str, str]:
    """The same language everywhere, and the programs that only root has on its PATH."""
    path = os.environ.get("PATH", os.defpath)
    return os.environ | {"LC_ALL": "C", "NO_COLOR": "1", "PATH": f"{path}:{_ROOTS_PATH}"}


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
    tar.addfile(entry, io.BytesIO(content))
