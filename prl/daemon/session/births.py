"""Sessions that wait, from their handshake on, to be protected (SPEC R31, docs/sessions.md).

other node offers the endpoint ─▶ awaited: in the kernel, each new session waits, birth_ms at most
link lost, nobody waits there  ─▶ not awaited: sessions begin as they would without prl
"""

from collections.abc import Iterable
from typing import Final

from prl.bindings.datapath import Datapath, DatapathError, Offered
from prl.bindings.programs import Kernel
from prl.config import Config
from prl.daemon.events.log import EventLog
from prl.endpoint import Address
from prl.errors import UsageError

_MS: Final = 1000


class Births:
    """The endpoints whose sessions wait."""

    def __init__(
        self, config: Config, datapath: Datapath, kernel: Kernel, log: EventLog, *, heard: bool
    ) -> None:
        """``heard``: TCP tells of the end of handshakes; without, nothing waits."""
        self._dp, self._kernel, self._log = datapath, kernel, log
        self._wait_s: dict[tuple[str, Address], float] = {}
        if heard:
            self._wait_s = {
                (service.instance, address): service.birth_ms / _MS
                for service in config.service
                for address in service.addresses
                if service.birth_ms
            }
        self._awaited: set[Offered] = set()
        self._late = self._count()

    def offered(self, endpoint: str) -> None:
        """The other node waits for shadows of it."""
        offered = self._parse(endpoint)
        if offered is None or offered in self._awaited:
            return
        try:
            self._dp.await_sessions(offered, self._wait_s[offered.instance, offered.local])
        except DatapathError as error:
            self._log.error("alarm", f"new sessions do not wait to be protected: {error}")
            return
        self._awaited.add(offered)

    def refused(self, endpoints: Iterable[str]) -> None:
        """Nobody waits there for these."""
        for endpoint in endpoints:
            offered = self._parse(endpoint)
            if offered in self._awaited:
                self._forget(offered)

    def on_link_down(self) -> None:
        """Nothing can be protected."""
        for offered in list(self._awaited):
            self._forget(offered)

    def look(self) -> None:
        """Tell of sessions whose time was over since the last look."""
        late, self._late = self._late, self._count()
        if self._late > late:
            self._log.warning(
                "born_unprotected",
                f"{self._late - late} new sessions were neither protected nor refused within "
                "service.birth_ms, and go on without protection",
                sessions=self._late - late,
            )

    def _count(self) -> int:
        return self._kernel.births_late

    def _forget(self, offered: Offered) -> None:
        self._awaited.discard(offered)
        try:
            self._dp.await_sessions(offered, 0)
        except DatapathError as error:
            self._log.error("alarm", f"new sessions wait to be protected in vain: {error}")

    def _parse(self, endpoint: str) -> Offered | None:
        """Of a service whose sessions may wait."""
        try:
            offered = Offered.parse(endpoint)
        except UsageError:  # of UDP
            return None
        return offered if (offered.instance, offered.local) in self._wait_s else None
