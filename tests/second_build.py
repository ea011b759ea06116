"""A second build of prl, one protocol version ahead: this tree, changed as its developer would.

It speaks version 2 and still 1, has a message (NEXT) and an optional element (NOTE) since version
2, one more capability, and puts NOTE into its HELLO.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD_TIMEOUT_S = 240
VERSION = 2
NOTE_TYPE = 256
CAPABILITY_BIT = 40
MESSAGE = "NEXT"
WIRE = ROOT / "userspace/wire/wire.def"
MESSAGE_TYPE = len(re.findall(r"^PRL_MSG\(", WIRE.read_text(), re.MULTILINE)) + 1

_CHANGES: dict[str, list[tuple[str, str]]] = {
    "userspace/wire/wire.h": [
        (r"#define PRL_WIRE_VERSION 1\n", f"#define PRL_WIRE_VERSION {VERSION}\n"),
    ],
    "userspace/wire/wire.def": [
        (
            r"(\nPRL_TLV\()",
            (
                rf"\nPRL_MSG({MESSAGE}, {MESSAGE_TYPE}, 2, NONE, NONE)"
                rf'\nPRL_FIELD({MESSAGE}, generation, generation, 4, "new")'
                rf'\nPRL_TLV(NOTE, {NOTE_TYPE}, 0, 2, "new")\1'
            ),
        ),
        (r"(\nPRL_CAP\()", rf'\nPRL_CAP(NEXT, {CAPABILITY_BIT}, "old")\1'),
    ],
    "prl/daemon/link/hello.py": [
        (r"(OWN_CAPABILITIES = )", r"\1Capability.NEXT | "),
        (
            r"(            Element\(Tlv\.NODE_NAME)",
            r'            Element(Tlv.NOTE, b"from version 2"),\n\1',
        ),
    ],
}


def make(folder: Path) -> Path:
    """Build it under ``folder``; return what to put in front of PYTHONPATH to run it.

    Raises:
        AssertionError: this tree has changed so that a change above does not apply.
        subprocess.CalledProcessError: it does not compile.
    """
    tree = folder / "next"
    for part in ("prl", "userspace", "bpf"):
        unwanted = shutil.ignore_patterns("__pycache__", "_core.*")
        shutil.copytree(ROOT / part, tree / part, ignore=unwanted)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    for name, changes in _CHANGES.items():
        path = tree / name
        text = path.read_text()
        for pattern, replacement in changes:
            text, count = re.subn(pattern, replacement, text, count=1)
            assert count == 1, f"{name}: nothing matches {pattern}"
        path.write_text(text)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_facts", "build_ext", "--inplace"],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    return tree
