"""The application's interface to prld (IFM, SPEC R17, R18, R23).

On the node that owns the service address::

    node = Node()
    session = node.replicate(sock)      # from now on the session survives this host

On the other node, the same program::

    node = Node()
    node.offer("192.0.2.100:7000")
    for shadow in node.shadows():
        data = shadow.recv(65536)       # what the first application reads, too
        taken = shadow.wait_taken_over()
        shadow.sock.sendall(answer[taken.out_bytes:])

After a take-over ``shadow.session`` is a session like any other, and prld protects it again as soon
as an application on the other node has offered itself. That one joins in mid-stream: with
``replicate(sock, state, renew=True)`` the owner is asked for its state each time
(``Session.protectable``, ``Session.renew``), and the other one starts from ``Shadow.application``,
which belongs exactly to ``Shadow.in_bytes`` and ``Shadow.out_bytes``.

A Node outlives its prld: when that one is started again, offers and sessions are handed to it anew.
Closing a Node, or the death of the process, without Session.close() is the death of the
application: if the other node has a good shadow, it goes on at once.
"""

from prl.client.node import Node
from prl.client.sessions import Session, Shadow
from prl.client.shadow_socket import ShadowNotOwned, ShadowVoid, Takeover
from prl.endpoint import Endpoint
from prl.errors import NoDaemonError, NotProtectedError, PrlError, ReplicationError, UsageError

__all__ = [
    "Endpoint",
    "NoDaemonError",
    "Node",
    "NotProtectedError",
    "PrlError",
    "ReplicationError",
    "Session",
    "Shadow",
    "ShadowNotOwned",
    "ShadowVoid",
    "Takeover",
    "UsageError",
]
