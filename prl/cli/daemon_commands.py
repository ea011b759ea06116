"""The commands that ask or steer prld."""

import itertools
import shutil
import sys
import time
from typing import Any

import click

from prl.cli.output import emit, settings, table
from prl.client import Node
from prl.messages import HANDLE_MAX

DEGRADED = 3
FOLLOW_INTERVAL_S = 0.2
_TOP_HEAD_LINES = 12  # the status, and the heading of the flows


class _Handle(click.ParamType[int]):
    name = "handle"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            handle = int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no handle; see `prlctl flow list`", param, ctx)
        if not 0 <= handle <= HANDLE_MAX:
            self.fail(f"{value} does not fit into 32 bits; see `prlctl flow list`", param, ctx)
        return handle


HANDLE = _Handle()


def ask(op: str, **arguments: Any) -> dict[str, Any]:
    """One question to prld. Raises PrlError."""
    with settings().connect() as node:
        return node.request({"op": op} | arguments)


@click.command()
@click.pass_context
def status(context: click.Context) -> None:
    """Show the node, and whether it could be switched over: exit status 3 if not."""
    facts = ask("status")
    emit(facts, _status_text(facts))
    if not facts["switchover_safe"]:
        context.exit(DEGRADED)


def _status_text(facts: dict[str, Any]) -> str:
    link, flows, behind = facts["link"], facts["flows"], facts["behind"]
    lines = [f"node {facts['node']} ({facts['mode']})"]
    if facts["mode_because"]:
        lines.append(f"mode: {facts['mode_because']}")
    for service in facts["services"]:
        addresses = ", ".join(service["addresses"])
        lines.append(
            f"service {service['name']}: {service['state']} (term {service['term']}) {addresses}"
        )
        if service["silent"]:
            lines.append(f"  silent: {service['silent']}")
    other = f" to {link['other']}" if link["other"] else ""
    detail = f"round trip {link['rtt_ms']} ms" if link["state"] != "down" else link["reason"]
    lease = facts["lease"]
    lines.append(f"link{other}: {link['state']}, {detail}")
    lines.append(
        f"epoch {facts['epoch']}, may take over for {lease['takeover_for_ms']} ms, "
        f"must not open for {lease['open_in_ms']} ms"
        + (", over: shadows wait for fencing" if lease["over"] else "")
    )
    policy = facts["policy"]
    differs = f" (configured: {policy['configured']})" * (
        policy["configured"] != policy["in_force"]
    )
    lines.append(f"without the other node: {policy['in_force']}{differs}")
    lines.append(
        f"flows: {flows['primary']} primary, {flows['secondary']} secondary, "
        f"{flows['active']} active, {flows['unprotected']} unprotected"
    )
    lines.append(
        f"behind: {behind['packets']} packets, {behind['bytes']} bytes, "
        f"oldest {facts['oldest_unacknowledged_ms']} ms"
    )
    verdict = "yes" if facts["switchover_safe"] else "no"
    lines.append(f"switchover-safe: {verdict}, because {facts['because']}")
    return "\n".join(lines)


@click.group()
def flow() -> None:
    """The sessions that prld keeps."""


@flow.command("list")
def flow_list() -> None:
    """List them."""
    with settings().connect() as node:
        flows = _all_flows(node)
    emit({"flows": flows}, _flows_text(flows))


def _all_flows(node: Node) -> list[dict[str, Any]]:
    flows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        answer = node.request({"op": "flow_list", "after": after})
        flows += answer["flows"]
        after = answer["next"]
    return flows


def _flows_text(flows: list[dict[str, Any]]) -> str:
    rows = [["HANDLE", "ROLE", "STATE", "LOCAL", "REMOTE", "GEN", "QUEUE", "REASON"]]
    rows += [
        [
            *(f"{entry['handle']:#x}", entry["role"], entry["state"]),
            *(entry["local"], entry["remote"], str(entry["generation"])),
            *(str(entry["queue"]["packets"]), entry["reason"]),
        ]
        for entry in flows
    ]
    return table(rows)


@flow.command("show")
@click.argument("handle", type=HANDLE)
def flow_show(handle: int) -> None:
    """Show all that is known of one."""
    found = ask("flow_show", handle=handle)["flow"]
    emit({"flow": found}, _tree(found | {"handle": f"{found['handle']:#x}"}))


