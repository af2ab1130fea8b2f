"""What is in a namespace: objects, properties and tags."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.image.metadef.namespace import (
    SEEN,
    dated,
    load,
    route,
    show_object,
)
from altostack.image.metadef.rows import (
    Definition,
    Kind,
    NamedProperty,
    Namespace,
    ObjectBody,
    TagBody,
    TagsBody,
)
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.policy import ADMIN


def _rows(call: Call, space: Namespace, kind: Kind) -> list[Definition]:
    query = sa.select(Definition).where(Definition.namespace_id == space.id, Definition.kind == kind)
    return list(call.session.execute(query.order_by(Definition.name)).scalars())


def find(call: Call, space: Namespace, kind: Kind, name: str) -> Definition:
    """The definition of that name. Raises NotFound."""
    query = sa.select(Definition).where(
        Definition.namespace_id == space.id, Definition.kind == kind, Definition.name == name
    )
    row = call.session.execute(query).scalars().first()
    if row is None:
        raise NotFound(f"The {kind.value} {name} was not found in namespace {space.namespace}.", field="name")
    return row


def add(call: Call, space: Namespace, kind: Kind, name: str, body: dict[str, Any]) -> Definition:
    """A new definition. Raises Conflict where the name is taken."""
    _free(call, space, kind, name)
    row = Definition(namespace_id=space.id, kind=kind, name=name, body=body)
    call.session.add(row)
    call.session.flush()
    return row


def _free(call: Call, space: Namespace, kind: Kind, name: str) -> None:
    here = (Definition.namespace_id == space.id) & (Definition.kind == kind) & (Definition.name == name)
    if call.session.execute(sa.select(Definition.id).where(here)).first():
        raise Conflict(
            f"The {kind.value} {name} already exists in namespace {space.namespace}.", field="name"
        )


def change(call: Call, space: Namespace, row: Definition, name: str, body: dict[str, Any]) -> None:
    """Another name and body for a definition. Raises Conflict where the name is taken."""
    if name != row.name:
        _free(call, space, row.kind, name)
    row.name, row.body = name, body
    call.session.flush()


def _delete_all(kind: Kind, rule: str) -> Any:
    def handler(call: Call) -> None:
        space = load(call, rule)
        call.session.execute(
            sa.delete(Definition).where(Definition.namespace_id == space.id, Definition.kind == kind)
        )

    return handler


def _delete_one(kind: Kind, rule: str, param: str) -> Any:
    def handler(call: Call) -> None:
        space = load(call, rule)
        call.session.delete(find(call, space, kind, call.params[param]))

    return handler


def _page(call: Call, rows: list[Definition]) -> tuple[list[Definition], bool]:
    """The page that limit, marker (a name) and sort_dir ask for."""
    if call.arg("sort_dir") == "desc":
        rows = rows[::-1]
    marker = call.arg("marker")
    if marker:
        names = [row.name for row in rows]
        if marker not in names:
            raise BadRequest(f"The marker {marker} could not be found.", field="marker")
        rows = rows[names.index(marker) + 1 :]
    limit = call.number("limit")
    return (rows, False) if limit is None else (rows[:limit], len(rows) > limit)


def _links(call: Call, what: str, rows: list[Definition], more: bool) -> dict[str, Any]:
    base = f"/v2/metadefs/namespaces/{call.params['namespace']}/{what}"
    limit = f"limit={call.number('limit')}&" if call.number("limit") is not None else ""
    found = {"first": base + (f"?{limit[:-1]}" if limit else ""), "schema": f"/v2/schemas/metadefs/{what}"}
    if more and rows:
        found["next"] = f"{base}?{limit}marker={rows[-1].name}"
    return found


# ---- objects


def _object(body: ObjectBody) -> dict[str, Any]:
    found = msgspec.to_builtins(body)
    return {k: v for k, v in found.items() if k != "name" and v is not None}


def list_objects(call: Call) -> dict[str, Any]:
    """GET .../objects."""
    space = load(call, "get_metadef_objects")
    rows, more = _page(call, _rows(call, space, Kind.OBJECT))
    return {"objects": [show_object(call, space, row) for row in rows], **_links(call, "objects", rows, more)}


def create_object(call: Call) -> dict[str, Any]:
    """POST .../objects."""
    space = load(call, "add_metadef_object")
    return show_object(call, space, add(call, space, Kind.OBJECT, call.body.name, _object(call.body)))


def get_object(call: Call) -> dict[str, Any]:
    """GET .../objects/{name}."""
    space = load(call, "get_metadef_object")
    return show_object(call, space, find(call, space, Kind.OBJECT, call.params["object_name"]))


def update_object(call: Call) -> dict[str, Any]:
    """PUT .../objects/{name}."""
    space = load(call, "modify_metadef_object")
    row = find(call, space, Kind.OBJECT, call.params["object_name"])
    change(call, space, row, call.body.name, _object(call.body))
    return show_object(call, space, row)


# ---- properties


def _property(body: NamedProperty) -> dict[str, Any]:
    return {k: v for k, v in msgspec.to_builtins(body).items() if k != "name"}


def _show_property(row: Definition) -> dict[str, Any]:
    return {"name": row.name, **row.body}


def list_properties(call: Call) -> dict[str, Any]:
    """GET .../properties: by name."""
    space = load(call, "get_metadef_properties")
    return {"properties": {row.name: row.body for row in _rows(call, space, Kind.PROPERTY)}}


def create_property(call: Call) -> dict[str, Any]:
    """POST .../properties."""
    space = load(call, "add_metadef_property")
    return _show_property(add(call, space, Kind.PROPERTY, call.body.name, _property(call.body)))


def get_property(call: Call) -> dict[str, Any]:
    """GET .../properties/{name}; with ?resource_type= the name may carry that type's prefix."""
    space = load(call, "get_metadef_property")
    name = call.params["property_name"]
    prefix = ""
    if call.arg("resource_type"):
        prefix = find(call, space, Kind.TYPE, call.arg("resource_type") or "").body.get("prefix", "")
        if not name.startswith(prefix):
            raise NotFound(f"The property {name} does not begin with {prefix}.", field="property_name")
    found = _show_property(find(call, space, Kind.PROPERTY, name.removeprefix(prefix)))
    return {**found, "name": prefix + found["name"]}


