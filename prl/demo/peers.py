"""The stock BGP speakers that can be the peer."""

from collections.abc import Callable

from prl.demo.gobgp import GoBgp
from prl.demo.openbgpd import OpenBgpd
from prl.demo.routers import ROUTERS, Place, Router

PEERS: dict[str, Callable[[Place], Router]] = {**ROUTERS, "gobgp": GoBgp, "openbgpd": OpenBgpd}
