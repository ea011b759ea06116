"""One episode: a lab, its sessions, the acts of its plan, and the judgement (docs/chaos.md)."""

import itertools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from prl.bgp.speaker import PORT
from prl.errors import PrlError
from prl.lab import Lab
from prl.lab.lab import Mode
from tests.chaos import rules, wire
from tests.chaos.clients import Client, Datagrams, Router, Stream
from tests.chaos.pair import LIBRARY_PORT, SERVE_PORT, UDP_PORT, Pair, eventually, other
from tests.chaos.plan import Act, Fault, Kind, Plan

SESSIONS = {"library": 3, "long": 1, "serve": 2, "udp": 1, "bgp": 1}
"""Of each kind, all the time; half as many again come in a set-up."""
BYTES_MAX = {"library": 4000, "long": 256 << 10, "serve": 200}
"""Of a question. `serve` must keep all of a session's input, 1 MiB, to protect it again."""
NEW = {"library": 2, "serve": 1}
PORTS = {
    "library": LIBRARY_PORT,
    "long": LIBRARY_PORT,
    "serve": SERVE_PORT,
    "udp": UDP_PORT,
    "bgp": PORT,
}
SETTLED_S = 30.0
"""From the mending until the pair is safe again, with every session protected."""
TOLD_S = 10.0
"""So long a lost session's peer may believe in it once somebody owns the service again."""


@dataclass
class Outcome:
    """What came of an episode."""

    plan: Plan
    violations: list[str] = field(default_factory=list)
    acts: int = 0
    sessions: int = 0
    rounds: int = 0
    lost: dict[int, int] = field(default_factory=dict)
    """How many sessions were lost by each rule."""
    longest_calm_s: float = 0.0
    changes: int = 0
    """How often the service changed hands."""


def owned(log: str) -> list[float]:
    """When a prld became the owner, seconds since 1970, as its log has it."""
    stamps = re.findall(r"^(\S+) \S+ ownership .*\bstate=owner\b", log, re.MULTILINE)
    return [datetime.fromisoformat(stamp).timestamp() for stamp in stamps]


