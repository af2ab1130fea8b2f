"""Unified limits: how much of a resource a service gives out, by default and to single projects and domains.

Two enforcement models. *flat*: limits do not know of each other. *strict_two_level*: projects stand right below their
domain, and no project's limit is above its domain's, which is the default where the domain has none of its own; the
sum of projects' limits may be above it, their use together may not (the services count that).
Source: Identity API v3, unified limits. -1 is no limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.catalog import REGIONS, SERVICES
from altostack.identity.common import ID, WORD, capped, existing, peek, self_link
from altostack.identity.config import IdentitySettings
from altostack.identity.dialect import inexact
from altostack.identity.domain import DOMAINS
from altostack.identity.model import IdentityRow
from altostack.identity.project import PROJECTS, Project
from altostack.kit.api import add, view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, Forbidden
from altostack.kit.policy import ANY
from altostack.kit.resource import MAX_INT, Resource, field, given, key, private
from altostack.kit.route import Route

UNLIMITED = -1
STRICT = "strict_two_level"
MODELS: Mapping[str, str] = {
    "flat": "Limits are enforced and checked without regard to the hierarchy of projects.",
    STRICT: "Projects stand right below their domain, and no project's limit is above its domain's.",
}

Amount = Annotated[int, msgspec.Meta(ge=UNLIMITED, le=MAX_INT)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=WORD)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=ID)]
Region = Annotated[str, msgspec.Meta(max_length=255)]
Words = Annotated[str, msgspec.Meta(max_length=1000)]
UNSET = msgspec.UNSET


class RegisteredLimit(IdentityRow):
    __tablename__ = "registered_limits"
    __table_args__ = (
        sa.UniqueConstraint("service_id", "place", "resource_name"),
        sa.ForeignKeyConstraint(["service_id"], ["services.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], ondelete="CASCADE"),
    )
    noun = "registered_limit"
    id: Mapped[str] = key()
    service_id: Mapped[str] = field(filter=True, sort=True, max_length=64)
    region_id: Mapped[str | None] = field(filter=True, default=None, max_length=255)
    resource_name: Mapped[str] = field(filter=True, sort=True, max_length=255)
    default_limit: Mapped[int] = field()
    description: Mapped[str | None] = field(default=None, max_length=1000)
    # The region or "": where names are unique (a null is unequal to every other).
    place: Mapped[str] = private(default="", type_=sa.String(255))


class Limit(IdentityRow):
    """A project's or a domain's own; what it shares with its registered limit cannot change while it is there."""

    __tablename__ = "limits"
    __table_args__ = (
        sa.UniqueConstraint("registered_limit_id", "owner_id"),
        sa.ForeignKeyConstraint(["registered_limit_id"], ["registered_limits.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], ondelete="CASCADE"),
    )
    noun = "limit"
    id: Mapped[str] = key()
    project_id: Mapped[str | None] = field(filter=True, default=None, max_length=64, index=True)
    domain_id: Mapped[str | None] = field(filter=True, default=None, max_length=64, index=True)
    service_id: Mapped[str] = field(filter=True, sort=True, max_length=64)
    region_id: Mapped[str | None] = field(filter=True, default=None, max_length=255)
    resource_name: Mapped[str] = field(filter=True, sort=True, max_length=255)
    resource_limit: Mapped[int] = field()
    description: Mapped[str | None] = field(default=None, max_length=1000)
    registered_limit_id: Mapped[str] = private(type_=sa.String(64))
    owner_id: Mapped[str] = private(type_=sa.String(64))  # the project or the domain


# ---- bodies


class RegisteredIn(msgspec.Struct, forbid_unknown_fields=True):
    service_id: Key
    resource_name: Name
    default_limit: Amount
    region_id: Region | None = None
    description: Words | None = None


class RegisteredList(msgspec.Struct, forbid_unknown_fields=True):
    registered_limits: Annotated[list[RegisteredIn], msgspec.Meta(min_length=1)]


class RegisteredChange(msgspec.Struct, forbid_unknown_fields=True):
    service_id: Key | msgspec.UnsetType = UNSET
    region_id: Region | msgspec.UnsetType | None = UNSET
    resource_name: Name | msgspec.UnsetType = UNSET
    default_limit: Amount | msgspec.UnsetType = UNSET
    description: Words | msgspec.UnsetType | None = UNSET


class LimitIn(msgspec.Struct, forbid_unknown_fields=True):
    service_id: Key
    resource_name: Name
    resource_limit: Amount
    region_id: Region | None = None
    project_id: Key | None = None
    domain_id: Key | None = None
    description: Words | None = None


class LimitList(msgspec.Struct, forbid_unknown_fields=True):
    limits: Annotated[list[LimitIn], msgspec.Meta(min_length=1)]


class LimitChange(msgspec.Struct, forbid_unknown_fields=True):
    resource_limit: Amount | msgspec.UnsetType = UNSET
    description: Words | msgspec.UnsetType | None = UNSET


# ---- what is registered


def _exist(call: Call, fields: Mapping[str, Any]) -> None:
    """Raises BadRequest for a service, region, project or domain that is not there."""
    parents = (
        ("service_id", SERVICES), ("region_id", REGIONS), ("project_id", PROJECTS), ("domain_id", DOMAINS),
    )  # fmt: skip
    for name, resource in parents:
        value = fields.get(name)
        if value is not None and peek(call, resource, value) is None:
            raise BadRequest(f"Expecting to find valid {name}: {value} is not there.", field=name)


def _unregistered(call: Call, row: RegisteredLimit) -> None:
    """Raises Conflict when another row is registered for the same."""
    query = sa.select(RegisteredLimit.id).where(
        RegisteredLimit.service_id == row.service_id, RegisteredLimit.place == row.place,
        RegisteredLimit.resource_name == row.resource_name, RegisteredLimit.id != (row.id or ""),
    )  # fmt: skip
    with call.session.no_autoflush:
        if call.session.execute(query).first() is not None:
            raise Conflict(
                f"Conflict occurred attempting to store registered_limit - {row.resource_name} is registered."
            )


def _unused(call: Call, row: RegisteredLimit) -> None:
    """Raises Forbidden when there are limits that rest on this one."""
    query = sa.select(Limit.id).where(Limit.registered_limit_id == row.id).limit(1)
    if call.session.execute(query).first() is not None:
        raise Forbidden(
            f"Unable to update or delete registered limit {row.id} because there are project limits associated with it."
        )


def register(call: Call) -> Any:
    found = []
    for one in call.body.registered_limits:
        fields = given(one)
        _exist(call, fields)
        row = RegisteredLimit(**fields, place=one.region_id or "")
        _unregistered(call, row)
        found.append(add(call, REGISTERED_LIMITS, row))
    return {"registered_limits": [view(call, REGISTERED_LIMITS, row, op="create") for row in found]}


def change_registered(call: Call, row: RegisteredLimit, fields: dict[str, Any]) -> None:
    _exist(call, fields)
    _unused(call, row)
    for attr, value in fields.items():
        setattr(row, attr, value)
    row.place = row.region_id or ""
    _unregistered(call, row)


def unregister(call: Call, row: RegisteredLimit) -> None:
    _unused(call, row)
    call.session.delete(row)


REGISTERED_LIMITS = Resource(
    row=RegisteredLimit,
    name="registered_limit",
    parent=capped,
    policy=rules.REGISTERED_LIMITS,
    update=change_registered,
    update_body=RegisteredChange,
    delete=unregister,
    default_sort=(("resource_name", False),),
    filters=inexact(resource_name=RegisteredLimit.resource_name),
    computed={"links": self_link("/registered_limits")},
    doc="What every project may use of a resource unless it has a limit of its own.",
)


# ---- limits of one's own


def fits(limit: int, above: int) -> bool:
    """Whether a project's limit may stand below its domain's."""
    return above == UNLIMITED or UNLIMITED != limit <= above


def model(call: Call) -> str:
    """The name of the cloud's enforcement model."""
    settings: IdentitySettings = call.runtime.settings or IdentitySettings()
    return settings.limit_model


