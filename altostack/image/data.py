"""Image bits: upload, staging, download, and the node's own routes to them.

All stream: memory does not grow with the image. An upload claims the image (queued -> saving; staging: -> uploading) in
one short transaction, streams without any, and ends well or, whatever went wrong, in queued with nothing left behind.
If the process dies meanwhile, `sweep` finds the image by its uploader, who is no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.image import cache, limits
from altostack.image.image import IMAGES, OWNER, Image, Status, load
from altostack.image.intake import Intake, Taken, explained
from altostack.image.signature import verifier
from altostack.image.stores import stores_of
from altostack.kit import api
from altostack.kit.call import Call, Reply
from altostack.kit.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RangeNotSatisfiable,
    UnsupportedMediaType,
)
from altostack.kit.flow import own_process
from altostack.kit.policy import NODE, SERVICE
from altostack.kit.route import Route
from altostack.kit.service import Runtime

_RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An image in the hands of one upload. max_bytes: what its project has room for."""

    key: str
    owner: str
    disk_format: str
    container_format: str
    properties: dict[str, str]
    max_bytes: int


def upload(call: Call) -> None:
    """PUT /v2/images/{id}/file."""
    image = _upload_target(call)
    store = call.header("X-Image-Meta-Store") or stores_of(call.runtime).default
    if store not in stores_of(call.runtime).kept:
        raise BadRequest(f"There is no store {store!r} that can be written to.", field="x-image-meta-store")
    key = image.id
    call.rollback()  # no transaction stays open while bits stream
    receive(call.runtime, key, _stream(call), call.request.content_length, store=store)


def stage(call: Call) -> None:
    """PUT /v2/images/{id}/stage: the bits wait for an import with the method glance-direct."""
    if "glance-direct" not in call.runtime.settings.imports.methods:
        raise NotFound("The import method glance-direct is not offered here.")
    image = _upload_target(call)
    key = image.id
    call.rollback()
    length = call.request.content_length
    claim = _claim(call.runtime, key, Status.UPLOADING)
    staging = stores_of(call.runtime).staging
    try:
        if length is not None and length > claim.max_bytes:
            raise _too_large(claim.max_bytes)
        size = staging.put(key, _bounded(_stream(call), length, claim.max_bytes))
    except BaseException as trouble:
        staging.delete(key)
        raise _given_up(call.runtime, claim, trouble) from trouble
    query = sa.update(Image).where(_mine(claim, Status.UPLOADING)).values(uploader=None, staged_bytes=size)
    if not call.runtime.db.write(lambda session: session.execute(query).rowcount):  # type: ignore[attr-defined]  # CursorResult
        staging.delete(key)
        raise NotFound(f"The image {key} was deleted while it was uploaded.")


def _upload_target(call: Call) -> Image:
    kind = (call.request.content_type or "").partition(";")[0].strip()
    if kind != "application/octet-stream":
        raise UnsupportedMediaType("Image data is sent as application/octet-stream.")
    return load(call, "upload_image")


def receive(
    runtime: Runtime, key: str, stream: Iterable[bytes], length: int | None, *, store: str | None = None
) -> None:
    """Store the bits of a queued image. Raises what the service answers when they cannot be had or trusted."""
    stores = stores_of(runtime)
    store = store or stores.default
    claim = _claim(runtime, key, Status.SAVING)
    try:
        intake = take(runtime, claim, length)
        stores.kept[store].put(key, intake.watch(stream))
        taken = intake.finish()
    except BaseException as trouble:
        stores.kept[store].delete(key)
        raise _given_up(runtime, claim, trouble) from trouble
    if not _finish(runtime, claim, taken, store):
        stores.kept[store].delete(key)
        raise NotFound(f"The image {key} was deleted while it was uploaded.")


def take(runtime: Runtime, claim: Claim, length: int | None) -> Intake:
    """The judge of an upload. Raises BadSignature or ImageTooLarge before a byte is read."""
    return Intake(
        disk_format=claim.disk_format,
        container_format=claim.container_format,
        algorithm=runtime.settings.hash_algorithm,
        max_bytes=claim.max_bytes,
        length=length,
        verifier=verifier(claim.properties, runtime.settings.certificates),
    )


def _claim(runtime: Runtime, key: str, status: Status) -> Claim:
    owner = f"{own_process()}/{msgspec.json.encode(runtime.clock()).decode()}"
    with runtime.db.read() as session:
        project = session.execute(sa.select(Image.owner).where(Image.id == key)).scalar()
    bounds = limits.of_project(runtime, project)
    kind = limits.STAGE if status == Status.UPLOADING else limits.SIZE

    def work(session: Any) -> Claim:
        image = session.get(Image, key)
        if image is None:
            raise NotFound(f"No image found with ID {key}")
        if image.status != Status.QUEUED or image.task_id:
            raise Conflict(
                f"Image status transition from {image.status} to {status} is not allowed.", field="status"
            )
        if not image.disk_format or not image.container_format:
            raise BadRequest(
                "disk_format and container_format must be set before data is uploaded.", field="disk_format"
            )
        used = limits.claim(runtime, session, image.owner, bounds, limits.UPLOADING, kind)
        claimed = session.execute(
            sa.update(Image)
            .where(Image.id == key, Image.status == Status.QUEUED)
            .values(status=status, uploader=owner, locations=[], failed_import=None, importing=None)
        )
        if claimed.rowcount != 1:
            raise Conflict(f"Image status transition from saving to {status} is not allowed.", field="status")
        room = limits.room(bounds, used, kind)
        most = runtime.settings.max_bytes
        return Claim(
            key=key,
            owner=owner,
            disk_format=str(image.disk_format),
            container_format=str(image.container_format),
            properties=dict(image.properties),
            max_bytes=most if room is None else min(most, room),
        )

    return runtime.db.write(work)


