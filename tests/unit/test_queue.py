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


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The messages that come of settled packets, a negative number for one that is dropped."""
    require("asan")
    driver = tmp_path_factory.mktemp("queue") / "driver"
    flags: list[str | Path] = ["-g", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ["-I", USERSPACE, "-I", ROOT / "bpf"]
    source = Path(__file__).parent / "queue_driver.c"
    subprocess.run(["gcc", *flags, source, "-o", driver], check=True)

    def run(*numbers: int) -> list[list[int]]:
        said = " ".join(map(str, numbers))
        done = subprocess.run(
            [driver], input=said, capture_output=True, check=True, text=True, timeout=60
        )
        return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]

    return run


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