def _registered(call: Call, wanted: LimitIn) -> RegisteredLimit:
    """What a limit rests on; locked, where the model looks at several limits together. Raises Forbidden."""
    query = sa.select(RegisteredLimit).where(
        RegisteredLimit.service_id == wanted.service_id, RegisteredLimit.place == (wanted.region_id or ""),
        RegisteredLimit.resource_name == wanted.resource_name,
    )  # fmt: skip
    row: RegisteredLimit | None = call.session.execute(_locked(call, query)).scalar()
    if row is None:
        raise Forbidden("Unable to create a limit that has no corresponding registered limit.")
    return row


def _locked(call: Call, query: Any) -> Any:
    return query if model(call) != STRICT or call.runtime.db.dialect == "sqlite" else query.with_for_update()


def create(call: Call) -> Any:
    """All of the body's limits or none."""
    found = []
    for one in call.body.limits:
        if (one.project_id is None) == (one.domain_id is None):
            raise BadRequest("A limit is a project's or a domain's: exactly one of both.", field="project_id")
        fields = given(one)
        if one.project_id is not None and peek(call, DOMAINS, one.project_id) is not None:
            fields |= {"project_id": None, "domain_id": one.project_id}  # the project that acts as the domain
        _exist(call, fields)
        registered = _registered(call, one)
        row = Limit(
            **fields, registered_limit_id=registered.id, owner_id=fields["project_id"] or fields["domain_id"]
        )
        query = sa.select(Limit.id).where(
            Limit.registered_limit_id == registered.id, Limit.owner_id == row.owner_id
        )
        if call.session.execute(query).first() is not None:
            raise Conflict(
                f"Conflict occurred attempting to store limit - {row.owner_id} has one for {one.resource_name}."
            )
        found.append(add(call, LIMITS, row))
    _hold(call, found)
    return {"limits": [view(call, LIMITS, row, op="create") for row in found]}


