#!/usr/bin/python3
"""ocf:prl:service: one service of prl's as a promotable clone of Pacemaker's (docs/pacemaker.md).

The promoted instance is where the service is. prl decides who may speak; this agent asks it by
prlctl, and tells Pacemaker by promotion scores where the service is or could be. It needs nothing
but Python, prlctl, and crm_attribute and crm_mon of Pacemaker's.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path


class Ocf(IntEnum):
    """Exit statuses of the OCF's resource agent API."""

    SUCCESS = 0
    ERR_GENERIC = 1
    ERR_ARGS = 2
    ERR_UNIMPLEMENTED = 3
    ERR_INSTALLED = 5
    NOT_RUNNING = 7
    RUNNING_PROMOTED = 8
    FAILED_PROMOTED = 9


AGAIN_S = 0.5
"""Between two tries: nobody could tell yet of a daemon that starts, or a link that comes back."""
ANSWER_S = 5.0
"""A prld that does not answer, or an owner that is silent, is a failure when it lasts for so long:
systemd starts a prld anew within a second, and a silent owner asks the LAN first."""
LINK_S = 3.0
"""So long a hand-over waits for prld, or for a link that is down."""
GIVE_S = 10.0
"""So long a hand-over that would lose unprotected sessions waits for their protection."""
TIMEOUT_S = 20.0
"""Of an operation, where Pacemaker does not say."""
SHARE = 0.75
"""Of its timeout, after which an operation says why it has failed, before Pacemaker kills it."""
REBOOT_S = 20.0
"""A node that was fenced by a reboot may be back after so long."""

OWNER, WHOLE, LAST_RESORT = 1000, 100, 10
"""Promotion scores: where the service is; shadows that would go on with its sessions; a node that
may serve when no better one is there. Without a score a node is never promoted."""
TERM_MAX = 1000
"""Among two nodes that both say that they own it the one of the later term is right."""

META_DATA = f"""<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="service" version="1.0">
<version>1.0</version>
<longdesc lang="en">
A service of prl, which keeps TCP and UDP sessions alive when their host dies. A promotable clone on
the two nodes of the pair, with notify=true: the promoted instance is where the service is. prld
itself is systemd's. See pacemaker.md in /usr/share/doc/prl.
</longdesc>
<shortdesc lang="en">Places a service of prl</shortdesc>
<parameters>
<parameter name="service" unique="1">
<longdesc lang="en">The name of the service in prld.toml. Needed when there are several.</longdesc>
<shortdesc lang="en">Service</shortdesc>
<content type="string" default=""/>
</parameter>
<parameter name="nodes">
<longdesc lang="en">
The names that the two nodes of the pair have in the cluster, with a space between them. Needed in a
cluster of more than two nodes: without it, none of them counts as fenced.
</longdesc>
<shortdesc lang="en">Nodes of the pair</shortdesc>
<content type="string" default=""/>
</parameter>
<parameter name="prlctl">
<longdesc lang="en">The command prlctl, by its name or its path.</longdesc>
<shortdesc lang="en">prlctl</shortdesc>
<content type="string" default="prlctl"/>
</parameter>
<parameter name="socket">
<longdesc lang="en">The control socket of prld, if it is not at the usual place.</longdesc>
<shortdesc lang="en">Control socket</shortdesc>
<content type="string" default=""/>
</parameter>
</parameters>
<actions>
<action name="start" timeout="60s"/>
<action name="stop" timeout="60s"/>
<action name="promote" timeout="30s"/>
<action name="demote" timeout="60s"/>
<action name="notify" timeout="{TIMEOUT_S:.0f}s"/>
<action name="monitor" role="Promoted" depth="0" timeout="{TIMEOUT_S:.0f}s" interval="10s"/>
<action name="monitor" role="Unpromoted" depth="0" timeout="{TIMEOUT_S:.0f}s" interval="11s"/>
<action name="validate-all" timeout="{TIMEOUT_S:.0f}s"/>
<action name="meta-data" timeout="5s"/>
</actions>
</resource-agent>
"""


