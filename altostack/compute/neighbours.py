"""What the compute service asks of image, placement, network and volume, through their public APIs.

Every method may raise `RemoteError`. ``token``: a user's; without it the service's own authority is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from altostack.kit.clients import Client, RemoteError, segment

_FAR = "1.39"  # placement's microversion that we speak
_ATTACH = "3.44"  # block storage: attachments with completion


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A host that has room: its provider, and for each resource class (capacity, used)."""

    provider: str
    resources: Mapping[str, tuple[int, int]]


class Placement:
    """Room on hosts."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def candidates(
        self, resources: Mapping[str, int], *, limit: int | None = None, within: str | None = None
    ) -> list[Candidate]:
        """Providers that have room for ``resources``; ``within``: only that one."""
        query: dict[str, Any] = {"resources": _amounts(resources), "limit": limit}
        if within is not None:
            query["in_tree"] = within
        answer = self._client.call("GET", "/allocation_candidates", query=query, version=_FAR)
        summaries = answer["provider_summaries"]
        found = []
        for request in answer["allocation_requests"]:
            for provider in request["allocations"]:
                room = summaries[provider]["resources"]
                found.append(
                    Candidate(
                        provider=provider,
                        resources={name: (one["capacity"], one["used"]) for name, one in room.items()},
                    )
                )
        return found

    def with_room(self, resources: Mapping[str, int]) -> set[str]:
        """The ids of all providers that have room for ``resources``."""
        answer = self._client.call(
            "GET", "/resource_providers", query={"resources": _amounts(resources)}, version=_FAR
        )
        return {one["uuid"] for one in answer["resource_providers"]}

    def allocation(self, consumer: str) -> dict[str, Any]:
        """A server's allocations: {"allocations": {provider: {"resources": ...}}, "consumer_generation", ...}."""
        found: dict[str, Any] = self._client.call("GET", f"/allocations/{consumer}", version=_FAR)
        return found

    def claim(
        self, consumer: str, provider: str, resources: Mapping[str, int], *, project_id: str, user_id: str,
        generation: int | None,
    ) -> None:  # fmt: skip
        """Replace the server's allocations. ``generation`` None: it must have none. RemoteError 409: a race lost."""
        body = {
            "allocations": {provider: {"resources": dict(resources)}},
            "project_id": project_id,
            "user_id": user_id,
            "consumer_generation": generation,
            "consumer_type": "INSTANCE",
        }
        self._client.call("PUT", f"/allocations/{consumer}", body, version=_FAR)

    def release(self, consumer: str) -> None:
        """Drop the server's allocations, if any."""
        self._client.call("DELETE", f"/allocations/{consumer}", version=_FAR, missing_ok=True)

    def providers(self) -> dict[str, dict[str, Any]]:
        """Every resource provider by id."""
        answer = self._client.call("GET", "/resource_providers", version=_FAR)
        return {one["uuid"]: one for one in answer["resource_providers"]}

    def ensure_provider(self, provider: str, name: str) -> int:
        """Make the provider where it is missing; its generation."""
        found = self._client.call("GET", f"/resource_providers/{provider}", version=_FAR, missing_ok=True)
        if found is None:
            found = self._client.call(
                "POST", "/resource_providers", {"uuid": provider, "name": name}, version=_FAR
            )
        return int(found["generation"])

    def set_inventory(self, provider: str, generation: int, inventories: Mapping[str, Any]) -> None:
        """Replace the provider's inventories."""
        body = {"resource_provider_generation": generation, "inventories": dict(inventories)}
        self._client.call("PUT", f"/resource_providers/{provider}/inventories", body, version=_FAR)

    def inventory(self, provider: str) -> dict[str, Any]:
        """The provider's inventories by resource class."""
        answer = self._client.call("GET", f"/resource_providers/{provider}/inventories", version=_FAR)
        return dict(answer["inventories"])

    def usage(self, provider: str) -> dict[str, int]:
        """How much of each resource class is allocated."""
        answer = self._client.call("GET", f"/resource_providers/{provider}/usages", version=_FAR)
        return dict(answer["usages"])

    def remove_provider(self, provider: str) -> None:
        """Forget a provider. RemoteError 409 while something is allocated on it."""
        self._client.call("DELETE", f"/resource_providers/{provider}", version=_FAR, missing_ok=True)


def _amounts(resources: Mapping[str, int]) -> str:
    return ",".join(f"{name}:{amount}" for name, amount in sorted(resources.items()))


