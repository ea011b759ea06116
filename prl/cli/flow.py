"""`prlctl flow`: the sessions that prld keeps, and why some are not protected."""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, Final

import click

from prl.cli.output import WARN, ask, emit, settings, table, tree, wrapped
from prl.client import Node
from prl.control.messages import HANDLE_MAX
from prl.endpoint import ANY_PEER, parse_endpoint
from prl.errors import UsageError

STATES: Final = (
    *("setup", "active", "voiding", "alone", "open", "moved"),
    *("suspended", "void", "taking", "owner"),
)
"""Of a session whose application is here, and of a shadow."""

Flow = dict[str, Any]


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


class Peer(click.ParamType[Callable[[str], bool]]):
    """Says of a flow's remote end whether it is meant."""

    name = "peer"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Callable[[str], bool]:
        """Read ADDRESS, ADDRESS/LENGTH or ADDRESS:PORT."""
        if callable(value):
            found: Callable[[str], bool] = value
            return found
        try:
            network = ip_network(value)
        except ValueError:
            try:
                wanted = parse_endpoint(value)
            except UsageError:
                self.fail(
                    f"{value!r} is no peer: say ADDRESS, ADDRESS/LENGTH or ADDRESS:PORT, an IPv6 "
                    "address with a port in brackets",
                    param,
                    ctx,
                )
            return lambda remote: remote != ANY_PEER and parse_endpoint(remote) == wanted
        return lambda remote: remote != ANY_PEER and parse_endpoint(remote)[0] in network


HANDLE = _Handle()


@click.group()
def flow() -> None:
    """The sessions that prld keeps."""


@flow.command("list")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Of this state.")
@click.option(
    "--peer",
    type=Peer(),
    metavar="ADDR[/LEN|:PORT]",
    help="With this peer, or one of this network.",
)
@click.option("--service", metavar="NAME", help="Of this service.")
@click.option("--unsafe", is_flag=True, help="Not protected, or a shadow that is void.")
def flow_list(
    *,
    states: tuple[str, ...],
    peer: Callable[[str], bool] | None,
    service: str | None,
    unsafe: bool,
) -> None:
    """List them, those that are not protected first."""
    with settings().connect() as node:
        found = all_flows(node)
    flows = [
        one
        for one in found
        if (not states or one["state"] in states)
        and (peer is None or peer(one["remote"]))
        and (service is None or one.get("service") == service)
        and (not unsafe or is_unsafe(one))
    ]
    flows.sort(key=lambda one: not is_unsafe(one))  # else as prld had them: by handle
    emit({"flows": flows}, flows_text(flows))


def is_unsafe(one: Flow) -> bool:
    """Whether the session would not survive this node, or this shadow could not take over."""
    return bool(one["state"] != "active")


def all_flows(node: Node) -> list[Flow]:
    """Every flow that prld has, by handle."""
    flows: list[Flow] = []
    after: int | None = 0
    while after is not None:
        answer = node.request({"op": "flow_list", "after": after})
        flows += answer["flows"]
        after = answer["next"]
    return flows


def flows_text(flows: list[Flow]) -> str:
    """Them as a table."""
    rows = [["HANDLE", "ROLE", "STATE", "LOCAL", "REMOTE", "GEN", "QUEUE", "REASON"]]
    rows += [
        [
            *(f"{entry['handle']:#x}", entry["role"], entry["state"]),
            *(entry["local"], entry["remote"], str(entry["generation"])),
            *(str(entry["queue"]["packets"]), entry["reason"]),
        ]
        for entry in flows
    ]
    return table(rows, {number: WARN for number, one in enumerate(flows, 1) if is_unsafe(one)})


@flow.command("show")
@click.argument("handle", type=HANDLE)
def flow_show(handle: int) -> None:
    """Show all that is known of one: first, where it is not protected, why and what would help."""
    found = ask("flow_show", handle=handle)["flow"]
    shown = found | {"handle": f"{found['handle']:#x}"}
    words = {"meaning", "remedy"}  # said already where they say something
    rest = {name: value for name, value in shown.items() if name not in words}
    emit({"flow": found}, _explanation(found) + tree(rest))


def _explanation(found: Flow) -> str:
    """Why it is not protected, in words; nothing where it is."""
    if not is_unsafe(found):
        return ""
    words = f"{found['local']} <-> {found['remote']} is not protected ({found['state']})."
    lines = [wrapped(words, WARN)]
    if found["reason"]:
        lines.append(wrapped(f"Why: {found['reason']}."))
    if found.get("meaning"):  # a prld of an earlier version does not say
        lines.append(wrapped(f"That means: {found['meaning']}."))
        lines.append(wrapped(f"What helps: {found['remedy']}."))
    return "\n".join(lines) + "\n\n"


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
