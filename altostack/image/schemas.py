"""JSON schemas of what the API shows: GET /v2/schemas/... . Source: Image Service API v2, schemas."""

from __future__ import annotations

from typing import Any

from altostack.image.image import IMAGES, Visibility
from altostack.image.task import TASKS
from altostack.kit.call import Call
from altostack.kit.errors import NotFound
from altostack.kit.openapi import answer_schema
from altostack.kit.policy import ANY
from altostack.kit.route import Route

_TEXT = {"type": "string"}
_NULL_TEXT = {"type": ["null", "string"]}
_WHOLE = {"type": "integer", "minimum": 0}
_FLAG = {"type": "boolean"}
_TIME = {"type": "string", "format": "date-time", "readOnly": True}


def _collection(name: str, one: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "properties": {
            key or name: {"type": "array", "items": one},
            "first": _TEXT,
            "next": _TEXT,
            "schema": _TEXT,
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


def _image(call: Call) -> dict[str, Any]:
    settings = call.runtime.settings
    properties: dict[str, Any] = {
        name: {**schema, "is_base": True}
        for name, schema in _flat(answer_schema(IMAGES)["properties"]).items()
    }
    properties |= {
        "disk_format": {**_NULL_TEXT, "enum": [None, *settings.disk_formats]},
        "container_format": {**_NULL_TEXT, "enum": [None, *settings.container_formats]},
        "visibility": {**_TEXT, "enum": [one.value for one in Visibility]},
        "self": {**_TEXT, "readOnly": True},
        "file": {**_TEXT, "readOnly": True},
        "schema": {**_TEXT, "readOnly": True},
        "stores": {**_TEXT, "readOnly": True},
        "locations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["url", "metadata"],
                "properties": {
                    "url": {**_TEXT, "maxLength": 255},
                    "metadata": {"type": "object"},
                    "validation_data": {"type": "object"},
                },
            },
        },
        "direct_url": {**_TEXT, "readOnly": True},
        "architecture": {**_TEXT, "is_base": False},
        "kernel_id": {**_NULL_TEXT, "is_base": False},
        "ramdisk_id": {**_NULL_TEXT, "is_base": False},
        "os_distro": {**_TEXT, "is_base": False},
        "os_version": {**_TEXT, "is_base": False},
        "instance_uuid": {**_TEXT, "is_base": False},
    }
    for name in ("os_glance_import_task", "os_glance_importing_to_stores", "os_glance_failed_import"):
        properties.pop(name, None)
    return {
        "name": "image",
        "properties": properties,
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


def _flat(properties: dict[str, Any]) -> dict[str, Any]:
    """``anyOf [X, null]`` as ``type: [null, X]``, which clients of this API know."""
    found = {}
    for name, schema in properties.items():
        kinds = schema.get("anyOf")
        if kinds and len(kinds) == 2 and kinds[1] == {"type": "null"} and "type" in kinds[0]:
            rest = {key: value for key, value in schema.items() if key != "anyOf"}
            schema = {**kinds[0], **rest, "type": ["null", kinds[0]["type"]]}
        found[name] = schema
    return found


def _member() -> dict[str, Any]:
    names = ("image_id", "member_id", "created_at", "updated_at", "schema")
    status = {"type": "string", "enum": ["pending", "accepted", "rejected"]}
    return {"name": "member", "properties": {**dict.fromkeys(names, _TEXT), "status": status}}


def _task() -> dict[str, Any]:
    names = ("input", "result")
    found = _flat(answer_schema(TASKS)["properties"]) | {name: {"type": ["null", "object"]} for name in names}
    return {"name": "task", "properties": {**found, "message": _TEXT, "self": _TEXT, "schema": _TEXT}}


# ---- metadata definitions


def _property_types() -> dict[str, Any]:
    """What defines one property (a subset of JSON schema)."""
    strings = {"type": "array", "items": _TEXT, "uniqueItems": True}
    return {
        "name": {**_TEXT, "maxLength": 80},
        "title": _TEXT,
        "description": _TEXT,
        "operators": {"type": "array", "items": _TEXT},
        "type": {**_TEXT, "enum": ["array", "boolean", "integer", "number", "object", "string"]},
        "required": strings,
        "minimum": {"type": "number"},
        "maximum": {"type": "number"},
        "maxLength": _WHOLE,
        "minLength": {**_WHOLE, "default": 0},
        "pattern": {**_TEXT, "format": "regex"},
        "enum": {"type": "array"},
        "readonly": _FLAG,
        "default": {},
        "items": {"type": "object", "properties": {"type": _TEXT, "enum": {"type": "array"}}},
        "maxItems": _WHOLE,
        "minItems": {**_WHOLE, "default": 0},
        "uniqueItems": {**_FLAG, "default": False},
        "additionalItems": _FLAG,
    }


_LINKED = {"self": {**_TEXT, "readOnly": True}, "schema": {**_TEXT, "readOnly": True}}
_DATED = {"created_at": _TIME, "updated_at": _TIME}


def _association() -> dict[str, Any]:
    return {
        "name": "resource_type_association",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {**_TEXT, "maxLength": 80},
            "prefix": {**_TEXT, "maxLength": 80},
            "properties_target": {**_TEXT, "maxLength": 80},
            **_DATED,
        },
    }


