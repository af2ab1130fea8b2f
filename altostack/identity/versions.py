"""The version documents by which clients find their way (Identity API v3.14)."""

from __future__ import annotations

from typing import Any

from altostack.kit.call import Call, Reply
from altostack.kit.policy import PUBLIC
from altostack.kit.route import Route

VERSION = "v3.14"


def _v3(call: Call) -> dict[str, Any]:
    return {
        "id": VERSION,
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": call.link("/")}],
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
    }


def versions(call: Call) -> Reply:
    return Reply(status=300, body={"versions": {"values": [_v3(call)]}}, headers={"Location": call.link("/")})


def version(call: Call) -> dict[str, Any]:
    return {"version": _v3(call)}


VERSION_ROUTES = (
    Route(method="GET", path="//", handler=versions, policy=PUBLIC, status=300),
    Route(method="GET", path="", handler=version, policy=PUBLIC),
)
