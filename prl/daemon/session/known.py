"""All sessions of one role on this node, by handle.

    an object, in hand ── nothing happens to it, nobody else has it ─▶ a note in the datapath
                       ◀── asked for by its handle, an event of it, a look at all ──

There may be very many, nearly all of them idle, and those have no object: what many have alike is
kept once, as a kind; ends, service and generation are the flow's; the rest is 32 bytes beside that.
Whoever wants a session gets an object, the only one of it until it is let go again.
"""

import sys
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, Protocol, Self, TypeVar

from prl.bindings.datapath import Datapath, DatapathError, Note, Noted
from prl.daemon.control.clients import Application

LOOKS_AT_ONCE: Final = 256
"""Objects that are looked at, whether they may be let go, before everything else has its turn."""
_OWN_REFERENCES: Final = 3
"""To an object that nobody else has: the table's, the variable's, that of the call that asks."""


class Alike(Protocol):
    """What many sessions have alike; ``key`` is the same for those that do."""

    @property
    def client(self) -> Application:
        """Whose they are."""

    @property
    def key(self) -> Hashable:
        """Whatever tells them apart."""


class Known(Protocol):
    """What this table needs of a session or a shadow."""

    handle: int
    service: int
    client: Application

    def noted(self) -> tuple[Alike, Note] | None:
        """What is to be kept of it, the kind's number aside; None: it is to stay an object."""

    @classmethod
    def recalled(cls, alike: "Alike", noted: Noted) -> Self:
        """The inverse, of what was active when it was let go, as far as this table has heard."""


T = TypeVar("T", bound=Known)


@dataclass(slots=True)
class _Kind:
    number: int
    alike: Alike
    users: int = 0


class Table(Generic[T]):
    """Sessions by handle: ``shadow`` says of which role, ``kind`` what objects are made."""

    def __init__(self, datapath: Datapath, kind: type[T], *, shadow: bool) -> None:
        self._dp, self._class, self._shadow = datapath, kind, shadow
        self._in_hand: dict[int, T] = {}
        self._kinds: dict[Hashable, _Kind] = {}
        self._by_number: dict[int, _Kind] = {}
        self._last_number = 0
        self._noted: Counter[int] = Counter()
        self._round: list[int] = []
        """What is still to be looked at, by handle."""

    # -- as a dict

    def __setitem__(self, handle: int, one: T) -> None:
        self._in_hand[handle] = one

    def __delitem__(self, handle: int) -> None:
        del self._in_hand[handle]
        if not self._in_hand:
            self._in_hand = {}  # a table of very many does not shrink

    def get(self, handle: int) -> T | None:
        """The one with that handle, from now on in hand; None: it is not known."""
        one = self._in_hand.get(handle)
        if one is None and self._noted and (noted := self._dp.recall(handle, shadow=self._shadow)):
            one = self._in_hand[handle] = self._recalled(noted)
        return one

    def peek(self, handle: int) -> T | None:
        """The one with that handle, if it is in hand."""
        return self._in_hand.get(handle)

    def sizes(self) -> dict[str, int]:
        """How many are in hand, and how many noted."""
        return {"in_hand": len(self._in_hand), "noted": self._noted.total()}

    def __len__(self) -> int:
        return len(self._in_hand) + self._noted.total()

    # -- looks at many

    def in_hand(self) -> list[T]:
        """Those that something happens to: all that are not active, or are on their way to be."""
        return list(self._in_hand.values())

    def noted(self, service: int) -> int:
        """How many others there are of a service: all of them active."""
        return self._noted[service]

    def all(self) -> Iterator[T]:
        """All of them, one after the other: those that were noted are in hand from then on."""
        yield from self.in_hand()
        yield from self._recall_all(0)

    def of_service(self, service: int) -> Iterator[T]:
        """All of one service, likewise."""
        yield from (one for one in self.in_hand() if one.service == service)
        if self._noted[service]:
            for handle, of, _ in list(self._dp.notes(shadow=self._shadow)):
                if of == service and (one := self.get(handle)) is not None:
                    yield one

    def of_client(self, client: Application) -> Iterator[T]:
        """All of one application, likewise."""
        yield from (one for one in self.in_hand() if one.client is client)
        kinds = {k.number for k in self._kinds.values() if k.alike.client is client}
        if len(kinds) > 1:
            for handle, _, kind in list(self._dp.notes(shadow=self._shadow)):
                if kind in kinds and (one := self.get(handle)) is not None:
                    yield one
        else:
            for kind in kinds:
                yield from self._recall_all(kind)

    def of_former(self, former: int) -> T | None:
        """The noted one that had that handle as a shadow."""
        if not self._noted:
            return None
        found = list(self._dp.notes(shadow=self._shadow, former=former))
        return self.get(found[0][0]) if found else None

    def _recall_all(self, kind: int) -> Iterator[T]:
        if self._noted:
            for handle, _, _ in list(self._dp.notes(shadow=self._shadow, kind=kind)):
                if (one := self.get(handle)) is not None:
                    yield one

    # -- to notes and back

    def note_idle(self) -> bool:
        """Let some go that nothing happens to; whether to look again soon."""
        if not self._round:
            self._round = list(self._in_hand)
        found = 0
        for handle in self._round[-LOOKS_AT_ONCE:]:
            found += self._note(handle)
        del self._round[-LOOKS_AT_ONCE:]
        if not self._in_hand:
            self._in_hand = {}
        return found > 0 or bool(self._round)

    def _note(self, handle: int) -> bool:
        one = self._in_hand.get(handle)
        if one is None or one.handle != handle or sys.getrefcount(one) > _OWN_REFERENCES:
            return False
        if (noted := one.noted()) is None:
            return False
        kind = self._kind_of(noted[0])
        note = noted[1]
        try:
            self._dp.note(
                handle,
                Note(kind.number, note.in_offset, note.out_offset, note.extra, note.since_s),
            )
        except DatapathError:  # its flow has gone, of which an event may be under way
            self._release(kind)
            return False
        self._noted[one.service] += 1
        del self._in_hand[handle]
        return True

    def _recalled(self, noted: Noted) -> T:
        kind = self._by_number[noted.note.kind]
        self._release(kind)
        self._noted[noted.service] -= 1
        if not self._noted[noted.service]:
            del self._noted[noted.service]
        return self._class.recalled(kind.alike, noted)

    def _kind_of(self, alike: Alike) -> _Kind:
        kind = self._kinds.get(alike.key)
        if kind is None:
            self._last_number = self._last_number % 0xFFFF_FFFF + 1
            while self._last_number in self._by_number:
                self._last_number = self._last_number % 0xFFFF_FFFF + 1
            kind = _Kind(self._last_number, alike)
            self._kinds[alike.key] = self._by_number[kind.number] = kind
        kind.users += 1
        return kind

    def _release(self, kind: _Kind) -> None:
        kind.users -= 1
        if not kind.users:
            del self._kinds[kind.alike.key], self._by_number[kind.number]
