"""A session as its peer has it: offsets that never wrap; packets carry their lower 32 bits.

A stream's bytes are a function of their offsets, so that offsets alone tell what was lost.
"""

from dataclasses import dataclass, field

BUFFER_BYTES = 20_000
SEGMENT_MAX = 1400
BURST_MAX = 8_000
"""Unacknowledged bytes in one direction."""
RTO_NS = 80_000_000


class ViolationError(AssertionError):
    """An invariant of the specification does not hold."""


@dataclass(slots=True)
class Session:
    """A session as its peer has it."""

    number: int
    service: int
    snd_una: int
    snd_nxt: int
    rcv_nxt: int
    edge: int
    rcv_wup: int = 0
    """Up to where it has acknowledged output."""
    progress_ns: int = 0
    timer_ns: int = 0
    """Since when the oldest unacknowledged segment waits for an answer."""
    shut_ns: int = -1
    """Since when its window is shut; -1: it is not."""
    out_ns: int = 0
    """When output came last, or began after a rest."""
    quiet_until_ns: int = 0
    """Neither end has anything new to say."""
    waits_on: int = -1
    """The node whose kernel keeps it waiting for protection since its handshake; -1: none does."""
    waits_until_ns: int = 0
    """At most until then, by that node's clock."""
    over: str = ""
    """Why it has ended: fin, rst, or lost (it was not protected when its host died)."""
    fin_sent: bool = False
    heard: set[int] = field(default_factory=set)
    """Nodes that spoke for it since the faults ended."""


@dataclass(slots=True, eq=False)
class Life:
    """What the checker knows of one snapshot: both L4s' packets, and what was missed."""

    session: Session
    setup_end: int = 0
    born_ns: int = 0
    released: list[tuple[int, int, int, int]] = field(default_factory=list)
    accepted: list[tuple[int, int, int, int]] = field(default_factory=list)
    flushed: bool = False
    confirmed: bool = False
    is_stale: bool = False
    """It was taken over by a node whose clock stood, and that could not know what it had missed."""
    untidy: bool = False
    """A kernel dropped what it was given: the lists differ until TCP or prld has repaired it."""
    disordered: bool = False
    """Untidy, or the shadow's kernel dropped what cannot be fed again (docs/mirror.md): the lists
    differ, but the peer is told of nothing that the shadow does not have."""
