""".ci/packages.txt against the sources, the Makefile, and what is installed."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.probes import SBIN_PATH
from tests.programs import PythonSearch, makefile_programs, shell_programs

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".ci" / "packages.txt").read_text()
ROWS = [line.split() for line in TEXT.splitlines() if line and not line.startswith("#")]
LISTS = re.findall(r"^# (\w+)  +\w", TEXT, re.MULTILINE)
NEVER_INSTALLED = {"base", "host"}
FOLDERS = (".ci", "bpf", "docs", "prl", "tests", "userspace", "vagrant")
IN_A_GUEST = {ROOT / "tests/kernels/init.sh", ROOT / "vagrant/provision.sh"}
MADE = {"pan"}
"""Programs that the tree, or one that it starts, makes: spin's verifier."""


def installed_by_pip() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["scripts"])


def is_shell(path: Path) -> bool:
    if not path.is_file():
        return False
    first = path.read_bytes()[:64].split(b"\n")[0]
    return path.suffix == ".sh" or bool(re.fullmatch(rb"#!\S*(?:/| )(?:ba)?sh", first))


def sources() -> list[Path]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    return [*files, ROOT / "setup.py"]


@pytest.fixture(scope="module")
def started() -> set[str]:
    found = PythonSearch(path for path in sources() if path.suffix == ".py").found
    for path in sources():
        if is_shell(path) and path not in IN_A_GUEST:
            found |= shell_programs(path.read_text())
    found |= makefile_programs((ROOT / "Makefile").read_text())
    return found - MADE - installed_by_pip()


def test_every_program_that_is_started_has_a_row(started: set[str]) -> None:
    listed = {program for row in ROWS for program in row[2:]}
    assert sorted(started - listed) == [], "add it to .ci/packages.txt, with its package"


def test_every_program_that_has_a_row_is_started(started: set[str]) -> None:
    # Some stand in a table or a longer text, which the search does not follow.
    text = "\n".join(path.read_text() for path in sources() if path.suffix == ".py")
    named = set(re.findall(r"(?<=[\"' ])[a-z][\w.-]*(?=[\"' ])", text))
    listed = {program for row in ROWS for program in row[2:]}
    unused = sorted(listed - started - named)
    assert unused == [], "nothing starts it: take it out of .ci/packages.txt"


def test_every_package_and_every_program_stands_there_once() -> None:
    packages = [row[1] for row in ROWS]
    assert sorted({one for one in packages if packages.count(one) > 1}) == []
    programs = [program for row in ROWS for program in row[2:]]
    assert sorted({one for one in programs if programs.count(one) > 1}) == []


def test_every_list_is_explained_and_has_its_target() -> None:
    assert {row[0] for row in ROWS} <= set(LISTS)
    makefile = (ROOT / "Makefile").read_text()
    (made,) = re.findall(r"^LISTS := (.*)$", makefile, re.MULTILINE)
    assert made.split() == [name for name in LISTS if name not in NEVER_INSTALLED]


def test_make_reads_the_packages_of_a_list_from_it() -> None:
    script = "include Makefile\n$(info $(call packages,run))\n"
    command = ["make", "-s", "-f", "-", "-n", "help", "ARCH=arm64"]
    done = subprocess.run(
        command, cwd=ROOT, input=script, capture_output=True, text=True, check=True
    )
    named = [row[1].replace("ARCH", "arm64") for row in ROWS if row[0] == "run"]
    assert done.stdout.splitlines()[0].split() == named


def test_no_package_is_named_elsewhere_to_be_installed() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"apt-get \S+ \S+ install .*(\$\S+)", makefile) == ["$missing"]


