"""What an object consists of beside itself: the parts of a multipart upload, or its data in another storage class.

They lie in containers named after the bucket with a plus sign, which no bucket's name can have. Only what lies there
under the object's own key is its own; a large object that Swift's users made may consist of anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from urllib.parse import unquote

from altostack.objectstore.http import Response
from altostack.objectstore.middleware import symlink
from altostack.objectstore.middleware.shape import IS_SLO, true
from altostack.objectstore.s3.call import EVENTS, SEGMENTS, Call

log = logging.getLogger(__name__)


def containers(call: Call) -> list[str]:
    """Names of the containers beside the bucket that there are."""
    names = [
        call.name + SEGMENTS,
        call.name + EVENTS,
        *(f"{call.name}+{policy.name}" for policy in call.store.policies),
    ]
    return [name for name in names if call.find(name) is not None]


def possible(call: Call) -> bool:
    """Whether the object may have something beside itself: cheap, and mostly no."""
    return bool(containers(call))


def of(call: Call) -> list[tuple[str, str]]:
    """The (container, name) of all that belongs to the object, or to its version, alone."""
    query = {"symlink": "get"}
    if call.version is not None and call.version != "null":
        query["version-id"] = call.version
    held = call.swift("HEAD", call.name, call.object, query=query)
    held.close()
    if not held.good:
        return []
    link = unquote(held.headers.get(symlink.TARGET, ""))
    if link:
        container, _, name = link.partition("/")
        return [(container, name)] if _own(call, container, name) else []
    if not true(held.headers.get(IS_SLO)):
        return []
    return [pair for pair in listed(call, query) if _own(call, *pair)]


def listed(call: Call, query: dict[str, str]) -> list[tuple[str, str]]:
    """The (container, name) of a large object's segments, in their order."""
    return [
        (container, name)
        for entry in manifest(call, query)
        for container, _, name in [str(entry.get("name", "")).lstrip("/").partition("/")]
    ]


def manifest(call: Call, query: dict[str, str]) -> list[dict[str, object]]:
    """A large object's segments as its manifest has them."""
    response = call.swift("GET", call.name, call.object, query=query | {"multipart-manifest": "get"})
    if not response.good or not true(response.headers.get(IS_SLO)):
        response.close()
        return []
    found: list[dict[str, object]] = json.loads(response.read())
    return found


def _own(call: Call, container: str, name: str) -> bool:
    return container.startswith(f"{call.name}+") and name.startswith(f"{call.object}/")


def remove(call: Call, doomed: Sequence[tuple[str, str]]) -> None:
    """Delete them. What cannot be deleted now takes room and does no harm: it is logged."""
    for container, name in doomed:
        response: Response = call.swift("DELETE", container, name)
        response.close()
        if not response.good and response.status != 404:
            log.warning("%s/%s/%s is left over: %s", call.account, container, name, response.status)
