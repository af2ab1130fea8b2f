"""Making and changing images: what a client may say about one, and JSON patches.

Source: Image Service API v2 (api-ref); its two patch media types (v2.1 after RFC 6902, v2.0 after an early draft
of it); JSON pointers, RFC 6901.
"""

from __future__ import annotations

import re
from typing import Any

from altostack.image import limits, location, protection
from altostack.image.config import Settings
from altostack.image.dialect import PATCH_MEDIA, PATCH_MEDIA_OLD
from altostack.image.image import COLUMNS, IMAGES, OWNER, Image, Status, Visibility, load, show
from altostack.image.stores import stores_of
from altostack.kit import api
from altostack.kit.body import convert, decode, read
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, Forbidden, TooLarge, UnsupportedMediaType
from altostack.kit.policy import MEMBER
from altostack.kit.resource import body_struct, given
from altostack.kit.route import Route

_READ_ONLY = frozenset(
    {name for name, c in COLUMNS.items() if not c.facet.create}
    | {"self", "file", "schema", "stores", "direct_url"}
) - {"id"}
_RESERVED = frozenset(
    {"location", "locations", "deleted", "deleted_at", "is_public", "properties", "uploader", "upload_host"}
)
_UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
_OPS = ("add", "replace", "remove")


def split(call: Call, sent: dict[str, Any], op: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a client sent as (columns, properties). Raises BadRequest or Forbidden naming the word."""
    fixed: dict[str, Any] = {}
    free: dict[str, str] = {}
    for name, value in sent.items():
        _writable(name)
        if name == "id" and op == "update":
            raise Forbidden("Attribute 'id' is read-only.", field="id")
        if name in COLUMNS:
            fixed[name] = value
        elif not isinstance(value, str):
            raise BadRequest(f"Invalid input for property {name}: it must be a string.", field=name)
        elif not name or len(name) > 255 or len(value) > 65_535:
            raise BadRequest(
                f"Invalid property {name[:40]!r}: the name or the value is too long.", field=name[:255]
            )
        else:
            free[name] = value
    key = fixed.pop("id", None)
    if key is not None and not (isinstance(key, str) and _UUID.match(key)):
        raise BadRequest("Invalid image id: it must be a UUID.", field="id")
    fields = given(convert(fixed, body_struct(IMAGES, op, None)))
    if key is not None:
        fields["id"] = key
    _check(call, fields, free)
    return fields, free


def _writable(name: str) -> None:
    if name in _READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.", field=name)
    if name in _RESERVED or name.startswith("os_glance"):
        raise Forbidden(f"Attribute '{name}' is reserved.", field=name)


def _check(call: Call, fields: dict[str, Any], free: dict[str, str]) -> None:
    settings: Settings = call.runtime.settings
    for name, known in (
        ("disk_format", settings.disk_formats),
        ("container_format", settings.container_formats),
    ):
        if fields.get(name) is not None and fields[name] not in known:
            raise BadRequest(
                f"Invalid value '{fields[name]}' for {name}: it must be one of {', '.join(known)}.",
                field=name,
            )
    if len(free) > settings.max_properties:
        raise TooLarge(
            f"The limit of {settings.max_properties} image properties would be passed.", field="properties"
        )
    if "tags" in fields:
        if any(len(tag) > 255 for tag in fields["tags"]):
            raise BadRequest("A tag is longer than 255 characters.", field="tags")
        fields["tags"] = list(dict.fromkeys(fields["tags"]))
        if len(fields["tags"]) > settings.max_tags:
            raise TooLarge(f"The limit of {settings.max_tags} image tags would be passed.", field="tags")


def _may_show(call: Call, visibility: Any, target: Any) -> None:
    if visibility == Visibility.PUBLIC:
        call.require("publicize_image", target)
    if visibility == Visibility.COMMUNITY:
        call.require("communitize_image", target)


def create(call: Call) -> Reply:
    """POST /v2/images."""
    image = make(call, call.body)
    stores = stores_of(call.runtime)
    headers = {
        "Location": f"/v2/images/{image.id}",
        "OpenStack-image-store-ids": ",".join(stores.names),
        "OpenStack-image-import-methods": ",".join(call.runtime.settings.imports.methods),
    }
    return Reply(body=show(call, image, op="create"), headers=headers)


def make(call: Call, sent: dict[str, Any]) -> Image:
    """A new image of the caller's, in the call's transaction."""
    fields, free = split(call, sent, "create")
    for name in free:
        protection.require(call, name, "create")
    owner = fields.pop("owner", None) or call.context.project_id
    if owner != call.context.project_id and not call.context.is_admin:
        raise Forbidden(f"You are not permitted to create images owned by '{owner}'.", field="owner")
    _may_show(call, fields.get("visibility"), {"project_id": owner, "owner": owner})
    bounds = limits.of_project(call.runtime, owner)
    if "id" in fields and call.session.get(Image, fields["id"]) is not None:
        raise Conflict(f"An image with ID {fields['id']} already exists.", field="id")
    limits.claim(call.runtime, call.session, owner, bounds, limits.COUNT)
    image: Image = api.add(call, IMAGES, Image(owner=owner, properties=free, **fields))
    return image


def update(call: Call) -> dict[str, Any]:
    """PATCH /v2/images/{id}: a JSON patch of add, replace and remove."""
    kind = (call.request.content_type or "").partition(";")[0].strip()
    if kind not in (PATCH_MEDIA, PATCH_MEDIA_OLD):
        raise UnsupportedMediaType(
            f"A JSON patch of type {PATCH_MEDIA} is needed.",
            headers={"Accept-Patch": f"{PATCH_MEDIA_OLD}, {PATCH_MEDIA}"},
        )
    raw = read(call.request, call.runtime.service.dialect.max_body)
    operations = [_operation(one, old=kind == PATCH_MEDIA_OLD) for one in decode(raw, list[dict[str, Any]])]
    only_locations = bool(operations) and all(path[0] == "locations" for _, path, _ in operations)
    image = load(call, "get_image" if only_locations else "modify_image", lock=True)
    changed: dict[str, Any] = {}
    properties = dict(image.properties)
    for op, path, value in operations:
        if path[0] == "locations":
            location.patch(call, image, op, path[-1], value)
        else:
            _apply(call, op, path[0], value, changed, properties, old=kind == PATCH_MEDIA_OLD)
    fields, _ = split(call, changed, "update")
    _check(call, {}, properties)
    if "visibility" in fields and fields["visibility"] != image.visibility:
        _may_show(call, fields["visibility"], image)
    if "owner" in fields and fields["owner"] != image.owner and not call.context.is_admin:
        raise Forbidden("Only an administrator may give an image to another owner.", field="owner")
    if image.status != Status.QUEUED:
        for name in ("disk_format", "container_format"):
            if name in fields and fields[name] != getattr(image, name):
                raise Forbidden(f"Attribute {name} can be only replaced for a queued image.", field=name)
    for name, value in fields.items():
        setattr(image, name, value)
    image.properties = properties
    call.session.flush()
    return show(call, image, op="update")


def _apply(
    call: Call,
    op: str,
    name: str,
    value: Any,
    changed: dict[str, Any],
    properties: dict[str, str],
    *,
    old: bool,
) -> None:
    """One operation on a column (into ``changed``) or a property (in ``properties``)."""
    if name == "id":
        raise Forbidden("Attribute 'id' is read-only.", field="id")
    _writable(name)
    there = name in COLUMNS or name in properties
    if op in ("replace", "remove") and not there:
        raise Conflict(f"Property {name} does not exist.", field=name)
    if op == "add" and there and old:
        raise Conflict(f"Property {name} already present.", field=name)
    if name not in COLUMNS:
        protection.require(
            call, name, "delete" if op == "remove" else "update" if name in properties else "create"
        )
    if op == "remove":
        if name in COLUMNS:
            raise Forbidden(f"Property {name} may not be removed.", field=name)
        del properties[name]
    elif name in COLUMNS:
        changed[name] = value
    else:
        properties.update(split(call, {name: value}, "update")[1])


def _operation(operation: dict[str, Any], *, old: bool) -> tuple[str, list[str], Any]:
    """(op, path, value) of one operation in either form. Raises BadRequest."""
    if old:
        words = [op for op in _OPS if op in operation]
        if len(words) != 1:
            raise BadRequest(
                "Operation objects must contain exactly one member named add, remove, or replace.", field="op"
            )
        op, pointer = words[0], operation[words[0]]
    else:
        op, pointer = operation.get("op"), operation.get("path")  # type: ignore[assignment]  # JSON: checked below
        if op not in _OPS:
            raise BadRequest(f"Operations must be one of add, replace and remove, not {op!r}.", field="op")
    path = _pointer(pointer)
    depth = 2 if path[0] == "locations" and op != "replace" else 1
    if len(path) != depth:
        raise BadRequest(f"Invalid JSON pointer for this resource: {pointer!r}.", field="path")
    if op != "remove" and "value" not in operation:
        raise BadRequest("Operation objects must contain a 'value' for add and replace.", field="value")
    return op, path, operation.get("value")


def _pointer(pointer: Any) -> list[str]:
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise BadRequest(f"Invalid JSON pointer {pointer!r}: it must begin with /.", field="path")
    if re.search(r"~(?![01])", pointer):
        raise BadRequest(f"Invalid JSON pointer {pointer!r}: ~ must be followed by 0 or 1.", field="path")
    path = [part.replace("~1", "/").replace("~0", "~").strip() for part in pointer[1:].split("/")]
    if not all(path):
        raise BadRequest(f"Invalid JSON pointer {pointer!r}: it holds an empty name.", field="path")
    return path


ROUTES = (
    Route(
        method="POST",
        path="/images",
        handler=create,
        policy="add_image",
        check=MEMBER,
        body=dict[str, Any],
        status=201,
    ),
    Route(
        method="PATCH",
        path="/images/{image_id}",
        handler=update,
        policy="modify_image",
        check=OWNER,
        guard=False,
        raw=True,
    ),
)
RULES = {
    "publicize_image": "role:admin",
    "communitize_image": "role:admin or role:member",
    "set_image_location": OWNER,
    "get_image_location": "role:admin or role:service or (role:reader and project_id:%(owner)s)",
}
