"""Asking for an import: POST /v2/images/{id}/import, and the older POST /v2/tasks.

Source: Image Service API v2, interoperable image import.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from altostack.image import change, fetch, limits, remote
from altostack.image.image import OWNER, Image, Status, load
from altostack.image.life import COPY
from altostack.image.stores import stores_of
from altostack.image.task import TASKS, begin
from altostack.kit import api
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, NotFound, OverQuota
from altostack.kit.policy import ADMIN
from altostack.kit.route import Route

_UUID = re.compile(r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$")


class Method(msgspec.Struct, forbid_unknown_fields=True):
    """How the bits come."""

    name: str
    uri: str | None = None
    glance_image_id: str | None = None
    glance_region: str | None = None
    glance_service_interface: str = "public"


class Import(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST .../import."""

    method: Method
    all_stores: bool = False
    all_stores_must_succeed: bool = True
    stores: list[str] | None = None


def import_image(call: Call) -> Reply:
    """POST /v2/images/{id}/import."""
    body: Import = call.body
    name = body.method.name
    if name not in call.runtime.settings.imports.methods:
        raise BadRequest(f"Unknown import method name '{name}'.", field="method")
    _check_method(call, body.method)
    bounds = limits.of_project(call.runtime, _owner(call))
    image = load(call, "copy_image" if name == COPY else "modify_image", lock=True)
    _check_image(image, name)
    stores = _stores(call, body, image)
    if not stores:
        return Reply(status=202)  # a copy that is everywhere already
    used = limits.claim(call.runtime, call.session, image.owner, bounds, limits.SIZE)
    room = limits.room(bounds, used, limits.SIZE)
    most = min(
        call.runtime.settings.max_bytes,
        call.runtime.settings.max_bytes if room is None else room // len(stores),
    )
    if (image.size if name == COPY else image.staged_bytes or 0) or 0:
        size = int((image.size if name == COPY else image.staged_bytes) or 0)
        if size > most:
            raise OverQuota(
                f"Quota exceeded for {limits.SIZE}: there is no room for {size} bytes more.", field="size"
            )
    frame: dict[str, Any] = {
        "stores": stores,
        "must_succeed": body.all_stores_must_succeed,
        "max_bytes": most,
    }
    if name == "glance-download":
        frame["sealed"] = remote.seal(call.runtime, call.context.token)
    image.importing, image.failed_import = stores, []
    if name != COPY:
        image.status, image.locations = Status.IMPORTING, []
    request = msgspec.to_builtins(body)
    request["method"] = {key: value for key, value in request["method"].items() if value is not None}
    begin(
        call,
        image,
        "api_image_import",
        {"image_id": image.id, "import_req": request, "backend": stores},
        frame,
    )
    return Reply(status=202)


def _owner(call: Call) -> str | None:
    """The image's owner, read in a transaction of its own: identity is asked before the request's begins."""
    with call.runtime.db.read() as session:
        image = session.get(Image, call.params["image_id"]) if len(call.params["image_id"]) <= 64 else None
    return image.owner if image is not None else None


def _check_method(call: Call, method: Method) -> None:
    if method.name == "web-download":
        check_uri(call, method.uri or "")
    if method.name == "glance-download":
        if not method.glance_region:
            raise BadRequest(
                "'glance_region' needs to be set for glance-download import method.", field="method"
            )
        if not method.glance_image_id:
            raise BadRequest(
                "'glance_image_id' needs to be set for glance-download import method.", field="method"
            )
        if not _UUID.match(method.glance_image_id):
            raise BadRequest(
                f"Remote image id does not look like a UUID: {method.glance_image_id}", field="method"
            )


def check_uri(call: Call, uri: str) -> None:
    """Raises BadRequest for what can be seen to be refused; the rest shows when the task resolves the name."""
    try:
        fetch.check(uri, call.runtime.settings.fetch)
    except fetch.Refused as trouble:
        raise BadRequest(str(trouble), field="uri") from trouble


def _check_image(image: Image, name: str) -> None:
    if image.task_id:
        raise Conflict("The image has an active task.", field="status")
    wanted = {COPY: Status.ACTIVE, "glance-direct": Status.UPLOADING}.get(name, Status.QUEUED)
    if image.status != wanted or image.uploader:
        raise Conflict(
            f"An image that is {image.status} cannot be imported with {name}: it must be {wanted}."
        )
    if not image.container_format or not image.disk_format:
        raise Conflict("disk_format and container_format need to be set before import.", field="disk_format")


def _stores(call: Call, body: Import, image: Image) -> list[str]:
    """The stores to fill, in order. Raises Conflict or BadRequest."""
    stores = stores_of(call.runtime)
    if body.all_stores and body.stores:
        raise BadRequest("all_stores and stores exclude each other.", field="stores")
    header = call.header("X-Image-Meta-Store")
    if body.all_stores:
        wanted = list(stores.kept)
    else:
        wanted = list(dict.fromkeys(body.stores or ([header] if header else [stores.default])))
    for name in wanted:
        if name not in stores.kept:
            raise Conflict(f"There is no store {name!r} that can be written to.", field="stores")
    if body.method.name != COPY:
        return wanted
    there = stores.kept_in(image.locations)
    if not body.all_stores and (again := [name for name in wanted if name in there]):
        raise BadRequest(f"Image is already present at store '{again[0]}'.", field="stores")
    return [name for name in wanted if name not in there]


# ---- the older way


class LegacyInput(msgspec.Struct):
    """What an import task is told."""

    import_from: str
    import_from_format: str = ""
    image_properties: dict[str, Any] = {}


class LegacyTask(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /v2/tasks."""

    type: str
    input: LegacyInput


def create_task(call: Call) -> Reply:
    """POST /v2/tasks: an image with these properties, filled from an address."""
    body: LegacyTask = call.body
    if body.type != "import":
        raise BadRequest(f"Invalid type: {body.type!r}. The one that is known is import.", field="type")
    if "web-download" not in call.runtime.settings.imports.methods:
        raise NotFound("The import method web-download is not offered here.")
    check_uri(call, body.input.import_from)
    properties = {
        "container_format": "bare",
        "disk_format": body.input.import_from_format,
        **body.input.image_properties,
    }
    image = change.make(call, properties)
    stores = [stores_of(call.runtime).default]
    image.status, image.importing = Status.IMPORTING, stores
    frame = {"stores": stores, "must_succeed": True, "max_bytes": call.runtime.settings.max_bytes}
    task = begin(call, image, "import", msgspec.to_builtins(body.input), frame)
    return Reply(body=api.view(call, TASKS, task), headers={"Location": f"/v2/tasks/{task.id}"})


ROUTES = (
    Route(
        method="POST",
        path="/images/{image_id}/import",
        handler=import_image,
        policy="modify_image",
        check=OWNER,
        guard=False,
        body=Import,
        status=202,
    ),
    Route(
        method="POST",
        path="/tasks",
        handler=create_task,
        policy="tasks_api_access",
        check=ADMIN,
        body=LegacyTask,
        status=201,
    ),
)
RULES = {"copy_image": ADMIN}
