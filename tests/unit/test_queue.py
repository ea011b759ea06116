"""Verdicts of packets that wait in the kernel (userspace/io/queue.c), as the kernel gets them."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.probes import require

ROOT = Path(__file__).resolve().parents[2]
USERSPACE = ROOT / "userspace"
VERDICTS = 64
"""Of one message."""
FLUSH = 0

Told = Callable[..., list[list[int]]]
Read = Callable[..., list[tuple[int, ...]]]
PEER, NUMBERED = "02:00:00:00:00:01", "72:6a:00:00:00:07"
WHOLE, HEADERS = 0xFFFF, 2048
"""What is read of a packet, by the one queue and by the other one."""


def build(folder: Path, *sources: Path) -> Path:
    """A driver of these sources, with sanitizers."""
    require("asan")
    driver = folder / "driver"
    flags: list[str | Path] = ["-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ["-I", USERSPACE, "-I", ROOT / "bpf"]
    subprocess.run(["gcc", *flags, *sources, "-o", driver], check=True)
    return driver


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The messages that come of settled packets, a negative number for one that is dropped."""
    driver = build(tmp_path_factory.mktemp("queue"), Path(__file__).parent / "queue_driver.c")

    def run(*numbers: int) -> list[list[int]]:
        said = " ".join(map(str, numbers))
        done = subprocess.run(
            [driver], input=said, capture_output=True, check=True, text=True, timeout=60
        )
        return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]

    return run


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Of each packet that is read its number, its bytes, and its number on the cable."""
    here = Path(__file__).parent / "queue_receive_driver.c"
    sources = [here, *(USERSPACE / name for name in ("io/umem.c", "tcp/packet.c", "tcp/md5sig.c"))]
    driver = build(tmp_path_factory.mktemp("receive"), *sources)

    def run(frames: int, copy_bytes: int, *orders: str) -> list[tuple[int, ...]]:
        done = subprocess.run(
            [driver, str(frames), str(copy_bytes)],
            input="\n".join(orders),
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        )
        return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]

    return run


def test_a_slot_that_was_filled_in_part_is_filled_later(read: Read) -> None:
    """While the packet memory is short, what comes is dropped; then packets are read again."""
    slots, spare = 32 * 17, 8
    found = read(
        slots + spare,
        WHOLE,
        *(f"comes 1 40960 {PEER}", "read", "take 5"),
        *(f"comes 2 40960 {PEER}", "read"),
        *("give 5", "free", f"comes 3 40960 {PEER}", "read", "free"),
    )
    assert found == [(1, 40960, 0), (), (3, 40960, 0)]


def test_a_host_s_address_that_looks_like_a_number_is_none(read: Read) -> None:
    """Numbers are the cable's, and come by the queue of headers alone (docs/mirror.md)."""
    orders = (f"comes 1 100 {NUMBERED}", "read", "free")
    assert read(600, WHOLE, *orders) == [(1, 100, 0)]
    assert read(600, HEADERS, *orders) == [(1, 100, 7)]


def test_the_oldest_packet_s_verdict_goes_first(told: Told) -> None:
    """Flows are let go one by one; the kernel looks for each packet from the oldest on."""
    assert told(1, 3, 5, 2, 4, 6, FLUSH) == [[1, 2, 3, 4, 5, 6]]


def test_each_packet_keeps_its_own_verdict(told: Told) -> None:
    assert told(7, -9, 8, -6, FLUSH) == [[-6, 7, 8, -9]]


def test_what_comes_behind_a_flush_is_another_message(told: Told) -> None:
    assert told(5, 4, FLUSH, 3, FLUSH, FLUSH, 2, 1, FLUSH) == [[4, 5], [3], [1, 2]]


def test_the_first_number_comes_behind_the_last(told: Told) -> None:
    last = (1 << 32) - 1
    assert told(1, last, 2, last - 1, FLUSH) == [[last - 1, last, 1, 2]]


@pytest.mark.parametrize("flows", [1, 2, 7, 64])
def test_many_are_in_order_over_all_messages(told: Told, flows: int) -> None:
    wait = list(range(1, 1 + 4 * VERDICTS + 3))
    owners = [random.Random(number).randrange(flows) for number in wait]
    by_flow = [n for flow in range(flows) for n, of in zip(wait, owners, strict=True) if of == flow]
    messages = told(*by_flow, FLUSH)
    assert [len(message) for message in messages] == [VERDICTS] * 4 + [3]
    assert [number for message in messages for number in message] == wait
