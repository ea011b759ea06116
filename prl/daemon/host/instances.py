"""Routing instances: which network a service, and so a session, belongs to (SPEC R1).

A logical interface is one interface towards peers; its number is its place in the configuration,
that of [lan] being 0. Instances may use the same addresses: their sockets are told apart by the
device that they are bound to (SO_BINDTODEVICE), be it the interface or its VRF.
"""

import socket
from collections.abc import Iterable, Sequence

from prl.bindings.datapath import LogicalInterface, Tuple
from prl.bindings.programs import Stranger
from prl.config import Config, Service
from prl.daemon.host import orphaned_sockets
from prl.endpoint import Address, unmapped
from prl.errors import ConfigError, KernelError, UsageError
from prl.kernel.sock_diag import TcpSocket

_DEVICE_BYTES = 16  # IFNAMSIZ


class Instances:
    """The logical interfaces of this node, in the order of the configuration.

    Raises:
        ConfigError: two of them cannot be told apart.
    """

    def __init__(self, config: Config, interfaces: Sequence[LogicalInterface]) -> None:
        self._config, self.interfaces = config, tuple(interfaces)
        seen: dict[bytes, str] = {}
        for interface in interfaces:
            before = seen.setdefault(interface.mac, interface.name)
            if before != interface.name:
                raise ConfigError(
                    f"routing.interface: {interface.name} has the MAC address of {before}, by "
                    f"which frames are told apart; give it one of its own: "
                    f"ip link set {interface.name} address …"
                )

    @property
    def vrf_ifindexes(self) -> list[int]:
        """The VRF device of each logical interface, by index; 0: it is in none.

        Raises:
            KernelError: there is no device of that name.
        """
        names = [None, *(instance.vrf for instance in self._config.routing)]
        try:
            return [socket.if_nametoindex(name) if name else 0 for name in names]
        except OSError as error:
            absent = ", ".join(name for name in names if name)
            raise KernelError(
                f"routing.vrf: {absent}: {error.strerror}; create the device, or correct the key"
            ) from error

    def interface(self, service: int) -> LogicalInterface:
        """Where a service is."""
        return self.interfaces[self._config.lifs[self._config.service[service].instance]]

    def is_shared(self, service: int) -> bool:
        """Whether another service has one of its addresses, in another instance."""
        own = self._config.service[service]
        return any(
            address in other.addresses
            for other in self._config.service
            if other is not own
            for address in own.addresses
        )

    def end_connections(self, service: int) -> list[Tuple]:
        """End what is left on a service's addresses, in its instance. Raises KernelError."""
        addresses = self._config.service[service].addresses
        return self._ended(service, orphaned_sockets.end_all_on(addresses, self.told_by(service)))

    def end_strangers(self, service: int, strangers: Iterable[Stranger]) -> list[Tuple]:
        """End these sessions of a service. Raises KernelError."""
        sides = {
            ((ends.local, ends.local_port), (ends.remote, ends.remote_port))
            for ends in self.tuples(service, strangers)
        }
        return self._ended(service, orphaned_sockets.end_those(sides, self.told_by(service)))

    def tuples(self, service: int, strangers: Iterable[Stranger]) -> list[Tuple]:
        """These sessions of a service as others are known."""
        instance = self._config.service[service].instance
        return [
            Tuple(
                *(unmapped(one.local), one.local_port, unmapped(one.remote), one.remote_port),
                instance=instance,
            )
            for one in strangers
        ]

    def told_by(self, service: int) -> frozenset[int] | None:
        """The devices that tell its sockets from another instance's; None: there is no other."""
        return self.devices(service) if self.is_shared(service) else None

    def _ended(self, service: int, found: Iterable[TcpSocket]) -> list[Tuple]:
        instance = self._config.service[service].instance
        return [Tuple(*one.local, *one.remote, instance=instance) for one in found]

    def of_address(self, address: Address) -> list[int]:
        """The services that have an address."""
        return [n for n, s in enumerate(self._config.service) if address in s.addresses]

    def in_instance(self, address: Address, instance: str) -> int | None:
        """The service that has an address in a routing instance."""
        found = self.of_address(address)
        return next((n for n in found if self._config.service[n].instance == instance), None)

    def of_socket(self, address: Address, sock: socket.socket) -> int | None:
        """The service that a socket with this local address belongs to.

        Raises:
            UsageError: several have the address, and it is bound to the device of none.
        """
        found = self.of_address(address)
        if len(found) <= 1:
            return found[0] if found else None
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _DEVICE_BYTES)
        device = raw.rstrip(b"\0").decode()
        for number in found:
            if device in self._devices(self._config.service[number]):
                return number
        devices = [name for n in found for name in self._devices(self._config.service[n])]
        raise UsageError(
            f"{address} is a service address in several routing instances; bind the socket to "
            f"one of the devices {', '.join(devices)} (SO_BINDTODEVICE)"
        )

    def devices(self, service: int) -> frozenset[int]:
        """The devices that sockets of a service may be bound to, by index."""
        return frozenset(map(socket.if_nametoindex, self.device_names(service)))

    def ends(self, service: int) -> list[tuple[Address, int]]:
        """A service's addresses, each on every device that tells it from others; 0: on any."""
        devices = sorted(self.devices(service)) if self.is_shared(service) else [0]
        own = self._config.service[service].addresses
        return [(address, device) for address in own for device in devices]

    def device_names(self, service: int) -> tuple[str, ...]:
        """The same, by name."""
        return tuple(self._devices(self._config.service[service]))

    def _devices(self, service: Service) -> list[str]:
        lif = self._config.lifs[service.instance]
        vrf = self._config.routing[lif - 1].vrf if lif else None
        return [self.interfaces[lif].name, *([vrf] if vrf else [])]
