"""What the control socket's requests do (docs/control.md)."""

import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any

import msgspec

from prl.bindings.facts import Owner, Reason
from prl.control import application
from prl.daemon.control import rights
from prl.daemon.control.control import Client, flag_of, number_of, text_of
from prl.daemon.control.followers import Followers
from prl.daemon.control.rights import Right
from prl.daemon.events.log import EventLog
from prl.daemon.monitoring import facts
from prl.daemon.monitoring.facts import NodeView
from prl.daemon.ownership.ownership import Ownership
from prl.daemon.ownership.switchover import Switchover
from prl.daemon.programs import processes
from prl.daemon.programs.listening import Watches
from prl.daemon.programs.processes import Process, Processes
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.daemon.session.shadows import Shadow, Shadows
from prl.daemon.session.streams import Streams
from prl.endpoint import (
    INSTANCE_MARK,
    OPENS_TO,
    UDP_PREFIX,
    Address,
    parse_endpoint,
    show_endpoint,
)
from prl.errors import NotSafeError, PrlError, UsageError
from prl.kernel.descriptors import Holder

FLOWS_PER_ANSWER = 64
EVENTS_PER_ANSWER = 64
WHY_MAX_CHARS = 400
_REJECTIONS = {"output_differs": Reason.OUTPUT_DIFFERS, "mid_stream": Reason.MID_STREAM}

Operation = Callable[[Client, dict[str, Any], list[int]], Awaitable[dict[str, Any]]]


