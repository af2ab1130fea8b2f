"""The starter image in a running cloud: built once, uploaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from altostack.app import Cloud
from altostack.kit.clients import RemoteError

NAME = "starter"
_CHUNK = 1 << 20


def register(cloud: Cloud, progress: Callable[[str], None]) -> None:
    """See that the image "starter" is there and active. Idempotent; a half-done one is finished.

    A simulated cloud gets an image of zeros under the same name: nothing boots there.
    """
    image = cloud.client("image", "image")
    found = image.call("GET", "/v2/images", query={"name": NAME, "visibility": "public"})["images"]
    if any(one["status"] == "active" for one in found):
        return
    simulated = cloud.settings.cloud.simulate
    disk_format = "raw" if simulated else "qcow2"
    key = (
        found[0]["id"] if found else image.call("POST", "/v2/images", _describe(disk_format, simulated))["id"]
    )
    if simulated:
        bits: Iterator[bytes] = iter([bytes(_CHUNK)])
    else:
        bits = _read(_build(cloud.state, progress))
    progress("image starter: uploading")
    headers = {"Content-Type": "application/octet-stream"}
    answer = image.send("PUT", f"/v2/images/{key}/file", bits, headers=headers)
    if answer.status != 204:
        raise RemoteError("image", answer.status, answer.read().decode(errors="replace"))


def _describe(disk_format: str, simulated: bool) -> dict[str, Any]:
    return {
        "name": NAME,
        "visibility": "public",
        "disk_format": disk_format,
        "container_format": "bare",
        "min_ram": 128,
        "os_distro": "simulated" if simulated else "debian",
        "os_type": "linux",
        "hw_rng_model": "virtio",
        "default_user": "root",
    }


def _build(state: Path, progress: Callable[[str], None]) -> Path:
    from altostack.image import starter

    out = state / "starter.qcow2"
    if not out.exists():
        progress("image starter: building from Debian's packages (once)")
        starter.build(out, progress=lambda line: progress(f"image starter: {line}"))
    return out


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
