"""What block storage asks of others: images, and servers that hold volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altostack.kit.clients import Client, RemoteError, segment

_COMPUTE = "2.89"  # attachment ids in a server's volume attachments


class Image:
    """The image service. Methods raise RemoteError."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def show(self, image_id: str, *, token: str) -> dict[str, Any] | None:
        """An image as the bearer of ``token`` sees it, or None."""
        found: dict[str, Any] | None = self._client.call(
            "GET", f"/v2/images/{segment(image_id)}", token=token, missing_ok=True
        )
        return found

    def create(self, fields: Mapping[str, Any], *, token: str) -> dict[str, Any]:
        """A new image without bits, owned by the bearer of ``token``."""
        return dict(self._client.call("POST", "/v2/images", dict(fields), token=token))

    def uploader(self, image_id: str, host: str) -> None:
        """Let a node upload the bits."""
        self._client.call("PUT", f"/internal/images/{segment(image_id)}/upload-host", {"host": host})

    def delete(self, image_id: str) -> None:
        """Remove an image, if it is there."""
        self._client.call("DELETE", f"/v2/images/{segment(image_id)}", missing_ok=True)


class Compute:
    """The compute service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def holds(self, server_id: str, volume_id: str) -> str | None:
        """The attachment by which a server holds a volume, or None. Raises RemoteError."""
        path = f"/v2.1/servers/{segment(server_id)}/os-volume_attachments/{segment(volume_id)}"
        found = self._client.call("GET", path, version=_COMPUTE, missing_ok=True)
        return str(found["volumeAttachment"].get("attachment_id", "")) if found else None

    def extended(self, server_id: str, volume_id: str) -> None:
        """Tell that a volume in use has grown. Raises RemoteError."""
        event = {"name": "volume-extended", "server_uuid": server_id, "tag": volume_id, "status": "completed"}
        self._client.call("POST", "/v2.1/os-server-external-events", {"events": [event]}, version="2.51")


__all__ = ["Compute", "Image", "RemoteError"]
