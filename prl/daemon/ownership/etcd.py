"""etcd's JSON gateway (v3): one key, read, and replaced if nobody else has written it since.

Every call blocks, for as long as it is allowed to: the caller has a thread for that (arbiter.py).
"""

import base64
import http.client
import json
import socket
import ssl
import time
from typing import Any, Final
from urllib.parse import urlsplit

from prl.config import Arbiter
from prl.errors import ConfigError, PrlError

ANSWER_MAX_BYTES: Final = 65536
"""No answer about one short key is longer."""
WORDS_BYTES: Final = 200
"""So much of an answer that is an error is told."""
FIRST_TRY_SHARE: Final = 2
"""A member that does not answer takes one part of so many of what is left of the time."""


class StoreError(PrlError):
    """The store does not answer, or not as it should: nothing is known."""


class Etcd:
    """The members in ``settings``; the one that answered last is asked first."""

    def __init__(self, settings: Arbiter) -> None:
        """Raises ConfigError: the TLS files cannot be used."""
        self._endpoints = list(settings.endpoints or ())
        self._key = base64.b64encode(settings.key.encode()).decode()
        self._tls = _context(settings)
        self._has_certificate = settings.certificate is not None

    def read(self, until_s: float) -> tuple[int, str]:
        """The key's revision and value; 0 and "" where there is none.

        ``until_s`` is of time.monotonic(). It is the newest value that a majority has (etcd's
        reads are linearizable unless they ask not to be). Raises StoreError.
        """
        answer = self._post("/v3/kv/range", {"key": self._key}, until_s)
        try:
            entries = answer.get("kvs", [])
            if not entries:
                return 0, ""
            value = base64.b64decode(entries[0].get("value", ""), validate=True).decode()
            return int(entries[0]["mod_revision"]), value
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"not etcd's answer: {error!r}") from error

    def replace(self, revision: int, value: str, until_s: float) -> bool:
        """Write the key, if ``revision`` is its newest; whether it was. Raises StoreError.

        After an error nobody knows whether it was written; whoever reads then sees.
        """
        compare = {"key": self._key, "target": "MOD", "result": "EQUAL"}
        put = {"key": self._key, "value": base64.b64encode(value.encode()).decode()}
        body = {
            "compare": [compare | {"mod_revision": str(revision)}],
            "success": [{"request_put": put}],
        }
        return self._post("/v3/kv/txn", body, until_s).get("succeeded", False) is True

    def _post(self, path: str, body: dict[str, Any], until_s: float) -> dict[str, Any]:
        failures: list[str] = []
        for endpoint in list(self._endpoints):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            is_last = endpoint == self._endpoints[-1]
            try:
                answer = self._ask(
                    endpoint, path, body, left_s / (1 if is_last else FIRST_TRY_SHARE)
                )
            except StoreError as error:
                failures.append(f"{endpoint}: {error}")
                continue
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return answer
        raise StoreError("; ".join(failures) or "no time was left")

    def _ask(self, endpoint: str, path: str, body: dict[str, Any], for_s: float) -> dict[str, Any]:
        url = urlsplit(endpoint)
        assert url.hostname is not None
        until_s = time.monotonic() + for_s
        connection: http.client.HTTPConnection
        if self._tls is not None:
            connection = http.client.HTTPSConnection(
                url.hostname, url.port, timeout=for_s, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port, timeout=for_s)
        try:
            connection.connect()
            sock = connection.sock  # the connection forgets it once the member says that it closes
            _limit(sock, until_s)
            connection.request("POST", path, json.dumps(body), {"Connection": "close"})
            _limit(sock, until_s)
            response = connection.getresponse()
            data = _whole(response, sock, until_s)
        except TimeoutError as error:
            raise StoreError(f"no answer within {for_s * 1000:.0f} ms") from error
        except (OSError, http.client.HTTPException) as error:
            raise StoreError(self._why(error)) from error
        finally:
            connection.close()
        try:
            answer = json.loads(data)
        except ValueError as error:
            words = data[:WORDS_BYTES].decode(errors="replace").strip()
            raise StoreError(f"HTTP status {response.status}, and no JSON: {words!r}") from error
        if response.status != http.client.OK or not isinstance(answer, dict):
            raise StoreError(f"HTTP status {response.status}: {_words(answer)}")
        return answer

    def _why(self, error: Exception) -> str:
        """Why there was no answer, and where it shows, what of the configuration is wrong."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS: is it an http endpoint?"
        if self._tls is not None and isinstance(error, ssl.SSLError | ConnectionResetError):
            if not self._has_certificate:
                return f"it breaks TLS off: does it want arbiter.certificate? ({error})"
            return f"it breaks TLS off, perhaps for arbiter.certificate: {error}"
        if self._tls is None and isinstance(error, ConnectionResetError):  # RemoteDisconnected, too
            return "it closes the connection without an answer: is it an https endpoint?"
        return str(error) or repr(error)


def _limit(sock: socket.socket, until_s: float) -> None:
    """Have its next operation end in time. Raises TimeoutError."""
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    sock.settimeout(left_s)


def _whole(response: http.client.HTTPResponse, sock: socket.socket, until_s: float) -> bytes:
    data = b""
    while len(data) < ANSWER_MAX_BYTES:
        _limit(sock, until_s)
        part = response.read1(ANSWER_MAX_BYTES - len(data))
        if not part:
            break
        data += part
    return data


def _words(answer: Any) -> str:
    return str(answer.get("error", answer) if isinstance(answer, dict) else answer)[:WORDS_BYTES]


def _context(settings: Arbiter) -> ssl.SSLContext | None:
    if not settings.is_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.certificate is not None:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(settings.certificate, settings.private_key, password="")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"arbiter.ca, certificate or private_key: {error}; give PEM files that prld may read, "
            "the key without a passphrase"
        ) from error
    return context
