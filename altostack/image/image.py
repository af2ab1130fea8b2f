"""Images: what they are, who sees them, how they change. Their bits are in `data`.

Source: Image Service API v2 (api-ref), JSON Patch (RFC 6902, the subset that the service documents).
"""

from __future__ import annotations

import enum
import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.image.config import Settings
from altostack.image.dialect import filter_column
from altostack.image.member import Member
from altostack.image.model import ImageRow
from altostack.kit import api
from altostack.kit.body import convert, decode, read
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, Forbidden, TooLarge, UnsupportedMediaType
from altostack.kit.listing import rule_name
from altostack.kit.policy import ADMIN, MEMBER, READER, READER_ANY, SERVICE
from altostack.kit.resource import Resource, Timed, body_struct, columns, field, given, key, private
from altostack.kit.route import Route


class Status(enum.StrEnum):
    """Where an image is in its life."""

    QUEUED = "queued"
    SAVING = "saving"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    KILLED = "killed"


class Visibility(enum.StrEnum):
    """Who else may see an image."""

    PUBLIC = "public"
    PRIVATE = "private"
    SHARED = "shared"
    COMMUNITY = "community"


class Image(Timed, ImageRow):
    """An image. ``properties`` are the free words that stand beside the fixed ones in JSON."""

    __tablename__ = "images"
    id: Mapped[str] = key()
    name: Mapped[str | None] = field(create=True, update=True, filter=True, sort=True, max_length=255)
    owner: Mapped[str | None] = field(
        create=True, update=True, filter=True, sort=True, max_length=64, index=True
    )
    status: Mapped[Status] = field(default=Status.QUEUED, filter=True, sort=True)
    visibility: Mapped[Visibility] = field(create=True, update=True, default=Visibility.SHARED, sort=True)
    disk_format: Mapped[str | None] = field(create=True, update=True, filter=True, sort=True, max_length=20)
    container_format: Mapped[str | None] = field(
        create=True, update=True, filter=True, sort=True, max_length=20
    )
    min_disk: Mapped[int] = field(create=True, update=True, filter=True, sort=True, default=0, ge=0)
    min_ram: Mapped[int] = field(create=True, update=True, filter=True, sort=True, default=0, ge=0)
    protected: Mapped[bool] = field(create=True, update=True, filter=True, default=False)
    os_hidden: Mapped[bool] = field(create=True, update=True, default=False)
    tags: Mapped[list[str]] = field(create=True, update=True, default=[])
    size: Mapped[int | None] = field(
        sort=True, filter=True, default=None, type_=sa.BigInteger(), doc="In bytes."
    )
    virtual_size: Mapped[int | None] = field(
        default=None, type_=sa.BigInteger(), doc="Of the disk inside, in bytes."
    )
    checksum: Mapped[str | None] = field(filter=True, default=None, max_length=32, doc="MD5.")
    os_hash_algo: Mapped[str | None] = field(filter=True, default=None, max_length=32)
    os_hash_value: Mapped[str | None] = field(filter=True, default=None, max_length=128)
    properties: Mapped[dict[str, str]] = private(default={})
    uploader: Mapped[str | None] = private(
        default=None
    )  # the process that saves, so that its death is noticed
    upload_host: Mapped[str | None] = private(default=None)  # the node that may upload the bits

    __table_args__ = (sa.Index("ix_images_list", "created_at", "id"),)


_COLUMNS = {column.wire: column for column in columns(Image)}
_READ_ONLY = frozenset(
    {name for name, c in _COLUMNS.items() if not c.facet.create}
    | {"self", "file", "schema", "stores", "direct_url"}
) - {"id"}
_RESERVED = frozenset(
    {"locations", "deleted", "deleted_at", "is_public", "properties", "uploader", "upload_host"}
)
_UUID = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


def visible(call: Call) -> Any:
    """Public and community images, and those shared with the caller's project."""
    shared = sa.select(Member.image_id).where(Member.member_id == call.context.project_id)
    if call.route.op == "list":
        wanted = call.arg("member_status") or "accepted"
        if wanted != "all":
            shared = shared.where(Member.status == wanted)
        open_to_all = [
            Visibility.PUBLIC,
            *([Visibility.COMMUNITY] if call.arg("visibility") == "community" else []),
        ]
    else:
        open_to_all = [Visibility.PUBLIC, Visibility.COMMUNITY]
    return sa.or_(
        Image.visibility.in_(open_to_all),
        sa.and_(Image.visibility == Visibility.SHARED, Image.id.in_(shared)),
    )


def show(call: Call, image: Image, op: str = "show") -> dict[str, Any]:
    """The flat JSON object: columns, properties and links."""
    found = api.view(call, IMAGES, image, op=op)
    return {
        **{name: value for name, value in image.properties.items() if name not in found},
        **found,
        "self": f"/v2/images/{image.id}",
        "file": f"/v2/images/{image.id}/file",
        "schema": "/v2/schemas/image",
    }


def show_image(call: Call) -> dict[str, Any]:
    """GET /v2/images/{id}."""
    return show(call, api.load(call, IMAGES, op="show"))


