"""What must not be in a bundle: the configuration's secrets, and keys that root may see."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from prl import config

REMOVED: Final = "(removed)"
_SHORTEST: Final = 4
"""Shorter ones (an option's name, a number) would be found in every text."""
_SECRET_SYSCTL: Final = re.compile(rb"^[\w./*-]*(?:key|secret)[\w./-]* *=.*$", re.MULTILINE)
"""net.ipv4.tcp_fastopen_key, net.ipv6.conf.IF.stable_secret."""


class Redactor:
    """Takes what is secret out of texts; knows the configuration's secrets by their values."""

    def __init__(self, path: Path) -> None:
        self.configuration: dict[str, Any] = {}
        """The configuration without its secrets, comments and unknown keys' values."""
        self.trouble = ""
        """Why there is none."""
        self._secrets: set[bytes] = set()
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.trouble = f"{path}: {error.strerror}"
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            # Not the text itself: what is wrong in it may be a secret's quotes.
            self.trouble = f"{path}: is not TOML ({type(error).__name__})"
        else:
            known = {key.path: key for key in config.schema()}
            self.configuration = self._table("", document, known)

    def text(self, raw: bytes) -> bytes:
        """``raw`` without secrets."""
        raw = _SECRET_SYSCTL.sub(lambda found: found[0].split(b"=")[0] + b"= (removed)", raw)
        for secret in sorted(self._secrets, key=len, reverse=True):
            raw = raw.replace(secret, REMOVED.encode())
        return raw

    def _table(
        self, path: str, table: dict[str, Any], known: dict[str, config.Key]
    ) -> dict[str, Any]:
        return {
            name: self._value(f"{path}.{name}".lstrip("."), value, known)
            for name, value in table.items()
        }

    def _value(self, path: str, value: Any, known: dict[str, config.Key]) -> Any:
        if path in config.TABLES:
            tables = value if isinstance(value, list) else [value]
            if all(isinstance(one, dict) for one in tables):
                return [self._table(path, one, known) for one in tables]
        if path not in known:
            self._keep_out(value)
            return REMOVED
        if not known[path].secret:
            return value
        if isinstance(value, list):  # a command: its program is not the secret
            self._keep_out(value[1:])
            return [*value[:1], *(REMOVED for _ in value[1:])]
        self._keep_out(value)
        return REMOVED

    def _keep_out(self, value: Any) -> None:
        for one in _strings(value):
            for part in {one, one.partition("=")[2]}:  # --password=…
                if len(part) >= _SHORTEST:
                    self._secrets |= {part.encode(), json.dumps(part)[1:-1].encode()}


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _strings(one)
