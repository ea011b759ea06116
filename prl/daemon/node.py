"""One node, put together: what prld does from start to stop.

    TAPs ─▶ BPF programs (silence first) ─▶ datapath thread ─▶ service addresses ─▶ control, link

Events of the datapath come in here and go to whom they concern.
"""

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from prl.bindings import programs, wire
from prl.bindings.datapath import Datapath, DatapathError, Event, Tuple
from prl.bindings.facts import EventKind, Message, Owner, Reason, Seizes, Silence, Tlv
from prl.bindings.programs import Kernel, Strangers
from prl.config import Config
from prl.daemon.control.control import ControlServer
from prl.daemon.control.followers import Followers
from prl.daemon.control.rights import Right
from prl.daemon.events.bounded import Bounded
from prl.daemon.events.log import EventLog
from prl.daemon.host import cable, orphaned_sockets, scheduling, tap, xdp
from prl.daemon.host.guard import Guard
from prl.daemon.host.instances import Instances
from prl.daemon.host.network import Host, Sysctls, needed_sysctls
from prl.daemon.host.notify import ServiceManager
from prl.daemon.host.upkeep import Upkeep
from prl.daemon.link.hello import ServiceState
from prl.daemon.link.link import Link
from prl.daemon.monitoring import inventory
from prl.daemon.monitoring.facts import NodeView
from prl.daemon.monitoring.hooks import Hooks
from prl.daemon.monitoring.safety import Safety
from prl.daemon.ownership import evidence
from prl.daemon.ownership.adoption import Inheritance
from prl.daemon.ownership.fencing import FenceHook
from prl.daemon.ownership.heartbeats import Heartbeats
from prl.daemon.ownership.neighbours import Neighbours
from prl.daemon.ownership.ownership import Ownership
from prl.daemon.ownership.switchover import Switchover
from prl.daemon.ownership.withdrawal import Withdrawal
from prl.daemon.programs.listening import Watches
from prl.daemon.programs.processes import Processes
from prl.daemon.programs.sentinel import Sentinel, leave_repair_mode
from prl.daemon.requests import Requests
from prl.daemon.session.attempt import Attempts
from prl.daemon.session.births import Births
from prl.daemon.session.doubtful import Doubtful
from prl.daemon.session.exposed import EXPOSED_MAX, Exposed, Known
from prl.daemon.session.protect import Primaries
from prl.daemon.session.sessions import Session
from prl.daemon.session.shadows import Shadows
from prl.endpoint import Address
from prl.errors import KernelError, PrlError

if TYPE_CHECKING:
    from prl.daemon.monitoring.exporter import Exporter
    from prl.daemon.ownership.arbiter import Arbiter

EVENTS_PER_WAKEUP = 256
TAKEOVER_TIMEOUT_S = 10.0
"""A stop waits so long for a take-over that has begun; of what is left then, the sessions end."""
NOTE_S, NOTE_AGAIN_S = 1.0, 0.05
"""How often sessions are looked for of which no object is needed; while there are more of them."""
SETUPS_TIMEOUT_S = 2.0
"""It waits so long for sessions that are about to be protected, as all are behind a move."""
DRAIN_TIMEOUT_S = 0.5
"""How long a stopping node waits until the other one has what it gives up."""
DRAIN_POLL_S = 0.01
THREAD_TIMEOUT_S = 5.0
_THREAD_NAME = Path("/proc/thread-self/comm")


