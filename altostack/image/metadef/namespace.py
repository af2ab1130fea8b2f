"""Namespaces: who sees them, what they show, and the usual ones that every cloud begins with."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.image.metadef.rows import (
    Definition,
    Kind,
    Namespace,
    NamespaceBody,
    NamespaceFields,
    Visibility,
    definitions,
)  # fmt: skip
from altostack.kit import api, listing
from altostack.kit.call import Call
from altostack.kit.errors import Conflict, Forbidden
from altostack.kit.listing import rule_name
from altostack.kit.policy import ADMIN, READER, SERVICE
from altostack.kit.resource import Resource
from altostack.kit.route import Route
from altostack.kit.service import Runtime

_CATALOG = Path(__file__).with_name("catalog.toml")
SEEN = "role:admin or role:service or (role:reader and (project_id:%(owner)s or 'public':%(visibility)s))"


def _for_types(call: Call, values: list[str]) -> Any:
    names = [name for text in values for name in text.split(",") if name]
    meant = sa.select(Definition.namespace_id).where(Definition.kind == Kind.TYPE, Definition.name.in_(names))
    return Namespace.id.in_(meant)


NAMESPACES = Resource(
    row=Namespace,
    name="namespace",
    path="/metadefs/namespaces",
    lookup="namespace",
    id_param="namespace",
    owner=Namespace.owner,
    visible=lambda call: Namespace.visibility == Visibility.PUBLIC,
    policy={"all": SERVICE},
    rules={
        "list": "get_metadef_namespaces",
        "show": "get_metadef_namespace",
        "create": "add_metadef_namespace",
        "update": "modify_metadef_namespace",
        "delete": "delete_metadef_namespace",
        "all": "see_all_metadef_namespaces",
    },
    filters={"resource_types": _for_types},
)


def load(call: Call, rule: str) -> Namespace:
    """The namespace of the path: a 404 where the caller may not see it, a 403 where they may not do this to it."""
    found: Namespace = api.load(call, NAMESPACES, rule=rule)
    return found


def contents(call: Call, spaces: list[Namespace], *kinds: Kind) -> dict[str, dict[Kind, list[Definition]]]:
    """What is in the namespaces: id -> kind -> definitions in the order they were made."""
    found: dict[str, dict[Kind, list[Definition]]] = {
        space.id: {kind: [] for kind in kinds or Kind} for space in spaces
    }
    query = sa.select(Definition).where(Definition.namespace_id.in_(found)).order_by(Definition.id)
    if kinds:
        query = query.where(Definition.kind.in_(kinds))
    for row in call.session.execute(query).scalars():
        found[row.namespace_id][Kind(row.kind)].append(row)
    return found


def dated(call: Call, row: Any) -> dict[str, Any]:
    """When the row was made and changed."""
    time = call.runtime.service.dialect.time
    return {"created_at": time(row.created_at), "updated_at": time(row.updated_at or row.created_at)}


def show_type(call: Call, row: Definition) -> dict[str, Any]:
    """A resource type as a namespace shows it."""
    return {"name": row.name, **row.body, **dated(call, row)}


def show_object(call: Call, space: Namespace, row: Definition, prefix: str = "") -> dict[str, Any]:
    """An object, its properties with the prefix of a resource type."""
    body = dict(row.body)
    body["properties"] = {prefix + name: one for name, one in body.get("properties", {}).items()}
    body["required"] = [prefix + name for name in body.get("required", ())]
    return {
        "name": row.name,
        **body,
        "self": f"/v2/metadefs/namespaces/{space.namespace}/objects/{row.name}",
        "schema": "/v2/schemas/metadefs/object",
        **dated(call, row),
    }


def show(
    call: Call, space: Namespace, inside: dict[Kind, list[Definition]], resource_type: str | None = None
) -> dict[str, Any]:
    """The JSON object of a namespace, with what of its contents is given and not empty."""
    found: dict[str, Any] = {
        "namespace": space.namespace,
        "display_name": space.display_name,
        "description": space.description,
        "visibility": Visibility(space.visibility).value,
        "protected": space.protected,
        "owner": space.owner,
        "self": f"/v2/metadefs/namespaces/{space.namespace}",
        "schema": "/v2/schemas/metadefs/namespace",
        **dated(call, space),
    }
    found = {name: value for name, value in found.items() if value is not None}
    kinds = inside.get(Kind.TYPE, [])
    prefix = next((row.body.get("prefix", "") for row in kinds if row.name == resource_type), "")
    parts: dict[str, Any] = {
        "resource_type_associations": [show_type(call, row) for row in kinds],
        "properties": {prefix + row.name: row.body for row in inside.get(Kind.PROPERTY, [])},
        "objects": [show_object(call, space, row, prefix) for row in inside.get(Kind.OBJECT, [])],
        "tags": [{"name": row.name} for row in inside.get(Kind.TAG, [])],
    }
    return {**found, **{name: value for name, value in parts.items() if value}}


def list_namespaces(call: Call) -> dict[str, Any]:
    """GET /v2/metadefs/namespaces."""
    rows, more = listing.fetch(call, NAMESPACES)
    inside = contents(call, rows, Kind.TYPE)
    links = call.runtime.service.dialect.page_links(call, NAMESPACES, rows, more)
    return {"namespaces": [show(call, row, inside[row.id]) for row in rows], **links}


def show_namespace(call: Call) -> dict[str, Any]:
    """GET /v2/metadefs/namespaces/{namespace}."""
    space = load(call, rule_name(call, NAMESPACES, "show"))
    return show(call, space, contents(call, [space])[space.id], call.arg("resource_type"))


def create(call: Call) -> dict[str, Any]:
    """POST /v2/metadefs/namespaces."""
    body: NamespaceBody = call.body
    _free(call, body.namespace)
    space = Namespace(id=call.runtime.service.dialect.new_id(), **_fields(call, body))
    call.session.add(space)
    call.session.add_all(definitions(space.id, body))
    call.session.flush()
    return show(call, space, contents(call, [space])[space.id])


def _fields(call: Call, body: NamespaceFields) -> dict[str, Any]:
    fields = {name: getattr(body, name) for name in NamespaceFields.__struct_fields__}
    fields["visibility"] = Visibility(body.visibility)
    fields["owner"] = body.owner or call.context.project_id
    return fields


def _free(call: Call, name: str) -> None:
    """Raises Conflict when the name is taken, also by a namespace that the caller does not see."""
    if call.session.execute(sa.select(Namespace.id).where(Namespace.namespace == name)).first():
        raise Conflict(f"The metadata definition namespace {name} already exists.", field="namespace")


def update(call: Call) -> dict[str, Any]:
    """PUT /v2/metadefs/namespaces/{namespace}: all its fields anew, what is in it as it was."""
    space = load(call, rule_name(call, NAMESPACES, "update"))
    if call.body.namespace != space.namespace:
        _free(call, call.body.namespace)
    for name, value in _fields(call, call.body).items():
        setattr(space, name, value)
    call.session.flush()
    return show(call, space, {})


def delete(call: Call) -> None:
    """DELETE /v2/metadefs/namespaces/{namespace}, with all that is in it."""
    space = load(call, rule_name(call, NAMESPACES, "delete"))
    changeable(space)
    call.session.execute(sa.delete(Definition).where(Definition.namespace_id == space.id))
    call.session.delete(space)


def changeable(space: Namespace) -> None:
    """Raises Forbidden for the protected."""
    if space.protected:
        raise Forbidden(
            f"The metadata definition namespace {space.namespace} is protected: nothing of it may be deleted.",
            field="namespace",
        )


def bootstrap(runtime: Runtime) -> None:
    """The usual namespaces, into a cloud that has none. Idempotent."""

    def work(session: Any) -> None:
        if session.execute(sa.select(Namespace.id).limit(1)).first():
            return
        for table in tomllib.loads(_CATALOG.read_text())["namespaces"]:
            body = msgspec.convert(table, NamespaceBody)
            fields = {name: getattr(body, name) for name in NamespaceFields.__struct_fields__}
            fields["visibility"] = Visibility(body.visibility)
            space = Namespace(id=runtime.service.dialect.new_id(), **fields)
            session.add(space)
            session.add_all(definitions(space.id, body))

    runtime.db.write(work)


def route(method: str, path: str, handler: Any, policy: str, check: str, **more: Any) -> Route:
    """A route whose handler loads the namespace first and asks policy about it then."""
    return Route(method=method, path=path, handler=handler, policy=policy, check=check, guard=False, **more)


_ONE = "/metadefs/namespaces/{namespace}"
ROUTES = (
    Route(
        method="GET", path="/metadefs/namespaces", handler=list_namespaces, policy="get_metadef_namespaces",
        check=READER, resource=NAMESPACES, op="list",
    ),
    Route(
        method="POST", path="/metadefs/namespaces", handler=create, policy="add_metadef_namespace", check=ADMIN,
        body=NamespaceBody, status=201,
    ),
    route("GET", _ONE, show_namespace, "get_metadef_namespace", SEEN),
    route("PUT", _ONE, update, "modify_metadef_namespace", ADMIN, body=NamespaceFields),
    route("DELETE", _ONE, delete, "delete_metadef_namespace", ADMIN, status=204),
)  # fmt: skip