def update(call: Call, row: Limit, fields: dict[str, Any]) -> None:
    call.session.execute(
        _locked(call, sa.select(RegisteredLimit).where(RegisteredLimit.id == row.registered_limit_id))
    )
    for attr, value in fields.items():
        setattr(row, attr, value)
    call.session.flush()
    _hold(call, [row])


def delete(call: Call, row: Limit) -> None:
    call.session.execute(
        _locked(call, sa.select(RegisteredLimit).where(RegisteredLimit.id == row.registered_limit_id))
    )
    call.session.delete(row)
    call.session.flush()
    _hold(call, [row])


def _hold(call: Call, changed: Iterable[Limit]) -> None:
    """Raises Forbidden when what was ``changed`` breaks the model's rule in its domain."""
    if model(call) != STRICT:
        return
    for registered_id, domain_id in sorted(
        {(row.registered_limit_id, row.domain_id or _domain(call, row)) for row in changed}
    ):
        own = sa.select(Limit.resource_limit).where(
            Limit.registered_limit_id == registered_id, Limit.domain_id == domain_id
        )
        default = sa.select(RegisteredLimit.default_limit).where(RegisteredLimit.id == registered_id)
        above = call.session.execute(own).scalar()
        if above is None:
            above = call.session.execute(default).scalar_one()
        below = sa.select(Limit, Project.path).join(Project, Project.id == Limit.project_id)
        for limit, path in call.session.execute(
            below.where(Limit.registered_limit_id == registered_id, Project.domain_id == domain_id)
        ):
            if path or not fits(limit.resource_limit, above):
                raise Forbidden(
                    f"Invalid resource limit: project {limit.project_id} would have {limit.resource_limit} of "
                    f"{limit.resource_name} below a domain with {above}, which the model {STRICT} does not allow."
                )


def _domain(call: Call, row: Limit) -> str:
    return str(existing(call, PROJECTS, peek(call, PROJECTS, str(row.project_id)), "").domain_id)


def _visible(call: Call) -> Any:
    """Whose limits a caller's list holds: all for admin, services and the system; a domain's; one's project's."""
    context = call.context
    if call.route.op != "list" or context.system or context.roles & {"admin", "service"}:
        return sa.true()
    if context.domain_id is not None:
        inside = sa.select(Project.id).where(Project.domain_id == context.domain_id)
        return sa.or_(Limit.domain_id == context.domain_id, Limit.project_id.in_(inside))
    return Limit.project_id == context.project_id


def show(call: Call) -> Any:
    key = call.params["limit_id"]
    row = peek(call, LIMITS, key)
    seen: dict[str, Any] = {}
    if row is not None and row.project_id is not None:
        project = peek(call, PROJECTS, row.project_id)
        seen = {
            "target.limit.project_id": row.project_id,
            "target.limit.project.domain_id": project.domain_id,
        }
    elif row is not None:
        seen = {"target.limit.domain.id": row.domain_id}
    call.require(call.route.policy, seen)
    return {"limit": view(call, LIMITS, existing(call, LIMITS, row, key))}


def show_model(call: Call) -> Any:
    return {"model": {"name": model(call), "description": MODELS[model(call)]}}


LIMITS = Resource(
    row=Limit,
    name="limit",
    parent=capped,
    policy=rules.LIMITS,
    narrow=_visible,
    update=update,
    update_body=LimitChange,
    delete=delete,
    default_sort=(("resource_name", False),),
    filters=inexact(resource_name=Limit.resource_name),
    computed={"links": self_link("/limits")},
    doc="What one project or domain may use of a resource.",
)
LIMIT_ROUTES = (
    Route(
        method="POST", path="/registered_limits", handler=register, policy="identity:create_registered_limits",
        check=rules.CLOUD_ADMIN, body=RegisteredList, status=201,
    ),
    Route(
        method="POST", path="/limits", handler=create, policy="identity:create_limits", check=rules.CLOUD_ADMIN,
        body=LimitList, status=201,
    ),
    Route(method="GET", path="/limits/model", handler=show_model, policy="identity:get_limit_model", check=ANY),
    Route(
        method="GET", path="/limits/{limit_id}", handler=show, guard=False, policy="identity:get_limit",
        check=rules.SHOW_LIMIT,
    ),
)  # fmt: skip
