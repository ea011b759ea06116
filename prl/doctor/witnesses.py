"""Who tells a node that is cut off from one that is left over (docs/failover.md)."""

import asyncio
import socket
from collections.abc import Iterator

from msgspec.structs import replace

from prl.bindings.datapath import LogicalInterface
from prl.config import Config
from prl.daemon.ownership.evidence import Evidence
from prl.doctor.finding import Finding, Verdict, judge
from prl.endpoint import Address
from prl.errors import KernelError

ASKED_MAX = 5
ANSWER_S = 0.2


def examine(config: Config | None) -> Iterator[Finding]:
    """Whether each witness answers this host; whether anybody decides at all."""
    if config is None:
        return
    decider = "whoever answers on the LAN"
    if config.lan.witnesses:
        decider = "lan.witnesses"
    if config.arbiter.is_there:
        decider = "the arbiter"
    yield judge(
        "who decides when the nodes lose each other",
        config.arbiter.is_there or bool(config.lan.witnesses),
        decider,
        "both nodes go on if the LAN parts between them with neighbours on both sides: where it "
        "can, name lan.witnesses, or an [arbiter]",
        otherwise=Verdict.NOTE,
    )
    for witness in config.lan.witnesses:
        yield _witness(config, witness)


def _witness(config: Config, witness: Address) -> Finding:
    name = f"witness {witness}"
    try:
        answers = asyncio.run(_is_heard(config, witness))
    except (KernelError, OSError) as error:
        return Finding(name, Verdict.WARNING, f"cannot be asked: {error}", "bring lan.interface up")
    return judge(
        name,
        answers,
        "answers" if answers else "does not answer",
        "this node would not go on without the other one: start it, let it answer ARP and "
        "neighbour discovery in the network of lan.interface, or correct lan.witnesses",
        otherwise=Verdict.WARNING,
    )


async def _is_heard(config: Config, witness: Address) -> bool:
    name = config.lan.interface
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((name, 0))
        mac = sock.getsockname()[4]
    lan = LogicalInterface(name, 0, mac, 1)
    alone = replace(config, lan=replace(config.lan, witnesses=[witness]))
    evidence = Evidence(alone, lan, ())
    with evidence:
        for _ in range(ASKED_MAX):
            evidence.ask()
            await asyncio.sleep(ANSWER_S)
            if evidence.was_heard():
                return True
    return False
