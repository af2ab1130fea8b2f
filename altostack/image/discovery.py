"""What clients ask first: versions, schemas, import methods. Source: Image Service API v2."""

from __future__ import annotations

from typing import Any

from altostack.image.image import IMAGES
from altostack.kit.call import Call, Reply
from altostack.kit.errors import NotFound
from altostack.kit.openapi import answer_schema
from altostack.kit.policy import ANY, PUBLIC
from altostack.kit.route import Route

NEWEST = 9  # members, community images, hidden images, hashes; import and stores are not built


def versions(call: Call) -> Reply:
    """GET / and /versions."""
    links = [{"rel": "self", "href": call.link("/")}]
    found = [
        {"id": f"v2.{minor}", "status": "CURRENT" if minor == NEWEST else "SUPPORTED", "links": links}
        for minor in range(NEWEST, -1, -1)
        if minor != 8  # stores
    ]
    return Reply(body={"versions": found}, status=200 if call.request.path.endswith("versions") else 300)


def _collection(name: str, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "properties": {
            name: {"type": "array", "items": one},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}],
    }


def schemas(call: Call) -> dict[str, Any]:
    """GET /v2/schemas/{name}."""
    text = {"type": "string"}
    image = {
        "name": "image",
        "properties": {**answer_schema(IMAGES)["properties"], "self": text, "file": text, "schema": text},
        "additionalProperties": {"type": "string"},
        "links": [{"rel": "self", "href": "{self}"}, {"rel": "enclosure", "href": "{file}"}],
    }
    names = ("image_id", "member_id", "created_at", "updated_at", "schema")
    member = {
        "name": "member",
        "properties": {
            **dict.fromkeys(names, text),
            "status": {"type": "string", "enum": ["pending", "accepted", "rejected"]},
        },
    }
    known = {
        "image": image,
        "images": _collection("images", image),
        "member": member,
        "members": _collection("members", member),
    }
    name = call.params["name"]
    if name not in known:
        raise NotFound(f"There is no schema {name!r}.", field="name")
    return known[name]


def imports(call: Call) -> dict[str, Any]:
    """GET /v2/info/import: no import method is built, and the list says so."""
    return {"import-methods": {"description": "Import methods available.", "type": "array", "value": []}}


ROUTES = (
    Route(method="GET", path="//", handler=versions, policy=PUBLIC),
    Route(method="GET", path="//versions", handler=versions, policy=PUBLIC),
    Route(method="GET", path="/schemas/{name}", handler=schemas, policy=ANY),
    Route(method="GET", path="/info/import", handler=imports, policy=ANY),
)
