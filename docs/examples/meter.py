"""A server that adds up, and shows on both nodes what it knows: ``meter.py ADDRESS:PORT PATH``.

A peer sends numbers, one a line, and gets the sum of its numbers so far for each. The node that
stands by reads the same numbers from the shadows: it snoops. So it has the same sums at any time,
exports them like the other node, and goes on with them when it takes over. PATH is a Unix socket;
whoever connects to it gets the counters in Prometheus' text format.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import msgspec
from echo_asyncio import Server, Talk, main

from prl.endpoint import Endpoint


class Sums(msgspec.Struct):
    """What is known of one peer's numbers."""

    unsaid: bytes = b""
    rest: bytes = b""
    received_bytes: int = 0
    lines: int = 0
    total: int = 0


class Meter(Talk):
    """Adds one peer's numbers up."""

    known: "dict[int, Meter]" = {}  # noqa: RUF012 - of all peers: what is exported

    def __init__(self, peer: int, role: str, state: bytes = b"", out_bytes: int = 0) -> None:
        """See ``Talk``."""
        self.sums = Sums()
        super().__init__(peer, role, state, out_bytes)
        self.known[peer] = self

    def answer(self, data: bytes) -> bytes:
        """See ``Talk``."""
        sums, answers = self.sums, []
        sums.received_bytes += len(data)
        *lines, sums.rest = (sums.rest + data).split(b"\n")
        for line in lines:
            sums.lines += 1
            with contextlib.suppress(ValueError):
                sums.total += int(line)
            answers.append(b"%d\n" % sums.total)
        return b"".join(answers)

    def state(self) -> bytes:
        """See ``Talk``."""
        self.sums.unsaid = super().state()
        return msgspec.json.encode(self.sums)

    def resume(self, state: bytes) -> None:
        """See ``Talk``."""
        if state:
            self.sums = msgspec.json.decode(state, type=Sums)
        super().resume(self.sums.unsaid)


class MeterServer(Server):
    """Adds up, and exports the sums."""

    talk = Meter

    def __init__(self, export: Path) -> None:
        self._export = export

    async def serve(self, endpoint: Endpoint) -> None:
        """See ``Server``."""
        async with await asyncio.start_unix_server(self._on_scrape, self._export):
            await super().serve(endpoint)

    async def _on_scrape(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for meter in Meter.known.values():
            labels = f'{{peer="{meter.peer}",role="{meter.role}"}}'
            text = (
                f"meter_received_bytes{labels} {meter.sums.received_bytes}\n"
                f"meter_lines{labels} {meter.sums.lines}\n"
                f"meter_total{labels} {meter.sums.total}\n"
            )
            writer.write(text.encode())
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


if __name__ == "__main__":
    main(MeterServer(Path(sys.argv[2])))