class Failure(Exception):  # noqa: N818  an operation's end: not every one is an error
    """An operation ends with this status, for this reason."""

    def __init__(self, status: Ocf, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Part:
    """This node's part in the service, as `prlctl status` tells it."""

    state: str
    silent: str
    term: int
    link_up: bool
    may_take_over: bool
    """The lease lasts, or policy stop makes it last for good."""
    safe: bool

    @property
    def speaks(self) -> bool:
        """The service is here."""
        return self.state == "owner" and not self.silent


class Prl:
    """The service, by prlctl."""

    def __init__(self, prlctl: str, control: str, service: str) -> None:
        self._command = [prlctl, *(["--socket", control] if control else [])]
        self._service = service

    def part(self) -> Part | None:
        """What this node is for the service; None if prld does not answer. Raises Failure."""
        done = self._run("-j", "status")
        try:
            facts = json.loads(done.stdout)
        except ValueError:
            return None
        services = {one["name"]: one for one in facts["services"]}
        name = self._service or (next(iter(services)) if len(services) == 1 else "")
        if name not in services:
            known = ", ".join(services)
            raise Failure(Ocf.ERR_ARGS, f"prld has no service {name!r}; it has: {known}")
        mine = services[name]
        return Part(
            state=mine["state"],
            silent=mine["silent"],
            term=mine["term"],
            link_up=facts["link"]["state"] != "down",
            may_take_over=facts["lease"]["takeover_for_ms"] > 0,
            safe=facts["switchover_safe"],
        )

    def switchover(self) -> str:
        """Move it to the other node, or here; why not, if it is refused."""
        return self._ask("switchover", *filter(None, [self._service]))

    def demote(self) -> str:
        """Give it away even if that loses unprotected sessions; why not, if it is refused."""
        return self._ask("demote", *filter(None, [self._service]))

    def takeover(self, *, fenced: bool) -> str:
        """Take it over; why not, if it is refused."""
        which = ["--service", self._service] if self._service else []
        return self._ask("takeover", *which, *(["--fenced"] if fenced else []))

    def _ask(self, *words: str) -> str:
        done = self._run(*words)
        say(f"prlctl {' '.join(words)}: {(done.stdout if done.returncode == 0 else done.stderr)}")
        return done.stderr.strip() or f"exit status {done.returncode}" if done.returncode else ""

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        argv = [*self._command, *words]
        try:
            return subprocess.run(argv, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Failure(Ocf.ERR_INSTALLED, f"cannot run {argv[0]}: {error}") from error


@dataclass(frozen=True)
class Other:
    """The other node of the pair, as Pacemaker knows it."""

    is_away: bool = False
    """It is no member of the cluster; it may live all the same, and own the service."""
    is_down: bool = False
    """It has been fenced since it was a member last."""


class Cluster:
    """What Pacemaker knows of the other node, and the scores that it goes by."""

    def __init__(self, me: str, pair: list[str], memory: Path) -> None:
        """``memory``: where the newest fencing of before is kept for the next operation."""
        self._me, self._pair, self._memory = me, pair, memory

    def other(self) -> Other:
        """What is known of the other node. Nothing is, where no cluster answers."""
        done = run_quietly("crm_mon", "--output-as=xml", "--include=none,nodes,fencing")
        try:
            view = ET.fromstring(done)  # noqa: S314  Pacemaker's own
        except ET.ParseError:
            return Other()
        nodes = {one.get("name", ""): one for one in view.iterfind("./nodes/node")}
        others = [name for name in self._pair or nodes if name != self._me]
        if len(others) != 1 or others[0] not in nodes:
            return Other()
        (other,) = others
        newest = max(
            (
                (event.get("completed", ""), event.get("action", ""))
                for event in view.iterfind("./fence_history/fence_event")
                if event.get("target") == other
                and event.get("status") == "success"
                and event.get("action") in {"off", "reboot"}
            ),
            key=lambda one: when(one[0]),
            default=("", ""),
        )
        if nodes[other].get("online") == "true":
            self._memory.write_text(newest[0])
            return Other()
        known = self._memory.read_text() if self._memory.exists() else ""
        if nodes[other].get("unclean") == "true" or newest[0] in {"", known}:
            return Other(is_away=True)
        age = datetime.now(UTC) - when(newest[0])
        fresh = newest[1] == "off" or age < timedelta(seconds=REBOOT_S)
        return Other(is_away=True, is_down=fresh)

    def score(self, value: int | None) -> None:
        """Say how good this node is to be promoted; None: not at all."""
        how = ["--delete"] if value is None else [f"--update={value}"]
        run_quietly("crm_attribute", "--promotion", *how)


def when(completed: str) -> datetime:
    """A moment as crm_mon writes it. What is none was long ago."""
    day, _, rest = completed.partition(" ")
    try:
        return datetime.fromisoformat(f"{day} {rest.replace(' ', '')}").astimezone(UTC)
    except ValueError:
        return datetime.fromtimestamp(0, UTC)


def run_quietly(*argv: str) -> str:
    """What a program says, and nothing if there is no cluster to ask."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError as error:
        say(str(error))
        return ""
    if done.returncode:
        say(f"{argv[0]}: {done.stderr}")
    return done.stdout


def say(words: str) -> None:
    """For Pacemaker's log."""
    sys.stderr.write(" ".join(words.split()) + "\n")


def promotion_score(part: Part, other: Other) -> int | None:
    """How good this node is to be promoted; None: not at all."""
    if part.speaks:
        return OWNER + min(part.term, TERM_MAX)
    if part.link_up:  # the other node lives: only a cluster that it is in may move the service
        if part.state != "standby" or other.is_away:
            return None
        return WHOLE if part.safe else LAST_RESORT
    return LAST_RESORT if part.may_take_over or other.is_down else None


def tries(for_s: float) -> Iterator[float]:
    """At once, and again until so long has passed; yields how much of it is left."""
    until = time.monotonic() + for_s
    while (left := until - time.monotonic()) > 0:
        yield left
        time.sleep(min(AGAIN_S, left))


class Agent:
    """One operation of Pacemaker's on one instance."""

    def __init__(self, given: dict[str, str]) -> None:
        """``given``: the environment. Raises OSError."""
        self._prlctl = given.get("OCF_RESKEY_prlctl") or "prlctl"
        service = given.get("OCF_RESKEY_service", "")
        self._prl = Prl(self._prlctl, given.get("OCF_RESKEY_socket", ""), service)
        folder = Path(given.get("HA_RSCTMP") or "/run/resource-agents")
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        instance = given.get("OCF_RESOURCE_INSTANCE", "service").partition(":")[0]
        self._started = folder / f"prl-{instance}.started"
        self._differs = folder / f"prl-{instance}.differs"
        self._alone = folder / f"prl-{instance}.alone"
        me = given.get("OCF_RESKEY_CRM_meta_on_node") or socket.gethostname()
        pair = given.get("OCF_RESKEY_nodes", "").split()
        self._cluster = Cluster(me, pair, folder / f"prl-{instance}.fenced")
        timeout_ms = given.get("OCF_RESKEY_CRM_meta_timeout", "")
        self._time_s = SHARE * (int(timeout_ms) / 1000 if timeout_ms else TIMEOUT_S)
        self._is_probe = given.get("OCF_RESKEY_CRM_meta_interval", "0") == "0"
        self._is_promoted = given.get("OCF_RESKEY_CRM_meta_role", "") in {"Promoted", "Master"}
        self._notified = given.get("OCF_RESKEY_CRM_meta_notify_type", "")

    def start(self) -> Ocf:
        """Wait for prld, which is systemd's, and until it knows its part."""
        found = None
        for left in tries(self._time_s):
            found = self._prl.part()
            # Without the other node the one that is not to be owner first never knows.
            if found and (found.state in {"owner", "standby"} or left < self._time_s / 2):
                break
        if found is None:
            raise Failure(Ocf.ERR_GENERIC, "no prld answers: see `systemctl status prld`")
        self._started.touch()
        self._differs.unlink(missing_ok=True)
        self._judge(found)
        return Ocf.SUCCESS

    def stop(self) -> Ocf:
        """Give the service away; prld stays: it is systemd's, and stands by."""
        if self._started.exists():
            with suppress(Failure):  # of which Pacemaker would fence this node
                self._hand_over()
            self._cluster.score(None)
            for path in (self._differs, self._alone, self._started):
                path.unlink(missing_ok=True)
        return Ocf.SUCCESS

    def monitor(self) -> Ocf:
        """What Pacemaker believes, or a failure; a probe is told what is so.

        prl may have moved the service by itself. The scores say so, and Pacemaker is to follow, by
        a demotion and a promotion that find everything done. What is returned meanwhile is the
        role that Pacemaker knows: another one would be a failure, and the owner be stopped for it.
        """
        if not self._started.exists():
            return Ocf.NOT_RUNNING
        found = self._settled()
        if found is None:
            self._cluster.score(None)
            return Ocf.NOT_RUNNING
        self._judge(found)
        if self._is_probe:
            self._differs.unlink(missing_ok=True)
            return Ocf.RUNNING_PROMOTED if found.speaks else Ocf.SUCCESS
        if not self._is_promoted:
            return Ocf.SUCCESS
        if found.state == "owner" and found.silent:
            raise Failure(Ocf.FAILED_PROMOTED, f"this node is silent: {found.silent}")
        if found.speaks:
            self._differs.unlink(missing_ok=True)
        elif self._differs.exists():
            raise Failure(
                Ocf.FAILED_PROMOTED, f"the service is not here: this node is {found.state}"
            )
        else:
            self._differs.touch()
        return Ocf.RUNNING_PROMOTED

    def promote(self) -> Ocf:
        """Own the service: by a planned move if the other node lives, else by a take-over."""
        self._require_started()
        found, why = None, "no prld answers"
        for _ in tries(self._time_s):
            found = self._prl.part()
            if found and not found.speaks:
                why = self._take(found)
                found = self._prl.part()
            if found and found.speaks:
                self._differs.unlink(missing_ok=True)
                self._judge(found)
                return Ocf.SUCCESS
        if found:
            self._judge(found)
        raise Failure(Ocf.ERR_GENERIC, f"not promoted: {why}")

    def demote(self) -> Ocf:
        """Give the service away."""
        self._require_started()
        self._hand_over()
        self._differs.unlink(missing_ok=True)
        if found := self._prl.part():
            self._judge(found)
        return Ocf.SUCCESS

    def notify(self) -> Ocf:
        """Before an order: note whether the other node is a member. After it: the score.

        A cluster that is cut in two decides for one half, and what it has ordered may be carried
        out when both are together again: it must not move the service. What is noted here was so
        when the order came: it is not given any more once the cluster has changed.
        """
        if not self._started.exists():
            return Ocf.SUCCESS
        if self._notified == "pre":
            if self._cluster.other().is_away:
                self._alone.touch()
            else:
                self._alone.unlink(missing_ok=True)
        elif self._notified == "post" and (found := self._prl.part()):
            self._judge(found)
        return Ocf.SUCCESS

    def validate_all(self) -> Ocf:
        """Whether the parameters make sense on this node, as far as that can be told."""
        if shutil.which(self._prlctl) is None:
            raise Failure(Ocf.ERR_INSTALLED, f"there is no program {self._prlctl}")
        self._prl.part()
        return Ocf.SUCCESS

    def _require_started(self) -> None:
        if not self._started.exists():
            raise Failure(Ocf.NOT_RUNNING, "this instance is not started")

    def _judge(self, part: Part) -> None:
        """Tell Pacemaker how good this node is."""
        self._cluster.score(promotion_score(part, self._cluster.other()))

    def _settled(self) -> Part | None:
        """This node's part, once it answers and is not silent, or after a while what there is."""
        found = None
        for _ in tries(min(ANSWER_S, self._time_s)):
            found = self._prl.part()
            if found and not (found.state == "owner" and found.silent):
                break
            if self._is_probe:
                break
        return found

    def _take(self, part: Part) -> str:
        """Let this node own the service; why not, if it may not."""
        if not part.link_up and self._cluster.other().is_down:
            return self._prl.takeover(fenced=True)
        if part.state != "standby":
            return f"this node is silent: {part.silent}" if part.silent else f"it is {part.state}"
        if not part.link_up:
            return self._prl.takeover(fenced=False)
        if self._alone.exists():
            raise Failure(
                Ocf.ERR_GENERIC, "not promoted: the other node lives outside this cluster"
            )
        return self._prl.switchover()

    def _hand_over(self) -> None:
        """Give the service to the other node. If nobody can take it, this one goes on serving."""
        if self._alone.exists():
            say("this node goes on as it is: the other one is no member of this cluster")
            return
        limit_s = min(GIVE_S, self._time_s / 2)
        found, why = None, ""
        for left in tries(limit_s):
            found = self._prl.part()
            if found and (found.state != "owner" or not (why := self._prl.switchover())):
                return
            if not (found and found.link_up) and limit_s - left > LINK_S:
                break
        if found and found.link_up:
            why = self._prl.demote()
        if why:
            say(f"this node goes on serving, as nobody takes over: {why}")


ACTIONS: dict[str, Callable[[Agent], Ocf]] = {
    "start": Agent.start,
    "stop": Agent.stop,
    "monitor": Agent.monitor,
    "promote": Agent.promote,
    "demote": Agent.demote,
    "notify": Agent.notify,
    "validate-all": Agent.validate_all,
}


def main() -> int:
    """One action; returns its exit status."""
    action = sys.argv[1] if len(sys.argv) > 1 else ""
    if action == "meta-data":
        sys.stdout.write(META_DATA)
        return Ocf.SUCCESS
    if action not in ACTIONS:
        say(f"usage: service {'|'.join([*ACTIONS, 'meta-data'])}")
        return Ocf.ERR_UNIMPLEMENTED
    try:
        return ACTIONS[action](Agent(dict(os.environ)))
    except Failure as failure:
        say(f"ocf-exit-reason:{failure}")
        return failure.status


if __name__ == "__main__":
    sys.exit(main())
