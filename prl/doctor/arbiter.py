"""The arbiter's store: whether each of its members answers this host (docs/arbiter.md)."""

import time
from collections.abc import Iterator

from msgspec.structs import replace

from prl.config import Config
from prl.daemon.ownership.etcd import Etcd, StoreError
from prl.doctor.finding import Finding, Verdict, judge
from prl.errors import ConfigError

ANSWER_S = 2.0
"""A member that takes longer is of no use; one that takes longer than ``timeout_ms`` is late."""
_MAJORITY_MIN = 3
_REMEDY = "start it, let this host reach it, or correct [arbiter]"


def examine(config: Config | None) -> Iterator[Finding]:
    """Each member, by reading the pair's record there."""
    if config is None or not config.arbiter.is_there:
        return
    endpoints = config.arbiter.endpoints or []
    yield judge(
        "members of the arbiter",
        len(endpoints) >= _MAJORITY_MIN,
        str(len(endpoints)),
        "one that is dead leaves no majority of fewer than three: nobody goes on alone then",
        otherwise=Verdict.WARNING,
    )
    yield from (_member(config, endpoint) for endpoint in endpoints)


def _member(config: Config, endpoint: str) -> Finding:
    name = f"arbiter {endpoint}"
    began_s = time.monotonic()
    try:
        _, holder = Etcd(replace(config.arbiter, endpoints=[endpoint])).read(began_s + ANSWER_S)
    except ConfigError as error:
        return Finding(name, Verdict.MISSING, str(error), "correct [arbiter]")
    except StoreError as error:
        return Finding(name, Verdict.WARNING, str(error), _REMEDY)
    took_ms = (time.monotonic() - began_s) * 1000
    found = f"answered in {took_ms:.0f} ms; alone: {holder or '-'}"
    return judge(
        name,
        took_ms <= config.arbiter.timeout_ms,
        found,
        "its answers count for none: raise arbiter.timeout_ms on both nodes",
        otherwise=Verdict.WARNING,
    )
