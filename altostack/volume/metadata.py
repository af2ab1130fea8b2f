"""Metadata of volumes and snapshots: the same routes below both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from altostack.kit.api import load
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Resource
from altostack.kit.route import Route
from altostack.volume.dialect import invalid_volume
from altostack.volume.model import Status
from altostack.volume.tables import SNAPSHOTS, VOLUMES
from altostack.volume.values import Key, Text, Words

_MOST = 128  # keys


class Metadata(msgspec.Struct, forbid_unknown_fields=True):
    metadata: Words


class Item(msgspec.Struct, forbid_unknown_fields=True):
    meta: dict[Key, Text]


def _rows(resource: Resource, rule: str) -> Callable[[Call], Any]:
    name = f"volume:{rule}_{resource.name}_metadata"

    def find(call: Call) -> Any:
        return load(call, resource, rule=name)

    return find


def _change(row: Any, meta: dict[str, str]) -> None:
    if row.status in (Status.UPLOADING, Status.MAINTENANCE):
        raise invalid_volume(f"Updating metadata is not allowed for volumes in {row.status} status.")
    if len(meta) > _MOST:
        raise BadRequest(f"There may be {_MOST} metadata keys at most.", field="metadata")
    row.meta = meta


def _item(row: Any, name: str) -> str:
    if name not in row.meta:
        raise NotFound(f"Metadata item {name[:80]} was not found for {type(row).__name__.lower()} {row.id}.")
    return str(row.meta[name])


def _one_key(call: Call) -> dict[str, str]:
    if set(call.body.meta) != {call.params["key"]}:
        raise BadRequest("Request body must hold exactly the key of the URI.", field="meta")
    found: dict[str, str] = call.body.meta
    return found


def routes_of(resource: Resource) -> tuple[Route, ...]:
    """The metadata routes below ``resource``."""
    get, put, drop = (_rows(resource, rule) for rule in ("get", "update", "delete"))
    # Upstream has no rule of its own for creating a snapshot's metadata.
    adding = "create" if resource is VOLUMES else "update"
    post = _rows(resource, adding)

    def show(call: Call) -> Any:
        return {"metadata": get(call).meta}

    def add(call: Call) -> Any:
        row = post(call)
        _change(row, row.meta | call.body.metadata)
        return {"metadata": row.meta}

    def replace(call: Call) -> Any:
        row = put(call)
        _change(row, call.body.metadata)
        return {"metadata": row.meta}

    def show_item(call: Call) -> Any:
        name = call.params["key"]
        return {"meta": {name: _item(get(call), name)}}

    def put_item(call: Call) -> Any:
        row = put(call)
        _change(row, row.meta | _one_key(call))
        return {"meta": call.body.meta}

    def delete_item(call: Call) -> None:
        row, name = drop(call), call.params["key"]
        _item(row, name)
        _change(row, {key: value for key, value in row.meta.items() if key != name})

    base = f"{resource.base}/{{{resource.param}}}/metadata"

    def route(method: str, tail: str, handler: Any, rule: str, check: str, body: Any = None) -> Route:
        return Route(
            method=method, path=base + tail, handler=handler, guard=False, body=body, check=check,
            policy=f"volume:{rule}_{resource.name}_metadata",
        )  # fmt: skip

    return (
        route("GET", "", show, "get", READER),
        route("POST", "", add, adding, MEMBER, Metadata),
        route("PUT", "", replace, "update", MEMBER, Metadata),
        route("GET", "/{key}", show_item, "get", READER),
        route("PUT", "/{key}", put_item, "update", MEMBER, Item),
        route("DELETE", "/{key}", delete_item, "delete", MEMBER),
    )


ROUTES = (*routes_of(VOLUMES), *routes_of(SNAPSHOTS))
