"""An upload that something happens to in its middle."""

from prl.demo.payload import Payload
from tests.system.support import Applications, Peer

SIZE_BYTES = 16 << 20


def upload(apps: Applications, family: int = 4) -> tuple[Peer, Payload]:
    """Half done; it goes on in finish() alone."""
    payload = Payload(SIZE_BYTES)
    peer = apps.connect(family)
    peer.hold_at(SIZE_BYTES * 3 // 4)
    peer.upload(payload)
    peer.await_bytes(SIZE_BYTES // 2)
    return peer, payload


def finish(apps: Applications, peer: Peer, payload: Payload, node: str) -> None:
    peer.finish()
    peer.sock.close()
    end = apps.expect("end", node, peer=peer.port)
    # On a slow machine the link may have been lost: the next shadow begins where it was made.
    assert (end["began"] + end["bytes"], end["error"]) == (SIZE_BYTES, "")
    for each in ("re0", "re1"):
        apps.reads_are_exact(each, payload)
