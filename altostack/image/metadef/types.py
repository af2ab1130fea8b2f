"""Resource types: what a namespace's properties are meant for."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from altostack.image.metadef.namespace import SEEN, changeable, contents, load, route, show_type
from altostack.image.metadef.parts import add, find
from altostack.image.metadef.rows import Definition, Kind, TypeBody
from altostack.kit.call import Call
from altostack.kit.policy import ADMIN, READER_ANY
from altostack.kit.route import Route


def list_types(call: Call) -> dict[str, Any]:
    """GET /v2/metadefs/resource_types: every type that any namespace names."""
    time = call.runtime.service.dialect.time
    first, last = sa.func.min(Definition.created_at), sa.func.max(Definition.created_at)
    query = sa.select(Definition.name, first, last).where(Definition.kind == Kind.TYPE)
    rows = call.session.execute(query.group_by(Definition.name).order_by(Definition.name))
    return {
        "resource_types": [
            {"name": name, "created_at": time(made), "updated_at": time(changed)}
            for name, made, changed in rows
        ]
    }


def list_associations(call: Call) -> dict[str, Any]:
    """GET .../resource_types: those that this namespace names."""
    space = load(call, "get_metadef_resource_type")
    rows = contents(call, [space], Kind.TYPE)[space.id][Kind.TYPE]
    return {"resource_type_associations": [show_type(call, row) for row in rows]}


def associate(call: Call) -> dict[str, Any]:
    """POST .../resource_types."""
    space = load(call, "add_metadef_resource_type_association")
    body: TypeBody = call.body
    about = {"prefix": body.prefix, "properties_target": body.properties_target}
    row = add(call, space, Kind.TYPE, body.name, {k: v for k, v in about.items() if v is not None})
    return show_type(call, row)


def dissociate(call: Call) -> None:
    """DELETE .../resource_types/{name}."""
    space = load(call, "remove_metadef_resource_type_association")
    row = find(call, space, Kind.TYPE, call.params["resource_type"])
    changeable(space)
    call.session.delete(row)


_BASE = "/metadefs/namespaces/{namespace}/resource_types"
ROUTES = (
    Route(
        method="GET",
        path="/metadefs/resource_types",
        handler=list_types,
        policy="list_metadef_resource_types",
        check=READER_ANY,
    ),
    route("GET", _BASE, list_associations, "get_metadef_resource_type", SEEN),
    route(
        "POST", _BASE, associate, "add_metadef_resource_type_association", ADMIN, body=TypeBody, status=201
    ),
    route(
        "DELETE", f"{_BASE}/{{resource_type}}", dissociate, "remove_metadef_resource_type_association", ADMIN,
        status=204,
    ),
)  # fmt: skip
