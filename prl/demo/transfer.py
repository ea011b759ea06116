"""Upload and download: socat on the peer, the power cut in the middle of the bytes."""

import fcntl
import hashlib
import os
import subprocess
import threading
from pathlib import Path
from typing import IO

from prl.demo import progress
from prl.demo.facts import Measured, Scenario, Stream
from prl.demo.pauses import Pauses, longest_ms
from prl.demo.payload import Payload
from prl.demo.player import Cast, Deadline, DemoError
from prl.demo.stage import Stage

DEFAULT_BYTES = 200 << 20
SETUP_TIMEOUT_S = 30.0
SLOWEST_BYTES_PER_S = 2_000_000
_PIPE_BYTES = 1 << 20
_READ_BYTES = 1 << 20


def upload(stage: Stage) -> tuple[Scenario, Measured]:
    """The peer sends; the application of the surviving node must have read all of it."""
    payload = Payload(stage.options.size_bytes or DEFAULT_BYTES)
    measured = Measured()
    path = stage.scratch / "payload"
    _write(payload, path)
    cast = stage.cast("sink", mark_bytes=payload.size_bytes // 2)
    await_listening(cast)
    with path.open("rb") as file:
        argv = ["socat", "-u", "-", stage.socat_target]
        stage.narrate(f"the peer sends {payload.size_bytes} bytes: {' '.join(argv)}")
        with stage.lab.exec("peer", argv, stdin=file, stderr=subprocess.PIPE) as socat:
            try:
                _interrupt(stage, cast, measured)
                _survivor(stage, cast, measured, payload.size_bytes)
                measured.troubles += _end(socat)
            except DemoError as error:
                measured.troubles += [str(error), *_end(socat, kill=True)]
        # socat shares our file offset: so much it has read, and sent if it ended well.
        count = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    measured.sent = Stream(count, payload.sha256(count))
    _look_at_primary(stage, payload, measured)
    look_whether_too_early(measured, payload)
    return scenario(stage, "upload"), measured


def download(stage: Stage) -> tuple[Scenario, Measured]:
    """The peer receives; it must get all that the applications wrote, from one or the other."""
    payload = Payload(stage.options.size_bytes or DEFAULT_BYTES)
    measured = Measured()
    cast = stage.cast("source", size_bytes=payload.size_bytes, mark_bytes=payload.size_bytes // 2)
    await_listening(cast)
    argv = ["socat", "-u", stage.socat_target, "-"]
    stage.narrate(f"the peer fetches {payload.size_bytes} bytes: {' '.join(argv)}")
    with stage.lab.exec("peer", argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as socat:
        assert socat.stdout is not None
        receiver = Receiver(socat.stdout)
        try:
            _interrupt(stage, cast, measured)
            end = cast.expect(
                {"end"}, None, Deadline(SETUP_TIMEOUT_S + payload.size_bytes / SLOWEST_BYTES_PER_S)
            )
            measured.sent = Stream(end["bytes"], end["sha256"])
            receiver.join()
            measured.troubles += _end(socat)
        except DemoError as error:
            measured.troubles += [str(error), *_end(socat, kill=True)]
            receiver.join()
    measured.received = Stream(receiver.count, receiver.sha256())
    if stage.failed_at_ns is not None:
        measured.gap_ms = longest_ms(receiver.pauses.spans(), stage.failed_at_ns)
    stage.measure_takeover(measured)
    _look_at_primary(stage, payload, measured)
    look_whether_too_early(measured, payload)
    return scenario(stage, "download"), measured


class Receiver:
    """Reads what the peer's program got, counting, hashing and timing it."""

    def __init__(self, source: IO[bytes]) -> None:
        fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self.count = 0
        self.pauses = Pauses()
        self._hash = hashlib.sha256()
        self._source = source
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the output.

        Raises:
            DemoError: it does not come.
        """
        self._thread.join(SETUP_TIMEOUT_S)
        if self._thread.is_alive():
            raise DemoError("the peer still waits for bytes though the application has ended")

    def sha256(self) -> str:
        """Of all that was read."""
        return self._hash.hexdigest()

    def _read(self) -> None:
        while data := os.read(self._source.fileno(), _READ_BYTES):
            self.pauses.note()
            self._hash.update(data)
            self.count += len(data)


def scenario(stage: Stage, name: str, peer: str = "socat") -> Scenario:
    """What is played on ``stage``."""
    return Scenario(name, peer, stage.options.family, stage.options.mode)


def await_listening(cast: Cast) -> None:
    """Wait until the applications of both nodes are ready."""
    deadline = Deadline(SETUP_TIMEOUT_S)
    for node in ("re0", "re1"):
        cast.expect({"listening"}, node, deadline)


def await_protected(stage: Stage, cast: Cast) -> None:
    """Wait until the session on re0 is protected.

    Raises:
        DemoError: it cannot be.
    """
    event = cast.expect({"protected", "unprotected"}, "re0", Deadline(SETUP_TIMEOUT_S))
    if event["event"] == "unprotected":
        raise DemoError(f"the session was not protected: {event['reason']}")
    stage.narrate(
        f"re0 serves the session, protected by a shadow on re1 (handle {event['handle']})"
    )


def _interrupt(stage: Stage, cast: Cast, measured: Measured) -> None:
    """Let re0 fail when half of the bytes have passed."""
    await_protected(stage, cast)
    size_bytes = stage.options.size_bytes or DEFAULT_BYTES
    event = cast.expect(
        {"mark"}, "re0", Deadline(SETUP_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S)
    )
    stage.narrate(f"{event['bytes']} bytes have passed through re0")
    stage.fail()
    reached = progress.read(stage.progress("re0"))
    measured.too_early = reached is not None and reached.count >= size_bytes


def _survivor(stage: Stage, cast: Cast, measured: Measured, size_bytes: int) -> None:
    """Wait for the end at whichever application has the session."""
    deadline = Deadline(SETUP_TIMEOUT_S + size_bytes / SLOWEST_BYTES_PER_S)
    end = cast.expect({"end"}, None, deadline)
    measured.received = Stream(end["bytes"], end["sha256"])
    stage.narrate(f"{end['node']} has read {end['bytes']} bytes to the end")
    if stage.failed_at_ns is not None:
        measured.gap_ms = longest_ms(map(tuple, end["pauses"]), stage.failed_at_ns)
    stage.measure_takeover(measured)


def _look_at_primary(stage: Stage, payload: Payload, measured: Measured) -> None:
    reached = progress.read(stage.progress("re0"))
    if reached is not None:
        measured.primary = Stream(reached.count, reached.sha256)
        measured.primary_prefix = payload.sha256(reached.count) == reached.sha256


def look_whether_too_early(measured: Measured, payload: Payload) -> None:
    """On a busy machine the transfer may be over before the failure comes about."""
    if measured.gap_ms is None and measured.received.count == payload.size_bytes:
        measured.too_early = True


def _write(payload: Payload, path: Path) -> None:
    with path.open("wb") as file:
        offset = 0
        while len(part := payload.at(offset)):
            offset += file.write(part)


def _end(socat: "subprocess.Popen[bytes]", *, kill: bool = False) -> list[str]:
    """Wait for the end of socat; return what it complains of."""
    if kill:
        socat.kill()
    try:
        socat.wait(SETUP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [*_end(socat, kill=True), "the peer's socat does not end"]
    assert socat.stderr is not None
    complaint = socat.stderr.read()
    if socat.returncode and not kill:
        said = complaint.decode(errors="replace").strip().splitlines()
        return [f"the peer's socat failed: {said[-1] if said else socat.returncode}"]
    return []