def _mine(claim: Claim, status: Status) -> Any:
    return (Image.id == claim.key) & (Image.uploader == claim.owner) & (Image.status == status)


def _given_up(runtime: Runtime, claim: Claim, trouble: BaseException) -> BaseException:
    """Give the image back to whoever tries again; what is to be answered."""
    mine = (Image.id == claim.key) & (Image.uploader == claim.owner)
    query = sa.update(Image).where(mine).values(status=Status.QUEUED, uploader=None)
    if not runtime.db.write(lambda session: session.execute(query).rowcount):  # type: ignore[attr-defined]  # CursorResult
        return NotFound(f"The image {claim.key} was deleted while it was uploaded.")
    return explained(trouble)


def _finish(runtime: Runtime, claim: Claim, taken: Taken, store: str) -> bool:
    where = [stores_of(runtime).own(store, claim.key)]
    query = (
        sa.update(Image)
        .where(_mine(claim, Status.SAVING))
        .values(
            status=Status.ACTIVE,
            uploader=None,
            upload_host=None,
            locations=where,
            stored_bytes=taken.size,
            **taken.columns(),
        )
    )
    return bool(runtime.db.write(lambda session: session.execute(query).rowcount == 1))  # type: ignore[attr-defined]  # CursorResult


def _too_large(most: int) -> Exception:
    from altostack.image.drivers.base import ImageTooLarge

    return ImageTooLarge(f"The image is larger than {most} bytes.")


def _bounded(stream: Iterable[bytes], length: int | None, most: int) -> Iterator[bytes]:
    """The stream, refused when it is too long, or at its end when it is shorter than what was announced."""
    seen = 0
    for chunk in stream:
        seen += len(chunk)
        if seen > most:
            raise _too_large(most)
        yield chunk
    if length is not None and seen < length:
        raise BadRequest(f"The upload ended after {seen} of {length} bytes.", field="Content-Length")


def _stream(call: Call) -> Iterator[bytes]:
    source = call.request.bounded_stream if call.request.content_length is not None else call.request.stream
    while chunk := source.read(_CHUNK):
        yield chunk


def download(call: Call) -> Reply:
    """GET /v2/images/{id}/file, whole or one range."""
    image = load(call, "download_image")
    if image.status == Status.DEACTIVATED and not call.context.is_admin:
        raise Forbidden("The requested image has been deactivated. Image data download is forbidden.")
    return _send(call, image)


def _send(call: Call, image: Image) -> Reply:
    if image.status not in (Status.ACTIVE, Status.DEACTIVATED):
        return Reply(status=204)
    size, checksum, key = image.size, image.checksum, image.id
    source = cache.Source(image)
    call.rollback()
    headers = {"Content-Type": "application/octet-stream"}
    if size is None:  # the bits are elsewhere, and nobody has counted them
        try:
            return Reply(headers=headers, stream=cache.read(call.runtime, source))
        except Exception as trouble:
            raise explained(trouble) from trouble
    start, end = _range(call, int(size))
    headers |= {"Content-Length": str(end - start), "Accept-Ranges": "bytes"}
    whole = (start, end) == (0, size) and not call.header("Range")
    if whole and checksum:
        headers["Content-MD5"] = checksum
    if not whole:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    try:
        stream = cache.read(call.runtime, source, None if whole else (start, end - start))
    except Exception as trouble:
        raise explained(trouble) from trouble
    assert key == source.key
    return Reply(status=200 if whole else 206, headers=headers, stream=stream)


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


def activate(call: Call, *, active: bool) -> None:
    """POST .../actions/deactivate and reactivate."""
    image = load(call, "reactivate" if active else "deactivate", lock=True)
    if image.status not in (Status.ACTIVE, Status.DEACTIVATED):
        raise Forbidden(
            f"Not allowed to change the status of an image that is {image.status}.", field="status"
        )
    image.status = Status.ACTIVE if active else Status.DEACTIVATED


_FILE = "/images/{image_id}/file"
_NODE = "//internal/nodes/{host}/images/{image_id}/file"


def _put(path: str, handler: Any) -> Route:
    return Route(
        method="PUT", path=path, handler=handler, policy="upload_image", check=OWNER, guard=False, raw=True, status=204
    )  # fmt: skip


def _action(word: str, active: bool) -> Route:
    return Route(
        method="POST", path=f"/images/{{image_id}}/actions/{word}", handler=lambda call: activate(call, active=active),
        policy=word, check=OWNER, guard=False, status=204,
    )  # fmt: skip


ROUTES = (
    _put(_FILE, upload),
    _put("/images/{image_id}/stage", stage),
    Route(
        method="GET",
        path=_FILE,
        handler=download,
        policy="download_image",
        check="role:admin or role:service or role:member",
        guard=False,
    ),
    _action("deactivate", False),
    _action("reactivate", True),
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
