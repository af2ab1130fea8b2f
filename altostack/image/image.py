"""Images: what they are and who sees them. How they change is in `change`, their bits are in `data`.

Source: Image Service API v2 (api-ref).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.image import protection
from altostack.image.dialect import filter_column
from altostack.image.member import Member
from altostack.image.model import ImageRow
from altostack.image.stores import stores_of
from altostack.kit import api, flow, listing
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden, MethodNotAllowed, NotFound, TooLarge
from altostack.kit.policy import ANY, READER, READER_ANY, SERVICE
from altostack.kit.resource import Computed, Resource, Timed, columns, field, key, private
from altostack.kit.route import Route


class Status(enum.StrEnum):
    """Where an image is in its life."""

    QUEUED = "queued"
    SAVING = "saving"
    UPLOADING = "uploading"
    IMPORTING = "importing"
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
    locations: Mapped[list[dict[str, Any]]] = private(default=[])  # see `stores`
    stored_bytes: Mapped[int] = private(default=0, type_=sa.BigInteger())  # in all stores together
    staged_bytes: Mapped[int] = private(default=0, type_=sa.BigInteger())
    task_id: Mapped[str | None] = private(default=None, type_=sa.String(64))  # the import that has it in hand
    importing: Mapped[list[str] | None] = private(default=None)  # stores that an import has still to fill
    failed_import: Mapped[list[str] | None] = private(default=None)  # stores that it could not fill
    uploader: Mapped[str | None] = private(
        default=None
    )  # the process that saves, so that its death is noticed
    upload_host: Mapped[str | None] = private(default=None)  # the node that may upload the bits

    __table_args__ = (sa.Index("ix_images_list", "created_at", "id"),)


COLUMNS = {column.wire: column for column in columns(Image)}
_ASKED = {"limit", "marker", "member_status", "sort", "sort_key", "sort_dir"}


def visible(call: Call) -> Any:
    """Public and community images, and those shared with the caller's project."""
    shared = sa.select(Member.image_id).where(Member.member_id == call.context.project_id)
    open_to_all = [Visibility.PUBLIC, Visibility.COMMUNITY]
    if call.route.op == "list":
        wanted = call.arg("member_status") or "accepted"
        if wanted not in ("pending", "accepted", "rejected", "all"):
            raise BadRequest(f"Invalid status: {wanted}.", field="member_status")
        if wanted != "all":
            shared = shared.where(Member.status == wanted)
        if call.arg("visibility") not in ("community", "all"):
            open_to_all = [Visibility.PUBLIC]
    return sa.or_(
        Image.visibility.in_(open_to_all),
        sa.and_(Image.visibility == Visibility.SHARED, Image.id.in_(shared)),
    )


def load(call: Call, rule: str, key: str | None = None, *, lock: bool = False) -> Image:
    """The image of the path (or ``key``), if the caller may do ``rule`` to it.

    A 404 where they do not see it or policy does not let them look at it, else a 403.
    """
    image: Image = api.load(call, IMAGES, key, lock=lock)
    if not call.allows(rule, image):
        if rule == "get_image" or not call.allows("get_image", image):
            raise call.runtime.service.dialect.not_found(IMAGES, image.id)
        call.require(rule, image)
    return image


def show(call: Call, image: Image, op: str = "show") -> dict[str, Any]:
    """The flat JSON object: columns, properties and links."""
    return protection.readable(call, image.properties, api.view(call, IMAGES, image, op=op))


def show_image(call: Call) -> dict[str, Any]:
    """GET /v2/images/{id}."""
    return show(call, load(call, "get_image"))


def no_id(call: Call) -> None:
    """``/v2/images/`` is an image without an id, which is nowhere; ``/v2/images`` is all of them."""
    if call.request.env.get("PATH_INFO", "").endswith("/"):
        raise NotFound("No image found with ID ''", field="image_id")


def delete_none(call: Call) -> None:
    """DELETE /v2/images, which is no way to delete all of them."""
    no_id(call)
    raise MethodNotAllowed("The method is not allowed here.", headers={"Allow": "GET, POST"})


def list_images(call: Call) -> dict[str, Any]:
    """GET /v2/images: filters on fixed words and on properties; hidden ones only when asked for."""
    no_id(call)
    if "changes-since" in call.query:
        raise BadRequest("There is no filter changes-since in this API.", field="changes-since")
    if "sort" in call.query and ("sort_key" in call.query or "sort_dir" in call.query):
        raise BadRequest("The old and the new words for sorting cannot be combined.", field="sort")
    extra = [
        Image.properties[name].as_string() == values[-1]
        for name, values in call.query.items()
        if name not in COLUMNS and name not in IMAGES.filters and name not in _ASKED
    ]
    if "os_hidden" not in call.query:
        extra.append(Image.os_hidden.is_(False))
    rows, more = listing.fetch(call, IMAGES, extra=tuple(extra))
    shown = api.views(call, IMAGES).many(call, rows)
    found = [protection.readable(call, row.properties, one) for row, one in zip(rows, shown, strict=True)]
    links = call.runtime.service.dialect.page_links(call, IMAGES, rows, more)
    return {"images": found, **links}


