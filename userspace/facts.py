"""What other languages must know of the C headers, written by this script.

``make build`` calls :func:`python_module` for ``prl/bindings/facts.py``, which is not kept in the
repository. ``python userspace/facts.py`` brings the rows of the Wireshark dissector and the tables
of the documents up to date, which are; a test compares them.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
TABLE = "userspace/wire/wire.def"
DISSECTOR = "docs/wireshark/prl.lua"
PROTOCOL = "docs/protocol.md"
OPERATIONS = "docs/operations.md"
HEADER_BYTES = 16
"""PRL_WIRE_HEADER."""

# --- the wire's table ---------------------------------------------------------------------------


@dataclass
class Message:
    """PRL_MSG with its PRL_FIELDs: name, offset in the fixed part, width, unit."""

    name: str
    type: int
    since: int
    data: list[str]
    """The elements that may carry its bytes; the first is the usual one."""
    fields: list[tuple[str, int, int, str]] = field(default_factory=list)
    members: dict[str, str] = field(default_factory=dict)
    """Of struct prl_msg, by the name of the field."""
    fixed_bytes: int = 0

    def add(self, name: str, width: int, unit: str) -> None:
        """Append a field to the fixed part."""
        self.fields.append((name, self.fixed_bytes, width, unit))
        self.fixed_bytes += width


@dataclass
class Element:
    """PRL_TLV."""

    name: str
    type: int
    mandatory: bool
    since: int
    what: str


@dataclass
class Wire:
    """All of wire.def."""

    messages: dict[str, Message] = field(default_factory=dict)
    elements: dict[str, Element] = field(default_factory=dict)
    reasons: list[tuple[str, int, str, str]] = field(default_factory=list)
    """Name, number, what traces call it, words."""
    flags: list[tuple[str, str, int, str]] = field(default_factory=list)
    """Group, name, bit, what."""
    phases: list[tuple[str, int, str]] = field(default_factory=list)
    capabilities: list[tuple[str, int, str]] = field(default_factory=list)
    """Name, bit, what a node goes without that does not have it."""


def rows(text: str) -> Iterator[tuple[str, list[str]]]:
    """Return each row of a table of macros: the macro, its arguments without quotation marks."""
    for macro, arguments in re.findall(r"^(PRL_\w+)\((.*)\)$", text, re.MULTILINE):
        yield macro, [a or b for a, b in re.findall(r'"([^"]*)"|([^\s,]+)', arguments)]


def read_wire(text: str | None = None) -> Wire:
    """Read wire.def.

    Raises:
        KeyError: a field or an element is named that is not in the table before, or at all.
    """
    wire = Wire()
    for macro, row in rows((ROOT / TABLE).read_text() if text is None else text):
        match macro, row:
            case "PRL_MSG", [name, kind, since, *data]:
                carried = [element for element in data if element != "NONE"]
                wire.messages[name] = Message(name, int(kind), int(since), carried)
            case "PRL_FIELD", [message, name, member, width, unit]:
                wire.messages[message].add(name, int(width), unit)
                wire.messages[message].members[name] = member
            case "PRL_UNUSED", [message, width]:
                wire.messages[message].add("unused", int(width), "zero")
            case "PRL_TLV", [name, kind, mandatory, since, what]:
                wire.elements[name] = Element(name, int(kind), mandatory == "1", int(since), what)
            case "PRL_REASON", [name, number, trace_name, words]:
                wire.reasons.append((name, int(number), trace_name, words))
            case "PRL_FLAG", [group, name, bit, what]:
                wire.flags.append((group, name, int(bit), what))
            case "PRL_PHASE", [name, number, what]:
                wire.phases.append((name, int(number), what))
            case "PRL_CAP", [name, bit, without]:
                wire.capabilities.append((name, int(bit), without))
            case _:
                raise KeyError(f"{TABLE}: {macro} with {len(row)} arguments")
    return wire


# --- the dissector ------------------------------------------------------------------------------


def _lua(function: str, *values: object) -> str:
    plain = [f'"{value}"' if isinstance(value, str) else str(int(value)) for value in values]
    return f"{function}({', '.join(plain)})"


def dissector_rows(wire: Wire) -> Iterator[str]:
    """Return the calls that fill the dissector's tables."""
    for message in wire.messages.values():
        yield _lua("message", message.name, message.type, message.fixed_bytes, message.since)
        for one in message.fields:
            yield _lua("field", message.name, *one)
    for element in wire.elements.values():
        yield _lua(
            "element", element.name, element.type, element.mandatory, element.since, element.what
        )
    for _, number, _, words in wire.reasons:
        yield _lua("reason", number, words)
    for group, name, bit, _ in wire.flags:
        yield _lua("flag", group, bit, name)
    for name, bit, _ in wire.capabilities:
        yield _lua("flag", "CAP", bit, name)
    for name, number, _ in wire.phases:
        yield _lua("phase", number, name)