class Episode:
    """Runs a plan; ``folder`` gets all that it leaves."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        self.outcome = Outcome(plan)
        self._plan, self._folder = plan, folder
        self._out = tell
        self._clients: list[Client] = []
        self._made = 0
        self._gone: set[int] = set()
        """Ports of peers that have lost their session."""
        self._ended_serving: list[tuple[float, str]] = []
        """In this act: when (time.time()), and on which node."""
        self._began = time.monotonic()

    def run(self) -> Outcome:
        """Run it; all that is wrong is in the outcome's ``violations``."""
        self._folder.mkdir(parents=True)
        (self._folder / "plan.json").write_text(json.dumps(asdict(self._plan), indent=1))
        lab = Lab(f"chaos{self._plan.seed}-{os.getpid()}")
        try:
            self._run(lab)
        except PrlError as error:  # the others are worth while
            self._violation(f"the lab: {error}")
        return self.outcome

    def _run(self, lab: Lab) -> None:
        with ExitStack() as stack:
            stack.callback(lab.down)
            stack.callback(self._keep_logs, lab)
            lab.up(self._plan.mode, plain_link=self._plan.plain_link)
            by_port = wire.ports(lab)
            pcap = self._folder / "switch.pcap"
            with wire.captured(lab, pcap):
                self._play(lab)
            self._judge_speakers(lab, pcap, by_port)

    def _play(self, lab: Lab) -> None:
        service = lab.topology.service
        address = str(service.ipv4 if self._plan.family == 4 else service.ipv6)
        lan = lab.topology.peer.lan
        peer = lan.ipv6.ip if self._plan.family == 6 and lan.ipv6 is not None else lan.ipv4.ip
        with ExitStack() as stack:
            pair = Pair(lab, self._folder, address, str(peer), self._tell)
            stack.callback(pair.close)
            stack.callback(self._close_clients)
            if not self._play_acts(lab, pair, address):
                pair.keep_state()

    def _play_acts(self, lab: Lab, pair: Pair, address: str) -> bool:
        """Whether nothing was wrong; it ends with what is."""
        for act in self._plan.acts:
            self._fill(lab, address)
            if not (self._settles(pair, "before the act") and self._mirrors(pair)):
                return False
            self._act(lab, pair, address, act)
            if self.outcome.violations:
                return False
        return self._settles(pair, "in the end")

    def _act(self, lab: Lab, pair: Pair, address: str, act: Act) -> None:
        self._tell(f"== {act.words()}")
        owner = pair.owner()
        roles = {"owner": owner, "standby": other(owner)}
        for client in self._clients:
            client.longest_s()
        flaps = {client: client.flaps for client in self._clients}
        began, began_at = time.monotonic(), time.time()
        self._ended_serving.clear()
        self._moment(lab, pair, address, act, roles)
        with ThreadPoolExecutor(len(act.faults)) as pool:
            under_way = []
            for fault in act.faults:
                threading.Event().wait(fault.after_s)
                under_way.append(pool.submit(self._fail, pair, fault, roles, act))
            for future in under_way:
                future.result()
        threading.Event().wait(act.held_s)
        pair.mend()
        lasted_s = time.monotonic() - began
        self.outcome.acts += 1
        for words in pair.died:
            self._violation(words)
        self._judge(act, flaps, lasted_s, had_moved=self._had_moved(lab, act, roles, began_at))

    def _moment(self, lab: Lab, pair: Pair, address: str, act: Act, roles: dict[str, str]) -> None:
        if act.moment == "set-up":
            self._open(lab, address, NEW)
        elif act.moment == "re-protection":
            pair.power_off(roles["standby"])
            pair.mend_node(roles["standby"])
        elif act.moment == "move":
            pair.move()
        elif act.moment == "take-over":
            pair.power_off(roles["owner"])

    def _fail(self, pair: Pair, fault: Fault, roles: dict[str, str], act: Act) -> None:
        if act.moment == "take-over" and fault.on == "owner":
            pair.mend_node(roles["owner"])  # it is dead: that it comes back is what happens
        else:
            pair.apply(fault, roles[fault.on])
            if fault.kind in rules.ENDS_SERVING:  # it takes effect up to 0.1 s after it was begun
                self._ended_serving.append((time.time(), roles[fault.on]))

    # -- sessions

    def _fill(self, lab: Lab, address: str) -> None:
        for client in [one for one in self._clients if one.trouble]:
            self._clients.remove(client)
            client.close()
        for kind, count in SESSIONS.items():
            there = sum(client.name.startswith(kind) for client in self._clients)
            self._open(lab, address, {kind: count - there})

    def _open(self, lab: Lab, address: str, counts: dict[str, int]) -> None:
        for kind, count in counts.items():
            for _ in range(count):
                self._made += 1
                self.outcome.sessions += 1
                self._clients.append(self._client(lab, kind, (address, PORTS[kind])))

    def _client(self, lab: Lab, kind: str, where: tuple[str, int]) -> Client:
        name, seed = f"{kind} {self._made}", self._plan.seed * 1000 + self._made
        if kind == "udp":
            return Datagrams(lab, name, where, seed)
        if kind == "bgp":
            return Router(lab, name, where, seed, self._folder)
        return Stream(lab, name, where, seed, BYTES_MAX[kind])

    def _close_clients(self) -> None:
        for client in self._clients:
            client.close()
            self.outcome.rounds += client.rounds

    # -- judgement

    def _settles(self, pair: Pair, when: str) -> bool:
        """Whether the pair is safe, with every session protected."""
        why = ""

        def settled() -> bool:
            nonlocal why
            living = [client for client in self._clients if not client.trouble]
            self._gone |= {client.port for client in self._clients}
            self._gone -= {client.port for client in living} | {0}
            why = pair.why_unsettled(len(living), frozenset(self._gone))
            return not why

        if eventually(settled, SETTLED_S):
            return True
        self._violation(f"{when} the pair does not settle within {SETTLED_S:.0f} s: {why}")
        return False

    def _mirrors(self, pair: Pair) -> bool:
        """Whether packets of a settled pair go by the cable, if they are to, and may still."""
        if self._plan.mode != Mode.MIRROR:
            return True
        before = pair.mirrored()
        if eventually(lambda: pair.mirrored() > before or pair.is_cable_given_up(), SETTLED_S):
            return True
        self._violation(f"the pair is settled, and nothing is mirrored within {SETTLED_S:.0f} s")
        return False

    def _had_moved(self, lab: Lab, act: Act, roles: dict[str, str], began_at: float) -> bool:
        """Whether the node that stood by had the service when a fault ended serving there."""
        node = roles["standby"]
        hits = [at for at, where in self._ended_serving if where == node]
        moves = act.moment == "move" or any(fault.kind == Kind.MOVE for fault in act.faults)
        if not moves or not hits:
            return False
        text = lab.state.log(lab.topology.node(node)).read_text(errors="replace")
        return any(began_at <= at < max(hits) for at in owned(text))

    def _judge(
        self, act: Act, flaps: dict[Client, int], lasted_s: float, *, had_moved: bool
    ) -> None:
        """Of each session: it goes on, or a rule lets it end; and how long it waited.

        ``flaps``: of those that were there when the act began.
        """
        until = time.monotonic() + TOLD_S
        for client in list(self._clients):
            is_new = client not in flaps
            lot = rules.lot(
                *(act, lasted_s),
                is_new=is_new,
                had_moved=had_moved,
                mirrors=self._plan.mode == Mode.MIRROR,
            )
            goes_on = client.goes_on(max(rules.HANG_MAX_S, until - time.monotonic()))
            if not (goes_on or client.trouble) and lot.is_forgotten and client.only_listens():
                client.close()
            who = f"{client.name} (port {client.port})"
            why = client.trouble
            if client.flaps > flaps.get(client, client.flaps):
                why = "its peer has another one"
            if client.is_wrong:
                self._violation(f"{who}: {why}")
            elif not goes_on and not client.trouble:
                self._violation(f"{who} hangs")
            elif why and not lot.loss:
                self._violation(f"{who} is lost, by no rule: {why}")
            elif why:
                self.outcome.lost[lot.loss] = self.outcome.lost.get(lot.loss, 0) + 1
                self._tell(f"{client.name} is lost, by rule {lot.loss}: {why}")
            longest_s = client.longest_s()
            if lot.hang_s <= rules.HANG_MAX_S:
                self.outcome.longest_calm_s = max(self.outcome.longest_calm_s, longest_s)
            if longest_s > lot.hang_s and not lot.loss:
                self._violation(f"{who} waited {longest_s:.2f} s, of at most {lot.hang_s:.2f}")

    def _judge_speakers(self, lab: Lab, pcap: Path, by_port: dict[int, str]) -> None:
        owners = []
        for node in lab.topology.nodes:
            text = lab.state.log(node).read_text(errors="replace")
            owners += [(at, node.name) for at in owned(text)]
        taken = [node for _, node in sorted(owners)]
        self.outcome.changes = sum(a != b for a, b in itertools.pairwise(taken))
        said = wire.read(pcap, by_port, lab.topology.service)
        if not said:
            self._violation("the capture is empty")
        if why := wire.two_speakers(said, self.outcome.changes):
            self._violation(f"two speakers: {why}")

    def _keep_logs(self, lab: Lab) -> None:
        for node in lab.topology.nodes:
            if lab.state.log(node).exists():
                shutil.copy(lab.state.log(node), self._folder / f"prld.{node.name}.log")

    def _violation(self, words: str) -> None:
        self._tell(f"VIOLATION: {words}")
        self.outcome.violations.append(words)

    def _tell(self, words: str) -> None:
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        line = f"{stamp} {time.monotonic() - self._began:8.3f} {words}"
        with (self._folder / "timeline.txt").open("a") as file:
            file.write(line + "\n")
        self._out(line)