def destroy(call: Call) -> None:
    """DELETE /v2/images/{id}: the row in this transaction, the bits once it is committed."""
    image = load(call, "delete_image", lock=True)
    if image.protected:
        raise Forbidden(f"Image {image.id} is protected and cannot be deleted.", field="protected")
    stores = stores_of(call.runtime)
    key_, locations = image.id, list(image.locations)
    call.session.execute(sa.delete(Member).where(Member.image_id == key_))
    call.session.execute(
        ImageRow.metadata.tables["image_cache"].delete().where(sa.column("image_id") == key_)
    )
    if image.task_id:
        flow.doom(call.session, image.task_id)
        api.wake(call)
    call.session.delete(image)
    call.session.flush()
    call.after(lambda: stores.delete(key_, locations))


def tag(call: Call, *, present: bool) -> None:
    """PUT and DELETE /v2/images/{id}/tags/{tag}."""
    image = load(call, "modify_image", lock=True)
    word = call.params["tag"]
    if not word or len(word) > 255:
        raise BadRequest("A tag has 1 to 255 characters.", field="tag")
    if not present and word not in image.tags:
        raise call.runtime.service.dialect.not_found(IMAGES, image.id)
    rest = [one for one in image.tags if one != word]
    if present and len(rest) >= call.runtime.settings.max_tags:
        raise TooLarge("The limit of image tags would be passed.", field="tags")
    image.tags = [*rest, word] if present else rest


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


def _by_flag(name: str) -> Callable[[Call, list[str]], Any]:
    def clause(call: Call, values: list[str]) -> Any:
        value = values[-1].lower()
        if value not in ("true", "false"):
            raise BadRequest(f"Invalid value {values[-1]!r} for {name!r}: it is true or false.", field=name)
        return getattr(Image, name).is_(value == "true")

    return clause


def _size(name: str, least: bool) -> Callable[[Call, list[str]], Any]:
    def clause(call: Call, values: list[str]) -> Any:
        number = call.number(name)
        return Image.size >= number if least else Image.size <= number

    return clause


def _stores(call: Call, image: Image) -> Any:
    stores = stores_of(call.runtime)
    names = [one["metadata"].get("store") for one in stores.in_order(image.locations)]
    return ",".join(dict.fromkeys(name for name in names if name)) if any(names) else msgspec.UNSET


def _sees_locations(call: Call, image: Image) -> bool:
    return call.allows("get_image_location", image)


def _locations(call: Call, image: Image) -> Any:
    if not call.runtime.settings.show_locations:
        return msgspec.UNSET
    return image.locations if _sees_locations(call, image) else []


def _direct_url(call: Call, image: Image) -> Any:
    if not call.runtime.settings.show_direct_url or not image.locations or not _sees_locations(call, image):
        return msgspec.UNSET
    return stores_of(call.runtime).in_order(image.locations)[0]["url"]


def _names(attr: str) -> Callable[[Call, Any], Any]:
    def get(call: Call, image: Image) -> Any:
        names = getattr(image, attr)
        return msgspec.UNSET if names is None else ",".join(names)

    return get


def _updated(call: Call, image: Image) -> Any:
    return call.runtime.service.dialect.time(image.updated_at or image.created_at)


OWNER = "role:admin or role:service or (role:member and project_id:%(owner)s)"

IMAGES = Resource(
    row=Image,
    name="image",
    owner=Image.owner,
    visible=visible,
    policy={"all": SERVICE},
    extra="properties",
    computed={
        "updated_at": Computed(get=_updated),
        "stores": Computed(get=_stores),
        "locations": Computed(get=_locations),
        "direct_url": Computed(get=_direct_url),
        "os_glance_import_task": Computed(get=lambda call, image: image.task_id or msgspec.UNSET),
        "os_glance_importing_to_stores": Computed(get=_names("importing")),
        "os_glance_failed_import": Computed(get=_names("failed_import")),
        "self": Computed(get=lambda call, image: f"/v2/images/{image.id}"),
        "file": Computed(get=lambda call, image: f"/v2/images/{image.id}/file"),
        "schema": Computed(get=lambda call, image: "/v2/schemas/image"),
    },
    filters={
        "tag": _by_tag,
        "visibility": _by_visibility,
        "os_hidden": _by_flag("os_hidden"),
        "protected": _by_flag("protected"),
        "size_min": _size("size_min", True),
        "size_max": _size("size_max", False),
        "member_status": lambda call, values: None,  # part of who sees what: see `visible`
        "created_at": lambda call, values: filter_column(call, COLUMNS["created_at"], values),
        "updated_at": lambda call, values: filter_column(call, COLUMNS["updated_at"], values),
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
    Route(method="DELETE", path="/images", handler=delete_none, policy=ANY),
    Route(
        method="GET",
        path="/images/{image_id}",
        handler=show_image,
        policy="get_image",
        check=READER_ANY,
        guard=False,
    ),
    Route(
        method="DELETE",
        path="/images/{image_id}",
        handler=destroy,
        policy="delete_image",
        check=OWNER,
        guard=False,
        status=204,
    ),
    Route(
        method="PUT",
        path="/images/{image_id}/tags/{tag}",
        handler=lambda call: tag(call, present=True),
        policy="modify_image",
        check=OWNER,
        guard=False,
        status=204,
    ),
    Route(
        method="DELETE",
        path="/images/{image_id}/tags/{tag}",
        handler=lambda call: tag(call, present=False),
        policy="modify_image",
        check=OWNER,
        guard=False,
        status=204,
    ),
)
