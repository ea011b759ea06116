"""The specification, the code that cites it and docs/protocol.md know the same requirements."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPECIFICATION = (ROOT / "docs" / "specification.md").read_text()
TABLE = (ROOT / "docs" / "protocol.md").read_text().partition("## Where it is")[2]
ROWS = re.findall(r"^\| ([RLI]\d[^|]*) \| ([^|]+) \| ([^|]+) \|$", TABLE, re.MULTILINE)
REQUIREMENT = re.compile(
    r"\*\*([RLI]\d+[a-z]?)\*\*(.*?)(?=\*\*[RLI]\d|^## |\Z)", re.DOTALL | re.MULTILINE
)
CITED = re.compile(r"\(((?:SPEC )?[RLI]\d+[a-z]?(?:(?:, | and | to )[RLI]\d+[a-z]?)*)\)")
IN_WORDS = re.compile(r"\bSPEC ([RLI]\d+[a-z]?)")
FOLDERS = ("bpf", "userspace", "prl", "tests", "docs")
SUFFIXES = {".c", ".h", ".py", ".md", ".pml"}


def requirements() -> dict[str, str]:
    """Each requirement's text by its number."""
    return dict(REQUIREMENT.findall(SPECIFICATION))


def rows() -> list[str]:
    """The numbers that docs/protocol.md finds a place for."""
    return [one for row in ROWS for one in row[0].split(", ")]


def test_every_requirement_that_is_built_has_a_row() -> None:
    wholly_planned = {
        number for number, text in requirements().items() if text.rstrip().endswith("*Planned.*")
    }
    assert len(rows()) == len(set(rows()))
    assert set(rows()) == requirements().keys() - wholly_planned


def cited_by_tests() -> dict[str, set[str]]:
    """By requirement: the test modules whose docstrings say that they check it.

    In parentheses, or in a paragraph of its own: "Checks R1, R2."
    """
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        module = ast.parse(path.read_text())
        words = ast.get_docstring(module) or ""
        groups = CITED.findall(words) + re.findall(r"^Checks (.*)\.$", words, re.MULTILINE)
        for number in re.findall(r"[RLI]\d+[a-z]?", " ".join(groups)):
            has_tests = re.search(r"def test_|^Test\w+ = ", path.read_text(), re.MULTILINE)
            assert has_tests, f"{path}: cites {number} and tests nothing"
            found.setdefault(number, set()).add(str(path.relative_to(ROOT)))
    return found


def test_every_requirement_is_cited_by_the_tests_that_its_row_names_and_by_no_others() -> None:
    named = {
        number: set(re.findall(r"`(tests/[^`]+)`", tests))
        for numbers, _, tests in ROWS
        for number in numbers.split(", ")
    }
    cited = cited_by_tests()
    assert all(named.values())
    missing = {n: files - cited.get(n, set()) for n, files in named.items()}
    assert {n: files for n, files in missing.items() if files} == {}, "named, but do not cite it"
    unnamed = {n: files - named.get(n, set()) for n, files in cited.items()}
    assert {n: files for n, files in unnamed.items() if files} == {}, "cite it, but have no place"


def test_every_file_named_is_there() -> None:
    named = [path for row in ROWS for cell in row[1:] for path in re.findall(r"`([^`]+)`", cell)]
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_every_number_that_is_cited_is_a_requirement() -> None:
    known = requirements().keys()
    unknown = {
        f"{path.relative_to(ROOT)}: {number}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SUFFIXES
        for pattern in (CITED, IN_WORDS)
        for group in pattern.findall(path.read_text(errors="replace"))
        for number in re.findall(r"[RLI]\d+[a-z]?", group)
        if number not in known
    }
    assert unknown == set()
