"""`prlctl status`: the node, and whether it could be switched over, in 80 columns."""

from typing import Any

import click

from prl.cli.output import BAD, DEGRADED, GOOD, WARN, ask, emit, wrapped

_LINK_COLOURS = {"up": GOOD, "suspect": WARN, "down": BAD}
_KERNEL_COLOURS = {"alive": GOOD, "late": WARN, "silent": BAD}


@click.command()
@click.pass_context
def status(context: click.Context) -> None:
    """Show the node, and whether it could be switched over: exit status 3 if not."""
    facts = ask("status")
    emit(facts, status_text(facts))
    if not facts["switchover_safe"]:
        context.exit(DEGRADED)


def _alone(facts: dict[str, Any], policy: str) -> str:
    """What an owner without the other node does."""
    if not (arbiter := facts.get("arbiter")):
        return policy
    words = f"the arbiter decides: {arbiter['state']}"
    if arbiter["holder"]:
        words += f", {arbiter['holder']} is alone"
    return words + f", not reached: {arbiter['reason']}" * (arbiter["reached"] is False)


def status_text(facts: dict[str, Any]) -> str:
    """The answer of ``status`` for people."""
    link, flows, behind = facts["link"], facts["flows"], facts["behind"]
    version = facts.get("version", "of an earlier version")  # prlctl is the newer one in an upgrade
    lines = [wrapped(f"node {facts['node']} ({facts['mode']}), prl {version}")]
    if facts["mode_because"]:
        lines.append(wrapped(f"mode: {facts['mode_because']}"))
    if mirror := facts.get("mirror"):
        words = f"mirror: long packets go by {mirror['interface']}, in clear; their bytes are not"
        words += " compared (R12a), nor kept (R8)"
        if not mirror["on"]:
            words = f"mirror: all input goes over the link: {mirror['because']}"
        lines.append(wrapped(words, None if mirror["on"] else WARN))
    for service in facts["services"]:
        addresses = ", ".join(service["addresses"])
        words = (
            f"service {service['name']}: {service['state']} (term {service['term']}) {addresses}"
        )
        lines.append(wrapped(words))
        if service["silent"]:
            lines.append(wrapped(f"  silent: {service['silent']}", WARN))
    other = f" to {link['other']}" if link["other"] else ""
    detail = f"round trip {link['rtt_ms']} ms" if link["state"] != "down" else link["reason"]
    words = f"link{other}: {link['state']}, {detail}"
    lines.append(wrapped(words, _LINK_COLOURS.get(link["state"])))
    if link.get("plain", True):  # an earlier version, which knows no TLS, does not say so
        lines.append(wrapped("  in clear, and open to whoever is on its network: link.plain", WARN))
    if (kernel := facts.get("other_node", {})).get("state", "unknown") != "unknown":
        words = f"other node: {kernel['state']}, its datapath had a pass {kernel['pass_ms']} ms ago"
        lines.append(wrapped(words, _KERNEL_COLOURS.get(kernel["state"])))
    lease = facts["lease"]
    lines.append(
        wrapped(
            f"epoch {facts['epoch']}, may take over for {lease['takeover_for_ms']} ms, "
            f"must not open for {lease['open_in_ms']} ms"
            + (", over: shadows wait for fencing" if lease["over"] else "")
        )
    )
    policy = facts["policy"]
    differs = f" (configured: {policy['configured']})" * (
        policy["configured"] != policy["in_force"]
    )
    lines.append(wrapped(f"without the other node: {_alone(facts, policy['in_force'] + differs)}"))
    words = (
        f"flows: {flows['primary']} primary, {flows['secondary']} secondary, "
        f"{flows['active']} active, {flows['unprotected']} unprotected"
    )
    if flows["unprotected"]:
        words += ": see `prlctl flow list --unsafe`"
    strangers = flows.get("strangers", 0)  # an earlier version does not count them
    if strangers:
        words += f"; {strangers} sessions that prld was not asked for"
    lines.append(wrapped(words, WARN if flows["unprotected"] or strangers else None))
    lines.append(
        wrapped(
            f"behind: {behind['packets']} packets, {behind['bytes']} bytes, "
            f"oldest {facts['oldest_unacknowledged_ms']} ms"
        )
    )
    verdict, colour = ("yes", GOOD) if facts["switchover_safe"] else ("no", BAD)
    lines.append(wrapped(f"switchover-safe: {verdict}, because {facts['because']}", colour))
    return "\n".join(lines)
