"""docs/hacking.md names files and functions that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "hacking.md").read_text()
NAMED = re.findall(r"`([^`]+)`", GUIDE)


def test_every_file_and_folder_named_is_there() -> None:
    paths = [name for name in NAMED if re.fullmatch(r"[\w.]+(/[\w.]+)+/?", name)]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_function_named_is_there() -> None:
    names = {name.removesuffix("()") for name in NAMED if re.fullmatch(r"\w+\(\)", name)}
    assert len(names) > 5
    sources = "".join(
        path.read_text()
        for folder in ("userspace", "bpf", "prl")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".c", ".h", ".py"}
    )
    assert {name for name in names if not re.search(rf"\b{name}\(", sources)} == set()
