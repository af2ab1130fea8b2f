"""Image bits: upload, download, and the node's own routes to both.

Both stream: memory does not grow with the image. An upload claims the image (queued -> saving) in one short
transaction, streams without any, and ends in active or, whatever went wrong, in queued with nothing left behind.
If the process dies meanwhile, `sweep` finds the image by its uploader, who is no more.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.image import inspect
from altostack.image.drivers.base import ImageStore, ImageTooLarge, Stored, StoreFull
from altostack.image.image import IMAGES, Image, Status
from altostack.kit import api
from altostack.kit.call import Call, Reply
from altostack.kit.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RangeNotSatisfiable,
    TooLarge,
    UnsupportedMediaType,
)  # fmt: skip
from altostack.kit.flow import own_process, process_alive
from altostack.kit.policy import NODE, READER_ANY, SERVICE
from altostack.kit.route import Route
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_CHUNK = 1 << 20


class StoreOutOfSpace(ApiError):
    """The store is full (the service answers 413 for it)."""

    code, title = 413, "Request Entity Too Large"


def store_of(runtime: Runtime) -> ImageStore:
    """Where this cloud keeps image bits."""
    store: ImageStore = runtime.drivers["store"]
    return store


def upload(call: Call) -> None:
    """PUT /v2/images/{id}/file."""
    kind = (call.request.content_type or "").partition(";")[0].strip()
    if kind != "application/octet-stream":
        raise UnsupportedMediaType("Image data is sent as application/octet-stream.")
    image: Image = api.load(call, IMAGES)
    call.require("upload_image", image)
    key = image.id
    call.rollback()  # no transaction stays open while bits stream
    receive(call.runtime, key, _stream(call), call.request.content_length)


def receive(runtime: Runtime, key: str, stream: Iterable[bytes], length: int | None) -> None:
    """Store the bits of a queued image. Raises what the service answers when they cannot be had or trusted."""
    store = store_of(runtime)
    disk_format, owner = _claim(runtime, key)
    limit = runtime.settings.max_bytes
    try:
        if length is not None and length > limit:
            raise TooLarge(f"The image is larger than {limit} bytes.")
        inspection = inspect.Inspection(disk_format)
        stored = store.put(key, _counted(inspection.watch(stream), length), max_bytes=limit)
        found = inspection.finish()
    except BaseException as trouble:
        store.delete(key)
        _release(runtime, key, owner)
        raise _explained(trouble) from trouble
    if not _finish(runtime, key, owner, stored, found.virtual_size):
        store.delete(key)
        raise NotFound(f"The image {key} was deleted while it was uploaded.")


def _claim(runtime: Runtime, key: str) -> tuple[str, str]:
    owner = f"{own_process()}/{msgspec.json.encode(runtime.clock()).decode()}"

    def work(session: Any) -> str:
        image = session.get(Image, key)
        if image is None:
            raise NotFound(f"No image found with ID {key}")
        if image.status != Status.QUEUED:
            raise Conflict(
                f"Image status transition from {image.status} to saving is not allowed.", field="status"
            )
        if not image.disk_format or not image.container_format:
            raise BadRequest(
                "disk_format and container_format must be set before data is uploaded.", field="disk_format"
            )
        claimed = session.execute(
            sa.update(Image)
            .where(Image.id == key, Image.status == Status.QUEUED)
            .values(status=Status.SAVING, uploader=owner)
        )
        if claimed.rowcount != 1:
            raise Conflict("Image status transition from saving to saving is not allowed.", field="status")
        return str(image.disk_format)

    return runtime.db.write(work), owner


def _mine(key: str, owner: str | None) -> Any:
    return (Image.id == key) & (Image.uploader == owner) & (Image.status == Status.SAVING)


def _release(runtime: Runtime, key: str, owner: str | None) -> None:
    query = sa.update(Image).where(_mine(key, owner)).values(status=Status.QUEUED, uploader=None)
    runtime.db.write(lambda session: session.execute(query))


def _finish(runtime: Runtime, key: str, owner: str, stored: Stored, virtual_size: int | None) -> bool:
    query = (
        sa.update(Image)
        .where(_mine(key, owner))
        .values(
            status=Status.ACTIVE,
            uploader=None,
            upload_host=None,
            size=stored.size,
            checksum=stored.md5,
            os_hash_algo="sha512",
            os_hash_value=stored.sha512,
            virtual_size=virtual_size,
        )
    )
    return bool(runtime.db.write(lambda session: session.execute(query).rowcount == 1))  # type: ignore[attr-defined]  # CursorResult


def _explained(trouble: BaseException) -> BaseException:
    if isinstance(trouble, StoreFull):
        return StoreOutOfSpace(f"There is not enough space on the image store: {trouble}")
    if isinstance(trouble, ImageTooLarge):
        return TooLarge(str(trouble))
    if isinstance(trouble, inspect.UnsafeImage):
        return BadRequest(f"The image is refused: {trouble}", field="disk_format")
    return trouble


def _stream(call: Call) -> Iterator[bytes]:
    source = call.request.bounded_stream if call.request.content_length is not None else call.request.stream
    while chunk := source.read(_CHUNK):
        yield chunk


def _counted(stream: Iterable[bytes], length: int | None) -> Iterator[bytes]:
    """The stream, refused at its end when it is shorter than what was announced."""
    seen = 0
    for chunk in stream:
        seen += len(chunk)
        yield chunk
    if length is not None and seen < length:
        raise BadRequest(f"The upload ended after {seen} of {length} bytes.", field="Content-Length")


def download(call: Call) -> Reply:
    """GET /v2/images/{id}/file, whole or one range."""
    image: Image = api.load(call, IMAGES)
    call.require("download_image", image)
    if image.status == Status.DEACTIVATED and not call.context.is_admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")
    return _send(call, image)


def _send(call: Call, image: Image) -> Reply:
    if image.status not in (Status.ACTIVE, Status.DEACTIVATED):
        return Reply(status=204)
    size, checksum, key = int(image.size or 0), image.checksum or "", image.id
    call.rollback()
    start, end = _range(call, size)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(end - start),
        "Accept-Ranges": "bytes",
    }
    whole = (start, end) == (0, size) and not call.header("Range")
    if whole:
        headers["Content-MD5"] = checksum
    else:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Reply(
        status=200 if whole else 206,
        headers=headers,
        stream=store_of(call.runtime).get(key, start, end - start),
    )


def _range(call: Call, size: int) -> tuple[int, int]:
    text = call.header("Range")
    if not text:
        return 0, size
    found = _RANGE.match(text)
    if not found or found.groups() == ("", ""):
        raise RangeNotSatisfiable("The Range header must ask for one range of bytes.", field="Range")
    first, last = found.groups()
    start, end = (
        (int(first), min(int(last) + 1, size) if last else size)
        if first
        else (max(0, size - int(last)), size)
    )
    if start >= end:
        raise RangeNotSatisfiable(
            "The range lies outside of the image.",
            field="Range",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


# ---- for nodes


def node_download(call: Call) -> Reply:
    """The bits of an active image, for a node that starts servers or volumes from it."""
    image = call.session.get(Image, call.params["image_id"])
    if image is None or image.status not in (Status.ACTIVE, Status.DEACTIVATED):
        raise NotFound(f"No image found with ID {call.params['image_id']}")
    return _send(call, image)


def node_upload(call: Call) -> None:
    """The bits of a queued image that was given to this node to fill (a server's snapshot)."""
    image = call.session.get(Image, call.params["image_id"])
    if image is None or image.upload_host != call.context.node:
        raise NotFound(f"No image found with ID {call.params['image_id']}")
    if image.status == Status.ACTIVE:
        return  # it was uploaded before, and the answer was lost
    key = image.id
    call.rollback()
    receive(call.runtime, key, _stream(call), call.request.content_length)


class UploadHost(msgspec.Struct, forbid_unknown_fields=True):
    """Which node fills an image."""

    host: str


def set_upload_host(call: Call) -> None:
    """PUT /internal/images/{id}/upload-host."""
    image: Image = api.load(call, IMAGES)
    if image.status != Status.QUEUED:
        raise Conflict(f"The image is {image.status}, not queued.", field="status")
    image.upload_host = call.body.host


def sweep(runtime: Runtime) -> int:
    """Give up uploads whose process died, and remove bits that no image owns. How many of both."""
    store = store_of(runtime)
    found = 0
    with runtime.db.read() as session:
        saving = session.execute(
            sa.select(Image.id, Image.uploader).where(Image.status == Status.SAVING)
        ).all()
    for key, owner in saving:
        if not process_alive((owner or "").partition("/")[0]):
            log.warning("image %s: the upload's process is gone; the image is queued again", key)
            store.delete(key)
            _release(runtime, key, owner)
            found += 1
    on_disk = set(store.list())
    with runtime.db.read() as session:
        known = set(session.execute(sa.select(Image.id)).scalars())
    for key in on_disk - known:
        store.delete(key)
        found += 1
    return found


_OWNER = "role:admin or role:service or (role:member and project_id:%(owner)s)"
_FILE = "/images/{image_id}/file"
_NODE = "//internal/nodes/{host}/images/{image_id}/file"
ROUTES = (
    Route(
        method="PUT",
        path=_FILE,
        handler=upload,
        policy="upload_image",
        check=_OWNER,
        guard=False,
        raw=True,
        status=204,
    ),
    Route(method="GET", path=_FILE, handler=download, policy="download_image", check=READER_ANY, guard=False),
    Route(method="GET", path=_NODE, handler=node_download, policy=NODE),
    Route(method="PUT", path=_NODE, handler=node_upload, policy=NODE, raw=True, status=204),
    Route(
        method="PUT",
        path="//internal/images/{image_id}/upload-host",
        handler=set_upload_host,
        policy="set_upload_host",
        check=SERVICE,
        body=UploadHost,
        status=204,
    ),
)
