"""The peer of a crowd: ``python -m prl.demo.crowd_peer`` keeps many sessions talking.

Plain sockets, nothing of prl's. Each session sends a record at a steady pace, whether or not the
ones before have come back, and compares what comes back with what it sent. One line on standard
input ends it: every session ends its direction and waits for the other one's end. One line of JSON
on standard output tells each thing that happens.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import resource
import socket
import sys
import time
from collections import deque
from typing import Any

from prl.demo.pauses import Pauses, boottime_ns
from prl.demo.records import RECORD_BYTES, record
from prl.endpoint import Endpoint

CONNECTS_AT_ONCE = 64
OUTSTANDING_MAX = 256
"""Records that a session sends ahead of their echo."""
END_TIMEOUT_S = 30.0
_READ_BYTES = 1 << 16


def tell(event: str, **facts: Any) -> None:
    """One line of JSON on standard output."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        out.write(json.dumps({"event": event, **facts}) + "\n")


def name_of(address: str, port: int) -> str:
    """What the peer's end of a session is called."""
    return f"{6 if ':' in address else 4}-{port}"


class Talk:
    """One session."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number
        self.name = name_of(*sock.getsockname()[:2])
        self.sent = self.received = 0
        self.trouble = ""
        self.ended = asyncio.Event()
        self.answered = asyncio.Event()
        self.pauses = Pauses()
        self.sent_hash, self.received_hash = hashlib.sha256(), hashlib.sha256()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._records = 0
        self._unsent = bytearray()
        self._due: deque[bytes] = deque()
        self._due_at = 0  # bytes of the first due record that have come
        self._asked_ns: deque[int] = deque()
        self._hanging_up = False
        self._loop.add_reader(sock, self._read)

    def say(self) -> None:
        """Send the next record, unless too many are on their way."""
        if self.ended.is_set() or len(self._due) >= OUTSTANDING_MAX:
            return
        data = record(self.number, self._records)
        self._records += 1
        self._due.append(data)
        self._asked_ns.append(boottime_ns())
        self.sent += len(data)
        self.sent_hash.update(data)
        self._unsent += data
        self._write()

    def hang_up(self) -> None:
        """End our direction once everything is sent."""
        self._hanging_up = True
        if not self.ended.is_set():
            self._write()

    def _write(self) -> None:
        try:
            if self._unsent:
                del self._unsent[: self._sock.send(self._unsent)]
            if not self._unsent:
                self._loop.remove_writer(self._sock)
                if self._hanging_up:
                    self._sock.shutdown(socket.SHUT_WR)
                return
        except BlockingIOError:
            pass
        except OSError as error:
            self._end(f"cannot send: {error.strerror}")
            return
        self._loop.add_writer(self._sock, self._write)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"{error.strerror} after {self.received} bytes")
            return
        if not data:
            self._end("" if self._hanging_up and not self._due else "ended by the other side")
            return
        self.received += len(data)
        self.received_hash.update(data)
        self._compare(data)

    def _compare(self, data: bytes) -> None:
        now_ns = boottime_ns()
        at = 0
        while at < len(data):
            if not self._due:
                self._end(f"{len(data) - at} bytes came back that were not sent")
                return
            part = data[at : at + RECORD_BYTES - self._due_at]
            if part != self._due[0][self._due_at : self._due_at + len(part)]:
                self._end(f"other bytes came back than were sent, near byte {self.received}")
                return
            at += len(part)
            self._due_at += len(part)
            if self._due_at == RECORD_BYTES:
                self._due_at = 0
                self._due.popleft()
                self.pauses.add(self._asked_ns.popleft(), now_ns)
                self.answered.set()

    def _end(self, trouble: str) -> None:
        self.trouble = trouble
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self.answered.set()
        self.ended.set()

    def facts(self) -> dict[str, Any]:
        """How it went."""
        return {
            "session": self.number,
            "name": self.name,
            "sent": self.sent,
            "received": self.received,
            "sha256": {
                "sent": self.sent_hash.hexdigest(),
                "received": self.received_hash.hexdigest(),
            },
            "trouble": self.trouble,
            "waits": self.pauses.spans(),
        }


async def connect(number: int, target: Endpoint, limit: asyncio.Semaphore) -> Talk:
    """Open one session."""
    async with limit:
        sock = socket.socket(target.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        await asyncio.get_running_loop().sock_connect(sock, (str(target.address), target.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Talk(number, sock)


async def converse(talks: list[Talk], interval_s: float) -> None:
    """Let each session speak once an interval, one after the other, until cancelled."""
    began = time.monotonic()
    turn = 0
    while True:
        due = int((time.monotonic() - began) / interval_s * len(talks))
        while turn < due:
            talks[turn % len(talks)].say()
            turn += 1
        await asyncio.sleep(interval_s / len(talks))


async def run(targets: list[Endpoint], count: int, interval_s: float) -> None:
    """Connect, talk until a line comes in, end all sessions, tell how each went."""
    limit = asyncio.Semaphore(CONNECTS_AT_ONCE)
    numbers = range(count)
    talks = await asyncio.gather(*(connect(n, targets[n % len(targets)], limit) for n in numbers))
    tell("connected", sessions=len(talks))
    talking = asyncio.create_task(converse(talks, interval_s))
    await asyncio.gather(*(talk.answered.wait() for talk in talks))
    tell("steady", lost=sum(talk.ended.is_set() for talk in talks))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    await stop.wait()
    talking.cancel()
    for talk in talks:
        talk.hang_up()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            await asyncio.gather(*(talk.ended.wait() for talk in talks))
    for talk in talks:
        if not talk.ended.is_set():
            talk.trouble = f"hangs after {talk.received} of {talk.sent} bytes"
        tell("session", **talk.facts())
    tell("end")


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True, help="seconds between records")
    parser.add_argument("targets", type=Endpoint.parse, nargs="+")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(run(options.targets, options.count, options.interval))
    except OSError as error:
        tell("failed", reason=error.strerror or str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
