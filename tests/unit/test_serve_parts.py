"""`serve`: where output is cut off and compared, what is kept of the input, what is logged.

Checks R20.
"""

import hashlib
import os
import select
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl.daemon.programs.listening import Early
from prl.serve.command import Command
from prl.serve.cutoff import EXPECTED_MAX, ComparedCutOff, OutputDiffersError
from prl.serve.history import History
from prl.serve.inbound import Inbound

OUTPUT = bytes(range(256)) * 8


def feed(cutoff: ComparedCutOff, pieces: list[int]) -> None:
    at = cutoff.end
    for size in pieces:
        cutoff.append(OUTPUT[at : at + size])
        at += size


@given(
    start=st.integers(0, 300),
    words=st.lists(st.integers(0, 600), max_size=8),
    pieces=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    when=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_ahead_or_behind_the_stream_goes_on_at_the_exact_byte(
    start: int, words: list[int], pieces: list[int], when: list[bool]
) -> None:
    cutoff = ComparedCutOff(1 << 20, start)
    floors = sorted({start + word for word in words})
    left = list(pieces)
    for is_word in when:
        if is_word and floors:
            floor = floors.pop(0)
            cutoff.expect(floor, zlib.crc32(OUTPUT[start:floor]))
        elif left:
            feed(cutoff, [left.pop(0)])
    sent = b""
    floor = cutoff.floor
    assert cutoff.is_behind == (cutoff.end < floor)
    while data := cutoff.peek(7):
        cutoff.consume(len(data))
        sent += data
    assert sent == OUTPUT[floor : cutoff.end]


@pytest.mark.parametrize("ahead", [True, False])
def test_other_output_is_found_out(ahead: bool) -> None:
    cutoff = ComparedCutOff(1 << 20)
    wrong = bytearray(OUTPUT)
    wrong[77] ^= 1

    def word() -> None:
        cutoff.expect(100, zlib.crc32(OUTPUT[:100]))

    if ahead:
        cutoff.append(wrong[:500])
        with pytest.raises(OutputDiffersError, match="first 100 bytes"):
            word()
        return
    word()
    cutoff.append(wrong[:99])
    assert not cutoff.peek(1)
    with pytest.raises(OutputDiffersError, match="not deterministic"):
        cutoff.append(wrong[99:120])


def test_a_program_that_ends_early_is_found_out() -> None:
    cutoff = ComparedCutOff(1 << 20)
    cutoff.append(OUTPUT[:10])
    cutoff.require_whole()
    cutoff.expect(11, zlib.crc32(OUTPUT[:11]))
    with pytest.raises(OutputDiffersError, match="after 10 bytes"):
        cutoff.require_whole()


def test_words_for_a_program_that_is_behind_are_bounded() -> None:
    cutoff = ComparedCutOff(1 << 20)
    for end in range(1, 3 * EXPECTED_MAX):
        cutoff.expect(end, zlib.crc32(OUTPUT[:end]))
    feed(cutoff, [3 * EXPECTED_MAX])
    assert cutoff.peek(100) == OUTPUT[3 * EXPECTED_MAX - 1 : 3 * EXPECTED_MAX]


def test_a_history_that_is_too_long_is_none() -> None:
    history = History(10)
    history.add(b"12345")
    history.add(b"67890")
    assert history.data == b"1234567890"
    history.add(b"1")
    history.add(b"")
    assert history.data is None


@given(
    order=st.permutations(range(6)),
    again=st.lists(st.integers(0, 5), max_size=4),
    start=st.sampled_from([0, 7, (1 << 32) - 900]),
)
def test_segments_heard_in_any_order_give_the_stream(
    order: list[int], again: list[int], start: int
) -> None:
    early = Early(start)
    for number in [*order, *again]:
        seq = (start + number * 300) % (1 << 32)
        early.add(seq, OUTPUT[number * 300 : number * 300 + 300])
    early.add((start - 1) % (1 << 32), b"a keepalive's byte")
    assert early.data == OUTPUT[:1800]


def test_stderr_is_logged_by_line_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "prl.serve")
    script = "echo first >&2; head -c 5000 /dev/zero | tr '\\0' x >&2; echo >&2; printf last >&2"
    with Command(["sh", "-c", script], "me") as command:
        while command.status() is None:
            events = _wait(command)
            command.step(events)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "me: stderr: first"
    assert all(len(line) <= len("me: stderr: ") + 1024 for line in lines)
    assert lines[-1] == "me: stderr: last"


def test_a_fresh_program_is_given_what_came_before_the_connection() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    history = History(1 << 20)
    before = OUTPUT * 100  # more than a pipe takes at once
    with Command(["sha256sum"]) as command:
        inbound = Inbound(reader, command, history, before)
        os.write(writer, b"then this")
        os.close(writer)
        while not inbound.has_ended:
            inbound.step(_poll(inbound.interests()))
        assert history.data == before + b"then this"
        _poll([(command.stdout, select.POLLIN)])
        digest = hashlib.sha256(before + b"then this").hexdigest().encode()
        assert os.read(command.stdout, 100).startswith(digest)
    os.close(reader)


def _wait(command: Command) -> dict[int, int]:
    return _poll(command.interests())


def _poll(interests: list[tuple[int, int]]) -> dict[int, int]:
    poll = select.poll()
    for descriptor, events in interests:
        poll.register(descriptor, events)
    return dict(poll.poll(10_000))