def update_property(call: Call) -> dict[str, Any]:
    """PUT .../properties/{name}."""
    space = load(call, "modify_metadef_property")
    row = find(call, space, Kind.PROPERTY, call.params["property_name"])
    change(call, space, row, call.body.name, _property(call.body))
    return _show_property(row)


# ---- tags


def _show_tag(call: Call, row: Definition) -> dict[str, Any]:
    return {"name": row.name, **dated(call, row)}


def list_tags(call: Call) -> dict[str, Any]:
    """GET .../tags."""
    space = load(call, "get_metadef_tags")
    rows, more = _page(call, _rows(call, space, Kind.TAG))
    return {"tags": [{"name": row.name} for row in rows], **_links(call, "tags", rows, more)}


def create_tags(call: Call) -> dict[str, Any]:
    """POST .../tags: these instead of those that are there, or with X-Openstack-Append: true besides."""
    space = load(call, "add_metadef_tags")
    names = [one.name for one in call.body.tags]
    if len(set(names)) != len(names):
        raise Conflict("A tag is named twice.", field="tags")
    if (call.header("X-Openstack-Append") or "").lower() != "true":
        call.session.execute(
            sa.delete(Definition).where(Definition.namespace_id == space.id, Definition.kind == Kind.TAG)
        )
    for name in names:
        add(call, space, Kind.TAG, name, {})
    return {"tags": [{"name": name} for name in names]}


def create_tag(call: Call) -> dict[str, Any]:
    """POST .../tags/{name}."""
    space = load(call, "add_metadef_tag")
    name = call.params["tag_name"]
    if not 1 <= len(name) <= 80:
        raise BadRequest("A tag has 1 to 80 characters.", field="tag_name")
    return _show_tag(call, add(call, space, Kind.TAG, name, {}))


def get_tag(call: Call) -> dict[str, Any]:
    """GET .../tags/{name}."""
    space = load(call, "get_metadef_tag")
    return _show_tag(call, find(call, space, Kind.TAG, call.params["tag_name"]))


def update_tag(call: Call) -> dict[str, Any]:
    """PUT .../tags/{name}."""
    space = load(call, "modify_metadef_tag")
    row = find(call, space, Kind.TAG, call.params["tag_name"])
    change(call, space, row, call.body.name, {})
    return _show_tag(call, row)


def _routes(what: str, one: str, kind: Kind, names: dict[str, Any]) -> list[Any]:
    """The seven routes of a kind of part."""
    base = f"/metadefs/namespaces/{{namespace}}/{what}"
    path = f"{base}/{{{one}_name}}"
    gone = "remove" if kind == Kind.PROPERTY else "delete"
    return [
        route("GET", base, names["list"], f"get_metadef_{what}", SEEN),
        route("DELETE", base, _delete_all(kind, names["clear"]), names["clear"], ADMIN, status=204),
        route("GET", path, names["get"], f"get_metadef_{one}", SEEN),
        route("PUT", path, names["update"], f"modify_metadef_{one}", ADMIN, body=names["body"]),
        route(
            "DELETE", path, _delete_one(kind, f"{gone}_metadef_{one}", f"{one}_name"), f"{gone}_metadef_{one}", ADMIN,
            status=204,
        ),
    ]  # fmt: skip


_BASE = "/metadefs/namespaces/{namespace}"
ROUTES = (
    *_routes(
        "objects", "object", Kind.OBJECT,
        {
            "list": list_objects, "get": get_object, "update": update_object, "body": ObjectBody,
            "clear": "delete_metadef_namespace",
        },
    ),
    route("POST", f"{_BASE}/objects", create_object, "add_metadef_object", ADMIN, body=ObjectBody, status=201),
    *_routes(
        "properties", "property", Kind.PROPERTY,
        {
            "list": list_properties, "get": get_property, "update": update_property, "body": NamedProperty,
            "clear": "delete_metadef_namespace",
        },
    ),
    route(
        "POST", f"{_BASE}/properties", create_property, "add_metadef_property", ADMIN, body=NamedProperty, status=201
    ),
    *_routes(
        "tags", "tag", Kind.TAG,
        {"list": list_tags, "get": get_tag, "update": update_tag, "body": TagBody, "clear": "delete_metadef_tags"},
    ),
    route("POST", f"{_BASE}/tags", create_tags, "add_metadef_tags", ADMIN, body=TagsBody, status=201),
    route("POST", f"{_BASE}/tags/{{tag_name}}", create_tag, "add_metadef_tag", ADMIN, status=201),
)  # fmt: skip
