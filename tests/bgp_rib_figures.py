"""What a full table costs a BGP front: ``python -m tests.bgp_rib_figures [PREFIXES]``.

The table is generated: as many sets of attributes as a router has of its upstream's table, one for
every five prefixes or so, few with many prefixes and many with one; AS paths of two to nine, and
communities with half of them.
"""

import random
import resource
import struct
import sys
import time
from collections.abc import Iterator

from prl.bindings.bgp_rib import Column, Rib, messages
from tests.bgp_updates import (
    AS_PATH,
    COMMUNITIES,
    NEXT_HOP,
    OPTIONAL,
    ORIGIN,
    TRANSITIVE,
    attribute,
    update,
)

PREFIXES = 1_000_000
NLRI_MAX = 900
"""Of one UPDATE; real ones are packed by what a router happened to have to say at once."""


def table(prefixes: int, seed: int = 1) -> Iterator[bytes]:
    """UPDATEs with so many different prefixes."""
    random.seed(seed)
    number = 0
    while number < prefixes:
        path = [random.randrange(1, 400_000) for _ in range(random.randint(2, 9))]
        listed = (
            attribute(TRANSITIVE, ORIGIN, bytes([random.randrange(3)]))
            + attribute(TRANSITIVE, AS_PATH, struct.pack(f"!BB{len(path)}I", 2, len(path), *path))
            + attribute(TRANSITIVE, NEXT_HOP, b"\xc0\0\2\x0a")
        )
        if random.random() < 0.5:
            values = [random.randrange(1 << 32) for _ in range(random.randint(1, 8))]
            listed += attribute(
                OPTIONAL | TRANSITIVE, COMMUNITIES, struct.pack(f"!{len(values)}I", *values)
            )
        count = min(int(random.paretovariate(1.15)), NLRI_MAX, prefixes - number)
        nlri = b"".join(
            b"\x18" + struct.pack("!I", (n + 0x0100_00) << 8)[:3]
            for n in range(number, number + count)
        )
        yield update(attributes=listed, announced=nlri)
        number += count


def main(prefixes: int = PREFIXES) -> None:
    """Measure, and print."""
    stream = bytearray(b"".join(table(prefixes)))
    size = len(stream)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def tell(what: str, since: float) -> None:
        took = time.process_time() - since
        _print(f"{what:52}{took * 1e3:9.0f} ms{took / prefixes * 1e9:9.0f} ns/prefix")

    rib = Rib(routes_max=2 * prefixes, attributes_max_bytes=1 << 32)
    start = time.process_time()
    whole = list(messages(stream))
    tell(f"framing of {len(whole)} UPDATEs, {size / 1e6:.0f} MB", start)
    start = time.process_time()
    for one in whole:
        rib.apply(one, Column.SOURCE)
    tell("into SOURCE", start)
    status = rib.status()
    start, calls, longest = time.process_time(), 0, 0.0
    while rib.differing:
        began = time.process_time()
        rib.difference()
        longest = max(longest, time.process_time() - began)
        calls += 1
    tell(f"difference of all, {calls} calls, longest {longest * 1e3:.0f} ms", start)
    start = time.process_time()
    for one in whole:
        rib.apply(one, Column.SOURCE, Column.SENT)
    tell("once more, into both columns", start)
    start = time.process_time()
    written = sum(map(len, rib.walk(Column.SENT)))
    tell(f"walk, {written / 1e6:.0f} MB", start)
    start = time.process_time()
    rib.clear(Column.SOURCE)
    tell("clear", start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    counted = status.memory_bytes / prefixes
    _print(f"{status.sets} sets, {status.attribute_bytes / 1e6:.0f} MB; {counted:.0f} bytes/prefix")
    _print(f"resident, with the UPDATEs: {peak / 1024:.0f} MiB more")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
