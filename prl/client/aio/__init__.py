"""The application's interface to prld for asyncio: prl.client's nouns, without threads.

On the node that owns the service address::

    async with AsyncNode() as node:
        session = await node.replicate(sock)      # from now on the session survives this host
        async for state in session.states():      # active, open, demoted, ended …
            ...

On the other node, the same program::

    async with AsyncNode() as node:
        await node.offer("192.0.2.100:7000")
        async for shadow in node.shadows():
            data = await shadow.recv(65536)       # what the first application reads, too
            taken = await shadow.wait_taken_over()
            await shadow.sendall(answer[taken.out_bytes:])

Everything here belongs to the event loop that runs when it is made. Any wait may be cancelled:
nothing that prld has said is lost by that. Ending an AsyncNode, or the death of the process,
without AsyncSession.close() is the death of the application: if the other node has a good shadow,
it goes on at once.
"""

from prl.client.aio.node import AsyncNode
from prl.client.aio.sessions import AsyncSession, AsyncShadow
from prl.client.shadow_socket import ShadowNotOwned, ShadowVoid, Takeover
from prl.errors import NoDaemonError, NotProtectedError, PrlError, ReplicationError, UsageError

__all__ = [
    "AsyncNode",
    "AsyncSession",
    "AsyncShadow",
    "NoDaemonError",
    "NotProtectedError",
    "PrlError",
    "ReplicationError",
    "ShadowNotOwned",
    "ShadowVoid",
    "Takeover",
    "UsageError",
]
