"""Sessions that prld was not asked for: counted, named, and a cause to be unsafe (SPEC R31)."""

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, cast

from prl.bindings.programs import Stranger, Strangers
from prl.daemon.events.log import EventLog
from prl.daemon.monitoring.facts import NodeView, Verdict, strangers_of, verdict_of_strangers
from prl.daemon.monitoring.safety import UNPROTECTED_S, Safety
from prl.errors import KernelError

MAPPED = bytes(10) + b"\xff\xff"


def stranger(port: int) -> Stranger:
    local, remote = (ip_address(text).packed for text in ("192.0.2.100", "192.0.2.1"))
    return Stranger(MAPPED + local, 7000, MAPPED + remote, port, 0)


def test_the_verdict_names_the_first_and_counts_the_rest() -> None:
    assert verdict_of_strangers(Strangers(0, ())) == Verdict()
    one = verdict_of_strangers(Strangers(1, (stranger(40000),)))
    assert one.cause == "session"
    assert one.words == (
        "192.0.2.100:7000 <-> 192.0.2.1:40000 is not protected: prld was not asked for it"
    )
    many = verdict_of_strangers(Strangers(70, (stranger(40000), stranger(40001))))
    assert "192.0.2.1:40000 (and 69 more) is not protected" in many.words


def view_of(found: Strangers | KernelError) -> NodeView:
    def strangers() -> Strangers:
        if isinstance(found, KernelError):
            raise found
        return found

    return cast(
        NodeView,
        SimpleNamespace(
            kernel=SimpleNamespace(bypassed=False, strangers=strangers),
            primaries=SimpleNamespace(in_hand=list, idle=lambda _: 0),
            config=SimpleNamespace(service=[]),
            link=SimpleNamespace(up=True),
            ailments=list,
        ),
    )


def test_that_they_cannot_be_counted_is_a_cause_as_well() -> None:
    view = view_of(KernelError("sessions cannot be counted: Cannot allocate memory"))
    found, uncounted = strangers_of(view)
    assert (found.count, uncounted.cause) == (0, "host")


def test_one_that_was_just_accepted_is_no_cause_yet() -> None:
    """Between the accept() and the word to prld there is a moment."""
    known = {"found": Strangers(1, (stranger(40000),))}
    safety = Safety(view_of(Strangers(0, ())), EventLog(), looks=())
    lasting = cast(Any, safety)._lasting  # time is given, not waited for
    assert lasting(known["found"], 100.0).count == 0
    both = Strangers(2, (stranger(40000), stranger(40001)))
    assert lasting(both, 100.0 + UNPROTECTED_S) == Strangers(1, (stranger(40000),))
    assert lasting(Strangers(0, ()), 102.0).count == 0
    assert lasting(known["found"], 103.0).count == 0