# --- tables of the documents --------------------------------------------------------------------


def _markdown(heads: str, lines: Iterable[Iterable[object]]) -> Iterator[str]:
    yield f"| {heads.replace(', ', ' | ')} |"
    yield "|---" * len(heads.split(", ")) + "|"
    for line in lines:
        yield "| " + " | ".join(str(cell) for cell in line) + " |"


def message_table(wire: Wire) -> Iterator[str]:
    """Return a row for every field of every message."""

    def lines() -> Iterator[list[object]]:
        for message in wire.messages.values():
            heads: list[object] = [f"`{message.name}`", message.type, message.since]
            for name, offset, width, unit in message.fields:
                yield [*heads, f"`{name}`", HEADER_BYTES + offset, width, unit]
                heads = ["", "", ""]

    return _markdown("message, type, since, field, offset, width, unit", lines())


def element_table(wire: Wire) -> Iterator[str]:
    """Return a row for every element."""
    return _markdown(
        "element, type, mandatory, since, what",
        (
            (f"`{e.name}`", e.type, "yes" if e.mandatory else "no", e.since, e.what)
            for e in wire.elements.values()
        ),
    )


def capability_table(wire: Wire) -> Iterator[str]:
    """Return a row for every capability."""
    return _markdown(
        "bit, capability, without it",
        ((bit, f"`{name}`", without) for name, bit, without in wire.capabilities),
    )


def reason_table(wire: Wire) -> Iterator[str]:
    """Return a row for every reason."""
    return _markdown(
        "number, `PRL_REASON_*`, in words",
        ((number, f"`{name}`", words) for name, number, _, words in wire.reasons),
    )


def cause_table(_wire: Wire) -> Iterator[str]:
    """Return a row for every reason for which a session is not protected, from prl.daemon."""
    from prl.bindings.facts import Reason  # noqa: PLC0415 - the build has no prl yet
    from prl.daemon.monitoring.remedies import CAUSES  # noqa: PLC0415

    return _markdown(
        "cause, what it means, what helps",
        (
            (f"`{reason.name.lower()}`", *cause)
            for reason, cause in CAUSES.items()
            if reason != Reason.ENDED
        ),
    )


def flag_table(wire: Wire) -> Iterator[str]:
    """Return a row for every flag of a message's own, and for every phase."""
    return _markdown(
        "`PRL_…`, value, what",
        [
            *((f"`{group}_{name}`", f"bit {bit}", what) for group, name, bit, what in wire.flags),
            *((f"`PHASE_{name}`", number, what) for name, number, what in wire.phases),
        ],
    )


Maker = Callable[[Wire], Iterator[str]]
GENERATED: dict[str, dict[str, Maker]] = {
    DISSECTOR: {"rows": dissector_rows},
    PROTOCOL: {
        "capabilities": capability_table,
        "messages": message_table,
        "elements": element_table,
        "reasons": reason_table,
        "flags": flag_table,
    },
    OPERATIONS: {"causes": cause_table},
}
"""By file: the generated parts, each between two lines ``facts: NAME`` and ``facts: end``."""


def generated(path: str, wire: Wire) -> str:
    """Return a file of ``GENERATED`` as it has to be.

    Raises:
        ValueError: a part is not marked in it.
    """
    text = (ROOT / path).read_text()
    for name, make in GENERATED[path].items():
        part = re.compile(rf"(^.*facts: {name}\b.*\n)((?s:.*?))(^.*facts: end\b.*\n)", re.MULTILINE)
        if not part.search(text):
            raise ValueError(f"{path}: no part 'facts: {name}'")
        body = "".join(f"{line}\n" for line in make(wire))
        text = part.sub(lambda found, body=body: found[1] + body + found[3], text, count=1)
    return text


# --- Python -------------------------------------------------------------------------------------