@flow.command("del")
@click.argument("handle", type=HANDLE)
def flow_del(handle: int) -> None:
    """End the replication of one; the session goes on."""
    facts = ask("flow_del", handle=handle)
    emit(facts, f"flow {handle:#x} is not replicated any more")


@flow.command("resync")
@click.argument("handle", type=HANDLE)
def flow_resync(handle: int) -> None:
    """Give one a new shadow, from a new snapshot."""
    facts = ask("flow_resync", handle=handle)
    emit(facts, f"flow {handle:#x} gets a new shadow; `prlctl flow show {handle:#x}` tells when")


@click.group()
def link() -> None:
    """The link to the other node."""


@link.command("show")
def link_show() -> None:
    """Show its state and counters."""
    facts = ask("link_show")
    emit(facts, _tree(facts))


@click.command()
@click.option("--service", default="", metavar="NAME", help="Needed when there are several.")
@click.option("--fenced", is_flag=True, help="The other node is dead: I have made sure.")
def takeover(service: str, fenced: bool) -> None:
    """Let this node own a service from now on."""
    facts = ask("takeover", service=service, fenced=fenced)
    emit(facts, _status_text(facts))


@click.command()
@click.argument("service", default="")
def switchover(service: str) -> None:
    """Move SERVICE to the other node, with all its sessions: nothing is lost.

    Asked on the node that stands by, it moves there. Refused with exit status 3 when it is not
    safe. SERVICE is needed when there are several.
    """
    _move(service, forced=False)


@click.command()
@click.argument("service", default="")
def demote(service: str) -> None:
    """Give SERVICE to the other node even if that loses sessions which are not protected.

    Protected ones are moved as by switchover. For the owner alone.
    """
    _move(service, forced=True)


def _move(service: str, *, forced: bool) -> None:
    facts = ask("switchover", service=service, forced=forced)
    words = f"service {facts['service']}: moved from {facts['from']} to {facts['to']}"
    if facts["silent_ms"] is not None:
        words += f", {facts['sessions']} sessions, silent for {facts['silent_ms']} ms"
    emit(facts, words)


@click.command()
@click.option("--follow", "-f", is_flag=True, help="Go on as they happen.")
def events(follow: bool) -> None:
    """Show what happened."""
    after = 0
    with settings().connect() as node:
        found = all_events(node, after)
        if not follow:
            emit({"events": found}, "\n".join(map(_event_text, found)))
            return
        while True:
            for record in found:
                emit({"event": record}, _event_text(record))
                after = record["seq"]
            time.sleep(FOLLOW_INTERVAL_S)
            found = all_events(node, after)


def all_events(node: Node, after: int) -> list[dict[str, Any]]:
    """All that happened after number ``after``."""
    found: list[dict[str, Any]] = []
    while True:
        more = node.request({"op": "events", "after": after})["events"]
        if not more:
            return found
        found += more
        after = more[-1]["seq"]


def _event_text(record: dict[str, Any]) -> str:
    return f"{record['time']} {record['level']:<7} {record['event']}: {record['text']}"


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="Seconds.")
@click.option("--count", type=click.IntRange(1), help="End after so many views.")
def top(interval: float, count: int | None) -> None:
    """Show the node and its flows, again and again; those with the longest queues first."""
    views = itertools.count() if count is None else range(count)
    with settings().connect() as node:
        for view in views:
            if view:
                time.sleep(interval)
            facts, flows = node.request({"op": "status"}), _all_flows(node)
            flows.sort(key=lambda one: (one["state"] == "active", -one["queue"]["packets"]))
            room = shutil.get_terminal_size().lines - _TOP_HEAD_LINES
            if sys.stdout.isatty() and not settings().json:
                click.clear()
                flows = flows[: max(room, 1)]
            emit(facts | {"flow_list": flows}, f"{_status_text(facts)}\n\n{_flows_text(flows)}")


@click.command()
def stats() -> None:
    """Show every counter."""
    facts = ask("stats")
    emit(facts, _tree(facts))


def _tree(facts: dict[str, Any], indent: str = "") -> str:
    """Nested facts as indented lines."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _tree(value, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{name}: {', '.join(map(str, value))}")
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(line for line in lines if line)


COMMANDS = (status, flow, link, takeover, switchover, demote, events, stats, top)
