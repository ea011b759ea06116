"""What there is, one thing after the other, for followers of events: words and facts."""

from collections.abc import Iterator
from typing import Any, Final

from prl.daemon.monitoring import facts
from prl.daemon.monitoring.facts import NodeView

HANDLES_AT_ONCE: Final = 256
"""So many are asked for when their turn comes."""


def things(view: NodeView) -> Iterator[tuple[str, dict[str, Any]]]:
    """The node, the link, services and sessions; the last one is the end.

    Sessions are looked up when it is their turn: one that has ended meanwhile is left out, what
    changes meanwhile is told by its event.
    """
    return _things(view, facts.status(view))


def _handles(view: NodeView) -> Iterator[int]:
    after = 0
    while some := facts.handles(view, after, HANDLES_AT_ONCE):
        yield from some
        after = some[-1]


def _things(view: NodeView, now: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    safe = "safe" if now["switchover_safe"] else "not safe"
    yield (
        f"node {now['node']}: {safe}, because {now['because']}",
        {
            "object": "node",
            "name": now["node"],
            "safe": now["switchover_safe"],
            "cause": now["cause"],
        },
    )
    link = now["link"]
    yield (
        f"link: {link['state']}" + (f": {link['reason']}" if link["reason"] else ""),
        {
            "object": "link",
            "link": link["state"],
            "other": link["other"] or "",
            "reason": link["reason"],
        },
    )
    for service in now["services"]:
        yield (
            f"service {service['name']}: {service['state']}",
            {
                "object": "service",
                "name": service["name"],
                "state": service["state"],
                "term": service["term"],
                "silent": service["silent"],
                "addresses": service["addresses"],
            },
        )
    members = ("handle", "protocol", "local", "remote", "instance", "role", "state", "reason")
    for handle in _handles(view):
        if (flow := facts.flow(view, handle)) is not None:
            yield (
                f"session {flow['local']} <-> {flow['remote']}: {flow['role']}, {flow['state']}",
                {"object": "session"} | {name: flow[name] for name in members},
            )
    yield "that is all there is", {"object": "end", "sessions": 0}
