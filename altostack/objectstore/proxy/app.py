"""The innermost handler: the object storage API on storage nodes."""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.proxy.accounts import Accounts
from altostack.objectstore.proxy.containers import Containers
from altostack.objectstore.proxy.counts import Counts
from altostack.objectstore.proxy.limits import MAX_HEADER
from altostack.objectstore.proxy.objects import Objects
from altostack.objectstore.proxy.spread import Crew
from altostack.objectstore.store import Store

SPEAKS: Final = "2.38.0"
"""The release of Swift whose API this is; clients read it as a version of what they may ask for."""

_VERSIONS = ("v1", "v1.0")
_METHODS = "HEAD, GET, PUT, POST, OPTIONS, DELETE"


class Proxy:
    """Answers requests for accounts, containers and objects; see `backend` for what handlers may tell it."""

    def __init__(self, store: Store) -> None:
        crew = Crew()
        counts = Counts(store, crew)
        self._accounts = Accounts(store, crew, counts)
        self._containers = Containers(store, crew, self._accounts)
        self._objects = Objects(store, crew, self._containers, counts)
        store.facts["swift"] = facts(store)

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None:
            raise _no_place(request.path)
        part = (
            self._objects
            if place.object is not None
            else self._containers
            if place.container is not None
            else self._accounts
        )
        method = request.method
        if method == "GET" or method == "HEAD":
            return part.get(request, place)
        if method == "PUT":
            return part.put(request, place)
        if method == "POST":
            return part.post(request, place)
        if method == "DELETE":
            return part.delete(request, place)
        if method == "OPTIONS":
            return Response(200, {"allow": _METHODS})
        raise Refusal(405, headers={"allow": _METHODS})


def _no_place(path: str) -> Refusal:
    """What is wrong with a path that names neither account nor container nor object."""
    parts = path.split("/")
    if not parts[1:] or not parts[1] or (len(parts) > 3 and not all(parts[2:4])):
        return Refusal(404)
    if len(parts) < 3 or not parts[2]:
        return Refusal(412, "Bad URL")
    return Refusal(404) if parts[1] in _VERSIONS else Refusal(400, "Invalid path")


def facts(store: Store) -> dict[str, object]:
    """What /info tells of the store itself, named as Swift names it."""
    settings = store.settings
    policies: list[dict[str, object]] = []
    for one in store.policies:
        told: dict[str, object] = {"name": one.name, "aliases": ", ".join((one.name, *one.aliases))}
        if one.default:
            told["default"] = True
        if one.deprecated:
            told["deprecated"] = True
        policies.append(told)
    return {
        "version": SPEAKS,
        "strict_cors_mode": True,
        "policies": policies,
        "allow_account_management": True,
        "account_autocreate": True,
        "allow_open_expired": False,
        "max_file_size": settings.max_object_size,
        "max_meta_name_length": settings.max_meta_name,
        "max_meta_value_length": settings.max_meta_value,
        "max_meta_count": settings.max_meta_count,
        "max_meta_overall_size": settings.max_meta_overall,
        "max_header_size": MAX_HEADER,
        "max_request_line": MAX_HEADER,
        "max_object_name_length": settings.max_object_name,
        "container_listing_limit": settings.listing_limit,
        "account_listing_limit": settings.listing_limit,
        "max_account_name_length": settings.max_account_name,
        "max_container_name_length": settings.max_container_name,
        "valid_api_versions": list(_VERSIONS),
        "extra_header_count": 0,
        "auto_create_account_prefix": ".",
    }
