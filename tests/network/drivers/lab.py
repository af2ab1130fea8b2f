"""A laboratory: guests on a driver's taps, as a hypervisor would put them there.

A guest is a namespace whose ``eth0`` is a tap device; a relay opens the port's tap as QEMU does and carries
frames between the two. Everything is named after the laboratory's prefix and goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from altostack.network.drivers.base import (
    DhcpPortSpec,
    ExternalNetworkSpec,
    FixedIP,
    MetadataRequest,
    MetadataResponse,
    NetworkSpec,
    NodeNetworks,
    Observed,
    PortSpec,
    RouterGatewaySpec,
    RouterInterfaceSpec,
    RouterSpec,
    RuleSpec,
    SubnetSpec,
)
from altostack.network.drivers.kernel import Kernel
from altostack.network.drivers.linux import LinuxDriver
from altostack.network.drivers.netlink import GETLINK, attrs
from altostack.network.drivers.switch import Underlay

_TUNSETIFF = 0x400454CA
_TAP_NO_PI = 0x1002
_numbers = itertools.count()


def new_prefix() -> str:
    """A prefix that no other run on this machine uses now."""
    return f"t{os.getpid() % 1_000_000:x}{chr(97 + next(_numbers) % 26)}"


def uid(kind: str, number: int) -> str:
    """A readable identifier of the API's shape; ``kind`` is one hexadecimal digit."""
    return f"{kind}{number:07x}-0000-4000-8000-{number:012x}"


