"""What the sessions of a crowd say: numbered records, different in each session."""

import hashlib
import struct

RECORD_BYTES = 256
_NAME = struct.Struct("!IQ")
_DIGEST_BYTES = 32


def record(session: int, number: int) -> bytes:
    """Record ``number`` of a session: no other record of any session has a part of it."""
    digest = hashlib.sha256(_NAME.pack(session, number)).digest()
    return digest * (RECORD_BYTES // _DIGEST_BYTES)


def stream_sha256(session: int, count: int) -> str:
    """The SHA-256 of the first ``count`` bytes of a session's records."""
    whole, rest = divmod(count, RECORD_BYTES)
    digest = hashlib.sha256()
    for number in range(whole):
        digest.update(record(session, number))
    digest.update(record(session, whole)[:rest])
    return digest.hexdigest()
