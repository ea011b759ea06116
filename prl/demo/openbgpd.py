"""OpenBGPD as the peer, and what its command bgpctl says."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from prl.demo.player import DemoError
from prl.demo.routers import HOLD_TIME_S, Place, View, program

_IN_ITS_CHROOT = 'mount -t tmpfs none /run && mkdir /run/openbgpd && exec "$@"'
"""Its children live in a folder that Debian has systemd make: here, in mounts of their own."""


class OpenBgpd:
    """OpenBGPD's bgpd, controlled by bgpctl. It gives the kernel no routes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        directory = place.directory
        self._config, self._log = directory / "bgpd.conf", directory / "bgpd.log"
        self._socket = directory / "bgpd.sock"

    def start(self) -> None:
        """See ``Router``."""
        self._config.touch(mode=0o600)  # it takes no other
        self._config.write_text(self._configuration())
        bgpd = [program("bgpd", "openbgpd"), "-d", "-f", str(self._config)]
        self._place.start(
            ["unshare", "--mount", "sh", "-c", _IN_ITS_CHROOT, "sh", *bgpd], self._log
        )

    def pid(self) -> int:
        """See ``Router``: no node of ours runs it."""
        raise NotImplementedError

    def learnt(self) -> int:
        """See ``Router``."""
        return int(self._about()["stats"]["prefixes"]["received"])

    def forwarded(self) -> set[str]:
        """See ``Router``: it has no kernel's routes."""
        return set()

    def announce_more(self) -> None:
        """See ``Router``."""
        for prefix in self._place.after:
            self._bgpctl("network", "add", str(prefix))

    def view(self) -> View:
        """See ``Router``."""
        to = ("neighbor", str(self._place.neighbour))
        heard, told = (json.loads(self._bgpctl("show", "rib", way, *to)) for way in ("in", "out"))
        return parse_openbgpd(self._about(), heard, told, datetime.now(UTC).replace(tzinfo=None))

    def log(self) -> str:
        """See ``Router``."""
        return self._log.read_text(errors="replace")

    def _about(self) -> dict[str, Any]:
        shown = json.loads(self._bgpctl("show", "neighbor", str(self._place.neighbour)))
        for about in shown.get("neighbors", []):
            return dict(about)
        raise DemoError("bgpctl shows no neighbour yet")

    def _bgpctl(self, *words: str) -> str:
        return self._place.run([*self.console(), "-j", *words])

    def console(self) -> list[str]:
        """See ``Router``."""
        return [program("bgpctl", "openbgpd"), "-s", str(self._socket)]

    def _configuration(self) -> str:
        place = self._place
        networks = "".join(f"network {prefix}\n" for prefix in place.before)
        options = [f'tcp md5sig password "{place.md5}"'] if place.md5 else []
        options += ["ttl-security yes"] * place.ttl_security + ["passive"] * place.passive
        options += ["multihop 255"] * place.routed
        lines = "".join(f"  {option}\n" for option in options)
        return f"""\
AS {place.asn}
router-id {place.router_id}
listen on {place.local}
holdtime {HOLD_TIME_S}
connect-retry 1
fib-update no
socket "{self._socket}"
{networks}neighbor {place.neighbour} {{
  remote-as {place.neighbour_asn}
  local-address {place.local}
  announce IPv{place.version} unicast
{lines}}}
allow from any
allow to any
"""


def parse_openbgpd(
    about: dict[str, Any], heard: dict[str, Any], told: dict[str, Any], now: datetime
) -> View:
    """Read the JSON of ``bgpctl show neighbor``, and of ``show rib in`` and ``show rib out``.

    It tells ages in whole seconds; that a route was said anew, its count of UPDATEs has to tell.
    """
    stats = about["stats"]
    up = about.get("last_updown_sec")
    return View(
        state=str(about["state"]),
        since=None if up is None else now - timedelta(seconds=int(up)),
        flaps=max(int(stats["message"]["received"]["open"]) - 1, 0),
        routes={route["prefix"]: 0.0 for route in heard.get("rib", [])},
        withdrawn=int(stats["update"]["received"]["withdraws"]),
        announced=tuple(route["prefix"] for route in told.get("rib", [])),
        updates=int(stats["update"]["received"]["updates"]),
    )
