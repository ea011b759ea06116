"""GoBGP as the peer, and what its command gobgp says."""

import json
import struct
from datetime import UTC, datetime
from typing import Any

from prl.bgp.prefixes import Prefix, encode
from prl.demo.player import DemoError
from prl.demo.routers import HOLD_TIME_S, Place, View, program

_STATES = ("", "Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established")
_TABLE_DUMP_V2, _PEER_INDEX, _RIB_IPV4, _RIB_IPV6 = 13, 1, 2, 4
_AS4_IPV4_PEER = 2
_INJECTED_MIN = 1000
_NO_GTSM, _GTSM_TTL = 0, 255


class GoBgp:
    """gobgpd, controlled by gobgp. Its routes come from a dump of a table (MRT, RFC 6396)."""

    def __init__(self, place: Place) -> None:
        self._place = place
        directory = place.directory
        self._config, self._log = directory / "gobgpd.toml", directory / "gobgpd.log"
        self._socket = f"unix://{directory / 'gobgpd.sock'}"
        self._family = f"ipv{place.version}"

    def start(self) -> None:
        """See ``Router``."""
        self._config.write_text(self._configuration())
        gobgpd = program("gobgpd", "gobgpd")
        argv = [gobgpd, "-f", str(self._config), "--api-hosts", self._socket, "--pprof-disable"]
        self._place.start(argv, self._log)
        self._announce(self._place.before)

    def pid(self) -> int:
        """See ``Router``: no node of ours runs it."""
        raise NotImplementedError

    def learnt(self) -> int:
        """See ``Router``."""
        about = json.loads(self._gobgp("neighbor", str(self._place.neighbour)))
        states = (family.get("state", {}) for family in about["afi_safis"])
        return sum(int(state.get("accepted", 0)) for state in states)

    def forwarded(self) -> set[str]:
        """See ``Router``: it has no kernel's routes."""
        return set()

    def announce_more(self) -> None:
        """See ``Router``."""
        self._announce(self._place.after)

    def view(self) -> View:
        """See ``Router``."""
        neighbour = ("neighbor", str(self._place.neighbour))
        about = json.loads(self._gobgp(*neighbour))
        tables = (
            json.loads(self._gobgp(*neighbour, side, "-a", self._family)) if is_up(about) else {}
            for side in ("adj-in", "adj-out")
        )
        return parse_gobgp(about, *tables)

    def log(self) -> str:
        """See ``Router``."""
        return self._log.read_text(errors="replace")

    def _gobgp(self, *words: str) -> str:
        return self._place.run([*self.console(), "-j", *words])

    def console(self) -> list[str]:
        """See ``Router``."""
        return [program("gobgp", "gobgpd"), "--target", self._socket]

    def _announce(self, prefixes: tuple[Prefix, ...]) -> None:
        """Its command ends before the last routes have left it: what is missing is said again.

        More than once each time, for a few routes would all be the last.
        """
        dump = self._place.directory / "routes.mrt"

        def inject() -> None:
            table = json.loads(self._gobgp("global", "rib", "-a", self._family))
            missing = tuple(prefix for prefix in prefixes if str(prefix) not in table)
            if missing:
                again = missing * (_INJECTED_MIN // len(missing) + 1)
                dump.write_bytes(table_dump(again, self._place))
                self._gobgp("mrt", "inject", "global", str(dump))
                raise DemoError(f"gobgp still has not {len(missing)} routes")

        self._place.retry(inject)

    def _configuration(self) -> str:
        place = self._place
        return f"""\
[global.config]
as = {place.asn}
router-id = "{place.router_id}"
local-address-list = ["{place.local}"]
[[neighbors]]
[neighbors.config]
neighbor-address = "{place.neighbour}"
peer-as = {place.neighbour_asn}
auth-password = "{place.md5}"
[neighbors.transport.config]
local-address = "{place.local}"
passive-mode = {str(place.passive).lower()}
[neighbors.timers.config]
hold-time = {HOLD_TIME_S}
keepalive-interval = {HOLD_TIME_S // 3}
connect-retry = 1
idle-hold-time-after-reset = 1
[neighbors.ebgp-multihop.config]
enabled = {str(place.routed).lower()}
multihop-ttl = 255
[neighbors.ttl-security.config]
enabled = {str(place.ttl_security).lower()}
ttl-min = {_GTSM_TTL if place.ttl_security else _NO_GTSM}
[[neighbors.afi-safis]]
[neighbors.afi-safis.config]
afi-safi-name = "{self._family}-unicast"
"""


def is_up(about: dict[str, Any]) -> bool:
    """Whether the neighbour that ``gobgp neighbor`` tells of is Established."""
    return _STATES[int(about["state"].get("session_state", 0))] == "Established"


def parse_gobgp(about: dict[str, Any], heard: dict[str, Any], told: dict[str, Any]) -> View:
    """Read the JSON of ``gobgp neighbor``, and of its ``adj-in`` and ``adj-out``."""
    state = about["state"]
    received = state["messages"].get("received", {})
    uptime = about["timers"].get("state", {}).get("uptime")
    since = None if uptime is None else datetime.fromtimestamp(uptime["seconds"], UTC)
    return View(
        state=_STATES[int(state.get("session_state", 0))],
        since=None if since is None else since.replace(tzinfo=None),
        flaps=int(state.get("flops", 0)),
        routes={prefix: float(paths[0]["age"]) for prefix, paths in heard.items()},
        withdrawn=int(received.get("withdraw_prefix", 0)),
        announced=tuple(told),
        updates=int(received.get("update", 0)),
    )


def table_dump(prefixes: tuple[Prefix, ...], place: Place) -> bytes:
    """A dump of a table (RFC 6396 section 4.3) with these prefixes, by way of the place itself."""
    router = bytes(map(int, place.router_id.split(".")))
    head = router + struct.pack("!HH", 0, 1)
    peer = struct.pack("!B4s4sI", _AS4_IPV4_PEER, router, router, place.asn)
    records = [_record(_PEER_INDEX, head + peer)]
    before = b"\x40\x01\x01\x00" + b"\x40\x02\x00"  # ORIGIN is IGP; an AS_PATH without ASes
    kind = _RIB_IPV4 if place.version == 4 else _RIB_IPV6  # noqa: PLR2004
    for number, prefix in enumerate(prefixes):
        attributes = before + _next_hop(prefix, place.local.packed)
        entry = struct.pack("!HIH", 0, 0, len(attributes)) + attributes
        body = struct.pack("!I", number) + encode([prefix]) + struct.pack("!H", 1) + entry
        records.append(_record(kind, body))
    return b"".join(records)


def _next_hop(prefix: Prefix, hop: bytes) -> bytes:
    """NEXT_HOP, or MP_REACH_NLRI: whole, for GoBGP 3.10 does not take the short form of the RFC."""
    if prefix.version == 4:  # noqa: PLR2004 - the version of IP
        return b"\x40\x03\x04" + hop
    value = b"\x00\x02\x01\x10" + hop + b"\x00" + encode([prefix])
    return struct.pack("!BBB", 0x80, 14, len(value)) + value


def _record(kind: int, body: bytes) -> bytes:
    return struct.pack("!IHHI", 0, _TABLE_DUMP_V2, kind, len(body)) + body
