"""What clients ask first: versions, import methods, stores. Source: Image Service API v2."""

from __future__ import annotations

from typing import Any

from altostack.image.stores import stores_of
from altostack.kit.call import Call, Reply
from altostack.kit.policy import ANY, PUBLIC, SERVICE
from altostack.kit.route import Route

NEWEST = 18


def versions(call: Call) -> Reply:
    """GET / and /versions."""
    links = [{"rel": "self", "href": call.link("/")}]
    found = [
        {"id": f"v2.{minor}", "status": "CURRENT" if minor == NEWEST else "SUPPORTED", "links": links}
        for minor in range(NEWEST, -1, -1)
    ]
    return Reply(body={"versions": found}, status=200 if call.request.path.endswith("versions") else 300)


def imports(call: Call) -> dict[str, Any]:
    """GET /v2/info/import."""
    methods = list(call.runtime.settings.imports.methods)
    return {"import-methods": {"description": "Import methods available.", "type": "array", "value": methods}}


def stores(call: Call) -> dict[str, Any]:
    """GET /v2/info/stores."""
    return {"stores": [one for one, _ in _stores(call)]}


def _stores(call: Call) -> list[tuple[dict[str, Any], str]]:
    known = stores_of(call.runtime)
    found = []
    for name in known.names:
        spec = known.spec(name)
        one: dict[str, Any] = {"id": name}
        if spec.description:
            one["description"] = spec.description
        if name == known.default:
            one["default"] = "true"
        if spec.type == "http":
            one["read-only"] = "true"
        one["weight"] = spec.weight
        found.append((one, name))
    return found


def stores_detail(call: Call) -> dict[str, Any]:
    """GET /v2/info/stores/detail: what kind each is. Where on the disk it is stays the operator's knowledge."""
    known = stores_of(call.runtime)
    found = []
    for one, name in _stores(call):
        spec = known.spec(name)
        kind, properties = spec.type, dict[str, Any]()
        if kind == "file":
            properties = {"thin_provisioning": False, "chunk_size": 1 << 20}
        elif kind == "objectstore":
            properties = {"container": spec.container, "large_object_chunk_size": spec.segment_size}
        found.append({**one, "type": kind, "properties": properties})
    return {"stores": found}


ROUTES = (
    Route(method="GET", path="//", handler=versions, policy=PUBLIC),
    Route(method="GET", path="//versions", handler=versions, policy=PUBLIC),
    Route(method="GET", path="/info/import", handler=imports, policy=ANY),
    Route(method="GET", path="/info/stores", handler=stores, policy=ANY),
    Route(
        method="GET",
        path="/info/stores/detail",
        handler=stores_detail,
        policy="stores_info_detail",
        check=SERVICE,
    ),
)
