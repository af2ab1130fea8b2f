"""Ports as a server's network cards: descriptions for the network service, and copies for views and nodes."""

from __future__ import annotations

import hashlib
import ipaddress
from typing import Any

from altostack.compute.server_row import Interface, Server


def mac(card: Interface) -> str:
    """The card's own hardware address: always the same, so that its port cannot be made twice."""
    digest = hashlib.sha256(card.id.encode()).digest()
    return "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def wish(row: Server, card: Interface, *, own_mac: bool = True) -> dict[str, Any]:
    """The port to make for ``card``."""
    port: dict[str, Any] = {
        "network_id": card.network_id,
        "project_id": row.project_id,
        "admin_state_up": True,
        **binding(row),
    }
    if own_mac:
        port["mac_address"] = mac(card)
    if card.address:
        port["fixed_ips"] = [{"ip_address": card.address}]
    groups = [one["id"] for one in row.security_groups if one.get("id")]
    if groups:
        port["security_groups"] = groups
    return port


def binding(row: Server) -> dict[str, Any]:
    """What makes a port the server's, on its host."""
    return {"device_id": row.id, "device_owner": f"compute:{row.az}", "binding:host_id": row.host}


UNBOUND = {"device_id": "", "device_owner": "", "binding:host_id": ""}


def describe(
    port: dict[str, Any], network: dict[str, Any], old: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What is kept of a port: enough for the server's views, its node and its metadata."""
    details = port.get("binding:vif_details") or {}
    return {
        "mac": port["mac_address"],
        "tap": details.get("tap") or f"tap{port['id'][:11]}",
        "mtu": details.get("mtu") or network.get("mtu") or 1500,
        "network": {"id": port["network_id"], "name": network.get("name", "")},
        "fixed_ips": [
            {"ip_address": one["ip_address"], "subnet_id": one["subnet_id"]} for one in port["fixed_ips"]
        ],
        "floating_ips": (old or {}).get("floating_ips", []),
    }


def addresses(cards: list[Interface]) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """The server's addresses by network name, as the API shows them, and all of them as one searchable text."""
    found: dict[str, list[dict[str, Any]]] = {}
    plain: list[str] = []
    for card in cards:
        info = card.info
        if not info.get("mac"):
            continue
        here = found.setdefault(info["network"]["name"], [])
        fixed = [(one["ip_address"], "fixed") for one in info["fixed_ips"]]
        for address, kind in [*fixed, *((one, "floating") for one in info.get("floating_ips", []))]:
            plain.append(address)
            here.append(
                {
                    "version": ipaddress.ip_address(address).version,
                    "addr": address,
                    "OS-EXT-IPS:type": kind,
                    "OS-EXT-IPS-MAC:mac_addr": info["mac"],
                }
            )
    return found, "".join(f" {address} " for address in plain)
