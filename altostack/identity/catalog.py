"""Regions, services and endpoints: what the cloud offers, and where."""

from __future__ import annotations

import enum
import re
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.audit import created, deleted, updated
from altostack.identity.common import bump, capped, existing, peek, same, self_link
from altostack.identity.dialect import inexact
from altostack.identity.model import Extra, IdentityRow
from altostack.kit.api import add, view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden
from altostack.kit.resource import Computed, Resource, field, given, key, struct
from altostack.kit.route import Route

_URL = re.compile(r"^[a-zA-Z0-9+.-]+:.+")
PLACE = re.compile(r"[%$]\((\w+)\)s")
_KNOWN = {"project_id", "tenant_id", "user_id"}


class Interface(enum.StrEnum):
    PUBLIC = "public"
    INTERNAL = "internal"
    ADMIN = "admin"


class Region(Extra, IdentityRow):
    __tablename__ = "regions"
    noun = "region"
    id: Mapped[str] = key(type_=sa.String(255))
    description: Mapped[str | None] = field(create=True, update=True, default="", max_length=255)
    parent_region_id: Mapped[str | None] = field(
        create=True, update=True, filter=True, default=None, max_length=255
    )


class CatalogService(Extra, IdentityRow):
    __tablename__ = "services"
    noun = "service"
    id: Mapped[str] = key()
    type: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=255, index=True
    )
    name: Mapped[str] = field(create=True, update=True, filter=True, sort=True, default="", max_length=255)
    enabled: Mapped[bool] = field(create=True, update=True, default=True)


class Endpoint(Extra, IdentityRow):
    __tablename__ = "endpoints"
    __table_args__ = (
        sa.ForeignKeyConstraint(["service_id"], ["services.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"]),
    )
    noun = "endpoint"
    id: Mapped[str] = key()
    service_id: Mapped[str] = field(required=True, update=True, filter=True, max_length=64, index=True)
    interface: Mapped[Interface] = field(required=True, update=True, filter=True, sort=True)
    region_id: Mapped[str | None] = field(
        create=True, update=True, filter=True, default=None, max_length=255, index=True
    )
    url: Mapped[str] = field(required=True, update=True, max_length=2000)
    enabled: Mapped[bool] = field(create=True, update=True, default=True)


# ---- regions


@created
def create_region(call: Call, fields: dict[str, Any]) -> Region:
    wanted = call.params.get("region_id")
    sent = fields.pop("id", None) or call.extra.get("id")
    if wanted is not None and sent not in (None, wanted):
        raise BadRequest(f'Conflicting region IDs specified: "{wanted}" != "{sent}".', field="id")
    if (wanted := wanted or sent) is not None:
        if not isinstance(wanted, str) or len(wanted) > 255:
            raise BadRequest("A region's id is a string of at most 255 characters.", field="id")
        if peek(call, REGIONS, wanted) is not None:
            raise Conflict(f"There is a region with the id {wanted}.", field="id")
        fields["id"] = wanted
    else:
        fields["id"] = call.runtime.service.dialect.new_id()
    if fields.get("description", "") is None:
        fields["description"] = ""
    _parent(call, fields["id"], fields.get("parent_region_id"))
    row: Region = add(call, REGIONS, Region(**fields))
    return row


@updated
def update_region(call: Call, row: Region, fields: dict[str, Any]) -> None:
    same(call, id=row.id)
    _parent(call, row.id, fields.get("parent_region_id"))
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


def _parent(call: Call, key: str, parent: str | None) -> None:
    """Raises NotFound for a parent that is not there, BadRequest when ``key`` would be above itself."""
    seen: set[str] = set()
    while parent is not None:
        if parent == key or parent in seen:
            raise BadRequest(
                f"The parent region {parent} would make the hierarchy of regions a circle.",
                field="parent_region_id",
            )
        seen.add(parent)
        parent = existing(call, REGIONS, peek(call, REGIONS, parent), parent).parent_region_id


@deleted
def delete_region(call: Call, row: Region) -> None:
    below, found = {row.id}, [row.id]
    while found:
        query = sa.select(Region.id).where(Region.parent_region_id.in_(found))
        found = [key for key in call.session.execute(query).scalars() if key not in below]
        below.update(found)
    query = sa.select(Endpoint.id).where(Endpoint.region_id.in_(below)).limit(1)
    if call.session.execute(query).first() is not None:
        raise Forbidden(f"Unable to delete region {row.id} because it or its child regions have endpoints.")
    call.session.execute(sa.delete(Region).where(Region.id.in_(below)))
    bump(call)


