"""Settings of the network service: [network] in altostack.toml."""

from __future__ import annotations

from altostack.kit.config import Settings


class NetworkSettings(Settings, frozen=True, kw_only=True):
    """What an operator may choose.

    mtu: what the nodes' underlay carries, in bytes; tenant networks get 50 less for VXLAN (RFC 7348).
    vni_low, vni_high: VXLAN network identifiers for tenants, both ends included.
    underlay: the address by which the other nodes reach this node's VXLAN endpoint, by host name; a node that is not
    named carries networks of its own only. physical_network: the name of the one flat network that nodes can play.
    external: create the external network at the first start; external_cidr, external_gateway and external_pool
    (first and last address) describe its subnet.
    zone: the availability zone that nodes are in. down_after: seconds without a sign of life after which a node
    counts as down. look_every: seconds between an agent's full looks.
    """

    mtu: int = 1500
    vni_low: int = 1
    vni_high: int = 2**24 - 2
    underlay: dict[str, str] = {}  # noqa: RUF012 - msgspec copies it
    physical_network: str = "external"
    external: bool = True
    external_name: str = "public"
    external_cidr: str = "172.24.4.0/24"
    external_gateway: str = "172.24.4.1"
    external_pool: tuple[str, str] = ("172.24.4.10", "172.24.4.250")
    zone: str = "nova"
    down_after: float = 75.0
    look_every: float = 30.0
    max_dns_nameservers: int = 5
    max_host_routes: int = 20
    max_routes: int = 30
    max_fixed_ips: int = 5
    max_address_pairs: int = 10