ENUMERATIONS = (
    ("Message", "prl_msg_type", "PRL_MSG_", "Types of message on the link."),
    ("Tlv", "prl_tlv_type", "PRL_TLV_", "Types of element (TLV)."),
    ("Reason", "prl_reason", "PRL_REASON_", "Why something was refused or ended."),
    ("Capability", "prl_capability", "PRL_CAP_", "What a node can do beyond the least."),
    ("Owner", "prl_owner_state", "PRL_OWNER_", "What a node is for a service address (SPEC L1)."),
    ("LinkState", "prl_link_state", "PRL_LINK_", "State of the link."),
    ("Primary", "prl_primary_state", "PRL_PRIMARY_", "State of a flow whose application is here."),
    ("Secondary", "prl_secondary_state", "PRL_SECONDARY_", "State of a flow whose shadow is here."),
    ("Refused", "prl_refused", "PRL_REFUSED_", "Why a take-over was refused."),
    ("Fenced", "prl_fenced", "PRL_FENCED_", "Who vouches that the other node is dead (SPEC L5)."),
    ("Arbiter", "prl_arbiter_state", "PRL_ARBITER_", "What the arbiter has said (SPEC L12)."),
    ("Seizes", "prl_seizes", "PRL_SEIZES_", "By whose word the arbiter is told, not asked."),
    ("Silence", "prl_silence", "PRL_SILENCE_", "Why an owner emits nothing (SPEC L6)."),
    ("Moved", "prl_move_outcome", "PRL_MOVE_", "How a move ended (SPEC R21)."),
    ("EventKind", "prl_event_kind", "PRL_EVENT_", "What the datapath tells of."),
    ("FlowFlag", "prl_flow_flag", "PRL_FLOW_", "Flags of a flow in the kernel."),
)
"""Name in Python, in C, the prefix of its enumerators, its docstring."""
FLAGS = frozenset({"Capability", "FlowFlag"})

RECORDS = (
    ("Status", "prl_dp_status", False, "The node as a whole; times are CLOCK_BOOTTIME, ns."),
    ("EventHead", "prl_event", True, "One event of the datapath; ``kind`` tells what it says."),
)
"""Name in Python, in C, whether members are 0 unless given, docstring."""

HEAD = '''"""Facts of the C headers; written by userspace/facts.py, which `make build` calls."""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Self
'''


def _enumeration(ffi: FFI, name: str, c_name: str, prefix: str, words: str) -> Iterator[str]:
    yield f"class {name}({'IntFlag' if name in FLAGS else 'IntEnum'}):"
    yield f'    """{words.removesuffix(".")}: enum {c_name}."""'
    yield ""
    members = ffi.typeof(f"enum {c_name}").relements
    for member, value in sorted(members.items(), key=lambda pair: pair[1]):
        if member != f"{prefix}COUNT":
            yield f"    {member.removeprefix(prefix)} = {value}"


def _member(kind: Any, source: str) -> tuple[str, str]:
    """Return how Python annotates and reads a member of cffi's type ``kind``."""
    if kind.kind == "enum":
        name = next(python for python, c_name, *_ in ENUMERATIONS if f"enum {c_name}" == kind.cname)
        return name, f"{name}({source})"
    if kind.kind == "array":
        annotation, read = _member(kind.item, "one")
        items = source if read == "one" else f"{read} for one in {source}"
        return f"tuple[{annotation}, ...]", f"tuple({items})"
    if kind.kind == "struct":
        names = [name for name, _ in kind.fields]
        return "dict[str, int]", f"{{name: getattr({source}, name) for name in {names}}}"
    return ("bool" if kind.cname == "_Bool" else "int"), source


def _record(ffi: FFI, name: str, c_name: str, has_defaults: bool, words: str) -> Iterator[str]:
    members = [
        (member, *_member(found.type, f"struct.{member}"))
        for member, found in ffi.typeof(f"struct {c_name}").fields
        if member != "body_bytes" and not member.startswith("pad")
    ]
    yield "@dataclass(frozen=True, slots=True)"
    yield f"class {name}:"
    yield f'    """{words.removesuffix(".")}: struct {c_name}."""'
    yield ""
    for member, annotation, _ in members:
        yield f"    {member}: {annotation}{' = 0' * (has_defaults and annotation == 'int')}"
    yield ""
    yield "    @classmethod"
    yield "    def of(cls, struct: Any, **more: Any) -> Self:"
    yield '        """Read cffi\'s structure; ``more``: members that a subclass adds."""'
    yield "        return cls("
    for member, _, read in members:
        yield f"            {member}={read},"
    yield "            **more,"
    yield "        )"


def python_module(cdef: str) -> str:
    """Return ``prl/bindings/facts.py``, from the declarations that cffi is given."""
    ffi = FFI()
    ffi.cdef(cdef)
    parts = ["\n".join(_enumeration(ffi, *row)) for row in ENUMERATIONS]
    parts += ["\n".join(_record(ffi, *row)) for row in RECORDS]
    return HEAD + "".join(f"\n\n{part}\n" for part in parts)


if __name__ == "__main__":
    table = read_wire()
    for file in GENERATED:
        (ROOT / file).write_text(generated(file, table))
