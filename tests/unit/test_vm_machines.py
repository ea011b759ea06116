"""What tests/vm tells its machines, without the machines: ssh and virsh are replaced."""

import os
from pathlib import Path

import pytest

from tests.vm.hall import Hall
from tests.vm.machines import UNITS, Machine

SSH = """\
#!/bin/sh
shift 3 # -F FILE NAME
exec sh -c "$*" # the other side's shell gets all words as one line
"""
SUDO = """\
#!/bin/sh
exec "$@"
"""
VIRSH = """\
#!/bin/sh
echo "virsh $*" >>"$TOLD"
case $2 in domstate) cat "$TOLD.state" ;; start | resume) echo running >"$TOLD.state" ;; esac
"""
SYSTEMCTL = """\
#!/bin/sh
echo "systemctl $*" >>"$TOLD"
"""


class Here(Hall):
    """A hall without walls."""

    def inside(self, *argv: str) -> list[str]:
        return [*argv]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the replaced programs write what they were told."""
    programs = {"ssh": SSH, "sudo": SUDO, "virsh": VIRSH, "systemctl": SYSTEMCTL}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    return tmp_path / "told"


@pytest.mark.usefixtures("told")
def test_a_command_that_goes_on_is_the_line_that_was_given() -> None:
    line = "printf '%s|' \"a  b\" 'c' | sed s/c/d/"
    machine = Machine(Here(), "re0")
    with machine.start(line) as process:
        said, _ = process.communicate(timeout=30)
    assert said == machine.run(line) == "a  b|d|"


@pytest.mark.parametrize(
    ("state", "mended"), [("shut off", "start"), ("paused", "resume"), ("running", None)]
)
def test_what_a_failed_test_left_is_mended(told: Path, state: str, mended: str | None) -> None:
    told.with_name("told.state").write_text(state)
    machine = Machine(Here(), "re0")
    machine.revive()
    lines = told.read_text().splitlines()
    expected = [f"virsh -q {mended} vagrant_re0"] if mended else []
    continued = f"systemctl kill --signal=CONT {UNITS}"
    assert lines == ["virsh -q domstate vagrant_re0", *expected, continued]
    assert machine.is_on()
