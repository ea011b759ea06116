"""Why a session is not protected, and what would help: one table, for prlctl and the documents."""

from typing import NamedTuple

from prl.bindings.facts import Reason


class Cause(NamedTuple):
    """One reason, for a person who sees that a session is not protected."""

    meaning: str
    remedy: str


CAUSES: dict[Reason, Cause] = {
    Reason.OK: Cause(
        "no attempt to protect it has got as far as the other node yet",
        "wait a moment; `prlctl events` tells of each attempt, and of what was in the way",
    ),
    Reason.NO_SPACE: Cause(
        "the other node's shadow had no space for what the peer sent",
        "let the application on the other node read; prld tries again by itself",
    ),
    Reason.INVALID_HANDLE: Cause(
        "the other node does not know the session: its prld is new, or has forgotten it",
        "nothing: prld makes a new shadow by itself",
    ),
    Reason.NOT_ACTIVE: Cause(
        "the other node does not stand by for the service, or the shadow there is void",
        "see `prlctl status` on the other node; prld makes a new shadow by itself",
    ),
    Reason.TIMEOUT: Cause(
        "the other node did not answer in time",
        "see `prlctl link show`, and whether the other node's CPUs are busy; if it is slow at all "
        "times, raise timing.answer_ms or timing.setup_ms on both nodes",
    ),
    Reason.LINK_LOST: Cause(
        "the link to the other node is down",
        "start prld on the other node, and see its interface, its addresses and the firewall: "
        "`prlctl doctor` on both nodes",
    ),
    Reason.NO_APPLICATION: Cause(
        "no application on the other node waits for the session's shadow",
        "start the same program on the other node: `prlctl serve`, or one that calls offer()",
    ),
    Reason.APPLICATION_GONE: Cause(
        "the application that had the shadow on the other node has ended",
        "start it there again; the journal of the other node says why it ended",
    ),
    Reason.RESTORE_FAILED: Cause(
        "the other node could not build the shadow's socket",
        "see `prlctl events` on the other node for the call that failed, and `prlctl doctor` there",
    ),
    Reason.DIVERGED: Cause(
        "socket and shadow were not the same any more, so that the shadow was given up",
        "nothing: prld makes a new shadow by itself; if it happens again, send a "
        "`prlctl support-bundle` of both nodes",
    ),
    Reason.REQUESTED: Cause(
        "its protection was ended by request",
        "`prlctl flow resync HANDLE` protects it again",
    ),
    Reason.ENDED: Cause(
        "the session ended",
        "nothing",
    ),
    Reason.NO_MEMORY: Cause(
        "a limit of one of the nodes is reached, or its memory",
        "see `prlctl events` on both nodes for which; raise flows_max, or end sessions",
    ),
    Reason.MALFORMED: Cause(
        "the other node could not read what it was sent",
        "bring both nodes to the same version, and send a `prlctl support-bundle` of both nodes",
    ),
    Reason.OUTPUT_DIFFERS: Cause(
        "the program gave other output than on the other node for the same input",
        "serve a program whose output depends on its input alone (docs/unchanged-programs.md)",
    ),
    Reason.MID_STREAM: Cause(
        "the program on the other node cannot begin in the middle of the session",
        "raise `prlctl serve --history` on both nodes for later sessions; this one stays as it is "
        "until it ends",
    ),
    Reason.NOT_OWNER: Cause(
        "this node does not own the session's service",
        "see `prlctl status` for who does; the session is protected from the owner alone",
    ),
    Reason.UNPROTECTED: Cause(
        "a session of the service would not have been moved with it",
        "`prlctl flow list --unsafe` names it",
    ),
    Reason.BUSY: Cause(
        "a planned move of the service is under way",
        "wait until it has ended: `prlctl events`",
    ),
    Reason.LEASE_OVER: Cause(
        "the lease between the nodes had ended",
        "see `prlctl link show`; prld makes a new shadow by itself as soon as the link is up",
    ),
    Reason.NO_LAN: Cause(
        "the other node does not hear the LAN",
        "see its cable and its switch port",
    ),
    Reason.NOT_HELD: Cause(
        "output could have left without being held, as prl's programs were missing on an interface",
        "`prlctl status` names the interface, `prlctl doctor` what took them off; prld puts them "
        "back",
    ),
    Reason.STRAY_IN: Cause(
        "the peer's packets come in by an interface where prl does not capture them",
        "mend the route: they must come in by lan.interface, or give that network a [[routing]] "
        "of its own",
    ),
    Reason.STRAY_OUT: Cause(
        "the session's packets leave by an interface where prl does not hold them",
        "mend the route to the peer: it must lead through lan.interface, or through that of a "
        "[[routing]]",
    ),
    Reason.NOT_ASKED: Cause(
        "a move of its service would lose sessions that prld was not asked for",
        "have them protected, wait until they have ended, or use `prlctl demote`",
    ),
    Reason.WRITTEN: Cause(
        "the program on the other node wrote into the shadow before the take-over, or shut it down",
        "mend that program: until it hears of the take-over it only reads (docs/api.md); then "
        "start it there again",
    ),
    Reason.UNCUT: Cause(
        "the peer's datagrams come several in a packet, as it sent them with UDP_SEGMENT or as GRO "
        "gathered them, and only this node's kernel would cut it",
        "have them cut: `ethtool -K IFACE tx-udp-segmentation off` where the peer sends, "
        "`rx-udp-gro-forwarding off rx-gro-list off` here; or use native mode (docs/udp.md)",
    ),
}


def cause_of(reason: int) -> Cause:
    """What ``reason`` means; one of a newer version has its number alone."""
    known = CAUSES.get(Reason(reason)) if reason in CAUSES else None
    return known or Cause(
        f"the other node gave reason {reason}, which this version does not know",
        "bring both nodes to the same version",
    )
