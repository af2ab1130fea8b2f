"""Another region's image service, for imports with the method glance-download.

The user's own token is shown there: what they may not see, they do not get. Until the task runs it lies encrypted in
the task's frame, and is gone with it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken

from altostack.kit.clients import Client, HttpTransport, RemoteError, segment
from altostack.kit.service import Runtime


class NotReached(Exception):
    """The other service did not give what was asked of it. The message says why."""


def seal(runtime: Runtime, token: str) -> str:
    """The token, encrypted with the cloud's own key."""
    return _fernet(runtime).encrypt(token.encode()).decode()


def unseal(runtime: Runtime, sealed: str) -> str:
    """The token again. Raises NotReached when the cloud's key has changed."""
    try:
        return _fernet(runtime).decrypt(sealed.encode()).decode()
    except InvalidToken as trouble:
        raise NotReached("the token cannot be read any more") from trouble


def _fernet(runtime: Runtime) -> Fernet:
    digest = hashlib.sha256(f"image import:{runtime.node_key}".encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


class RemoteImage:
    """One image of the image service in ``region``."""

    def __init__(self, runtime: Runtime, image_id: str, region: str, interface: str, token: str) -> None:
        self._client, self._base = _client(runtime, region, interface)
        self._path, self._token = f"{self._base}/v2/images/{segment(image_id)}", token

    def show(self) -> dict[str, Any]:
        """The image's JSON object. Raises NotReached."""
        try:
            return dict(self._client.call("GET", self._path, token=self._token))
        except RemoteError as trouble:
            raise NotReached(str(trouble)) from trouble

    def bits(self) -> Iterator[bytes]:
        """The image's bits. Raises NotReached."""
        try:
            answer = self._client.send("GET", f"{self._path}/file", token=self._token)
        except RemoteError as trouble:
            raise NotReached(str(trouble)) from trouble
        if answer.status != 200:
            answer.read()
            raise NotReached(f"the image's data: the other service answered {answer.status}")
        yield from answer.chunks


def _client(runtime: Runtime, region: str, interface: str) -> tuple[Client, str]:
    if region == runtime.cloud.get("region") and interface in ("public", "internal", "admin"):
        if "image" not in runtime.clients:
            raise NotReached("this image service has no client of itself")
        return runtime.clients["image"], ""
    identity = runtime.clients.get("identity")
    if identity is None:
        raise NotReached(f"there is no identity service to ask about region {region!r}")
    try:
        services = identity.call("GET", "/v3/services", query={"type": "image"})["services"]
        query = {"region_id": region, "interface": interface}
        endpoints = identity.call("GET", "/v3/endpoints", query=query)["endpoints"]
    except RemoteError as trouble:
        raise NotReached(str(trouble)) from trouble
    ours = {one["id"] for one in services}
    url = next(
        (
            one["url"]
            for one in endpoints
            if one["service_id"] in ours and one["region_id"] == region and one["interface"] == interface
        ),
        None,
    )
    if url is None:
        raise NotReached(f"region {region!r} has no image service with the interface {interface!r}")
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    return Client("image", HttpTransport(f"{parts.scheme}://{parts.netloc}")), path.removesuffix("/v2")
