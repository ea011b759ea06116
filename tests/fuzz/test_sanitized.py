"""Under sanitizers a read beyond a buffer ends the process, in the tests' own extension (R29)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEYOND = """
from prl._core import ffi, lib


def test_within() -> None:
    assert lib.prl_wire_length(ffi.new("uint8_t[8]", [1, 1, 0, 0, 0, 0, 0, 16]), 8) == 16


def test_beyond() -> None:
    lib.prl_wire_length(ffi.new("uint8_t[4]", [1, 1, 0, 0]), 8)
"""


@pytest.mark.needs("asan")
def test_a_read_beyond_a_buffer_is_found(tmp_path: Path) -> None:
    path = tmp_path / "test_beyond.py"
    path.write_text(BEYOND)
    command = [sys.executable, "-m", "tests.sanitized", "-s", "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert "prl_wire_length" in done.stderr
    only_good = [*command, "-k", "within"]
    done = subprocess.run(only_good, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