class Network:
    """Networks, ports and security groups."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def networks(self, *, token: str | None = None, **query: Any) -> list[dict[str, Any]]:
        """Networks that the caller sees; ``id=[...]`` and the like narrow them."""
        answer = self._client.call("GET", "/v2.0/networks", query=query, token=token)
        return list(answer["networks"])

    def auto_topology(self, project_id: str, *, token: str | None = None) -> str | None:
        """The network made for a project that has none; None where the service does not offer it."""
        path = f"/v2.0/auto-allocated-topology/{segment(project_id)}"
        answer = self._client.call("GET", path, token=token, missing_ok=True)
        return answer["auto_allocated_topology"]["id"] if answer else None

    def subnets(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Subnets by id."""
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        answer = self._client.call("GET", "/v2.0/subnets", query={"id": wanted})
        return {one["id"]: one for one in answer["subnets"]}

    def port(self, port_id: str, *, token: str | None = None) -> dict[str, Any] | None:
        """A port, or None."""
        answer = self._client.call("GET", f"/v2.0/ports/{segment(port_id)}", token=token, missing_ok=True)
        return answer["port"] if answer else None

    def ports_of(self, server_id: str) -> list[dict[str, Any]]:
        """Every port that belongs to a server."""
        answer = self._client.call("GET", "/v2.0/ports", query={"device_id": server_id})
        return list(answer["ports"])

    def create_ports(self, ports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """New ports, all or none."""
        if len(ports) == 1:
            return [self._client.call("POST", "/v2.0/ports", {"port": ports[0]})["port"]]
        return list(self._client.call("POST", "/v2.0/ports", {"ports": ports})["ports"])

    def update_port(self, port_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Change a port."""
        answer = self._client.call("PUT", f"/v2.0/ports/{port_id}", {"port": dict(fields)})
        return dict(answer["port"])

    def delete_port(self, port_id: str) -> None:
        """Remove a port, if it is there."""
        self._client.call("DELETE", f"/v2.0/ports/{port_id}", missing_ok=True)

    def groups(self, project_id: str, *, token: str | None = None) -> list[dict[str, Any]]:
        """A project's security groups."""
        query = {"project_id": project_id, "fields": ["id", "name"]}
        answer = self._client.call("GET", "/v2.0/security-groups", query=query, token=token)
        return list(answer["security_groups"])

    def floating(self, **query: Any) -> list[dict[str, Any]]:
        """Floating IPs; ``port_id=[...]`` narrows them."""
        return list(self._client.call("GET", "/v2.0/floatingips", query=query)["floatingips"])


class Volume:
    """Volumes and attachments."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def show(self, volume_id: str, *, token: str | None = None) -> dict[str, Any] | None:
        """A volume, or None."""
        answer = self._client.call(
            "GET", f"/v3/volumes/{segment(volume_id)}", token=token, version=_ATTACH, missing_ok=True
        )
        return answer["volume"] if answer else None

    def snapshot(self, snapshot_id: str, *, token: str | None = None) -> dict[str, Any] | None:
        """A snapshot, or None."""
        answer = self._client.call(
            "GET", f"/v3/snapshots/{segment(snapshot_id)}", token=token, version=_ATTACH, missing_ok=True
        )
        return answer["snapshot"] if answer else None

    def named(self, name: str) -> list[dict[str, Any]]:
        """Every project's volumes of that name."""
        query = {"name": name, "all_tenants": "1"}
        answer = self._client.call("GET", "/v3/volumes/detail", query=query, version=_ATTACH)
        return list(answer["volumes"])

    def create(self, fields: Mapping[str, Any], *, token: str) -> dict[str, Any]:
        """A new volume, in the project of ``token``."""
        answer = self._client.call(
            "POST", "/v3/volumes", {"volume": dict(fields)}, token=token, version=_ATTACH
        )
        return dict(answer["volume"])

    def delete(self, volume_id: str) -> None:
        """Remove a volume, if it is there."""
        self._client.call("DELETE", f"/v3/volumes/{volume_id}", version=_ATTACH, missing_ok=True)

    def attachments(self, server_id: str) -> list[dict[str, Any]]:
        """Every attachment of a server."""
        query = {"instance_id": server_id, "all_tenants": "1"}
        answer = self._client.call("GET", "/v3/attachments/detail", query=query, version=_ATTACH)
        return list(answer["attachments"])

    def attach(
        self, volume_id: str, server_id: str, connector: Mapping[str, Any], mode: str
    ) -> dict[str, Any]:
        """Reserve the volume and connect it to a host; the attachment with its connection_info."""
        body = {
            "attachment": {
                "volume_uuid": volume_id, "instance_uuid": server_id, "connector": dict(connector), "mode": mode,
            }
        }  # fmt: skip
        answer = self._client.call("POST", "/v3/attachments", body, version="3.54")
        return dict(answer["attachment"])

    def attachment(self, attachment_id: str) -> dict[str, Any] | None:
        """An attachment, or None."""
        answer = self._client.call(
            "GET", f"/v3/attachments/{attachment_id}", version=_ATTACH, missing_ok=True
        )
        return answer["attachment"] if answer else None

    def complete(self, attachment_id: str) -> None:
        """The volume is in use from now on."""
        self._client.call(
            "POST", f"/v3/attachments/{attachment_id}/action", {"os-complete": None}, version=_ATTACH
        )

    def detach(self, attachment_id: str) -> None:
        """Remove an attachment, if it is there."""
        self._client.call("DELETE", f"/v3/attachments/{attachment_id}", version="3.27", missing_ok=True)


class Image:
    """Images."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def show(self, image_id: str, *, token: str | None = None) -> dict[str, Any] | None:
        """An image, or None."""
        found: dict[str, Any] | None = self._client.call(
            "GET", f"/v2/images/{segment(image_id)}", token=token, missing_ok=True
        )
        return found

    def create(self, fields: Mapping[str, Any], *, token: str | None = None) -> dict[str, Any]:
        """A new image record without bits."""
        return dict(self._client.call("POST", "/v2/images", dict(fields), token=token))

    def uploader(self, image_id: str, host: str) -> None:
        """Let a node upload the image's bits."""
        self._client.call("PUT", f"/internal/images/{image_id}/upload-host", {"host": host})

    def delete(self, image_id: str) -> None:
        """Remove an image, if it is there."""
        self._client.call("DELETE", f"/v2/images/{image_id}", missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """All four, as one service sees them."""

    placement: Placement
    network: Network
    volume: Volume
    image: Image


def neighbours(clients: Mapping[str, Client]) -> Neighbours:
    """The typed classes on top of a runtime's clients."""
    return Neighbours(
        placement=Placement(clients["placement"]),
        network=Network(clients["network"]),
        volume=Volume(clients["volume"]),
        image=Image(clients["image"]),
    )


__all__ = ["Candidate", "Image", "Neighbours", "Network", "Placement", "RemoteError", "Volume", "neighbours"]
