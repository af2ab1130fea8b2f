"""Which endpoints a project's catalogue shows: one by one, or by groups that are described by filters.

A project that is associated with no endpoint and no group sees all of them. Source: Identity API v3, OS-EP-FILTER.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity import rules
from altostack.identity.catalog import ENDPOINTS, Endpoint, Interface
from altostack.identity.common import WORD, bump, capped, existing, peek, self_link
from altostack.identity.dialect import collection, inexact
from altostack.identity.model import IdentityRow
from altostack.identity.project import PROJECTS, Project
from altostack.kit.api import add, view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.kit.resource import Resource, field, key, struct
from altostack.kit.route import Route

_FILTERS = ("service_id", "region_id", "interface")
_ROOT = "/OS-EP-FILTER"


class EndpointGroup(IdentityRow):
    __tablename__ = "endpoint_groups"
    noun = "endpoint_group"
    id: Mapped[str] = key()
    name: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=255, pattern=WORD
    )
    description: Mapped[str | None] = field(create=True, update=True, default=None, max_length=1000)
    filters: Mapped[dict[str, Any]] = field(required=True, update=True)


def _part(target: str) -> Any:
    return mapped_column(sa.String(64), sa.ForeignKey(f"{target}.id", ondelete="CASCADE"), primary_key=True)


class ProjectEndpoint(IdentityRow):
    __tablename__ = "project_endpoints"
    project_id: Mapped[str] = _part("projects")
    endpoint_id: Mapped[str] = _part("endpoints")


class ProjectEndpointGroup(IdentityRow):
    __tablename__ = "project_endpoint_groups"
    project_id: Mapped[str] = _part("projects")
    endpoint_group_id: Mapped[str] = _part("endpoint_groups")


# ---- groups


def _checked(filters: dict[str, Any]) -> None:
    """Raises BadRequest for no filter, an unknown one, or one that can match nothing."""
    if not filters:
        raise BadRequest("filters field is required and cannot be empty.", field="filters")
    for name, value in filters.items():
        if name not in _FILTERS:
            raise BadRequest(
                f"An endpoint group filters by {', '.join(_FILTERS)}, not by {name}.", field=f"filters.{name}"
            )
        if not isinstance(value, str) or not 1 <= len(value) <= 255:
            raise BadRequest(f"The filter {name} is a string.", field=f"filters.{name}")
    if "interface" in filters and filters["interface"] not in list(Interface):
        raise BadRequest(f"{filters['interface']} is no interface of endpoints.", field="filters.interface")


def create(call: Call, fields: dict[str, Any]) -> EndpointGroup:
    _checked(fields["filters"])
    row: EndpointGroup = add(call, ENDPOINT_GROUPS, EndpointGroup(**fields))
    return row


def update(call: Call, row: EndpointGroup, fields: dict[str, Any]) -> None:
    if "filters" in fields and fields["filters"] is not None:
        _checked(fields["filters"])
    for attr, value in fields.items():
        if value is not None:
            setattr(row, attr, value)
    bump(call)


def delete(call: Call, row: EndpointGroup) -> None:
    call.session.delete(row)
    bump(call)


# Clients send null for what they leave as it is.
_CHANGE = struct(
    "EndpointGroupChange",
    [
        ("name", Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=WORD)] | None, False),
        ("description", Annotated[str, msgspec.Meta(max_length=1000)] | None, False),
        ("filters", dict[str, Any] | None, False),
    ],
    open=True,
)
ENDPOINT_GROUPS = Resource(
    row=EndpointGroup,
    name="endpoint_group",
    parent=capped,
    policy=rules.CATALOG,
    path=f"{_ROOT}/endpoint_groups",
    create=create,
    update=update,
    update_body=_CHANGE,
    delete=delete,
    computed={"links": self_link(f"{_ROOT}/endpoint_groups")},
    filters=inexact(name=EndpointGroup.name),
    default_sort=(("name", False),),
    doc="Endpoints that share a service, a region or an interface.",
)


# ---- what a project sees


def _in_group(group: EndpointGroup, endpoint: Endpoint) -> bool:
    return all(str(getattr(endpoint, name)) == value for name, value in group.filters.items())


def filtered(session: Session) -> dict[str, frozenset[str]]:
    """Project id -> the ids of the endpoints that it sees, for the projects that do not see all. Three queries."""
    found: dict[str, set[str]] = {}
    for project, endpoint in session.execute(
        sa.select(ProjectEndpoint.project_id, ProjectEndpoint.endpoint_id)
    ):
        found.setdefault(project, set()).add(endpoint)
    groups = session.execute(
        sa.select(ProjectEndpointGroup.project_id, EndpointGroup).join(
            EndpointGroup, EndpointGroup.id == ProjectEndpointGroup.endpoint_group_id
        )
    ).all()
    if groups:
        endpoints = list(session.execute(sa.select(Endpoint)).scalars())
        for project, group in groups:
            found.setdefault(project, set()).update(one.id for one in endpoints if _in_group(group, one))
    return {project: frozenset(ids) for project, ids in found.items()}


# ---- associations

_KINDS: dict[str, tuple[Resource, type[Any]]] = {
    "endpoint": (ENDPOINTS, ProjectEndpoint),
    "endpoint_group": (ENDPOINT_GROUPS, ProjectEndpointGroup),
}


def _pair(call: Call, kind: str) -> tuple[str, str]:
    """(project id, the other id), both of which are there. Raises Forbidden, then NotFound."""
    call.require(call.route.policy)
    resource = _KINDS[kind][0]
    project, other = call.params["project_id"], call.params[resource.param]
    existing(call, PROJECTS, peek(call, PROJECTS, project), project)
    existing(call, resource, peek(call, resource, other), other)
    return project, other


def _held(call: Call, kind: str) -> Any:
    pair = _pair(call, kind)
    row = call.session.get(_KINDS[kind][1], pair)
    if row is None:
        raise NotFound(
            f"The {kind.replace('_', ' ')} {pair[1]} is not associated with the project {pair[0]}."
        )
    return row


def _checker(kind: str) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        row = _held(call, kind)
        if kind == "endpoint":
            return None
        path = f"{_ROOT}/endpoint_groups/{row.endpoint_group_id}/projects/{row.project_id}"
        return {
            "project_endpoint_group": {
                "project_id": row.project_id,
                "endpoint_group_id": row.endpoint_group_id,
                "links": {"self": call.link(path)},
            }
        }

    return handler


def _adder(kind: str) -> Callable[[Call], None]:
    def handler(call: Call) -> None:
        project, other = _pair(call, kind)
        row = _KINDS[kind][1]
        if call.session.get(row, (project, other)) is None:
            call.session.add(row(**{"project_id": project, f"{kind}_id": other}))
        bump(call)

    return handler


def _remover(kind: str) -> Callable[[Call], None]:
    def handler(call: Call) -> None:
        call.session.delete(_held(call, kind))
        bump(call)

    return handler


def _one(call: Call, resource: Resource) -> Any:
    call.require(call.route.policy)
    key = call.params[resource.param]
    return existing(call, resource, peek(call, resource, key), key)


def _many(call: Call, resource: Resource, query: Any) -> dict[str, Any]:
    found = [view(call, resource, row, op="list") for row in call.session.execute(query).scalars()]
    return collection(call, resource.collection, found)


def projects_of(kind: str) -> Callable[[Call], Any]:
    def handler(call: Call) -> Any:
        other, row = _one(call, _KINDS[kind][0]), _KINDS[kind][1]
        inside = sa.select(row.project_id).where(getattr(row, f"{kind}_id") == other.id)
        return _many(call, PROJECTS, sa.select(Project).where(Project.id.in_(inside)).order_by(Project.name))

    return handler


def project_endpoints(call: Call) -> Any:
    """The endpoints that are associated with the project: none where its catalogue shows all for want of any."""
    project = _one(call, PROJECTS)
    shown = filtered(call.session).get(project.id, frozenset())
    query = sa.select(Endpoint).where(Endpoint.id.in_(shown)).order_by(Endpoint.service_id, Endpoint.id)
    return _many(call, ENDPOINTS, query)


def project_groups(call: Call) -> Any:
    project = _one(call, PROJECTS)
    inside = sa.select(ProjectEndpointGroup.endpoint_group_id).where(
        ProjectEndpointGroup.project_id == project.id
    )
    query = sa.select(EndpointGroup).where(EndpointGroup.id.in_(inside)).order_by(EndpointGroup.name)
    return _many(call, ENDPOINT_GROUPS, query)


def group_endpoints(call: Call) -> Any:
    group = _one(call, ENDPOINT_GROUPS)
    where = [getattr(Endpoint, name) == value for name, value in group.filters.items()]
    return _many(
        call, ENDPOINTS, sa.select(Endpoint).where(*where).order_by(Endpoint.service_id, Endpoint.id)
    )


_GROUP = f"{_ROOT}/endpoint_groups/{{endpoint_group_id}}"
_PROJECT = f"{_ROOT}/projects/{{project_id}}"
_ENDPOINT = f"{_PROJECT}/endpoints/{{endpoint_id}}"
FILTER_ROUTES = tuple(
    Route(
        method=method, path=path, handler=handler, guard=False, policy=f"identity:{name}", status=status,
        check=rules.CLOUD_READER if method in ("GET", "HEAD") else rules.CLOUD_ADMIN,
    )
    for method, path, handler, name, status in (
        ("GET", f"{_ROOT}/endpoints/{{endpoint_id}}/projects", projects_of("endpoint"), "list_projects_for_endpoint",
         200),
        ("GET", f"{_PROJECT}/endpoints", project_endpoints, "list_endpoints_for_project", 200),
        ("GET", f"{_PROJECT}/endpoint_groups", project_groups, "list_endpoint_groups_for_project", 200),
        ("GET", f"{_GROUP}/projects", projects_of("endpoint_group"), "list_projects_associated_with_endpoint_group",
         200),
        ("GET", f"{_GROUP}/endpoints", group_endpoints, "list_endpoints_associated_with_endpoint_group", 200),
        ("GET", _ENDPOINT, _checker("endpoint"), "check_endpoint_in_project", 204),
        ("PUT", _ENDPOINT, _adder("endpoint"), "add_endpoint_to_project", 204),
        ("DELETE", _ENDPOINT, _remover("endpoint"), "remove_endpoint_from_project", 204),
        ("GET", f"{_GROUP}/projects/{{project_id}}", _checker("endpoint_group"), "get_endpoint_group_in_project", 200),
        ("PUT", f"{_GROUP}/projects/{{project_id}}", _adder("endpoint_group"), "add_endpoint_group_to_project", 204),
        ("DELETE", f"{_GROUP}/projects/{{project_id}}", _remover("endpoint_group"),
         "remove_endpoint_group_from_project", 204),
    )
)  # fmt: skip
