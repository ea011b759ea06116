"""A configuration file as structs of msgspec: from them come checks, messages and documentation."""

import re
import tomllib
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from prl.errors import ConfigError

SECRET = {"secret": True}
"""Marks a key whose value nobody else should see, of a command its arguments."""

if TYPE_CHECKING:
    Address = IPv4Address | IPv6Address
else:
    # msgspec takes no union of two types that it does not know, but any class that has instances.
    class Address(ABC):  # noqa: B024
        """An address of either version."""

    Address.register(IPv4Address)
    Address.register(IPv6Address)


class Deprecation(NamedTuple):
    """A key that goes."""

    since: str
    """The version whose prld warns of it; the next one has it no more."""
    remedy: str
    """What to write instead, in the imperative."""


class Key(Struct, frozen=True):
    """One row of the schema's documentation."""

    path: str
    kind: str
    default: str
    description: str
    secret: bool
    """Its value is kept out of a support bundle."""


_KINDS = {
    IPv4Address: "IPv4 address",
    IPv6Address: "IPv6 address",
    Address: "IPv4 or IPv6 address",
    list[Address]: "list of addresses",
    list[str]: "list of strings",
    list[int]: "list of whole numbers",
    tuple[str, ...]: "list of strings",
    str: "string",
    int: "whole number",
    float: "number",
    bool: "true or false",
}
_AT = re.compile(r" - at `(?:key in )?\$?\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"(?:missing required|unknown) field `(?P<field>[^`]+)`")

Whole = TypeVar("Whole", bound=Struct)
Loaded = TypeVar("Loaded")


class Schema:
    """What a file may have.

    Args:
        tables: its structs by their names; "" is the whole file.
        page: of the documentation.
        deprecated: by path. In the schema still: whoever uses it warns. Gone from it: the refusal
            has the remedy.
    """

    def __init__(
        self,
        tables: Mapping[str, type[Struct]],
        page: str,
        deprecated: Mapping[str, Deprecation] | None = None,
    ) -> None:
        self._tables, self._page = tables, page
        self._deprecated = {} if deprecated is None else deprecated

    def keys(self) -> Iterator[Key]:
        """Every key of the file, in order, for documentation and messages."""
        for table, struct in self._tables.items():
            hints = get_type_hints(struct, include_extras=True)
            fields, given = struct.__struct_fields__, struct.__struct_defaults__
            defaults = dict(zip(fields[len(fields) - len(given) :], given, strict=True))
            for name in struct.__struct_fields__:
                description = _description(hints[name])
                if not description:
                    continue  # a table of its own
                default = defaults.get(name, msgspec.NODEFAULT)
                yield Key(
                    path=f"{table}.{name}" if table else name,
                    kind=_kind(hints[name]),
                    default="required" if default is msgspec.NODEFAULT else _show(default),
                    description=description,
                    secret=any("secret" in (meta.extra or ()) for meta in _metas(hints[name])),
                )

    def parse(self, text: str, whole: type[Whole]) -> Whole:
        """Read what TOML says, as far as types can check it.

        Raises:
            ConfigError: one line that names the key, what is wrong and what to do.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"is not TOML: {error}; correct that line") from error
        try:
            return msgspec.convert(document, whole, dec_hook=_decode_address)
        except msgspec.ValidationError as error:
            raise ConfigError(self._explain(str(error))) from error

    def _explain(self, message: str) -> str:
        """Put msgspec's message into our form: key, what is wrong, what to do."""
        at = _AT.search(message)
        path = at["path"] if at else ""
        wrong = _AT.sub("", message)
        if field := _FIELD.search(wrong):
            path = f"{path}.{field['field']}".lstrip(".")
            if "unknown" in wrong:
                if gone := self._deprecated.get(_plain(path)):
                    told = f"as told since {gone.since}; {gone.remedy}"
                    return f"{path}: no such key any more, {told}"
                names = self._names(path.rpartition(".")[0])
                return f"{path}: no such key; remove it, or use one of: {names}"
            wrong = "is missing"
        row = next((key for key in self.keys() if key.path == _plain(path)), None)
        remedy = f"give {row.kind}: {row.description}" if row else f"see {self._page}"
        return f"{path or 'file'}: {wrong}; {remedy}"

    def _names(self, table: str) -> str:
        struct = self._tables.get(_plain(table))
        return ", ".join(struct.__struct_fields__) if struct else self._page


def load(path: Path, parse: Callable[[str], Loaded]) -> Loaded:
    """Read and check a file.

    Raises:
        ConfigError: one line that names the file, the key, what is wrong and what to do.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; name another file with --config"
        ) from error
    try:
        return parse(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _show(default: object) -> str:
    if default is None or getattr(default, "factory", None) is list:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(map(_show, default))}]"
    return f'"{default}"' if isinstance(default, str) else str(default)


def _description(hint: Any) -> str:
    return next((meta.description for meta in _metas(hint) if meta.description), "")


def _metas(hint: Any) -> list[Meta]:
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]


def _kind(hint: Any) -> str:
    bare = get_type_hints(type("_", (), {"__annotations__": {"x": hint}}))["x"]
    if (choices := get_args(bare)) and all(isinstance(choice, str) for choice in choices):
        return " or ".join(f'"{choice}"' for choice in choices)
    if type(None) in get_args(bare):
        bare = next(kind for kind in get_args(bare) if kind is not type(None))
    return _KINDS[bare]


def _decode_address(kind: Any, value: Any) -> Any:
    # int is refused: ip_address() would take 1 for 0.0.0.1. msgspec reports ValueError alone.
    if not isinstance(value, str):
        raise ValueError("Expected an IP address in quotes")  # noqa: TRY004
    try:
        address = ip_address(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an IP address") from error
    if not isinstance(address, kind):
        raise ValueError(f"{value!r} is not of the right IP version")  # noqa: TRY004
    if address.is_multicast or address.is_unspecified or getattr(address, "scope_id", None):
        raise ValueError(f"{value!r} is not a plain unicast address")
    return address


def _plain(path: str) -> str:
    return re.sub(r"\[[^\]]*\]", "", path)
