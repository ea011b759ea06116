"""Echo: the peer sends and waits for the same back, over and over, across the power cut."""

import hashlib
import os
import random
import select
import subprocess
import threading

from prl.demo import progress
from prl.demo.facts import Measured, Scenario, Stream
from prl.demo.pauses import Pauses, longest_ms
from prl.demo.payload import Payload
from prl.demo.player import Deadline, DemoError
from prl.demo.stage import Stage
from prl.demo.transfer import (
    SETUP_TIMEOUT_S,
    SLOWEST_BYTES_PER_S,
    await_listening,
    await_protected,
    look_whether_too_early,
    scenario,
)

DEFAULT_BYTES = 16 << 20
CHUNK_MAX_BYTES = 32 << 10  # fits into a pipe, so that writing a chunk never waits for its echo
_SEED = 20


class Conversation:
    """The peer's side of it: socat between two pipes of ours."""

    def __init__(self, payload: Payload, socat: "subprocess.Popen[bytes]") -> None:
        assert socat.stdin is not None
        assert socat.stdout is not None
        self._payload = payload
        self._in, self._out = socat.stdin, socat.stdout
        self.sent = self.received = 0
        self.sent_hash = hashlib.sha256()
        self.received_hash = hashlib.sha256()
        self.pauses = Pauses()

    def say(self, limit_bytes: int) -> None:
        """Send the next chunk."""
        chunk = self._payload.at(self.sent, limit_bytes)
        self._in.write(chunk)
        self._in.flush()
        self.sent_hash.update(chunk)
        self.sent += len(chunk)

    def hear(self, deadline: Deadline) -> None:
        """Wait until all that was sent has come back.

        Raises:
            DemoError: it has not, in time or at all.
        """
        poller = select.poll()
        poller.register(self._out, select.POLLIN)
        while self.received < self.sent:
            what = f"the echo of byte {self.received} to {self.sent}"
            if not poller.poll(deadline.left_s(what) * 1000):
                deadline.left_s(what)
                continue
            data = os.read(self._out.fileno(), self.sent - self.received)
            if not data:
                raise DemoError(f"the connection ended before {what}")
            self.pauses.note()
            self.received_hash.update(data)
            self.received += len(data)

    def hang_up(self) -> bool:
        """End our direction; return whether the other end says nothing more before it ends its."""
        self._in.close()
        poller = select.poll()
        poller.register(self._out, select.POLLIN)
        if not poller.poll(SETUP_TIMEOUT_S * 1000):
            return False
        return not os.read(self._out.fileno(), 1)


def echo(stage: Stage) -> tuple[Scenario, Measured]:
    """The peer must get back exactly what it sent."""
    size_bytes = stage.options.size_bytes or DEFAULT_BYTES
    payload = Payload(size_bytes)
    measured = Measured()
    cast = stage.cast("echo")
    await_listening(cast)
    argv = ["socat", "-t", str(SETUP_TIMEOUT_S), "-", stage.socat_target]
    stage.narrate(f"the peer sends {size_bytes} bytes in chunks, each when the last is back")
    pipe = subprocess.PIPE
    with stage.lab.exec("peer", argv, stdin=pipe, stdout=pipe) as socat:
        talk = Conversation(payload, socat)
        try:
            await_protected(stage, cast)
            _talk(stage, talk, size_bytes)
            if not talk.hang_up():
                measured.troubles.append("the other end does not end the session, or says more")
        except (DemoError, BrokenPipeError) as error:
            measured.troubles.append(str(error))
        finally:
            socat.kill()  # it has ended, or nothing is to be had from it any more
    measured.sent = Stream(talk.sent, talk.sent_hash.hexdigest())
    measured.received = Stream(talk.received, talk.received_hash.hexdigest())
    if stage.failed_at_ns is not None:
        measured.gap_ms = longest_ms(talk.pauses.spans(), stage.failed_at_ns)
        stage.measure_takeover(measured)
    reached = progress.read(stage.progress("re0"))
    if reached is not None:
        measured.primary = Stream(reached.count, reached.sha256)
        measured.primary_prefix = payload.sha256(reached.count) == reached.sha256
    look_whether_too_early(measured, payload)
    return scenario(stage, "echo"), measured


def _talk(stage: Stage, talk: Conversation, size_bytes: int) -> None:
    sizes = random.Random(_SEED)  # noqa: S311 - lengths that repeat, not secrets
    deadline = Deadline(2 * SETUP_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S)
    failure: threading.Thread | None = None
    errors: list[Exception] = []

    def fail() -> None:
        try:
            stage.fail()
        except Exception as error:  # noqa: BLE001 - told in the main thread
            errors.append(error)

    try:
        while talk.sent < size_bytes:
            if failure is None and talk.sent >= size_bytes // 2:
                stage.narrate(f"{talk.received} bytes came back from re0")
                failure = threading.Thread(target=fail)  # the talk goes on while the power goes
                failure.start()
            talk.say(sizes.randint(1, CHUNK_MAX_BYTES))
            talk.hear(deadline)
    finally:
        if failure is not None:
            failure.join()
    if errors:
        raise DemoError(f"re0 could not be made to fail: {errors[0]}")