REGIONS = Resource(
    row=Region,
    name="region",
    parent=capped,
    policy=rules.REGIONS,
    create=create_region,
    update=update_region,
    delete=delete_region,
    extra="extra",
    computed={"links": self_link("/regions")},
    default_sort=(("id", False),),
    doc="A part of the cloud.",
)


def put_region(call: Call) -> Any:
    fields = given(call.document.region)
    fields["extra"] = {}
    row = create_region(call, fields)
    return {"region": view(call, REGIONS, row, op="create")}


# ---- services


@created
def create_service(call: Call, fields: dict[str, Any]) -> CatalogService:
    row: CatalogService = add(call, SERVICES, CatalogService(**fields))
    bump(call)
    return row


@updated
def update_service(call: Call, row: CatalogService, fields: dict[str, Any]) -> None:
    same(call, id=row.id)
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


@deleted
def delete_service(call: Call, row: CatalogService) -> None:
    """Its endpoints go with it."""
    call.session.delete(row)
    bump(call)


SERVICES = Resource(
    row=CatalogService,
    name="service",
    parent=capped,
    policy=rules.CATALOG,
    create=create_service,
    update=update_service,
    delete=delete_service,
    extra="extra",
    computed={"links": self_link("/services")},
    filters=inexact(name=CatalogService.name, type=CatalogService.type),
    default_sort=(("type", False),),
    doc="An API that the cloud offers.",
)


# ---- endpoints


def _checked(call: Call, fields: dict[str, Any]) -> None:
    """Raises BadRequest for a URL, a service or a region that will not do. An old ``region`` makes the region."""
    if "url" in fields:
        if not _URL.match(fields["url"]) or set(PLACE.findall(fields["url"])) - _KNOWN:
            raise BadRequest(f"Cannot create an endpoint with an invalid URL: {fields['url']}.", field="url")
        if PLACE.sub("", fields["url"]).count("%"):
            raise BadRequest(f"Cannot create an endpoint with an invalid URL: {fields['url']}.", field="url")
    if "service_id" in fields and peek(call, SERVICES, fields["service_id"]) is None:
        raise BadRequest(f"Could not find service: {fields['service_id']}.", field="service_id")
    old = fields.pop("region", None)
    if old is not None and fields.get("region_id") is None:
        fields["region_id"] = old
        if peek(call, REGIONS, old) is None:
            call.session.add(Region(id=old, description=""))
            call.session.flush()
    elif fields.get("region_id") is not None and peek(call, REGIONS, fields["region_id"]) is None:
        raise BadRequest(f"Could not find region: {fields['region_id']}.", field="region_id")


@created
def create_endpoint(call: Call, fields: dict[str, Any]) -> Endpoint:
    _checked(call, fields)
    row: Endpoint = add(call, ENDPOINTS, Endpoint(**fields))
    bump(call)
    return row


@updated
def update_endpoint(call: Call, row: Endpoint, fields: dict[str, Any]) -> None:
    same(call, id=row.id)
    _checked(call, fields)
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


@deleted
def delete_endpoint(call: Call, row: Endpoint) -> None:
    call.session.delete(row)
    bump(call)


ENDPOINTS = Resource(
    row=Endpoint,
    name="endpoint",
    parent=capped,
    policy=rules.CATALOG,
    create=create_endpoint,
    update=update_endpoint,
    delete=delete_endpoint,
    inputs={"region": str | None},
    update_inputs={"region": str | None},
    extra="extra",
    computed={
        "region": Computed(get=lambda call, row: row.region_id),
        "links": self_link("/endpoints"),
    },
    default_sort=(("service_id", False),),
    doc="Where a service is reached.",
)


_REGION = struct(
    "RegionPut",
    [(name, str | None, False) for name in ("id", "description", "parent_region_id")],
    open=True,
)
REGION_ROUTES = (
    Route(
        method="PUT", path="/regions/{region_id}", handler=put_region, policy="identity:create_region",
        check=rules.CLOUD_ADMIN, body=struct("RegionPutBody", [("region", _REGION, True)], open=True), status=201,
    ),
)  # fmt: skip