@pytest.mark.parametrize("row", [row for row in ROWS if row[2:]], ids=lambda row: row[1])
def test_a_package_has_the_programs_of_its_row(row: list[str]) -> None:
    _, package, *programs = row
    done = subprocess.run(
        ["dpkg-query", "-L", package], capture_output=True, text=True, check=False
    )
    if done.returncode:
        assert row[0] not in {"base", "build", "run", "demo", "test"}, done.stderr
        return  # a list of which not every machine needs the packages
    has = {path.rpartition("/")[2] for path in done.stdout.splitlines()}
    for program in programs:
        found = shutil.which(program, path=f"{os.environ['PATH']}:{SBIN_PATH}")
        assert found is not None
        # A name that several packages share is a link: awk, iptables. The machine may have chosen
        # another package's.
        choices = subprocess.run(
            ["update-alternatives", "--list", program],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.split()
        names = {Path(choice).resolve().name for choice in (found, *choices)}
        assert {program, *names} & has, program


@pytest.mark.parametrize(
    ("code", "programs"),
    [
        ('subprocess.run(["one", "two"])', {"one"}),
        ('subprocess.run(("/usr/bin/one",))', {"one"}),
        ('argv = ["one"]\nsubprocess.Popen([*argv, "two"])', {"one"}),
        ('subprocess.run(["one"] + more)', {"one"}),
        ('def f(x):\n    argv = [*("one", x)]\n    subprocess.run(argv)', {"one"}),
        ('def f(argv):\n    subprocess.run(argv)\nf(["one"])', {"one"}),
        ('def f(*words):\n    subprocess.run(words)\nf("one", "two")', {"one"}),
        ('def g(x):\n    f(0, x)\ndef f(n, argv):\n    subprocess.run(argv)\ng(["one"])', {"one"}),
        ('def f():\n    return ["one"]\nsubprocess.run(f())', {"one"}),
        ('def f(x):\n    return ["nsenter", "-n", *x]\nlab.run(f(["two"]))', {"nsenter", "two"}),
        ('run(["setpriv", "--pdeathsig", "KILL", "one", "two"])', {"setpriv", "one"}),
        ('run(["unshare", "-m", "sh", "-c", "one | two"])', {"unshare", "sh", "one", "two"}),
        ('shutil.which("one")', {"one"}),
        ('run([sys.executable, "x"])\nrun([str(path)])\nprint(["one"])', set()),
    ],
)
def test_programs_are_found_in_python(tmp_path: Path, code: str, programs: set[str]) -> None:
    path = tmp_path / "code.py"
    path.write_text(code)
    assert PythonSearch([path]).found == programs


@pytest.mark.parametrize(
    ("script", "programs"),
    [
        ("one --x two", {"one"}),
        ("one | two && three || four; five & six", {"one", "two", "three", "four", "five", "six"}),
        ("if ! one; then two; else three; fi", {"one", "two", "three"}),
        ("for x in a b; do one; done", {"one"}),
        ('x=$(one "$(two)")', {"one", "two"}),
        ("A=1 B=2 one", {"one"}),
        ("A=/usr/sbin/one", set()),
        ("# one's\ntwo # three's\nfour 'a\nb' \"don't; c\"\nfive", {"two", "four", "five"}),
        ("f() { one; }\nf", {"one"}),
        ("cat <<EOF\nbody\nEOF\none", {"cat", "one"}),
        ("case $x in\n  a) one ;;\n  b|c) two ;;\nesac", {"one", "two"}),
        ("one 2>&1 >/dev/null\ncd x", {"one"}),
        ("comm <(one) <(two)", {"comm", "one", "two"}),
        ('chroot "$root" one two\nenv -i A=b one', {"chroot", "env", "one"}),
        ("trap two EXIT\n[ -e x ] || one", {"one"}),
        ("one \\\n    two", {"one"}),
    ],
)
def test_programs_are_found_in_shell(script: str, programs: set[str]) -> None:
    assert shell_programs(script) == programs


def test_programs_are_found_in_a_makefile() -> None:
    text = "X := $(shell one x)\nall: two\n\t@three $$x $(call four,y)\n"
    text += "\tif x=$$(five); then six; fi\n\t$(BIN)/seven\n"
    assert makefile_programs(text) == {"one", "three", "five", "six"}
