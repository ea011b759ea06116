"""A session that ends while its node is silent: nobody has heard it, and its peer is told later."""

from types import SimpleNamespace
from typing import Any

from prl.bindings.facts import Owner, Silence
from prl.daemon.node import Node
from prl.daemon.ownership.ownership import Ownership


def test_who_speaks_again_tells_of_the_sessions_that_ended_meanwhile() -> None:
    ended: list[int] = []
    owner: Any = Ownership.__new__(Ownership)
    owner._log = SimpleNamespace(info=lambda *_: None)
    owner._dp = SimpleNamespace(
        status=lambda: SimpleNamespace(services=[Owner.STANDBY, Owner.OWNER, Owner.NONE])
    )
    owner._end_lost = ended.append
    owner.on_silent(Silence.NOT)
    assert ended == [1]


def test_only_what_was_not_heard_is_told_again() -> None:
    noted: list[Any] = []
    node: Any = Node.__new__(Node)
    node._shadows = SimpleNamespace(ended_unheard=lambda *session: noted.append(session))
    node._kernel = SimpleNamespace(is_silent=lambda service: service == 1)
    for service in (0, 1):
        node._on_session_over("its ends", service)
    assert noted == [("its ends", 1)]
