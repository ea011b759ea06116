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

_CHANGES: dict[str, list[tuple[str, str]]] = {
    "userspace/wire.h": [
        (r"#define PRL_WIRE_VERSION 1\n", f"#define PRL_WIRE_VERSION {VERSION}\n"),
        (
            r"    PRL_MSG_COUNT = (\d+),\n",
            r"    PRL_MSG_NEXT = \1,\n    PRL_MSG_COUNT = PRL_MSG_NEXT + 1,\n",
        ),
        (r"(enum prl_tlv_type \{\n)", rf"\1    PRL_TLV_NOTE = {NOTE_TYPE},\n"),
    ],
    "userspace/wire.def": [
        (
            r"(?s)(\nPRL_TLV\()",
            (
                '\nPRL_MSG(NEXT, PRL_MSG_NEXT, 4, 2)\nPRL_FIELD(NEXT, generation, 0, 4, "new")\n'
                rf'PRL_TLV(NOTE, {NOTE_TYPE}, 0, 2, "new")\1'
            ),
        ),
    ],
    "prl/core/wire.py": [
        (r"(    HELLO = lib.PRL_MSG_HELLO\n)", r"\1    NEXT = lib.PRL_MSG_NEXT\n"),
        (r"(class Tlv.*\n(?:.*\n)*?\n)", r"\1    NOTE = lib.PRL_TLV_NOTE\n"),
        (r"(    OUTPUT = lib.PRL_CAP_OUTPUT\n)", rf"\1    NEXT = 1 << {CAPABILITY_BIT}\n"),
    ],
    "prl/daemon/hello.py": [
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
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        check=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
    )
    return tree