class Relay:
    """Carries frames between pairs of tap devices in one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._bell, wake = socket.socketpair()
        self._selector.register(wake, selectors.EVENT_READ, None)
        self._lock = threading.Lock()
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self, one: int, other: int) -> None:
        """Carry frames between two devices from now on."""
        with self._lock:
            self._selector.register(one, selectors.EVENT_READ, other)
            self._selector.register(other, selectors.EVENT_READ, one)
        self._bell.send(b"!")

    def part(self, one: int, other: int) -> None:
        """Stop that and close both."""
        with self._lock:
            for device in (one, other):
                self._selector.unregister(device)
                os.close(device)

    def close(self) -> None:
        """End the thread and close every device."""
        self._ended = True
        self._bell.send(b"!")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            os.close(key.fd) if key.data is not None else None
        self._selector.close()

    def _run(self) -> None:
        while not self._ended:
            ready = self._selector.select(1.0)
            with self._lock:
                for key, _ in ready:
                    if key.data is None:
                        key.fileobj.recv(100)  # type: ignore[union-attr]  # the one socket among numbers
                        continue
                    with contextlib.suppress(OSError):  # a device that is down refuses frames
                        for _ in range(64):
                            os.write(key.data, os.read(key.fd, 65536))


class Guest:
    """A machine behind a port's tap."""

    def __init__(self, lab: Lab, node: str, port: PortSpec, *, configure: bool, mtu: int) -> None:
        self.lab = lab
        self.port = port
        self.mac = port.mac
        self.space = f"{lab.prefix}g-{port.tap}"
        lab.guests.append(self)
        lab.kernel.create(self.space)
        lab.kernel.sysctl(
            self.space, {"ipv6/conf/default/accept_dad": "0", "ipv6/conf/default/router_solicitations": "0"}
        )
        self.tap = _open_tap(lab.kernel, node, port.tap)
        self._inside = _open_tap(lab.kernel, self.space, "eth0")
        with lab.kernel.netlink(self.space) as netlink:
            lab.kernel.loopback(netlink)
            link = netlink.link("eth0")
            assert link is not None
            netlink.set_link(link.index, name="eth0", mac=port.mac, mtu=mtu, up=True)
            if configure:
                for fixed in port.fixed_ips:
                    netlink.add_address(link.index, f"{fixed.ip}/{64 if ':' in fixed.ip else 24}")
        lab.relay.join(self.tap, self._inside)
        _wait_for_carrier(lab.kernel, node, port.tap)

    @property
    def ip(self) -> str:
        """The first fixed address."""
        return self.port.fixed_ips[0].ip

    def run(self, *command: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        return run(self.space, *command, timeout=timeout)

    def pings(self, address: str) -> bool:
        """Whether an address answers."""
        return pings(self.space, address)

    def reaches(self, address: str, port: int, *, source: int = 0) -> bool:
        """Whether a TCP connection comes about and carries data."""
        return reaches(self.lab.kernel, self.space, address, port, source=source)

    def connect(self, address: str, port: int) -> socket.socket:
        """A TCP connection."""
        return connect(self.lab.kernel, self.space, address, port)

    def serve(self, port: int, host: str = "0.0.0.0") -> None:
        """Answer TCP on a port by echoing, until the laboratory ends."""
        self.lab.serve(self.space, port, host)

    def route(self, via: str) -> None:
        """Set the default route."""
        assert self.run("ip", "route", "replace", "default", "via", via).returncode == 0

    def send(self, frame: bytes) -> None:
        """Send any frame at all, as a hostile guest can."""
        os.write(self.tap, frame)

    def hears(self, marker: bytes, seconds: float = 0.25) -> Listener:
        """Watch for frames that contain ``marker``."""
        return Listener(self.lab.kernel, self.space, "eth0", marker, seconds)

    def unplug(self) -> None:
        """Pull the cable, as when a hypervisor ends."""
        self.lab.relay.part(self.tap, self._inside)
        self.lab.kernel.delete(self.space)
        self.lab.guests.remove(self)


class Listener:
    """``with guest.hears(b"x") as seen: send; assert seen()``."""

    def __init__(self, kernel: Kernel, space: str, device: str, marker: bytes, seconds: float) -> None:
        self._marker, self._seconds = marker, seconds
        with kernel.inside(space):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind((device, 3))

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def __call__(self) -> bool:
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                if self._marker in self._socket.recv(65536):
                    return True
        return False


class Lab:
    """A node, its driver and its guests."""

    def __init__(self, state: Path, *, prefix: str | None = None, relay: Relay | None = None) -> None:
        self.prefix = prefix or new_prefix()
        self.state = state
        self.kernel = Kernel()
        self.relay = relay or Relay()
        self._own_relay = relay is None
        self.guests: list[Guest] = []
        self.asked: list[MetadataRequest] = []
        self.underlay: Underlay | None = None
        self._listeners: list[socket.socket] = []
        self._driver: LinuxDriver | None = None

    @property
    def driver(self) -> LinuxDriver:
        """The node's driver, made at first use."""
        if self._driver is None:
            self._driver = LinuxDriver(
                prefix=self.prefix, state=self.state, resolver=self._resolve, underlay=self.underlay
            )
        return self._driver

    @property
    def node(self) -> str:
        """The node namespace."""
        return f"{self.prefix}-node"

    @property
    def outside(self) -> str:
        """The outside namespace."""
        return f"{self.prefix}-ext"

    def converge(self, **desired: Any) -> Observed:
        """Converge and insist on success."""
        observed = self.driver.converge(NodeNetworks(**desired))
        assert observed.failures() == {}
        return observed

    def restart(self) -> None:
        """End the driver as if its process ended, and begin with a new one."""
        if self._driver is not None:
            self._driver.close()
        self._driver = None

    def guest(self, port: PortSpec, *, configure: bool = True, mtu: int = 1450) -> Guest:
        """Start a machine on a port; ``configure``: with its addresses set by hand."""
        return Guest(self, self.node, port, configure=configure, mtu=mtu)

    def serve(self, space: str, port: int, host: str = "0.0.0.0") -> None:
        """Echo on TCP inside a namespace."""
        listener = self.kernel.listen(space, host, port)
        listener.setblocking(True)
        self._listeners.append(listener)
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Remove everything."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        if self._own_relay:
            self.relay.close()
        for guest in self.guests:
            self.kernel.delete(guest.space)
        self.driver.teardown()
        assert self.driver.inventory() == {}
        self.driver.close()
        self.kernel.close()

    def _resolve(self, request: MetadataRequest) -> MetadataResponse:
        self.asked.append(request)
        if request.path == "/broken":
            raise RuntimeError("on purpose")
        text = (
            f"{request.network_id or request.router_id} {request.client_ip} {request.method} {request.path}"
        )
        return MetadataResponse(body=text.encode())


@contextlib.contextmanager
def laboratory(state: Path) -> Iterator[Lab]:
    """A laboratory that is gone afterwards."""
    lab = Lab(state)
    try:
        yield lab
    finally:
        lab.close()


def run(space: str, *command: str, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
    """Run a program in a namespace."""
    return subprocess.run(
        ["ip", "netns", "exec", space, *command], capture_output=True, text=True, timeout=timeout, check=False
    )


def pings(space: str, address: str) -> bool:
    """Whether an address answers a ping from a namespace."""
    return run(space, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "0.5", address).returncode == 0


def connect(kernel: Kernel, space: str, address: str, port: int, source: int = 0) -> socket.socket:
    """A TCP connection from a namespace."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with kernel.inside(space):
        connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(0.6)
        if source:
            connection.bind(("", source))
        connection.connect((address, port))
    except OSError:
        connection.close()
        raise
    return connection


def talks(connection: socket.socket) -> bool:
    """Whether a connection to an echo still carries data."""
    try:
        connection.settimeout(0.6)
        connection.sendall(b"hello")
        return connection.recv(100) == b"hello"
    except OSError:
        return False


def reaches(kernel: Kernel, space: str, address: str, port: int, *, source: int = 0) -> bool:
    """Whether a TCP connection to an echo comes about and carries data."""
    try:
        with connect(kernel, space, address, port, source) as connection:
            return talks(connection)
    except OSError:
        return False


def _echo(listener: socket.socket) -> None:
    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


def _open_tap(kernel: Kernel, space: str, name: str) -> int:
    with kernel.inside(space):
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_NO_PI))
    return device


def _wait_for_carrier(kernel: Kernel, space: str, name: str) -> None:
    """The kernel's own workers notice a plugged cable; a port that is administratively down stays down."""
    with kernel.netlink(space) as netlink:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            link = netlink.link(name)
            assert link is not None
            body = netlink.get(GETLINK, struct.pack("=BxHiII", 0, 0, link.index, 0, 0))
            assert body is not None
            if not link.up or attrs(body, 16)[16][0] == 6:  # IF_OPER_UP
                return
            time.sleep(0.005)
        raise AssertionError(f"{name} has no carrier")


# Descriptions, short

EGRESS = (RuleSpec(direction="egress", ethertype="IPv4"), RuleSpec(direction="egress", ethertype="IPv6"))


def allow(
    protocol: str | None = None, low: int | None = None, high: int | None = None, **other: Any
) -> RuleSpec:
    """An ingress rule."""
    return RuleSpec(
        **{
            "direction": "ingress",
            "ethertype": "IPv4",
            "protocol": protocol,
            "port_range_min": low,
            "port_range_max": high if high is not None else low,
            **other,
        }
    )


def port(number: int, *ips: str, groups: tuple[str, ...] = (), subnet: str = "", **other: Any) -> PortSpec:
    """A port; its addresses are in subnet ``subnet`` or, for IPv6, in that followed by ``-6``."""
    subnet = subnet or uid("5", 1)
    return PortSpec(
        **{
            "id": uid("a", number),
            "tap": "tap" + uid("a", number)[:11],
            "mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}",
            "project_id": "demo",
            "fixed_ips": tuple(FixedIP(subnet_id=subnet + ("-6" if ":" in ip else ""), ip=ip) for ip in ips),
            "security_groups": groups,
            **other,
        }
    )


def network(
    number: int, *ports: PortSpec, net: str = "10.0.0", dhcp: bool = False, **other: Any
) -> NetworkSpec:
    """A network with one /24, gateway .1 and, if asked for, DHCP on .2."""
    subnet = uid("5", number)
    server = DhcpPortSpec(
        port_id=uid("d", number),
        mac=f"52:54:00:dd:00:{number:02x}",
        fixed_ips=(FixedIP(subnet_id=subnet, ip=f"{net}.2"),),
    )
    return NetworkSpec(
        **{
            "id": uid("b", number),
            "project_id": "demo",
            "mtu": 1450,
            "subnets": (SubnetSpec(id=subnet, cidr=f"{net}.0/24", gateway=f"{net}.1", enable_dhcp=dhcp),),
            "dhcp": server if dhcp else None,
            "ports": ports,
            **other,
        }
    )


PUBLIC = NetworkSpec(id=uid("e", 1), project_id="admin", kind="external")
OUTSIDE = ExternalNetworkSpec(network_id=PUBLIC.id, gateways=("172.24.4.1/24",))


def router(
    number: int, *feet: tuple[NetworkSpec, str], address: str | None = None, **other: Any
) -> RouterSpec:
    """A router with interfaces ``(network, address/length)`` and, if asked for, an address outside."""
    gateway = RouterGatewaySpec(
        network_id=PUBLIC.id,
        port_id=uid("f", number),
        mac=f"52:54:00:ee:00:{number:02x}",
        addresses=(f"{address}/24",),
        gateway_ips=("172.24.4.1",),
    )
    return RouterSpec(
        **{
            "id": uid("c", number),
            "project_id": "demo",
            "interfaces": tuple(
                RouterInterfaceSpec(
                    network_id=foot.id,
                    port_id=uid("9", number * 16 + place),
                    mac=f"52:54:00:cc:{number:02x}:{place:02x}",
                    addresses=(where,),
                )
                for place, (foot, where) in enumerate(feet)
            ),
            "gateway": gateway if address else None,
            **other,
        }
    )
