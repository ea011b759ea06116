"""Build of ``prl._core``: the C datapath as a cffi extension (API mode).

cffi learns the interface from ``cffi_api.h`` itself, run through the preprocessor with
``PRL_CFFI`` defined, so that no declaration exists twice. ``setup.py`` calls :func:`ffibuilder`;
``python userspace/build_ffi.py`` prints the declarations that cffi is given.
"""

import re
import subprocess
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
INCLUDE_DIRS = ("bpf", "userspace")
FOLDERS = ("tcp", "wire", "core", "io", "flow", "path", "node", "loop", "api", "bgp")
"""From the bottom up: a file includes, and calls, what lies below its folder. ``bgp`` is no part of
the datapath, which therefore cannot call it."""
API_HEADER = "userspace/cffi_api.h"
LIBRARIES = ("bpf", "xdp", "elf", "z", "ssl", "crypto")
# -UNDEBUG: Python's own flags would switch our assertions off.
CFLAGS = (
    *("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-UNDEBUG"),
    f"-ffile-prefix-map={ROOT}=.",  # the same result wherever the tree is
)

# The kernel's integer types as asm-generic/int-ll64.h spells them. uint64_t would be another type
# to the compiler (long, not long long) wherever a pointer is passed.
KERNEL_TYPES = """
typedef unsigned char __u8; typedef signed char __s8;
typedef unsigned short __u16; typedef short __s16;
typedef unsigned int __u32; typedef int __s32;
typedef unsigned long long __u64; typedef long long __s64;
typedef __u16 __be16; typedef __u32 __be32; typedef __u64 __be64; typedef __u16 __sum16;
"""

# The code that cffi writes breaks rules which ours keeps; the pragmas end with that one file.
PREAMBLE = """
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wsign-compare"
#include "cffi_api.h"
"""

ATTRIBUTE = re.compile(r"__attribute__\s*\(\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)\)")
DEFINE = re.compile(r"#define (PRL_\w+) (.+)")
TOKEN = re.compile(r"0[xX][0-9a-fA-F]+[uUlL]*|\d+[uUlL]*|[A-Za-z_]\w*|<<|>>|[-+*/%&|^~()]|\s+|.")
NUMBER = re.compile(r"0[xX][0-9a-fA-F]+[uUlL]*|\d+[uUlL]*")


def preprocess(header: str = API_HEADER, root: Path = ROOT) -> str:
    """Return ``header`` with its includes expanded and its ``#define`` lines kept.

    Raises:
        RuntimeError: the preprocessor refused the header; the message is the compiler's.
    """
    includes = [word for folder in INCLUDE_DIRS for word in ("-I", folder)]
    command = ["gcc", "-E", "-P", "-dD", "-DPRL_CFFI", *includes, header]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cannot preprocess {header}:\n{done.stderr}")
    return done.stdout


def integer_macros(defines: dict[str, str]) -> list[str]:
    """Return the names among ``defines`` (name to body) whose bodies are integer expressions."""

    def is_integer(name: str, seen: frozenset[str] = frozenset()) -> bool:
        return name not in seen and all(
            token.isspace()
            or NUMBER.fullmatch(token)
            or (token in defines and is_integer(token, seen | {name}))
            or re.fullmatch(r"<<|>>|[-+*/%&|^~()]", token)
            for token in TOKEN.findall(defines[name])
        )

    return [name for name in defines if is_integer(name)]


def declarations(text: str) -> list[str]:
    """Split preprocessed C into its top-level declarations (no function bodies)."""
    found, start, depth = [], 0, 0
    for position, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if char == ";" and depth == 0:
            found.append(text[start : position + 1].strip())
            start = position + 1
    return found


def without_attributes(declaration: str) -> str:
    """Strip GCC attributes, which cffi does not know.

    A struct that had any is closed with ``...;``: the compiler then tells cffi its layout.
    """
    bare = ATTRIBUTE.sub("", declaration)
    if bare == declaration or "{" not in bare or bare.lstrip().startswith("enum"):
        return bare
    body, _, tail = bare.rpartition("}")
    return f"{body}...; }}{tail}"


def cdef(header: str = API_HEADER, root: Path = ROOT) -> str:
    """Return the declarations of ``header`` in the C that cffi understands."""
    lines = preprocess(header, root).splitlines()
    defines = {m[1]: m[2] for m in map(DEFINE.fullmatch, lines) if m and m[1] != "PRL_CFFI"}
    code = "\n".join(line for line in lines if not line.startswith("#"))
    return "\n".join(
        [
            KERNEL_TYPES,
            *map(without_attributes, declarations(code)),
            *(f"#define {name} ..." for name in integer_macros(defines)),
        ]
    )


def sources(root: Path = ROOT) -> list[str]:
    """Return every C file of the datapath, relative to ``root``, sorted."""
    found = [path for folder in FOLDERS for path in (root / "userspace" / folder).glob("*.c")]
    return sorted(str(path.relative_to(root)) for path in found)


def headers(root: Path = ROOT) -> list[str]:
    """Return every header that the datapath may include: a change rebuilds the extension."""
    parts = ("bpf", "userspace", *(f"userspace/{folder}" for folder in FOLDERS))
    folders = [root / part for part in parts]
    found = [path for folder in folders for ext in ("h", "def") for path in folder.glob(f"*.{ext}")]
    return sorted(str(path.relative_to(root)) for path in found)


def ffibuilder(root: Path = ROOT) -> FFI:
    """Return the described, not yet compiled, extension (called by setuptools through cffi)."""
    ffi = FFI()
    ffi.cdef(cdef(root=root))
    ffi.set_source(
        "prl._core",
        PREAMBLE,
        sources=sources(root),
        depends=[*sources(root), *headers(root), "userspace/build_ffi.py"],
        include_dirs=list(INCLUDE_DIRS),
        libraries=list(LIBRARIES),
        extra_compile_args=list(CFLAGS),
    )
    return ffi


if __name__ == "__main__":
    print(cdef())  # noqa: T201 - that is what running this file is for
