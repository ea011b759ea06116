"""Copies of the core with one deliberate mistake each: what the simulator must be able to see."""

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cffi import FFI

from tests.sim.core import Core

ROOT = Path(__file__).parent.parent.parent
HEADERS = ("core/serial.h", "core/hold.h", "core/primary.h", "core/secondary.h",
           "core/ownership.h", "core/switchover.h", "wire.h")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """``old`` stands exactly once in ``file`` and is replaced by ``new``."""

    name: str
    file: str
    old: str
    new: str
    faults: tuple[str, ...] = ()
    """The kinds that bring the mistake out soon; none: all."""


MUTANTS = (
    Mutant(
        "the primary opens before the secondary's lease has ended",
        "core/ownership.c",
        "owner->last_echo_sent_ns + owner->config.hold_ns : 0;",
        "owner->last_echo_sent_ns + owner->config.suspect_ns : 0;",
    ),
    Mutant(
        "a failed flow opens at once, without VOID",
        "core/primary.c",
        "    if (flow->state == PRL_PRIMARY_SETUP) {\n        open_up(flow, reason, out);",
        "    if (flow->state == PRL_PRIMARY_SETUP || flow->state == PRL_PRIMARY_ACTIVE) {\n"
        "        open_up(flow, reason, out);",
    ),
    Mutant(
        "a NACK releases the packet that was refused",
        "core/primary.c",
        "take_acked(&queues->in_held, is_nack ? seq - 1 : seq,",
        "take_acked(&queues->in_held, seq,",
    ),
    Mutant(
        "a shadow is taken over that was never confirmed",
        "core/secondary.c",
        "if (flow->state == PRL_SECONDARY_ACTIVE && flow->confirmed) {",
        "if (flow->state == PRL_SECONDARY_ACTIVE) {",
    ),
    Mutant(
        "the secondary's lease is twice as long",
        "core/ownership.c",
        "uint64_t until_ns = owner->echoed_own_ns + owner->config.takeover_ns;",
        "uint64_t until_ns = owner->echoed_own_ns + 2 * owner->config.takeover_ns;",
    ),
    Mutant(
        "a cumulative ACK releases one packet more",
        "core/primary.c",
        "take_acked(&queues->in_held, is_nack ? seq - 1 : seq,",
        "take_acked(&queues->in_held, is_nack ? seq - 1 : seq + 1,",
    ),
    Mutant(
        "output is acknowledged before the shadow has sent it",
        "core/secondary.c",
        "    if (unsent_bytes == 0) {",
        "    if (unsent_bytes <= 500) {",
    ),
    Mutant(
        "a service that was renounced is taken back",
        "core/ownership.c",
        "        owner->given_mask |= 1u << service;",
        "        owner->given_mask |= 0u << service;",
        ("renounce", "slow reader"),
    ),
    Mutant(
        "a take-over that was decided in time may speak at any time",
        "core/ownership.c",
        "owner->first_by_ns = first_by_ns == UINT64_MAX ? 0 : first_by_ns;",
        "owner->first_by_ns = first_by_ns == UINT64_MAX ? 0 : 0;",
        ("stall at the decision",),
    ),
    Mutant(
        "an owner that has lost link and LAN is not silent",
        "core/ownership.c",
        "    if (owner->silence != PRL_SILENCE_NOT || mask == 0)",
        "    if (owner->silence != PRL_SILENCE_NOT || mask == 0 || why == PRL_SILENCE_NO_LAN)",
        ("both cut",),
    ),
    Mutant(
        "an owner that may be replaced trusts in its LAN for longer",
        "core/ownership.c",
        "    return owner->echoed_own_ns + owner->config.suspect_ns;",
        "    return owner->echoed_own_ns + owner->config.hold_ns;",
        ("both cut", "pause"),
    ),
    Mutant(
        "a lease is judged by our own clock alone",
        "core/ownership.c",
        "        owner->echo_at_ns = sent_ns;",
        "        owner->echo_at_ns = UINT64_MAX / 2;",
        ("owner dies unseen",),
    ),
)


def build(folder: Path, mutant: Mutant | None = None) -> Path:
    """Compile the core's sources, with ``mutant``'s mistake, below ``folder``.

    Returns the path of the module. Raises ValueError when the place of the mistake is not there
    exactly once: the core was changed, change the mutant too.
    """
    tree = folder / "userspace"
    shutil.copytree(ROOT / "userspace/core", tree / "core")
    for path in (ROOT / "userspace").glob("wire.*"):
        shutil.copy(path, tree)
    if mutant is not None:
        source = tree / mutant.file
        text = source.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(f"{mutant.file} does not contain exactly once: {mutant.old!r}")
        source.write_text(text.replace(mutant.old, mutant.new))
    (tree / "sim_api.h").write_text("".join(f'#include "{name}"\n' for name in HEADERS))
    spec = importlib.util.spec_from_file_location("prl_build_ffi", ROOT / "userspace/build_ffi.py")
    assert spec is not None
    assert spec.loader is not None
    build_ffi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_ffi)
    ffi = FFI()
    ffi.cdef(build_ffi.cdef("userspace/sim_api.h", folder))
    ffi.set_source(
        f"prl_core_{folder.name.replace('-', '_')}",
        build_ffi.PREAMBLE.replace("cffi_api.h", "sim_api.h"),
        sources=[str(path) for path in sorted(tree.glob("**/*.c"))],
        include_dirs=[str(tree)],
        extra_compile_args=["-std=gnu11", "-O1", "-UNDEBUG"],
    )
    return Path(ffi.compile(tmpdir=str(folder)))


def load(path: Path) -> Core:
    """The core in a compiled module."""
    name = path.name.split(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return Core(module.ffi, module.lib)
