"""OpenAPI 3.1 documents, generated from the declarations: what is served is what is described.

Source: OpenAPI Specification 3.1.0. Request schemas are the structs that validate requests; answers are described
from facets. Actions that share a path are alternatives of one request body.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec

from altostack.kit import api
from altostack.kit.policy import NODE, PUBLIC
from altostack.kit.resource import Resource, columns
from altostack.kit.route import Route
from altostack.kit.service import Service

_PARAM = re.compile(r"{(\w+)(?::\w+)?}")
_REF = "#/components/schemas/{name}"


def document(service: Service, *, version: str = "1") -> dict[str, Any]:
    """The OpenAPI document of ``service`` at its newest microversion. Deterministic: two calls are equal."""
    newest = service.ladder.high if service.ladder else None
    routes = sorted(api.routes(service), key=lambda r: (_path(service, r), r.method, r.word or ""))
    components: dict[str, Any] = {}
    by_route: dict[str, Any] = {}
    for route in routes:
        kind = route.kind(newest)
        if kind is not None:
            key = _path(service, route) + route.method + (route.word or "")
            by_route[key] = _described(kind, components, _slug(key))
    told = {route.resource.name: route.resource for route in routes if route.resource is not None}
    for resource in [*service.resources, *told.values()]:
        components[_title(resource)] = answer_schema(resource)
    paths: dict[str, Any] = {}
    for route in routes:
        path, method = _path(service, route), route.method.lower()
        body = by_route.get(path + route.method + (route.word or ""))
        item = paths.setdefault(path, _parameters(path))
        operation = item.get(method)
        if operation is None:
            item[method] = operation = _operation(service, route)
            if body is not None and route.word is None:
                operation["requestBody"] = _content(body)
        elif route.word is None and route.since:
            operation["x-also-since"] = str(route.since)
        if route.word is not None:
            inner = {"type": "object", "required": [route.word], "properties": {route.word: body or {}}}
            if "requestBody" not in operation:
                operation["requestBody"] = _content({"oneOf": []})
                operation["operationId"] = f"{_slug(path)}_post"
                operation["x-policies"] = {}
                operation.pop("x-policy", None)
            operation["requestBody"]["content"]["application/json"]["schema"]["oneOf"].append(inner)
            operation["x-policies"][route.word] = route.policy
            operation["responses"].setdefault(str(route.status), {"description": "Done, or accepted."})
    return {
        "openapi": "3.1.0",
        "info": {"title": service.title, "version": str(service.ladder.high) if service.ladder else version},
        "servers": [{"url": service.prefix}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
                "node": {"type": "apiKey", "in": "header", "name": "X-Altostack-Node"},
            },
        },
    }


def _described(kind: Any, components: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The schema of ``kind``; what it refers to goes into ``components``, under ``prefix`` where a name is taken."""
    (schema,), found = msgspec.json.schema_components([kind], ref_template=_REF, schema_hook=_other)
    if any(components.get(name, one) != one for name, one in found.items()):
        (schema,), found = msgspec.json.schema_components(
            [kind], ref_template=_REF.replace("{name}", prefix + ".{name}"), schema_hook=_other
        )
        found = {f"{prefix}.{name}": one for name, one in found.items()}
    components.update(found)
    return dict(schema)


def _other(kind: Any) -> dict[str, Any]:
    """Types that msgspec leaves to us: anything goes."""
    return {}


def _path(service: Service, route: Route) -> str:
    found = route.path[1:] if route.path.startswith("//") else service.root + route.path
    return _PARAM.sub(r"{\1}", found.rstrip("/") or "/")


def _parameters(path: str) -> dict[str, Any]:
    names = _PARAM.findall(path)
    if not names:
        return {}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    }


def _operation(service: Service, route: Route) -> dict[str, Any]:
    path = _path(service, route)
    security: list[dict[str, list[str]]] = []
    if route.policy != PUBLIC:
        security.append({"node" if route.policy == NODE else "token": []})
    found: dict[str, Any] = {
        "operationId": f"{_slug(path)}_{route.method.lower()}",
        "x-policy": route.policy,
        "security": security,
        "responses": {
            str(route.status): _success(service, route),
            "default": {"description": "The service's error."},
        },
    }
    if route.doc or (route.resource and route.resource.doc):
        found["summary"] = route.doc or (route.resource.doc if route.resource else "")
    if route.since:
        found["x-since"] = str(route.since)
    if route.until:
        found["x-until"] = str(route.until)
    if route.op == "list" and route.resource:
        found["parameters"] = _queries(service, route.resource)
    return found


def _queries(service: Service, resource: Resource) -> list[dict[str, Any]]:
    shown = {column.wire: column for column in columns(resource.row) if column.facet.filter}
    names = sorted({*shown, *resource.filters})
    found = []
    for name in names:
        schema = _schema(shown[name].type) if name in shown else {"type": "string"}
        found.append({"name": name, "in": "query", "schema": schema})
    found.append({"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 0}})
    found.append({"name": "marker", "in": "query", "schema": {"type": "string"}})
    sortable = [column.wire for column in columns(resource.row) if column.facet.sort]
    if sortable:
        found.append({"name": "sort_key", "in": "query", "schema": {"type": "string", "enum": sortable}})
        found.append(
            {"name": "sort_dir", "in": "query", "schema": {"type": "string", "enum": ["asc", "desc"]}}
        )
    if service.dialect.all_projects:
        found.append({"name": service.dialect.all_projects, "in": "query", "schema": {"type": "string"}})
    return found


def _success(service: Service, route: Route) -> dict[str, Any]:
    resource = route.resource
    if resource is None or route.op not in ("list", "show", "create", "update") or route.status == 204:
        return {"description": "Done."}
    one: dict[str, Any] = {"$ref": _REF.format(name=_title(resource))}
    if route.op == "list":
        name = resource.envelope_plural or resource.collection
        schema: dict[str, Any] = {"type": "object", "properties": {name: {"type": "array", "items": one}}}
    elif service.dialect.envelope:
        schema = {"type": "object", "properties": {resource.envelope or resource.name: one}}
    else:
        schema = one
    return {"description": "Done.", **_content(schema)}


def answer_schema(resource: Resource) -> dict[str, Any]:
    """The JSON Schema of one object in an answer."""
    properties: dict[str, Any] = {}
    for column in columns(resource.row):
        if column.facet.show is False:
            continue
        schema = _schema(column.type)
        if column.nullable:
            schema = {"anyOf": [schema, {"type": "null"}]}
        if column.facet.doc:
            schema["description"] = column.facet.doc
        if column.facet.since:
            schema["x-since"] = str(column.facet.since)
        if column.facet.show == "admin":
            schema["x-audience"] = "admin"
        properties[column.wire] = schema
    for name, computed in resource.computed.items():
        properties[name] = {"x-since": str(computed.since)} if computed.since else {}
    return {"type": "object", "properties": properties}


def _schema(kind: Any) -> dict[str, Any]:
    if kind is datetime:
        return {"type": "string", "format": "date-time"}
    try:
        return dict(msgspec.json.schema_components([kind])[0][0]) if _plain(kind) else {}
    except TypeError:
        return {}


def _plain(kind: Any) -> bool:
    return kind in (str, int, float, bool) or getattr(kind, "__origin__", None) in (list, dict)


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _title(resource: Resource) -> str:
    return "".join(part.title() for part in re.split(r"\W|_", resource.name)) + "Answer"


def _slug(path: str) -> str:
    return re.sub(r"\W+", "_", path).strip("_") or "root"
