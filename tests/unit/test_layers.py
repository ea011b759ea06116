"""The datapath's folders and files: what may include and call what, and what only one file may do.

Checks R25.
"""

import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USERSPACE = ROOT / "userspace"
BUILD = runpy.run_path(str(USERSPACE / "build_ffi.py"))
FOLDERS: tuple[str, ...] = BUILD["FOLDERS"]
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
ATTRIBUTE: re.Pattern[str] = BUILD["ATTRIBUTE"]
STRING = re.compile(r'"(?:\\.|[^"\\])*"')
FUNCTION = re.compile(
    r"^(?!static|typedef|extern)[a-z][^;{}()=]*?\b(\w+)\([^;{}]*\)\n\{", re.MULTILINE
)
DECLARED = re.compile(r"^ ?(?!static|typedef)[a-z][^;{}()=]*?\b(\w+)\([^;{}]*\);", re.MULTILINE)
API = "api/datapath.h"
"""One header for all that Python calls; every other is of the one file that bears its name."""


def sources(root: Path, ext: str) -> dict[str, str]:
    """The text of every file, by its name in ``userspace``, without comments and attributes."""
    return {
        f"{folder}/{path.name}": ATTRIBUTE.sub(
            "", COMMENT.sub("", path.read_text(encoding="utf-8"))
        )
        for folder in FOLDERS
        for path in sorted((root / folder).glob(f"*.{ext}"))
    }


def includes(root: Path) -> dict[str, set[str]]:
    """What each file includes of the datapath's own."""
    texts = sources(root, "c") | sources(root, "h")
    return {
        name: {other for other in INCLUDE.findall(text) if other in texts}
        for name, text in texts.items()
    }


def calls(root: Path) -> dict[str, set[str]]:
    """Which files each file names a function of; an inline function of a header is the header's."""
    texts = sources(root, "c")
    home = {name: file for file, text in texts.items() for name in FUNCTION.findall(text)}
    used = {
        file: set(re.findall(r"\b\w+\b", STRING.sub("", text)))
        for file, text in (texts | sources(root, "h")).items()
    }
    return {file: {home[name] for name in used[file] if name in home} - {file} for file in texts}


def upward(arrows: Mapping[str, set[str]]) -> Iterator[str]:
    """The arrows from a file to one of a folder above its own."""
    rank = {folder: number for number, folder in enumerate(FOLDERS)}
    for file, others in sorted(arrows.items()):
        for other in sorted(others):
            if rank[other.split("/")[0]] > rank[file.split("/")[0]]:
                yield f"{file} -> {other}"


def circles(arrows: Mapping[str, set[str]]) -> list[str]:
    """The files from which arrows lead back to themselves."""

    def reached(file: str) -> set[str]:
        found: set[str] = set()
        rest = [file]
        while rest:
            for other in arrows.get(rest.pop(), ()):
                if other not in found:
                    found.add(other)
                    rest.append(other)
        return found

    return sorted(file for file in arrows if file in reached(file))


@pytest.mark.parametrize("arrows_of", [includes, calls])
def test_every_arrow_points_down_and_none_leads_back(
    arrows_of: Callable[[Path], dict[str, set[str]]],
) -> None:
    arrows = arrows_of(USERSPACE)
    assert sum(map(len, arrows.values())) > len(arrows), "the patterns above find nothing any more"
    assert not list(upward(arrows))
    assert not circles(arrows)


@pytest.mark.parametrize("arrows_of", [includes, calls])
def test_a_wrong_arrow_is_found(
    arrows_of: Callable[[Path], dict[str, set[str]]], tmp_path: Path
) -> None:
    """Else the test above would pass whatever it reads."""
    low, high = FOLDERS[0], FOLDERS[-1]
    for folder, other in ((low, high), (high, low)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.h").write_text(
            f'#include "{other}/a.h"\nvoid {folder}_a(int one);\n'
        )
        (tmp_path / folder / "a.c").write_text(
            f"/* {folder}_c() */\nvoid {folder}_a(int one)\n{{\n    {other}_a(one);\n}}\n"
        )
    arrows = arrows_of(tmp_path)
    ext = "h" if arrows_of is includes else "c"
    assert list(upward(arrows)) == [f"{low}/a.{ext} -> {high}/a.{ext}"]
    assert circles(arrows) == sorted([f"{low}/a.{ext}", f"{high}/a.{ext}"])


def test_a_header_declares_what_its_file_defines() -> None:
    defined = {file: set(FUNCTION.findall(text)) for file, text in sources(USERSPACE, "c").items()}
    declared = {file: set(DECLARED.findall(text)) for file, text in sources(USERSPACE, "h").items()}
    assert sum(map(len, declared.values())) > 300
    api = declared.pop(API)
    assert api == set().union(
        *(names for file, names in defined.items() if file.startswith("api/"))
    )
    wrong = {
        file: names ^ defined.get(file.removesuffix("h") + "c", set())
        for file, names in declared.items()
    }
    assert not {file: names for file, names in wrong.items() if names}
    headers = {file.removesuffix("h") + "c" for file in declared}
    assert not {file for file in set(defined) - headers if not file.startswith("api/")}


@pytest.mark.parametrize(
    ("what", "files"),
    [
        # A flow's role is looked at before the memory that the two roles share is touched.
        (r"\bas_(primary|secondary|shadow)\b", {"flow/flow.h", "flow/flow.c"}),
        # A held packet ends in one way.
        (r"\bprl_pool_(get|put)\(", {"core/hold.h", "core/hold.c", "flow/held.c"}),
        # A packet is parsed where it comes in, or is made; what that said travels with it.
        (
            r"\bprl_packet_parse\(",
            {
                *("tcp/packet.h", "tcp/packet.c", "path/input.c", "path/output.c"),
                *("path/secondary.c", "path/relay.c", "path/reinject.c"),
            },
        ),
    ],
)
def test_what_few_files_do(what: str, files: set[str]) -> None:
    texts = sources(USERSPACE, "c") | sources(USERSPACE, "h")
    assert {file for file, text in texts.items() if re.search(what, text)} == files


def test_a_packet_is_parsed_once() -> None:
    for file in ("path/input.c", "path/output.c", "path/secondary.c", "path/relay.c"):
        text = (USERSPACE / file).read_text(encoding="utf-8")
        assert text.count("prl_packet_parse(") == 1, file


def test_the_folders_are_described_in_their_order() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \| ", text, re.MULTILINE)
    assert tuple(row for row in rows if row in FOLDERS) == FOLDERS
