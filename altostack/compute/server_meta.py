"""Metadata and tags of a server: /servers/{id}/metadata and /servers/{id}/tags."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from altostack.compute.dialect import only
from altostack.compute.reach import below, server_of
from altostack.compute.server_actions import ready, unlocked
from altostack.compute.server_row import ACTIVE, ERROR, PAUSED, STOPPED, SUSPENDED, Server
from altostack.compute.values import Metadata, MetaKey, Tag, Text
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, NotFound, OverQuota
from altostack.kit.policy import MEMBER, READER

_MAY = (ACTIVE, PAUSED, STOPPED, SUSPENDED)


class Items(msgspec.Struct, forbid_unknown_fields=True):
    metadata: Metadata


class Item(msgspec.Struct, forbid_unknown_fields=True):
    meta: Annotated[dict[MetaKey, Text], msgspec.Meta(min_length=1, max_length=1)]


class Tags(msgspec.Struct, forbid_unknown_fields=True):
    tags: Annotated[list[Tag], msgspec.Meta(max_length=50)]


# ---- metadata


def index(call: Call) -> Any:
    only(call)
    return {"metadata": server_of(call).meta}


def _keep(call: Call, row: Server, items: dict[str, str]) -> dict[str, str]:
    limit = call.runtime.quotas.limits(call.session, row.project_id).get("metadata_items", -1)
    if 0 <= limit < len(items):
        raise OverQuota(f"Maximum number of metadata items exceeds {limit}", field="metadata")
    ready(call, row, "update metadata", _MAY)
    row.meta = items
    return items


def merge(call: Call) -> Any:
    row = server_of(call, lock=True)
    return {"metadata": _keep(call, row, {**row.meta, **call.body.metadata})}


def replace(call: Call) -> Any:
    return {"metadata": _keep(call, server_of(call, lock=True), dict(call.body.metadata))}


def show(call: Call) -> Any:
    only(call)
    row, name = server_of(call), call.params["key"]
    if name not in row.meta:
        raise NotFound("Metadata item was not found", field="key")
    return {"meta": {name: row.meta[name]}}


def put(call: Call) -> Any:
    row, name = server_of(call, lock=True), call.params["key"]
    if name not in call.body.meta:
        raise BadRequest("Request body and URI mismatch", field="meta")
    _keep(call, row, {**row.meta, **call.body.meta})
    return {"meta": dict(call.body.meta)}


def drop(call: Call) -> None:
    row, name = server_of(call, lock=True), call.params["key"]
    if name not in row.meta:
        raise NotFound("Metadata item was not found", field="key")
    ready(call, row, "delete metadata", _MAY)
    row.meta = {key: value for key, value in row.meta.items() if key != name}


# ---- tags

_TAGGABLE = (ACTIVE, PAUSED, SUSPENDED, STOPPED, ERROR)


def list_tags(call: Call) -> Any:
    only(call)
    return {"tags": server_of(call).tags}


def replace_tags(call: Call) -> Any:
    row = server_of(call, lock=True)
    _taggable(call, row)
    row.tags = list(dict.fromkeys(call.body.tags))
    return {"tags": row.tags}


def clear_tags(call: Call) -> None:
    row = server_of(call, lock=True)
    _taggable(call, row)
    row.tags = []


def has_tag(call: Call) -> Any:
    only(call)
    row, tag = server_of(call), call.params["tag"]
    if tag not in row.tags:
        raise NotFound(f"Server {row.id} has no tag '{tag}'", field="tag")
    return Reply(status=204)


def put_tag(call: Call) -> Any:
    row, tag = server_of(call, lock=True), call.params["tag"]
    _taggable(call, row)
    try:
        msgspec.convert(tag, Tag)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"Tag '{tag}' is invalid. It must be a text of 1 to 60 characters, without '/' and ','."
        ) from error
    if tag in row.tags:
        return Reply(status=204)
    if len(row.tags) >= 50:
        raise BadRequest("The number of tags exceeded the per-server limit 50", field="tag")
    row.tags = [*row.tags, tag]
    return Reply(status=201, headers={"Location": call.link(f"/servers/{row.id}/tags/{tag}")})


def drop_tag(call: Call) -> None:
    row, tag = server_of(call, lock=True), call.params["tag"]
    _taggable(call, row)
    if tag not in row.tags:
        raise NotFound(f"Server {row.id} has no tag '{tag}'", field="tag")
    row.tags = [one for one in row.tags if one != tag]


def _taggable(call: Call, row: Server) -> None:
    unlocked(call, row)
    if row.vm_state not in _TAGGABLE:
        ready(call, row, "update tags", _TAGGABLE)


_META = "server-metadata:"
_TAGS = "os-server-tags:"
ROUTES = (
    below("/metadata", index, _META + "index", READER),
    below("/metadata", merge, _META + "create", MEMBER, method="POST", body=Items),
    below("/metadata", replace, _META + "update_all", MEMBER, method="PUT", body=Items),
    below("/metadata/{key}", show, _META + "show", READER),
    below("/metadata/{key}", put, _META + "update", MEMBER, method="PUT", body=Item),
    below("/metadata/{key}", drop, _META + "delete", MEMBER, method="DELETE", status=204),
    below("/tags", list_tags, _TAGS + "index", READER, since="2.26"),
    below("/tags", replace_tags, _TAGS + "update_all", MEMBER, method="PUT", body=Tags, since="2.26"),
    below("/tags", clear_tags, _TAGS + "delete_all", MEMBER, method="DELETE", status=204, since="2.26"),
    below("/tags/{tag}", has_tag, _TAGS + "show", READER, status=204, since="2.26"),
    below("/tags/{tag}", put_tag, _TAGS + "update", MEMBER, method="PUT", status=201, since="2.26"),
    below("/tags/{tag}", drop_tag, _TAGS + "delete", MEMBER, method="DELETE", status=204, since="2.26"),
)