class Node:
    """Everything of one prld; serve() is its life."""

    def __init__(self, config: Config, log: EventLog, manager: ServiceManager) -> None:
        self._config, self._log, self._manager = config, log, manager
        self._stop = asyncio.Event()
        self._hears_sessions = True
        """TCP tells of them."""
        self._stays = False
        """Programs and addresses stay when this prld ends: there are sockets that need them."""
        self._failure: PrlError | None = None
        self._exporter: Exporter | None = None
        self._arbiter: Arbiter | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._link_up_ns = 0
        """Connection tracking is told of the sessions: one round at a time."""

    def stop(self) -> None:
        """Let serve() return."""
        self._stop.set()

    async def serve(self, sentinel: Sentinel, ready: Callable[[], None]) -> None:
        """Run until stop(); ``ready`` is called once requests are answered.

        Raises:
            PrlError: it could not start, or the datapath failed. Everything is taken down again.
        """
        async with AsyncExitStack() as stack:
            await self._start(stack, sentinel)
            self._stays = False
            ready()
            self._manager.ready()
            self._log.info("ready", f"node {self._config.node} serves on {self._config.socket}")
            await self._stop.wait()
            self._manager.stopping()
            if self._failure is None:
                await self._end_takeover()
                await self._end_setups()
                await self._hand_over()
            self._stays = self._has_sessions()
        if self._failure is not None:
            raise self._failure

    async def scrub(self) -> None:
        """Remove what a former life left, be it for live sessions. Raises PrlError."""
        async with AsyncExitStack() as stack:
            _, host, lans = await self._claim(stack)
            orphaned_sockets.end_orphaned_shadows()
            await self._scrub(host, lans)

    async def _claim(self, stack: AsyncExitStack) -> tuple[dict[str, int], Host, Instances]:
        """The host's network, which no other prld has meanwhile."""
        config = self._config
        # Before anything is touched: all that a start cleans up would be a running prld's. There is
        # one TAP of a name in a network namespace, and none but root can make it.
        taps: dict[str, int] = {}
        for name in (tap.INJECT, tap.HOLD):  # open here, too: to outlive the datapath's descriptors
            taps[name] = tap.create(name)
            stack.callback(os.close, taps[name])
        host = Host()
        await host.open()
        stack.push_async_callback(host.close)
        lans = Instances(config, [await host.interface(name) for name in config.interfaces])
        return taps, host, lans

    async def _start(self, stack: AsyncExitStack, sentinel: Sentinel) -> None:
        config = self._config
        self._fail_without(stack, sentinel)
        if config.arbiter.is_there:
            # Only here: HTTP and TLS of Python's take megabytes.
            from prl.daemon.ownership.arbiter import Arbiter  # noqa: PLC0415

            self._arbiter = Arbiter(config, self._log)
            stack.push_async_callback(self._arbiter.close)
        taps, host, lans = await self._claim(stack)
        await host.require(config.lan.interface, config.lan.address)
        self._stays = await self._clean_up_after_crash(host, lans)
        sysctls = needed_sysctls()
        stack.callback(sysctls.restore)
        sysctls.apply()
        self._heartbeats = Heartbeats(config, self._log)
        self._kernel, self._dp = await self._open_datapath(stack, host, lans, taps)
        self._guard = Guard(self._kernel, host, lans, self._log)
        stack.callback(self._guard.close)
        await self._guard.begin(strict=not self._stays)
        await self._add_addresses(stack, host, lans)
        self._assemble(host, lans, sysctls, sentinel)
        self._hear_datapath(stack)
        stack.callback(self._control.close)
        stack.callback(self._close_sessions)
        self._link.listen()
        self._control.start()
        stack.push_async_callback(self._ownership.close)
        stack.push_async_callback(self._fence.close)
        stack.push_async_callback(self._hooks.close)
        stack.push_async_callback(self._withdrawal.close)
        stack.push_async_callback(self._end_keeping)
        if self._cable is not None:
            stack.push_async_callback(self._cable.close)
        await self._neighbours.refresh()
        guarding = self._guard.run(
            broken=lambda: self._primaries.doubt(Reason.NOT_HELD),
            exposed=self._withdrawal.expose,
            calm=self._withdrawal.end,
        )
        exporting = [] if self._exporter is None else [self._exporter.run()]
        asking = [] if self._arbiter is None else [self._arbiter.run()]
        for life in (
            *exporting,
            *asking,
            *(self._link.run(), self._start_alone(), self._neighbours.run()),
            *(self._heartbeats.run(self._dp), self._upkeep.run(), guarding),
            self._safety.run(),
            self._note_idle(),
            self._manager.watch(lambda: self._kernel.heartbeat_ns, self._summary),
        ):
            task = asyncio.create_task(life)
            task.add_done_callback(self._on_task_done)
            stack.push_async_callback(_cancel, task)

    def _summary(self) -> str:
        """One line for the service manager."""
        states = [
            f"{service.name}: {self._dp.service_state(number).name.lower()}"
            for number, service in enumerate(self._config.service)
        ]
        link = "up" if self._link.up else "down"
        return f"{', '.join(states)}; link {link}; {self._primaries.count()} sessions"

    async def _start_alone(self) -> None:
        while True:
            await self._ownership.start_alone()

    def _assemble(self, host: Host, lans: Instances, sysctls: Sysctls, sentinel: Sentinel) -> None:
        config, log, dp = self._config, self._log, self._dp
        self._shadows = Shadows(
            config,
            dp,
            host,
            log,
            instances=lans,
            congestion=self._kernel.shadow_congestion,
            taken=self._on_taken_session,
        )
        if self._kernel.shadow_congestion is None:
            words = "this kernel has no struct_ops: no shadows can be kept here"
            self._log.warning("no_struct_ops", words)
        self._ownership = Ownership(
            config,
            dp,
            lans,
            log,
            arbiter=self._arbiter,
            evidence=partial(evidence.known, config, host, lans),
            usable_shadows=self._shadows.usable,
            end_lost=self._shadows.end_lost,
            end_taken=self._on_taken_service,
            left_behind=self._on_left_behind,
            replaceable=self._on_replaceable,
            known_again=self._on_known_again,
        )
        self._hooks = Hooks(config, log)
        self._cable: cable.Cable | None = None
        if config.mode == "mirror":
            self._cable = cable.Cable(config, self._kernel, dp, host, log)
        self._fence = FenceHook(config, log, self._ownership.take_fenced)
        self._neighbours = Neighbours(config, dp, host, lans)
        self._link = Link(
            config,
            dp,
            log,
            describe=self._ownership.describe,
            heard=self._on_heard,
            settled=self._ownership.settle,
            greets=self._on_hello,
            raised=self._on_link_up,
            lost=self._on_link_lost,
        )
        attempts = Attempts(config, dp, self._link, host, log, lans, sentinel)
        self._switchover = Switchover(
            *(config, dp, self._link, log, self._ownership),
            strangers_of=partial(self._strangers_of, lans),
        )
        self._exposed = Exposed(dp, self._link, log, partial(self._strangers, lans))
        births = Births(config, dp, self._kernel, log, heard=self._hears_sessions)
        self._primaries = Primaries(
            *(config, dp, self._link, log, attempts, lans),
            moves=self._switchover,
            exposed=self._exposed,
            births=births,
            ended=self._on_session_over,
        )
        self._doubtful = Doubtful(
            dp,
            self._primaries,
            len(config.service),
            lose=self._shadows.ended_unheard,
            tell=self._shadows.end_lost,
            is_silent=self._kernel.is_silent,
        )

        def carrier(ifindex: int, has: bool) -> None:
            self._kernel.carrier(ifindex, has=has)
            if ifindex == lans.interfaces[0].ifindex:  # of [lan]
                dp.carrier(has=has)

        self._upkeep = Upkeep(
            config,
            host,
            lans,
            sysctls,
            log,
            looked=self._on_looked,
            restored=self._on_network_back,
            carrier=carrier,
        )
        view = NodeView(
            *(config, self._kernel, dp, self._link, self._ownership, self._primaries),
            arbiter=self._arbiter,
            cable=self._cable,
            ailments=lambda: [
                *(self._guard.why_unsafe, self._upkeep.wrong, self._lan_ailing()),
                self._arbiter.ailment if self._arbiter is not None else "",
            ],
        )
        self._withdrawal = Withdrawal(
            *(config, dp, self._link, self._upkeep, host, lans, log),
            ownership=self._ownership,
            shadows=self._shadows,
            attempts=attempts,
            switchover=self._switchover,
            done=self._on_task_done,
        )
        self._processes = Processes(self._primaries, log)
        self._watches = Watches(self._processes, log)
        self._followers = Followers(log, lambda: inventory.things(view))
        requests = Requests(
            view,
            log,
            self._ownership,
            self._primaries,
            self._shadows,
            self._processes,
            self._watches,
            self._switchover,
            followers=self._followers,
            guests_may=Right[config.socket_group_may.upper()],
        )
        self._safety = Safety(view, log, looks=(self._exposed.look, lambda _: births.look()))
        if (listen := config.metrics.listen) is not None:
            # Only here: it takes five megabytes.
            from prl.daemon.monitoring.exporter import Exporter  # noqa: PLC0415
            from prl.daemon.monitoring.metrics import Tally, gather  # noqa: PLC0415

            tally = Tally(log)
            self._exporter = Exporter(
                listen, log, lambda: gather(view, self._safety, tally, self._hooks, self._used)
            )
        self._control = ControlServer(
            Path(config.socket),
            log,
            handler=requests.handle,
            on_gone=requests.gone,
            group=config.socket_group,
        )

    def _used(self) -> dict[str, Bounded]:
        """Bounded resources of the control plane."""
        assert self._exporter is not None
        return {
            "control_clients": self._control.used,
            "event_followers": self._followers.used,
            "hooks": self._hooks.used,
            "metrics_clients": self._exporter.used,
        }

    async def _clean_up_after_crash(self, host: Host, lans: Instances) -> bool:
        """End what has no owner of a former life; returns whether the rest of it is taken over.

        Shadows end behind the silence that there still is. Programs and addresses stay where the
        programs still guard the interface; otherwise the addresses go first, for they may not be
        there without them.
        """
        if ended := orphaned_sockets.end_orphaned_shadows():
            self._log.warning("ghosts_ended", f"{ended} shadows of a former life are ended")
        addresses = [a for service in self._config.service for a in service.addresses]
        if left := await asyncio.to_thread(leave_repair_mode, frozenset(addresses)):
            words = f"{left} sockets that a former life was copying have left repair mode"
            self._log.warning("repair_mode_left", words)
        if programs.is_inherited(
            self._config.instance, [interface.ifindex for interface in lans.interfaces]
        ):
            return True
        await self._scrub(host, lans)
        return False

    async def _scrub(self, host: Host, lans: Instances) -> None:
        for number, service in enumerate(self._config.service):
            for address in service.addresses:
                await host.remove_address(lans.interface(number).ifindex, address)
        programs.scrub(self._config.instance, is_alone=True)  # the TAPs are claimed

    async def _open_datapath(
        self, stack: AsyncExitStack, host: Host, lans: Instances, taps: Mapping[str, int]
    ) -> tuple[Kernel, Datapath]:
        config = self._config
        inject = await host.tap_up(tap.INJECT)
        hold = await host.tap_up(tap.HOLD)

        choice = xdp.choose(config)
        if choice.mode == "mirror":
            cable.check(config)

        def load() -> Kernel:
            return Kernel(
                instance=config.instance,
                object_dir=Path(config.object_dir) if config.object_dir else programs.OBJECTS,
                flows_max=config.flows_max,
                mode=choice.mode,
                fallback=choice.fallback,
                lan_ifindexes=[interface.ifindex for interface in lans.interfaces],
                vrf_ifindexes=lans.vrf_ifindexes,
                inject_ifindex=inject,
                hold_ifindex=hold,
                link_ifindex=_index_of(config.link.interface),
                stale_ms=config.timing.stale_ms,
                hold_ms=config.timing.hold_ms,
                hung_ms=config.timing.hung_ms if config.timing.probe_ms else 0,
            )

        try:
            kernel = load()
        except KernelError as error:
            if not self._stays:
                raise
            # Of another version, or sized in another way: then it cannot go on without a gap.
            self._log.warning("not_inherited", f"what a former life left is of no use: {error}")
            self._stays = False
            await self._scrub(host, lans)
            kernel = load()
        stack.callback(self._close_kernel, kernel)
        xdp.attach(kernel, choice, self._log)
        why = kernel.hear_sessions()
        self._hears_sessions = not why
        if why:
            words = f"that a session has ended is found by looking: {why}"
            self._log.warning("no_sock_ops", words)
        self._config = config = msgspec.structs.replace(config, mode=kernel.mode)
        adopted: frozenset[int] = frozenset()
        won = False
        if self._stays:
            former = Inheritance(
                *(config, kernel, lans, self._log),
                arbiter=self._arbiter,
                evidence=partial(evidence.known, config, host, lans),
            )
            adopted = await former.settle()
            won = former.won
            kernel.forget()
        heartbeats = self._heartbeats.open()
        datapath = Datapath(
            config,
            kernel,
            lans.interfaces,
            lan_fd=-1 if heartbeats is None else heartbeats.detach(),
            inject_fd=os.dup(taps[tap.INJECT]),
            hold_fd=os.dup(taps[tap.HOLD]),
            mode=kernel.mode,
            adopted=adopted,
        )
        stack.callback(datapath.close)
        if self._arbiter is not None:
            self._arbiter.attach(datapath, won=won)
        self._run_datapath(stack, datapath)
        return kernel, datapath

    def _close_kernel(self, kernel: Kernel) -> None:
        if self._stays and self._stop.is_set():
            kernel.bypass()
        kernel.close(keep_silence=self._stays)

    def _run_datapath(self, stack: AsyncExitStack, datapath: Datapath) -> None:
        loop = asyncio.get_running_loop()

        def run() -> None:
            try:
                with contextlib.suppress(OSError):  # /proc may be read-only
                    _THREAD_NAME.write_text("datapath")  # for `ps -L` and `top -H`
                if cpus := self._config.datapath.cpus:
                    place(cpus)
                # One that polls would take its CPU away from those whom it works for.
                if self._config.datapath.polling == "blocking" and (
                    why := scheduling.become_realtime()
                ):
                    loop.call_soon_threadsafe(self._log.warning, "late_among_others", why)
                datapath.run()
            except Exception as error:  # noqa: BLE001  # whatever it is: no datapath, no node
                loop.call_soon_threadsafe(self._fail, _as_prl_error(error))

        thread = threading.Thread(target=run, name="datapath", daemon=True)
        thread.start()
        stack.callback(thread.join, THREAD_TIMEOUT_S)
        stack.callback(datapath.stop)

    def _hear_datapath(self, stack: AsyncExitStack) -> None:
        """Its events have waited until there is somebody for each of them."""
        loop, events = asyncio.get_running_loop(), self._dp.event_fd()
        loop.add_reader(events, self._on_events)
        stack.callback(loop.remove_reader, events)

    def _fail_without(self, stack: AsyncExitStack, sentinel: Sentinel) -> None:
        """Once it has ended, no program's session could be protected."""
        loop, pidfd = asyncio.get_running_loop(), os.pidfd_open(sentinel.pid)

        def fail() -> None:
            loop.remove_reader(pidfd)
            self._fail(KernelError("the process that stops programs has ended; prld starts anew"))

        loop.add_reader(pidfd, fail)
        stack.callback(os.close, pidfd)
        stack.callback(loop.remove_reader, pidfd)

    def _fail(self, error: PrlError) -> None:
        self._log.error("failed", str(error))
        self._failure = error
        self._stop.set()

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(_as_prl_error(error))

    async def _add_addresses(self, stack: AsyncExitStack, host: Host, lans: Instances) -> None:
        """Only now: the programs keep them silent (L9)."""
        for number, service in enumerate(self._config.service):
            ifindex = lans.interface(number).ifindex
            for address in service.addresses:
                stack.push_async_callback(self._remove_address, host, ifindex, address)
                await host.add_address(ifindex, address)

    async def _remove_address(self, host: Host, ifindex: int, address: Address) -> None:
        if not self._stays:
            await host.remove_address(ifindex, address)

    # -- stopping

    def _takes_over(self) -> bool:
        """Whether a shadow is the session, and its turn has not come, or its event has not."""
        return any(
            self._shadows.usable(number) and self._dp.service_state(number) == Owner.OWNER
            for number, _ in enumerate(self._config.service)
        )

    async def _end_takeover(self) -> None:
        """It would be ended as a shadow."""
        await _while(self._takes_over, TAKEOVER_TIMEOUT_S)

    async def _end_setups(self) -> None:
        """What is given to the other node without a shadow there is lost."""
        await _while(lambda: self._link.up and self._primaries.may_be_protected(), SETUPS_TIMEOUT_S)

    async def _hand_over(self) -> None:
        """A planned stop: the other node goes on with what this one owns."""
        for number, state in enumerate(self._dp.status().services[: len(self._config.service)]):
            if state == Owner.OWNER and self._link.up:
                with contextlib.suppress(DatapathError):
                    self._dp.renounce(number)
        await _while(lambda: bool(self._primaries.count()) and self._link.up, DRAIN_TIMEOUT_S)

    def _has_sessions(self) -> bool:
        """Whether there are sessions that nobody but this node has: they go on, bypassed."""
        owned = {
            number
            for number, _ in enumerate(self._config.service)
            if self._dp.service_state(number) == Owner.OWNER
        }
        left = sum(session.service in owned for session in self._primaries.in_hand())
        left += sum(map(self._primaries.idle, owned))
        if left:
            self._log.warning(
                "left_behind",
                f"{left} sessions go on without protection; programs and addresses stay for them",
            )
        return left > 0

    def _close_sessions(self) -> None:
        """Nothing may speak for a service once the silence is taken down."""
        self._shadows.discard_all()
        self._watches.close()
        self._processes.close()
        for session in self._primaries.live():
            if self._stays and self._dp.service_state(session.service) == Owner.OWNER:
                self._primaries.leave(session)
            else:
                self._primaries.demote(session)

    # -- events

    def _on_link_up(self) -> None:
        self._link_up_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if self._arbiter is not None:
            self._arbiter.on_link_up()
        if self._cable is not None:
            self._cable.on_link_up(self._link.capabilities)
        self._shadows.announce_offers()
        self._exposed.on_link_up()
        self._primaries.on_link_up()

    def _lan_ailing(self) -> str:
        if not self._link.up:
            return self._heartbeats.missing
        return self._heartbeats.ailing(max(self._dp.last_lan_ns(), self._link_up_ns))

    def _on_looked(self) -> None:
        self._shadows.keep_off(self._upkeep.cut_off)
        self._keep_tracked()

    def _keep_tracked(self) -> None:
        if self._keeping is not None and not self._keeping.done():
            return
        self._keeping = asyncio.create_task(
            self._shadows.conntrack.keep(
                lambda: self._dp.flow_handles(self._config.flows_max), self._dp.flow_ends
            )
        )
        self._keeping.add_done_callback(self._on_task_done)

    async def _note_idle(self) -> None:
        """What nothing happens to needs no object (session/known.py)."""
        while True:
            of_sessions, of_shadows = self._primaries.note_idle(), self._shadows.note_idle()
            again = of_sessions or of_shadows
            await asyncio.sleep(NOTE_AGAIN_S if again else NOTE_S)

    async def _end_keeping(self) -> None:
        if self._keeping is not None:
            await _cancel(self._keeping)

    async def _on_network_back(self) -> None:
        await self._shadows.pin_again()
        await self._neighbours.enter_again()
        self._neighbours.hint()

    def _on_link_lost(self) -> None:
        if self._arbiter is not None:
            self._arbiter.on_link_lost()
        if self._cable is not None:
            self._cable.on_link_down()
        self._shadows.on_link_down()
        self._primaries.on_link_down()

    def _on_events(self) -> None:
        for _ in range(EVENTS_PER_WAKEUP):
            event = self._dp.next_event()
            if event is None:
                return
            try:
                self._on_event(event)
            except PrlError as error:
                self._log.error("event_failed", str(error), kind=event.kind, handle=event.handle)

    def _on_event(self, event: Event) -> None:
        if handler := self._handlers.get(event.kind):
            handler(event)

    @cached_property
    def _handlers(self) -> dict[int, Callable[[Event], None]]:
        return {
            EventKind.MESSAGE: self._on_message,
            EventKind.LINK_DOWN: self._link.on_down,
            EventKind.PRIMARY: self._primaries.on_state,
            EventKind.SECONDARY: self._shadows.on_state,
            EventKind.TAKEOVER: self._on_takeover,
            EventKind.TAKEN_FLOW: self._shadows.on_taken,
            EventKind.RESTORED: self._shadows.on_restored,
            EventKind.HOLE: self._primaries.on_hole,
            EventKind.MOVE: self._on_move,
            EventKind.MOVE_ASKED: self._switchover.on_asked,
            EventKind.PROBE: self._switchover.on_probe,
            EventKind.FENCED: self._on_fenced,
            EventKind.RENOUNCED: self._on_renounced,
            EventKind.SILENT: lambda event: self._on_silent(Silence(event.state)),
            EventKind.EXPIRED: self._on_expired,
            EventKind.ARBITRATE: self._on_arbitrate,
            EventKind.ENDED: self._on_ended,
            EventKind.MIRROR_OFF: self._on_mirror_off,
            EventKind.BORN: lambda _: self._safety.hint(),
            EventKind.ALARM: lambda event: self._log.error("alarm", event.text),
        }

    def _on_takeover(self, event: Event) -> None:
        name = self._config.service[event.service].name
        self._shadows.end_unread()
        self._ownership.on_takeover(event.service)
        self._log.warning(
            "takeover",
            f"service {name}: taken over",
            service=name,
            decided_ns=event.value,
            speaking_ns=event.value2,
            lost=self._shadows.end_lost(event.service),
        )

    def _on_move(self, event: Event) -> None:
        self._switchover.on_move(event)
        self._primaries.on_move(event.service)

    def _on_taken_session(self, session: Session) -> None:
        self._primaries.take_over(session)

    def _on_taken_service(self, service: int) -> None:
        self._primaries.on_fenced(service)

    def _on_silent(self, why: Silence) -> None:
        if why == Silence.NOT:
            self._doubtful.speaks(is_linked=self._link.up)
        self._ownership.on_silent(why)

    def _strangers_of(self, lans: Instances, service: int) -> Strangers:
        return self._kernel.strangers(lans.ends(service), EXPOSED_MAX)

    def _strangers(self, lans: Instances) -> list[Known]:
        """Of the services that this node owns. Raises KernelError."""
        if not self._kernel.strangers().count:  # one look at all sockets, mostly
            return []
        services = range(len(self._config.service))
        return [
            (ends, number)
            for number in services
            if self._dp.service_state(number) == Owner.OWNER
            for ends in lans.tuples(number, self._strangers_of(lans, number).named)
        ]

    def _on_left_behind(self, left: list[Tuple], service: int, by_move: bool) -> None:
        self._exposed.leave_unknown(left, service, by_move=by_move)

    def _on_replaceable(self) -> None:
        self._doubtful.note()

    def _on_heard(self, services: tuple[ServiceState, ...]) -> None:
        self._doubtful.hear([service.term for service in services])

    def _on_known_again(self, services: Collection[int]) -> None:
        self._doubtful.settle(services)

    def _on_fenced(self, event: Event) -> None:
        self._ownership.on_fenced(event.service, "the other node claimed it")

    def _on_renounced(self, _: Event) -> None:
        self._log.warning(
            "renounced",
            "the link is silent but the other node lives: it goes on alone, the shadows here are "
            "void",
        )

    def _on_expired(self, _: Event) -> None:
        self._log.warning(
            "lease_over",
            "the other node was not heard until the lease was over: the shadows here are used only "
            "if it is certainly dead (fence_command, or `prlctl takeover --fenced`)",
        )
        self._fence.start()

    def _on_session_over(self, ends: Tuple, service: int) -> None:
        if self._kernel.is_silent(service):
            self._shadows.ended_unheard(ends, service)

    def _on_hello(self) -> None:
        if self._arbiter is not None:
            self._arbiter.on_hello()

    def _on_arbitrate(self, event: Event) -> None:
        if self._arbiter is not None:
            self._arbiter.on_question(event.value, Seizes(event.state))

    def _on_mirror_off(self, _: Event) -> None:
        if self._cable is not None:
            self._cable.on_starved()

    def _on_ended(self, event: Event) -> None:
        self._primaries.on_ended(event.handle)
        self._shadows.on_ended(event.handle)

    def _on_message(self, event: Event) -> None:
        match event.type:
            case Message.HELLO:
                self._link.on_hello(event)
            case Message.SETUP:
                self._shadows.on_setup(event)
                self._neighbours.hint()
            case Message.SETUP_DONE:
                self._primaries.on_setup_done(event)
                self._neighbours.hint()
            case Message.CLOSE:
                self._shadows.on_closed(event)
            case Message.EXPOSED:
                self._shadows.on_exposed(event)
            case Message.OFFER:
                for element in wire.decode_tlvs(event.body):
                    if element.type == Tlv.ENDPOINT:
                        self._primaries.on_offer(element.value.decode("utf-8", "replace"))


def place(cpus: list[int]) -> None:
    """Keep the calling thread on these CPUs. Raises KernelError."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        there = sorted(os.sched_getaffinity(0))
        raise KernelError(
            f"datapath.cpus {cpus}: {error.strerror}; prld may use {there}"
        ) from error


def _as_prl_error(error: BaseException) -> PrlError:
    return error if isinstance(error, PrlError) else PrlError(repr(error))


async def _while(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait as long as it holds, so long at the most."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while condition():
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(DRAIN_POLL_S)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


def _index_of(interface: str) -> int:
    """Its number in this network namespace; 0: it is not there."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
