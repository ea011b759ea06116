"""A server that adds up, and shows on both nodes what it knows: ``meter.py ADDRESS:PORT PATH``.

A peer sends numbers, one a line, and gets the sum of its numbers so far for each. The node that
stands by reads the same numbers from the shadows: it snoops. So it has the same sums at any time,
exports them like the other node, and goes on with them when it takes over. PATH is a Unix socket;
whoever connects to it gets the counters in Prometheus' text format.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from echo_asyncio import Server, main

from prl.endpoint import Endpoint


@dataclass
class Meter:
    """One peer's numbers."""

    role: str
    rest: bytes = b""
    received_bytes: int = 0
    lines: int = 0
    total: int = 0

    def feed(self, data: bytes) -> bytes:
        """Take numbers in; returns what is answered.

        The same input, in whatever pieces, has the same answers: that is all that a server needs
        so that another node can go on in its place.
        """
        self.received_bytes += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        answers = []
        for line in lines:
            self.lines += 1
            with contextlib.suppress(ValueError):
                self.total += int(line)
            answers.append(b"%d\n" % self.total)
        return b"".join(answers)


class MeterServer(Server):
    """Adds up, and exports the sums."""

    def __init__(self, export: Path) -> None:
        self._export = export
        self._meters: dict[int, Meter] = {}

    def answers(self, peer: int, role: str) -> Callable[[bytes], bytes]:
        """See ``Server``."""
        self._meters[peer] = meter = Meter(role)
        return meter.feed

    async def serve(self, endpoint: Endpoint) -> None:
        """See ``Server``."""
        async with await asyncio.start_unix_server(self._on_scrape, self._export):
            await super().serve(endpoint)

    async def _on_scrape(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for peer, meter in self._meters.items():
            labels = f'{{peer="{peer}",role="{meter.role}"}}'
            text = (
                f"meter_received_bytes{labels} {meter.received_bytes}\n"
                f"meter_lines{labels} {meter.lines}\n"
                f"meter_total{labels} {meter.total}\n"
            )
            writer.write(text.encode())
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


if __name__ == "__main__":
    main(MeterServer(Path(sys.argv[2])))
