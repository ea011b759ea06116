"""The ABI structs have one layout for BPF (clang), C (gcc) and Python (cffi)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prl._core import ffi, lib

from prl.bindings.datapath import Event
from prl.bindings.facts import (
    EventKind,
    LinkState,
    Message,
    Owner,
    Primary,
    Secondary,
    Silence,
    Status,
)
from prl.bindings.native import text_of, to_dict

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = sorted((ROOT / "prl/bpf").glob("*.bpf.o"))
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
    "prl_claimed",
    "prl_claim",
    "prl_claim_token",
    "prl_sample",
    "prl_news",
    "prl_stranger",
    "prl_references",
    "prl_rest",
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


def test_python_reads_a_status_as_c_has_it() -> None:
    raw = ffi.new("struct prl_dp_status *")
    raw.epoch, raw.link_up, raw.expired = 1 << 63, True, False
    raw.link_state, raw.silence = lib.PRL_LINK_SUSPECT, lib.PRL_SILENCE_STOP
    raw.services[1] = lib.PRL_OWNER_FENCED
    raw.received[lib.PRL_MSG_ACK] = 7
    raw.counters.over_share = 3
    status = Status.of(raw)
    assert (status.epoch, status.link_up, status.expired) == (1 << 63, True, False)
    assert (status.link_state, status.silence) == (LinkState.SUSPECT, Silence.STOP)
    assert status.services == (Owner.NONE, Owner.FENCED) + (Owner.NONE,) * 14
    assert status.received[Message.ACK] == sum(status.received) == 7
    assert status.counters == to_dict(raw.counters)
    assert status.counters["over_share"] == 3


def test_python_reads_an_event_as_c_has_it() -> None:
    raw = ffi.new("struct prl_event *", {"kind": lib.PRL_EVENT_MOVE, "seq": 4, "body_bytes": 2})
    assert Event.of(raw, body=b"no") == Event(EventKind.MOVE, seq=4, body=b"no")


def test_traces_call_states_what_they_are_called_here() -> None:
    for state in Primary:
        assert text_of(lib.prl_primary_state_name(state)) == state.name.lower()
    for state in Secondary:
        assert text_of(lib.prl_secondary_state_name(state)) == state.name.lower()
    assert text_of(lib.prl_primary_state_name(max(Primary) + 1)) == "unknown"
    assert text_of(lib.prl_secondary_state_name(max(Secondary) + 1)) == "unknown"


def test_marks_are_called_by_their_numbers_where_no_header_is_read() -> None:
    mark = lib.PRL_MARK_RELEASE
    assert f"{mark:#x}" in (ROOT / "docs/firewall.md").read_text()
    assert f"MARK_RELEASE = 0x{mark:X}\n" in (ROOT / "bpf/trace/drops.py").read_text()
    assert len({mark, lib.PRL_MARK_HOLD, lib.PRL_MARK_SHADOW}) == 3
