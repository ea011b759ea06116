"""The ABI structs have one layout for BPF (clang), C (gcc) and Python (cffi)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prl._core import ffi, lib

OBJECTS = sorted((Path(__file__).resolve().parents[2] / "prl/bpf").glob("*.bpf.o"))
STRUCTS = (
    "prl_flow_key",
    "prl_flow_ref",
    "prl_meta",
    "prl_sock_view",
    "prl_flow",
    "prl_addr_key",
    "prl_addr",
    "prl_lif",
    "prl_node",
    "prl_inject_eth",
    "prl_claim",
    "prl_sample",
)
Layout = tuple[int, dict[str, int]]


def cffi_layout(name: str) -> Layout:
    """Size and offsets in bytes; asking makes cffi compare its own view with the compiler's."""
    kind = ffi.typeof(f"struct {name}")
    return ffi.sizeof(kind), {member: field.offset for member, field in kind.fields}


def btf_layouts(path: Path) -> dict[str, Layout]:
    done = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", path], capture_output=True, check=True
    )
    types: list[dict[str, Any]] = json.loads(done.stdout)["types"]
    return {
        kind["name"]: (
            kind["size"],
            {member["name"]: member["bits_offset"] // 8 for member in kind["members"]},
        )
        for kind in types
        if kind["kind"] == "STRUCT" and kind["name"] in STRUCTS
    }


@pytest.mark.parametrize("name", STRUCTS)
def test_cffi_agrees_with_the_compiler(name: str) -> None:
    size, offsets = cffi_layout(name)
    assert size > max(offsets.values())
    assert list(offsets.values()) == sorted(offsets.values())


@pytest.mark.needs("bpftool")
def test_the_objects_agree_with_cffi() -> None:
    seen: set[str] = set()
    for path in OBJECTS:
        for name, layout in btf_layouts(path).items():
            assert layout == cffi_layout(name), f"struct {name} in {path.name}"
            seen.add(name)
    assert {"prl_flow", "prl_flow_key", "prl_node", "prl_addr"} <= seen


def test_owner_states_are_address_states() -> None:
    for name in ("NONE", "STANDBY", "OWNER", "FENCED"):
        assert getattr(lib, f"PRL_OWNER_{name}") == getattr(lib, f"PRL_ADDR_{name}")