def list_images(call: Call) -> dict[str, Any]:
    """GET /v2/images: filters on fixed words and on properties."""
    extra = []
    for name, values in call.query.items():
        known = (
            name in _COLUMNS or name in IMAGES.filters or name in ("limit", "marker", "member_status", "sort")
        )
        if not known and name not in ("sort_key", "sort_dir"):
            extra.append(Image.properties[name].as_string() == values[-1])
    page = api.page(call, IMAGES, extra=tuple(extra))
    by_id = {one["id"]: one for one in page["images"]}
    rows = call.session.execute(sa.select(Image).where(Image.id.in_(by_id))).scalars()
    full = {row.id: show(call, row, op="list") for row in rows}
    page["images"] = [full[one] for one in by_id]
    return page


def split(call: Call, sent: dict[str, Any], op: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a client sent as (columns, properties). Raises BadRequest or Forbidden naming the word."""
    fixed: dict[str, Any] = {}
    free: dict[str, str] = {}
    for name, value in sent.items():
        if name in _READ_ONLY or (name == "id" and op == "update"):
            raise Forbidden(f"Attribute '{name}' is read-only.", field=name)
        if name in _RESERVED:
            raise Forbidden(f"Attribute '{name}' is reserved.", field=name)
        if name in _COLUMNS:
            fixed[name] = value
        elif not isinstance(value, str):
            raise BadRequest(f"Invalid input for property {name}: it must be a string.", field=name)
        elif not name or len(name) > 255 or len(value) > 65_535:
            raise BadRequest(
                f"Invalid property {name[:40]!r}: the name or the value is too long.", field=name[:255]
            )
        else:
            free[name] = value
    key_ = fixed.pop("id", None)
    if key_ is not None and not (isinstance(key_, str) and _UUID.match(key_)):
        raise BadRequest("Invalid image id: it must be a UUID.", field="id")
    fields = given(convert(fixed, body_struct(IMAGES, op, None)))
    if key_ is not None:
        fields["id"] = key_
    _check(call, fields, free)
    return fields, free


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
    if fields.get("visibility") == Visibility.PUBLIC:
        call.require("publicize_image")
    if fields.get("visibility") == Visibility.COMMUNITY:
        call.require("communitize_image")


def create(call: Call) -> Reply:
    """POST /v2/images."""
    fields, free = split(call, call.body, "create")
    owner = fields.pop("owner", None) or call.context.project_id
    if owner != call.context.project_id and not call.context.is_admin:
        raise Forbidden(f"You are not permitted to create images owned by '{owner}'.", field="owner")
    if "id" in fields and call.session.get(Image, fields["id"]) is not None:
        raise Conflict(f"An image with ID {fields['id']} already exists.", field="id")
    image = api.add(call, IMAGES, Image(owner=owner, properties=free, **fields))
    headers = {"Location": call.link(f"/images/{image.id}")}
    return Reply(body=show(call, image, op="create"), headers=headers)


def update(call: Call) -> dict[str, Any]:
    """PATCH /v2/images/{id}: a JSON patch of add, replace and remove."""
    kind = (call.request.content_type or "").partition(";")[0].strip()
    if not kind.startswith("application/openstack-images-v2"):
        raise UnsupportedMediaType(
            "A JSON patch of type application/openstack-images-v2.1-json-patch is needed."
        )
    operations = decode(read(call.request, call.runtime.service.dialect.max_body), list[dict[str, Any]])
    image: Image = api.load(call, IMAGES, op="update", lock=True)
    changed: dict[str, Any] = {}
    properties = dict(image.properties)
    for operation in operations:
        op, name = _operation(operation)
        if name in _READ_ONLY or name == "id":
            raise Forbidden(f"Attribute '{name}' is read-only.", field=name)
        if name in _RESERVED:
            raise Forbidden(f"Attribute '{name}' is reserved.", field=name)
        there = name in _COLUMNS or name in properties
        if op in ("replace", "remove") and not there:
            raise Conflict(f"Property {name} does not exist.", field=name)
        if op == "remove":
            if name in _COLUMNS:
                raise Forbidden(f"Property '{name}' may not be removed.", field=name)
            del properties[name]
            continue
        if "value" not in operation:
            raise BadRequest("Operation objects must contain a 'value' for add and replace.", field="value")
        if name in _COLUMNS:
            changed[name] = operation["value"]
        else:
            properties.update(split(call, {name: operation["value"]}, "update")[1])
    fields, _ = split(call, changed, "update")
    _check(call, {}, properties)
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


def _operation(operation: dict[str, Any]) -> tuple[str, str]:
    """(op, name) of one operation in the 2.1 form. Raises BadRequest."""
    op, path = operation.get("op"), operation.get("path")
    if op not in ("add", "replace", "remove"):
        raise BadRequest(f"Operations must be one of add, replace and remove, not {op!r}.", field="op")
    if not isinstance(path, str) or not path.startswith("/"):
        raise BadRequest(f"Invalid JSON pointer {path!r}: it must begin with /.", field="path")
    name = path[1:].replace("~1", "/").replace("~0", "~")
    if not name or "/" in path[1:]:
        raise BadRequest(f"Invalid JSON pointer {path!r}: it must name one attribute.", field="path")
    return op, name


def destroy(call: Call, image: Image) -> None:
    """DELETE: the row in this transaction, the bits once it is committed."""
    if image.protected:
        raise Forbidden(f"Image {image.id} is protected and cannot be deleted.", field="protected")
    store = call.runtime.drivers["store"]
    call.session.execute(sa.delete(Member).where(Member.image_id == image.id))
    call.session.delete(image)
    call.session.flush()
    call.after(lambda: store.delete(image.id))


def tag(call: Call, *, present: bool) -> None:
    """PUT and DELETE /v2/images/{id}/tags/{tag}."""
    image: Image = api.load(call, IMAGES, op="update", lock=True)
    word = call.params["tag"]
    if not word or len(word) > 255:
        raise BadRequest("A tag has 1 to 255 characters.", field="tag")
    if not present and word not in image.tags:
        raise call.runtime.service.dialect.not_found(IMAGES, image.id)
    rest = [one for one in image.tags if one != word]
    if present and len(rest) >= call.runtime.settings.max_tags:
        raise TooLarge("The limit of image tags would be passed.", field="tags")
    image.tags = [*rest, word] if present else rest


def activate(call: Call, *, active: bool) -> None:
    """POST .../actions/deactivate and reactivate."""
    image: Image = api.load(call, IMAGES)
    call.require(rule_name(call, IMAGES, "reactivate" if active else "deactivate"), image)
    if image.status not in (Status.ACTIVE, Status.DEACTIVATED):
        raise Forbidden(
            f"Not allowed to change the status of an image that is {image.status}.", field="status"
        )
    image.status = Status.ACTIVE if active else Status.DEACTIVATED


def _by_tag(call: Call, values: list[str]) -> Any:
    # A JSON list of plain words: each word stands between quotes.
    text = sa.cast(Image.tags, sa.Text())
    return sa.and_(*(text.like("%" + _quoted(value) + "%", escape="\\") for value in values))


def _quoted(word: str) -> str:
    import json

    return json.dumps(word).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _by_visibility(call: Call, values: list[str]) -> Any:
    value = values[-1]
    if value == "all":
        return None
    if value not in list(Visibility):
        raise BadRequest(f"Invalid visibility value: {value}.", field="visibility")
    return Image.visibility == Visibility(value)


def _by_hidden(call: Call, values: list[str]) -> Any:
    return Image.os_hidden == call.flag("os_hidden")


def _size(name: str, least: bool) -> Any:
    def clause(call: Call, values: list[str]) -> Any:
        number = call.number(name)
        return Image.size >= number if least else Image.size <= number

    return clause


_OWNER = "role:admin or role:service or (role:member and project_id:%(owner)s)"

IMAGES = Resource(
    row=Image,
    name="image",
    owner=Image.owner,
    visible=visible,
    policy={"delete": _OWNER, "all": SERVICE},
    delete=destroy,
    filters={
        "tag": _by_tag,
        "visibility": _by_visibility,
        "os_hidden": _by_hidden,
        "size_min": _size("size_min", True),
        "size_max": _size("size_max", False),
        "member_status": lambda call, values: None,  # part of who sees what: see `visible`
        "created_at": lambda call, values: filter_column(call, _COLUMNS["created_at"], values),
        "updated_at": lambda call, values: filter_column(call, _COLUMNS["updated_at"], values),
    },
)

# Showing, listing, creating and patching are the third rung: properties stand beside columns in one flat object.
ROUTES = (
    Route(
        method="GET",
        path="/images",
        handler=list_images,
        policy="get_images",
        check=READER,
        resource=IMAGES,
        op="list",
    ),
    Route(
        method="GET",
        path="/images/{image_id}",
        handler=show_image,
        policy="get_image",
        check=READER_ANY,
        guard=False,
    ),
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
        check=_OWNER,
        guard=False,
        raw=True,
    ),
    Route(
        method="PUT",
        path="/images/{image_id}/tags/{tag}",
        handler=lambda call: tag(call, present=True),
        policy="modify_image",
        check=_OWNER,
        guard=False,
        status=204,
    ),
    Route(
        method="DELETE",
        path="/images/{image_id}/tags/{tag}",
        handler=lambda call: tag(call, present=False),
        policy="modify_image",
        check=_OWNER,
        guard=False,
        status=204,
    ),
    Route(
        method="POST",
        path="/images/{image_id}/actions/deactivate",
        handler=lambda call: activate(call, active=False),
        policy="deactivate_image",
        check=ADMIN,
        guard=False,
        status=204,
    ),
    Route(
        method="POST",
        path="/images/{image_id}/actions/reactivate",
        handler=lambda call: activate(call, active=True),
        policy="reactivate_image",
        check=ADMIN,
        guard=False,
        status=204,
    ),
)

RULES = {"publicize_image": ADMIN, "communitize_image": MEMBER}