def _object() -> dict[str, Any]:
    return {
        "name": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {**_TEXT, "maxLength": 255},
            "description": _TEXT,
            "required": {"type": "array", "items": _TEXT, "uniqueItems": True},
            "properties": {
                "type": "object",
                "additionalProperties": {"type": "object", "properties": _property_types()},
            },
            **_DATED,
            **_LINKED,
        },
    }


def _tag() -> dict[str, Any]:
    return {
        "name": "tag",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {"name": {**_TEXT, "maxLength": 80}, **_DATED},
    }


def _namespace() -> dict[str, Any]:
    one = {key: value for key, value in _object().items() if key != "name"}
    return {
        "name": "namespace",
        "required": ["namespace"],
        "additionalProperties": False,
        "properties": {
            "namespace": {**_TEXT, "maxLength": 80},
            "display_name": {**_TEXT, "maxLength": 80},
            "description": {**_TEXT, "maxLength": 500},
            "visibility": {**_TEXT, "enum": ["public", "private"]},
            "protected": _FLAG,
            "owner": {**_TEXT, "maxLength": 255},
            "resource_type_associations": {"type": "array", "items": _association()},
            "properties": {
                "type": "object",
                "additionalProperties": {"type": "object", "properties": _property_types()},
            },
            "objects": {"type": "array", "items": one},
            "tags": {"type": "array", "items": _tag()},
            **_DATED,
            **_LINKED,
        },
    }


def _property() -> dict[str, Any]:
    return {
        "name": "property",
        "required": ["name", "type", "title"],
        "additionalProperties": False,
        "properties": _property_types(),
    }


def schema(call: Call) -> dict[str, Any]:
    """GET /v2/schemas/{name}."""
    image, member, task = _image(call), _member(), _task()
    known = {
        "image": image,
        "images": _collection("images", image),
        "member": member,
        "members": _collection("members", member),
        "task": task,
        "tasks": _collection("tasks", task),
    }
    return _one(known, call.params["schema_name"])


def metadef_schema(call: Call) -> dict[str, Any]:
    """GET /v2/schemas/metadefs/{name}."""
    association = _association()
    properties = _collection("properties", _property())
    properties["properties"]["properties"] = {
        "type": "object",
        "additionalProperties": {"type": "object", "properties": _property_types()},
    }
    known = {
        "namespace": _namespace(),
        "namespaces": _collection("namespaces", _namespace()),
        "resource_type": association,
        "resource_types": _collection("resource_type_associations", association),
        "object": _object(),
        "objects": _collection("objects", _object()),
        "property": _property(),
        "properties": properties,
        "tag": _tag(),
        "tags": _collection("tags", _tag()),
    }
    return _one(known, call.params["schema_name"])


def _one(known: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in known:
        raise NotFound(f"There is no schema {name!r}.", field="name")
    return known[name]


ROUTES = (
    Route(method="GET", path="/schemas/{schema_name}", handler=schema, policy=ANY),
    Route(method="GET", path="/schemas/metadefs/{schema_name}", handler=metadef_schema, policy=ANY),
)