class Requests:
    """One method per operation."""

    def __init__(
        self,
        view: NodeView,
        log: EventLog,
        ownership: Ownership,
        primaries: Primaries,
        shadows: Shadows,
        processes: Processes,
        watches: Watches,
        switchover: Switchover,
        *,
        followers: Followers,
        guests_may: Right = Right.LOOK,
    ) -> None:
        """``guests_may``: what members of the socket's group may do."""
        self._view, self._log, self._ownership = view, log, ownership
        self._switchover, self._followers = switchover, followers
        self._guests_may = guests_may
        self._primaries, self._shadows = primaries, shadows
        self._processes, self._watches = processes, watches
        self._operations: dict[str, Operation] = {
            "status": self._status,
            "stats": self._stats,
            "link_show": self._link_show,
            "flow_list": self._flow_list,
            "flow_show": self._flow_show,
            "flow_del": self._flow_del,
            "flow_resync": self._flow_resync,
            "events": self._events,
            "follow": self._follow,
            "replicate": self._replicate,
            "replicate_process": self._replicate_process,
            "replicate_listen": self._replicate_listen,
            "renew": self._renew,
            "offer": self._offer,
            "close": self._close,
            "abandon": self._abandon,
            "abort": self._abort,
            "release": self._release,
            "committed": self._committed,
            "reject": self._reject,
            "takeover": self._takeover,
            "switchover": self._move,
        }

    async def handle(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        """Answer a request. Raises PrlError."""
        name = request.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            raise UsageError(f"no operation {name!r:.100}; use: {', '.join(self._operations)}")
        rights.require(client, str(name), self._guests_may)
        return await operation(client, request, fds)

    def gone(self, client: Client) -> None:
        """An application's connection ended: whatever it had is without an application now."""
        self._primaries.application_gone(client)
        self._shadows.application_gone(client)
        self._watches.client_gone(client)
        self._followers.gone(client)

    async def _status(self, *_: object) -> dict[str, Any]:
        return facts.status(self._view)

    async def _stats(self, *_: object) -> dict[str, Any]:
        return facts.stats(self._view) | {
            "log_bytes": self._log.size_bytes(),
            "sessions": self._primaries.sizes(),
            "shadows": self._shadows.sizes(),
        }

    async def _link_show(self, *_: object) -> dict[str, Any]:
        return facts.link(self._view)

    async def _flow_list(self, _: Client, request: dict[str, Any], __: list[int]) -> dict[str, Any]:
        after = number_of(request, "after", 0)
        handles = facts.handles(self._view, after, FLOWS_PER_ANSWER + 1)
        chosen = handles[:FLOWS_PER_ANSWER]
        flows = [found for h in chosen if (found := facts.flow(self._view, h)) is not None]
        return {"flows": flows, "next": chosen[-1] if len(handles) > len(chosen) else None}

    async def _flow_show(self, _: Client, request: dict[str, Any], __: list[int]) -> dict[str, Any]:
        handle = number_of(request, "handle")
        found = facts.flow(self._view, handle, whole=True)
        if found is None:
            raise _unknown(handle)
        return {"flow": found}

    async def _flow_del(self, _: Client, request: dict[str, Any], __: list[int]) -> dict[str, Any]:
        handle = number_of(request, "handle")
        session = self._primaries.find(handle)
        if session is None:
            raise _unknown(handle)
        if self._processes.has(session):
            self._primaries.release(session)
        else:
            self._primaries.unprotect(session, _words(request))
        return session.facts()

    async def _flow_resync(
        self, _: Client, request: dict[str, Any], __: list[int]
    ) -> dict[str, Any]:
        handle = number_of(request, "handle")
        session = self._primaries.find(handle)
        if session is None:
            raise UsageError(
                f"no session {handle:#x} is this node's; see `prlctl flow list` for those whose "
                "role is primary"
            )
        self._primaries.resync(session)
        return session.facts()

    async def _events(self, _: Client, request: dict[str, Any], __: list[int]) -> dict[str, Any]:
        records = self._log.after(number_of(request, "after", 0), EVENTS_PER_ANSWER)
        return {"events": [msgspec.to_builtins(record) for record in records]}

    async def _follow(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        self._followers.add(client, past=flag_of(request, "past"))
        return {}

    async def _replicate(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        data = application.unpack(request, fds)
        if len(fds) != 1:
            raise UsageError(f"replicate: send one socket along, not {len(fds)} descriptors")
        try:
            sock = socket.socket(fileno=fds[0])
        except OSError as error:
            raise UsageError(f"replicate: the descriptor is no socket ({error})") from error
        fds.clear()  # the socket's now
        try:
            rights.require_room(client, self._primaries.of(client), data)
        except BaseException:
            sock.close()
            raise
        session = await self._primaries.replicate(
            client,
            sock,
            data,
            renew=flag_of(request, "renew"),
            streams=_streams(request),
            again=flag_of(request, "again"),
        )
        if client.closed:
            self._primaries.application_gone(client)
        return self._facts(session)

    async def _renew(
        self, client: Client, request: dict[str, Any], fds: list[int]
    ) -> dict[str, Any]:
        data = application.unpack(request, fds)
        handle = number_of(request, "handle")
        session = self._primaries.find(handle)
        if session is None or session.client is not client:
            raise _unknown(handle)
        others = (each for each in self._primaries.of(client) if each is not session)
        rights.require_room(client, others, data)
        await self._primaries.renew(session, data)
        return self._facts(session)

    def _facts(self, session: Session) -> dict[str, Any]:
        """What its application must know of a session; ``streams`` is opaque to it."""
        facts = session.facts() | {"streams": session.streams.to_list()}
        if session.is_live and session.state != "active":
            facts["reason"] = session.reason or self._primaries.why_not(session)
        return facts

    async def _replicate_process(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        """A program that was not changed has the socket: pid and fd, or local and remote."""
        pid = number_of(request, "pid", 0)
        if "local" in request:
            local = parse_endpoint(text_of(request, "local"))
            remote = parse_endpoint(text_of(request, "remote"))
            holder = await self._processes.find(local, remote, pid or None)
        else:
            holder = Holder(pid, number_of(request, "fd"))
        process = await self._processes.replicate(holder, client)
        return _process_facts(process)

    async def _replicate_listen(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        """Whatever a program accepts on the endpoint, as long as the client is connected."""
        local = parse_endpoint(text_of(request, "endpoint"))
        self._require_service(local[0], "replicate")
        found = await self._watches.start(
            client,
            local,
            number_of(request, "pid", 0) or None,
            number_of(request, "connections_max"),
        )
        if client.closed:
            self._watches.client_gone(client)
        return found

    def _require_service(self, address: Address, what: str) -> None:
        if address not in self._view.addresses:
            raise UsageError(
                f"{what}: {address} is no service address; use one of: "
                + ", ".join(map(str, self._view.addresses))
            )

    async def _offer(self, client: Client, request: dict[str, Any], _: list[int]) -> dict[str, Any]:
        text, mark, instance = text_of(request, "endpoint").partition(INSTANCE_MARK)
        prefix = UDP_PREFIX * text.startswith(UDP_PREFIX)
        address, what = self._offered_end(client, text.removeprefix(UDP_PREFIX))
        self._require_service(address, "offer")
        instances = [s.instance for s in self._view.config.service if address in s.addresses]
        if not mark and len(instances) == 1:
            (instance,) = instances
        if instance not in instances or (not mark and len(instances) > 1):
            raise UsageError(
                f"offer: {address} is a service address in other routing instances; use one of: "
                + ", ".join(f"{text}{INSTANCE_MARK}{name}" for name in instances)
            )
        where = INSTANCE_MARK + instance if instance else ""
        where = prefix + what + where
        self._make_way_for(client, where)
        self._shadows.offer(client, where)
        return {}

    def _offered_end(self, client: Client, text: str) -> tuple[Address, str]:
        """The service address of an offer, and the offer as it is compared (R32).

        Raises UsageError, PrlError.
        """
        own, opens, remote = text.partition(OPENS_TO)
        if not opens:
            address, port = parse_endpoint(text)
            rights.require_port(client, port)
            return address, show_endpoint(address, port)
        other, port = parse_endpoint(remote)
        try:
            address = ip_address(own)
        except ValueError as error:
            raise UsageError(
                f"offer: bad address {own!r:.100}: write ADDRESS{OPENS_TO}ADDRESS:PORT, ours first"
            ) from error
        if address.version != other.version:
            raise UsageError(f"offer: {address} and {other} are of different IP versions")
        rights.require_any_port(client)
        return address, f"{address}{OPENS_TO}{show_endpoint(other, port)}"

    def _make_way_for(self, client: Client, where: str) -> None:
        """Of two users one has an endpoint: root, or who was there first."""
        for other in self._shadows.offering(where):
            if isinstance(other, Client) and other.uid != client.uid:
                if client.is_guest:
                    raise UsageError(f"offer: another user offers {where}")
                if other.is_guest:
                    self._shadows.withdraw(other, where)
        if client.is_guest and self._shadows.offers_of(client) >= rights.OFFERS_MAX:
            raise PrlError(
                f"a connection of the socket's group may offer {rights.OFFERS_MAX} endpoints"
            )

    async def _close(self, client: Client, request: dict[str, Any], _: list[int]) -> dict[str, Any]:
        handle = number_of(request, "handle")
        session, shadow = self._primaries.find(handle), self._shadows.find(handle)
        if session is not None and session.client is client:
            self._primaries.close(session)
        elif shadow is not None and shadow.client is client:
            _require_same(request, shadow)
            self._shadows.close(shadow)
        elif (session := self._primaries.find_former(handle, client)) is not None:
            self._primaries.close(session)
        else:
            raise _unknown(handle)
        return {}

    async def _abandon(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        self._primaries.abandon(self._session_of(client, request))
        return {}

    async def _abort(self, client: Client, request: dict[str, Any], _: list[int]) -> dict[str, Any]:
        self._primaries.abort(self._session_of(client, request), _words(request))
        return {}

    async def _release(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        self._primaries.release(self._session_of(client, request))
        return {}

    async def _committed(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        return self._shadows.committed(self._shadow_of(client, request))

    async def _reject(
        self, client: Client, request: dict[str, Any], _: list[int]
    ) -> dict[str, Any]:
        name = text_of(request, "reason")
        if name not in _REJECTIONS:
            raise UsageError(f"reject: 'reason' must be one of: {', '.join(_REJECTIONS)}")
        shadow = self._shadow_of(client, request)
        self._shadows.reject(shadow, _REJECTIONS[name], _words(request))
        return {}

    def _session_of(self, client: Client, request: dict[str, Any]) -> Session:
        handle = number_of(request, "handle")
        session = self._primaries.find(handle) or self._primaries.find_former(handle, client)
        if session is None or session.client is not client:
            raise _unknown(handle)
        return session

    def _shadow_of(self, client: Client, request: dict[str, Any]) -> Shadow:
        handle = number_of(request, "handle")
        shadow = self._shadows.find(handle)
        if shadow is None or shadow.client is not client:
            raise _unknown(handle)
        _require_same(request, shadow)
        return shadow

    async def _takeover(self, _: Client, request: dict[str, Any], __: list[int]) -> dict[str, Any]:
        number = self._ownership.service_number(text_of(request, "service", ""))
        fenced = flag_of(request, "fenced")
        if self._view.link.up and not fenced and self._ownership.state(number) == Owner.STANDBY:
            # The owner lives: it gives the service away, and never do both have it (SPEC I7).
            await self._switchover.move(number, forced=False)
        else:
            self._ownership.takeover(number, fenced=fenced)
        return facts.status(self._view)

    async def _move(self, _: Client, request: dict[str, Any], __: list[int]) -> dict[str, Any]:
        number = self._ownership.service_number(text_of(request, "service", ""))
        forced = flag_of(request, "forced")
        if forced and self._ownership.state(number) != Owner.OWNER:
            name = self._view.config.service[number].name
            raise NotSafeError(f"service {name} is not given away: this node does not own it")
        return await self._switchover.move(number, forced=forced)


def _streams(request: dict[str, Any]) -> Streams | None:
    match request.get("streams"):
        case None:
            return None
        case [int(in_offset), int(out_offset)] if Streams.may_be(in_offset, out_offset):
            return Streams(in_offset, out_offset)
        case other:
            raise UsageError(f"replicate: 'streams' must be as prld gave it, not {other!r:.100}")


def _process_facts(process: Process) -> dict[str, Any]:
    session = process.session
    assert session is not None
    ends = {"local": session.ends.service_end, "remote": session.ends.peer_end}
    return session.facts() | ends | processes.facts_of(process)


def _words(request: dict[str, Any]) -> str:
    """Why, for the log and for people: one line."""
    return " ".join(text_of(request, "why", "").split())[:WHY_MAX_CHARS]


def _require_same(request: dict[str, Any], shadow: Shadow) -> None:
    """It may be of the shadow before, of which the word that it is void has crossed the request."""
    if number_of(request, "generation", shadow.generation) != shadow.generation:
        raise _unknown(shadow.handle)


def _unknown(handle: int) -> UsageError:
    return UsageError(f"no flow {handle:#x} here; see `prlctl flow list`")
