"""`prlctl lab`: the lab in network namespaces (SPEC section 8)."""

import os
import signal
import sys
from dataclasses import asdict
from types import FrameType
from typing import NoReturn

import click

from prl.cli.options import choice_option, number_option
from prl.cli.output import emit
from prl.demo.fronted import USERS
from prl.demo.routers import ROUTERS
from prl.demo.standing import Options, hints, stand
from prl.lab.errors import LabError
from prl.lab.lab import How, Lab, LabStatus, MemberStatus, Mode, PrldState
from prl.lab.topology import DEFAULT_NAME, SERVICES_MAX

_NODES = click.Choice(["re0", "re1", "peer", "lan", "router", "peer2"])

ROUTES_MAX = 10_000

_name_option = click.option(
    "--name",
    default=DEFAULT_NAME,
    show_default=True,
    help="Which lab: several can be up side by side.",
)


@click.group("lab")
def lab() -> None:
    """Two nodes, a peer and a switch in network namespaces."""


def _leave_nothing_half_built() -> None:
    """SIGTERM unwinds like Ctrl-C, in this process alone: pyroute2 ends its children by SIGTERM."""
    mine = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == mine:
            signal.default_int_handler(number, frame)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)


@lab.command("up")
@_name_option
@choice_option("--mode", Mode, Mode.NATIVE, "How prld takes input.")
@choice_option(
    "--polling", ["blocking", "adaptive", "busy"], "blocking", "How the datapaths wait for work."
)
@choice_option(
    "--policy", ["continue", "stop"], "continue", "What an owner does without the other node."
)
@click.option("--routed", is_flag=True, help="Put the peer behind a router.")
@click.option(
    "--path-mtu",
    type=click.IntRange(1280, 1500),
    help="The longest packet that the router passes to the peer (--routed).",
)
@number_option(
    "--services",
    1,
    SERVICES_MAX,
    1,
    "So many pairs of service addresses; re0 and re1 own one by turns.",
)
@click.option(
    "--second", is_flag=True, help="Add a second LAN: a routing instance of the same addresses."
)
@click.option("--metrics", is_flag=True, help="Serve each node's metrics on port 9478 of its own.")
def up(
    name: str,
    *,
    mode: str,
    polling: str,
    policy: str,
    routed: bool,
    path_mtu: int | None,
    services: int,
    second: bool,
    metrics: bool,
) -> None:
    """Build the lab and start prld on re0 and re1."""
    if path_mtu is not None and not routed:
        raise click.UsageError("--path-mtu is the router's: give --routed, too")
    _leave_nothing_half_built()
    the_lab = Lab(name)
    the_lab.up(
        mode,
        polling=polling,
        policy=policy,
        routed=routed,
        services=services,
        second=second,
        metrics=metrics,
    )
    if path_mtu is not None:
        the_lab.limit_path(path_mtu)
    namespaces = the_lab.topology.namespaces
    emit(
        {"lab": name, "up": True, "mode": mode, "routed": routed, "namespaces": namespaces},
        f"lab {name} is up ({mode}): {', '.join(namespaces.values())}",
    )


@lab.command("router")
@_name_option
@choice_option("--daemon", USERS, "frr", "The BGP daemon of our nodes, behind prl-bgp.")
@choice_option("--peer", ROUTERS, "bird", "The BGP speaker of the first peer.")
@choice_option("--second", ROUTERS, "bird", "That of the second one.")
@choice_option("--family", ["4", "6"], "4", "The version of IP.")
@number_option("--routes", 1, ROUTES_MAX, 100, "How many each of the three announces.")
def router(name: str, *, daemon: str, peer: str, second: str, family: str, routes: int) -> None:
    """Put a router of two nodes and its two peers into the lab, which is built if it is not up.

    Run again it starts what does not run any more, as after a heal; it stays as it was built.
    """
    _leave_nothing_half_built()
    the_lab = Lab(name)
    if the_lab.status() is None:
        the_lab.up()
    pair, started = stand(the_lab, Options(daemon, peer, second, int(family), routes))
    looks = hints(pair)
    lines = [f"lab {name}: {pair.setting.daemon} on both nodes; started: {', '.join(started)}"]
    lines += [f"  {whose + ':':<17}{command}" for whose, command in looks.items()]
    emit({"lab": name, "started": started, "commands": looks}, "\n".join(lines))


@lab.command("down")
@_name_option
def down(name: str) -> None:
    """Remove the lab with all that runs in it, also after a crash."""
    found = Lab(name).down()
    emit(
        {"lab": name, "up": False, "removed": found},
        f"lab {name} is removed" if found else f"lab {name} was not up",
    )


@lab.command("status")
@_name_option
def status(name: str) -> None:
    """Show the machines of the lab and what is wrong with them."""
    found = Lab(name).status()
    if found is None:
        emit({"lab": name, "up": False}, f"lab {name} is not up")
    else:
        nodes = [asdict(member) for member in found.members]
        emit({"lab": name, "up": True, "mode": found.mode, "nodes": nodes}, _describe(found))


@lab.command("exec", context_settings={"allow_interspersed_args": False})
@_name_option
@click.argument("node", type=_NODES)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, node: str, command: tuple[str, ...]) -> NoReturn:
    """Run COMMAND on NODE; its exit status is the result."""
    if command[0] == "--":  # click leaves it in, as it follows NODE
        command = command[1:]
    if not command:
        raise click.UsageError("give the command to run after --")
    the_lab = Lab(name)
    argv = the_lab.command(node, command)
    environment = the_lab.environment(node)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606
    except OSError as error:
        raise LabError(f"cannot run {argv[0]}: {error.strerror}") from error


@lab.command("fail")
@_name_option
@click.argument("node", type=_NODES)
@click.option("--how", required=True, type=click.Choice([how.value for how in How]))
def fail(name: str, node: str, how: str) -> None:
    """Make NODE fail."""
    at_s = Lab(name).fail(node, how)
    emit(
        {"lab": name, "node": node, "how": how, "at_s": at_s},
        f"{node} of lab {name} failed by {how} at {at_s:.6f} s after boot",
    )


@lab.command("heal")
@_name_option
@click.argument("node", type=_NODES)
def heal(name: str, node: str) -> None:
    """Undo every failure of NODE."""
    Lab(name).heal(node)
    emit({"lab": name, "node": node, "healed": True}, f"{node} of lab {name} is well again")


def _describe(found: LabStatus) -> str:
    lines = [f"lab {found.name} ({found.mode})"]
    lines += [f"  {member.name:<5} {_describe_member(member)}" for member in found.members]
    return "\n".join(lines)


def _describe_member(member: MemberStatus) -> str:
    wrong = [
        what
        for what, is_so in (
            ("no power", not member.power),
            ("prld dead", member.prld is PrldState.DEAD),
            ("LAN cut", member.lan_cut),
            ("link cut", member.link_cut),
        )
        if is_so
    ]
    return f"{', '.join(wrong) or 'well'}; processes: {member.processes}"
