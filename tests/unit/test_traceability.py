"""docs/protocol.md says where each requirement lives: in files that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "protocol.md").read_text().partition("## Where it is")[2]
ROWS = re.findall(r"^\| ([RLI]\d[^|]*) \| ([^|]+) \| ([^|]+) \|$", TABLE, re.MULTILINE)
PACKET_REPLICATION = {f"R{n}" for n in (*range(1, 17), 26)} | {"R1a", "R12a"}
INVARIANTS = {f"I{n}" for n in range(1, 8)}


def test_every_requirement_of_the_layer_has_a_row() -> None:
    ids = [one for row in ROWS for one in row[0].split(", ")]
    assert len(ids) == len(set(ids))
    assert set(ids) >= PACKET_REPLICATION | INVARIANTS


def test_every_file_named_is_there() -> None:
    named = [path for row in ROWS for cell in row[1:] for path in re.findall(r"`([^`]+)`", cell)]
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []
