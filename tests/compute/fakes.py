"""Stand-ins for the network and volume services that speak their wire, for tests of compute alone."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

import msgspec

from altostack.kit.clients import Response

Handler = Callable[..., tuple[int, Any]]


class Fake:
    """A transport that answers from memory. ``down`` makes it unreachable; ``calls`` lists what was asked."""

    def __init__(self) -> None:
        self.down = False
        self.calls: list[str] = []
        self.refuse: dict[str, tuple[int, str]] = {}  # "POST ports" -> (status, message)

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        """Carry one request."""
        if self.down:
            raise ConnectionError("nobody answers")
        target, _, query = path.partition("?")
        parts = [unquote(part) for part in target.strip("/").split("/")][1:]
        self.calls.append(f"{method} {'/'.join(parts)}")
        refused = self.refuse.get(f"{method} {parts[0]}")
        if refused is not None:
            status, answer = refused[0], {"error": {"message": refused[1]}}
        else:
            raw = body if isinstance(body, bytes) else b""
            handler: Handler = getattr(self, f"{method.lower()}_{parts[0].replace('-', '_')}")
            status, answer = handler(parts[1:], parse_qs(query), msgspec.json.decode(raw) if raw else None)
        encoded = b"" if answer is None else msgspec.json.encode(answer)
        return Response(status=status, headers={"content-type": "application/json"}, chunks=[encoded])


def _gone() -> tuple[int, Any]:
    return 404, {"itemNotFound": {"message": "not found"}}


class FakeNetwork(Fake):
    """Networks, ports and security groups. Ports become ACTIVE when they are bound, unless ``hold``."""

    def __init__(self) -> None:
        super().__init__()
        self.networks: dict[str, dict[str, Any]] = {}
        self.subnets: dict[str, dict[str, Any]] = {}
        self.ports: dict[str, dict[str, Any]] = {}
        self.groups: list[dict[str, Any]] = []
        self.floats: list[dict[str, Any]] = []
        self.hold = False
        self._numbers = itertools.count(10)

    def add(self, project: str, name: str = "net", **more: Any) -> str:
        """A network with one subnet; its id."""
        key, subnet = str(uuid.uuid4()), str(uuid.uuid4())
        self.networks[key] = {
            "id": key, "name": name, "project_id": project, "admin_state_up": True, "shared": False,
            "router:external": False, "subnets": [subnet], "mtu": 1450, **more,
        }  # fmt: skip
        self.subnets[subnet] = {
            "id": subnet, "network_id": key, "cidr": "10.0.0.0/24", "ip_version": 4, "gateway_ip": "10.0.0.1",
            "dns_nameservers": [], "host_routes": [], "enable_dhcp": True,
        }  # fmt: skip
        return key

    def port(self, network: str, **fields: Any) -> dict[str, Any]:
        """A port on a network."""
        key = str(uuid.uuid4())
        wished = [one.get("ip_address") for one in fields.pop("fixed_ips", [])]
        address = wished[0] if wished else f"10.0.0.{next(self._numbers)}"
        self.ports[key] = {
            "id": key, "network_id": network, "mac_address": "fa:16:3e:" + ":".join(key[i : i + 2] for i in (0, 2, 4)),
            "fixed_ips": [{"ip_address": address, "subnet_id": self.networks[network]["subnets"][0]}],
            "status": "DOWN", "device_id": "", "device_owner": "", "binding:host_id": "",
            "binding:vif_type": "unbound", "security_groups": [], **fields,
        }  # fmt: skip
        self._bind(self.ports[key])
        return self.ports[key]

    def _bind(self, port: dict[str, Any]) -> None:
        bound = bool(port["binding:host_id"])
        port["binding:vif_type"] = "tap" if bound else "unbound"
        port["binding:vif_details"] = {"tap": f"tap{port['id'][:11]}", "mtu": 1450} if bound else {}
        port["status"] = "ACTIVE" if bound and not self.hold else "DOWN"

    def release(self) -> None:
        """Wire the ports that were held."""
        self.hold = False
        for port in self.ports.values():
            self._bind(port)

    def get_networks(self, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        found = [n for n in self.networks.values() if "id" not in query or n["id"] in query["id"]]
        return 200, {"networks": found}

    def get_subnets(self, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        return 200, {
            "subnets": [s for s in self.subnets.values() if "id" not in query or s["id"] in query["id"]]
        }

    def get_auto_allocated_topology(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        return _gone()

    def get_security_groups(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        return 200, {"security_groups": self.groups}

    def get_floatingips(self, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        return 200, {"floatingips": [f for f in self.floats if f["port_id"] in query.get("port_id", [])]}

    def get_ports(self, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if parts:
            return (200, {"port": self.ports[parts[0]]}) if parts[0] in self.ports else _gone()
        wanted = query.get("device_id")
        return 200, {"ports": [p for p in self.ports.values() if wanted is None or p["device_id"] in wanted]}

    def post_ports(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        taken = {port["mac_address"] for port in self.ports.values()}
        if any(one.get("mac_address") in taken for one in body.get("ports", [body.get("port", {})])):
            return 409, {"NeutronError": {"type": "MacAddressInUse", "message": "the address is in use"}}

        def make(fields: dict[str, Any]) -> dict[str, Any]:
            fields = dict(fields)
            return self.port(fields.pop("network_id"), **fields)

        if "ports" in body:
            return 201, {"ports": [make(fields) for fields in body["ports"]]}
        return 201, {"port": make(body["port"])}

    def put_ports(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        if parts[0] not in self.ports:
            return _gone()
        port = self.ports[parts[0]]
        port.update(body["port"])
        self._bind(port)
        return 200, {"port": port}

    def delete_ports(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        return (204, None) if self.ports.pop(parts[0], None) else _gone()


class FakeVolume(Fake):
    """Volumes and attachments."""

    def __init__(self) -> None:
        super().__init__()
        self.volumes: dict[str, dict[str, Any]] = {}
        self.held: dict[str, dict[str, Any]] = {}
        self.snapshots: dict[str, dict[str, Any]] = {}

    def add(self, size: int = 1, **fields: Any) -> str:
        """A volume; its id."""
        key = str(uuid.uuid4())
        self.volumes[key] = {
            "id": key, "size": size, "status": "available", "bootable": "false", "multiattach": False, "name": "",
            "attachments": [], **fields,
        }  # fmt: skip
        return key

    def get_volumes(self, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if parts and parts[0] != "detail":
            return (200, {"volume": self.volumes[parts[0]]}) if parts[0] in self.volumes else _gone()
        name = query.get("name", [None])[0]
        return 200, {"volumes": [v for v in self.volumes.values() if name is None or v["name"] == name]}

    def post_volumes(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        fields = body["volume"]
        image = "imageRef" in fields or "snapshot_id" in fields
        key = self.add(fields["size"], name=fields["name"], bootable="true" if image else "false")
        return 202, {"volume": self.volumes[key]}

    def delete_volumes(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        return (202, None) if self.volumes.pop(parts[0], None) else _gone()

    def get_snapshots(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        return (200, {"snapshot": self.snapshots[parts[0]]}) if parts[0] in self.snapshots else _gone()

    def get_attachments(self, parts: list[str], query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        if parts and parts[0] != "detail":
            return (200, {"attachment": self.held[parts[0]]}) if parts[0] in self.held else _gone()
        wanted = query.get("instance_id")
        return 200, {
            "attachments": [a for a in self.held.values() if wanted is None or a["instance"] in wanted]
        }

    def post_attachments(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        if len(parts) == 2:
            held = self.held[parts[0]]
            held["status"] = "attached"
            self.volumes[held["volume_id"]]["status"] = "in-use"
            return 204, None
        fields = body["attachment"]
        volume = self.volumes.get(fields["volume_uuid"])
        if volume is None:
            return _gone()
        if volume["status"] != "available" and not volume["multiattach"]:
            return 400, {"badRequest": {"message": f"volume {volume['id']} is {volume['status']}"}}
        volume["status"] = "attaching"
        key = str(uuid.uuid4())
        path = f"/volumes/{volume['id']}"
        self.held[key] = {
            "id": key, "volume_id": volume["id"], "instance": fields["instance_uuid"], "status": "attaching",
            "connection_info": {
                "driver_volume_type": "local", "data": {"path": path, "format": "raw", "access_mode": "rw"}
            },
        }  # fmt: skip
        return 200, {"attachment": self.held[key]}

    def delete_attachments(self, parts: list[str], query: Any, body: Any) -> tuple[int, Any]:
        held = self.held.pop(parts[0], None)
        if held is None:
            return _gone()
        others = [a for a in self.held.values() if a["volume_id"] == held["volume_id"]]
        if not others and held["volume_id"] in self.volumes:
            self.volumes[held["volume_id"]]["status"] = "available"
        return 200, {"attachments": []}
