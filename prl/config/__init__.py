"""prld's configuration, and the key that a pair shares."""

from prl.config.keys import (
    DEFAULT_LINK_KEY,
    DEFAULT_PATH,
    DEPRECATED,
    FRONT_PATH,
    TABLES,
    Arbiter,
    Config,
    Link,
    Service,
    Timing,
    deprecations,
    load,
    parse,
    schema,
)
from prl.config.schemas import SECRET, Deprecation, Key

__all__ = [
    "DEFAULT_LINK_KEY",
    "DEFAULT_PATH",
    "DEPRECATED",
    "FRONT_PATH",
    "SECRET",
    "TABLES",
    "Arbiter",
    "Config",
    "Deprecation",
    "Key",
    "Link",
    "Service",
    "Timing",
    "deprecations",
    "load",
    "parse",
    "schema",
]
