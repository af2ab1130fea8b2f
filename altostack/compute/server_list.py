"""Filters and sort keys of server lists. Source: the Compute API reference, "List servers"."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from altostack.compute.server_row import STATUS, Disk, Server
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.listing import read_time

Filter = Callable[[Call, list[str]], Any]
ALL_FILTERS = "os_compute_api:servers:allow_all_filters"
_NOTHING = sa.false()

# Characters that make a pattern more than a plain text.
_PATTERN = re.compile(r"[\\^$.|?*+()\[\]{}]")
# A repeated group can take time that grows exponentially with the text.
_RISKY = re.compile(r"\)\s*[*+{?]|\\\d|\(\?")


def matches(column: Any, pattern: str, name: str) -> Any:
    """``column`` holds ``pattern``, a text or a regular expression. Raises BadRequest for one we cannot take."""
    if not _PATTERN.search(pattern):
        return column.contains(pattern, autoescape=True)
    if _RISKY.search(pattern) or len(pattern) > 255:
        raise BadRequest(
            f"Invalid value for {name}: {pattern!r} is not a pattern that can be used.", field=name
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise BadRequest(f"Invalid value for {name}: {pattern!r}: {error}", field=name) from error
    return column.regexp_match(pattern)


def _open(make: Filter) -> Filter:
    """A filter that everybody may use."""
    return make


def _guarded(make: Filter, *, since: str | None = None) -> Filter:
    """A filter for administrators, and from ``since`` on for everybody; ignored for others."""

    def clause(call: Call, values: list[str]) -> Any:
        if call.allows(ALL_FILTERS) or (since is not None and call.at_least(since)):
            return make(call, values)
        return None

    return clause


def _regex(column: Any, name: str) -> Filter:
    return lambda call, values: matches(column, values[-1], name)


def _exact(column: Any) -> Filter:
    return lambda call, values: column == values[-1] if len(values) == 1 else column.in_(values)


def _number(column: Any, name: str) -> Filter:
    def clause(call: Call, values: list[str]) -> Any:
        if not re.fullmatch(r"-?\d{1,9}", values[-1]):
            return _NOTHING
        return column == int(values[-1])

    return clause


def _null_or(column: Any) -> Filter:
    """task_state: an empty value or "None" is null."""
    return lambda call, values: (
        column.is_(None) if values[-1] in ("", "None", "null") else column == values[-1]
    )


def _status(call: Call, values: list[str]) -> Any:
    wanted = {value.upper() for value in values}
    known = {word for words in STATUS.values() for word in words.values()}
    if call.at_least("2.38") and (wrong := wanted - known):
        raise BadRequest(f"Invalid status value: {', '.join(sorted(wrong))}", field="status")
    either = []
    for vm_state, words in STATUS.items():
        special = [task for task in words if task]
        for task, word in words.items():
            if word not in wanted:
                continue
            if task:
                either.append(sa.and_(Server.vm_state == vm_state, Server.task_state == task))
            else:
                plain = sa.or_(Server.task_state.is_(None), Server.task_state.not_in(special))
                either.append(sa.and_(Server.vm_state == vm_state, plain if special else sa.true()))
    return sa.or_(*either) if either else _NOTHING


def _address(version: int) -> Filter:
    name = "ip" if version == 4 else "ip6"

    def clause(call: Call, values: list[str]) -> Any:
        if version == 6 and not call.at_least("2.5") and not call.context.is_admin:
            return None
        text = values[-1]
        # Addresses stand between spaces: anchors of a pattern mean those.
        text = (
            (" " if text.startswith("^") else "")
            + text.strip("^$").replace("\\.", ".")
            + (" " if text.endswith("$") else "")
        )
        if not re.fullmatch(r"[ 0-9a-fA-F:.*]*", text):
            raise BadRequest(
                f"Invalid value for {name}: {values[-1]!r} is not part of an address.", field=name
            )
        text = text.replace(".*", "*")
        like = "".join("%" if c == "*" else c for c in text)
        return Server.ips.like(f"%{like.lower()}%")

    return clause


def _moment(name: str, since: str | None, clause: Callable[[Any], Any]) -> Filter:
    def make(call: Call, values: list[str]) -> Any:
        if since is not None and not call.at_least(since):
            return None
        try:
            moment = read_time(values[-1].replace("Z", "+00:00"))
        except ValueError as error:
            raise BadRequest(
                f"Invalid input for query parameters {name}. Value: {values[-1]}. {values[-1]!r} is not a 'date-time'",
                field=name,
            ) from error
        return clause(moment)

    return make


_CHANGED = sa.func.coalesce(Server.updated_at, Server.created_at)


def _holds(tag: str) -> Any:
    """The JSON list of tags holds ``tag``: its JSON text stands in the list's."""
    return sa.cast(Server.tags, sa.Text).contains(json.dumps(tag), autoescape=True)


def _tags(combine: Callable[..., Any], *, negate: bool) -> Filter:
    def clause(call: Call, values: list[str]) -> Any:
        if not call.at_least("2.26"):
            return None
        wanted = [tag for value in values for tag in value.split(",") if tag]
        if not wanted:
            return None
        found = combine(*(_holds(tag) for tag in wanted))
        return sa.not_(found) if negate else found

    return clause


def _locked(call: Call, values: list[str]) -> Any:
    if not call.at_least("2.73"):
        return None
    return Server.locked_by.is_not(None) if call.flag("locked") else Server.locked_by.is_(None)


def _flag(column: Any, name: str, true: str) -> Filter:
    return lambda call, values: column == (true if call.flag(name) else "")


def _metadata(call: Call, values: list[str]) -> Any:
    """``metadata={"key": "value"}``: servers that have all of these items."""
    try:
        wanted = json.loads(values[-1])
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict) or not all(isinstance(v, str) for v in wanted.values()):
        raise BadRequest("Invalid value for metadata: it must be a JSON object of texts.", field="metadata")
    text = sa.cast(Server.meta, sa.Text)
    return sa.and_(
        sa.true(),
        *(text.contains(f"{json.dumps(k)}: {json.dumps(v)}", autoescape=True) for k, v in wanted.items()),
    )


def _deleted(call: Call, values: list[str]) -> Any:
    """Deleted servers leave nothing to list."""
    if not call.context.is_admin:
        return None
    return _NOTHING if call.flag("deleted") else sa.true()


def _owner(call: Call, values: list[str]) -> Any:
    """Another project's servers, for those who may see all."""
    if not call.flag("all_tenants"):
        return Server.project_id == values[-1] if call.context.is_admin else None
    return Server.project_id == values[-1]


def _host(call: Call, values: list[str]) -> Any:
    return Server.host == values[-1]


def with_volume(volume_id: str) -> Any:
    """Servers that have the volume."""
    return Server.id.in_(sa.select(Disk.server_id).where(Disk.volume_id == volume_id))


_WIDER = "2.83"
FILTERS: dict[str, Filter] = {
    "name": _open(_regex(Server.name, "name")),
    "display_name": _open(_regex(Server.name, "display_name")),
    "status": _open(_status),
    "image": _open(_exact(Server.image_id)),
    "image_ref": _open(_exact(Server.image_id)),
    "flavor": _open(_exact(Server.flavor_id)),
    "ip": _open(_address(4)),
    "ip6": _open(_address(6)),
    "changes-since": _open(_moment("changes-since", None, lambda at: at <= _CHANGED)),
    "changes-before": _open(_moment("changes-before", "2.66", lambda at: at >= _CHANGED)),
    "reservation_id": _open(_regex(Server.reservation_id, "reservation_id")),
    "tags": _tags(sa.and_, negate=False),
    "tags-any": _tags(sa.or_, negate=False),
    "not-tags": _tags(sa.and_, negate=True),
    "not-tags-any": _tags(sa.or_, negate=True),
    "locked": _open(_locked),
    "project_id": _owner,
    "tenant_id": _owner,
    "deleted": _deleted,
    "soft_deleted": _deleted,
    "metadata": _guarded(_metadata),
    "uuid": _guarded(_exact(Server.id)),
    "host": _guarded(_host),
    "node": _guarded(_regex(Server.host, "node")),
    "hostname": _guarded(_regex(Server.hostname, "hostname")),
    "description": _guarded(_regex(Server.description, "description")),
    "display_description": _guarded(_regex(Server.description, "display_description")),
    "locked_by": _guarded(_exact(Server.locked_by)),
    "root_device_name": _guarded(_regex(Server.root_device, "root_device_name")),
    "access_ip_v4": _guarded(_regex(Server.access_v4, "access_ip_v4")),
    "access_ip_v6": _guarded(_regex(Server.access_v6, "access_ip_v6")),
    "auto_disk_config": _guarded(_flag(Server.disk_config, "auto_disk_config", "AUTO")),
    "launch_index": _guarded(_number(Server.launch_index, "launch_index")),
    "kernel_id": _guarded(lambda call, values: None),
    "ramdisk_id": _guarded(lambda call, values: None),
    "user_id": _guarded(_exact(Server.user_id), since=_WIDER),
    "key_name": _guarded(_regex(Server.key_name, "key_name"), since=_WIDER),
    "availability_zone": _guarded(_regex(Server.az, "availability_zone"), since=_WIDER),
    "config_drive": _guarded(_flag(Server.config_drive, "config_drive", "True"), since=_WIDER),
    "vm_state": _guarded(_exact(Server.vm_state), since=_WIDER),
    "task_state": _guarded(_null_or(Server.task_state), since=_WIDER),
    "power_state": _guarded(_number(Server.power_state, "power_state"), since=_WIDER),
    "progress": _guarded(_number(Server.progress, "progress"), since=_WIDER),
    "created_at": _guarded(_moment("created_at", None, lambda at: Server.created_at == at), since=_WIDER),
    "launched_at": _guarded(_moment("launched_at", None, lambda at: Server.launched_at == at), since=_WIDER),
    "terminated_at": _guarded(lambda call, values: _NOTHING, since=_WIDER),
}

_SAME = (
    "created_at", "updated_at", "user_id", "hostname", "key_name", "config_drive", "host", "launch_index",
    "launched_at", "terminated_at", "progress", "locked_by",
)  # fmt: skip
# Sort keys: what the API calls them -> what the view calls them.
SORT = {
    "uuid": "id",
    "display_name": "name",
    "display_description": "description",
    "instance_type_id": "flavor_id",
    "image_ref": "image_id",
    "node": "host",
    "vm_state": "OS-EXT-STS:vm_state",
    "task_state": "OS-EXT-STS:task_state",
    "power_state": "OS-EXT-STS:power_state",
    "availability_zone": "OS-EXT-AZ:availability_zone",
    "project_id": "tenant_id",
    "access_ip_v4": "accessIPv4",
    "access_ip_v6": "accessIPv6",
    "auto_disk_config": "OS-DCF:diskConfig",
    "root_device_name": "root_device",
    "locked": "locked_by",
    **{name: name for name in _SAME},
}
_IGNORED = frozenset({"kernel_id", "ramdisk_id"})


def sort_keys(call: Call) -> list[tuple[str, bool]]:
    """``sort_key`` and ``sort_dir``, descending unless said otherwise. Raises BadRequest."""
    keys = call.query.get("sort_key", [])
    directions = call.query.get("sort_dir", [])
    if len(directions) > max(len(keys), 1):
        raise BadRequest("There are more sort directions than sort keys.", field="sort_dir")
    names = _BY_RESOURCE.get(call.resource.name if call.resource else "")
    if names is None:
        return []
    default = "desc" if names is SORT else "asc"
    found = []
    for position, key in enumerate(keys or ([""] if directions else [])):
        direction = directions[min(position, len(directions) - 1)] if directions else default
        if direction.lower() not in ("asc", "desc"):
            raise BadRequest(
                f"Invalid sort direction {direction!r}: asc and desc are known.", field="sort_dir"
            )
        if key in _IGNORED:
            continue
        wire = names.get(key or _DEFAULT[default])
        if wire is None:
            raise BadRequest(f"Invalid input for query parameters sort_key. Value: {key}.", field="sort_key")
        found.append((wire, direction.lower() == "desc"))
    return found


_DEFAULT = {"desc": "created_at", "asc": "flavorid"}
_FLAVOR_SORT = {
    "flavorid": "id", "id": "id", "name": "name", "memory_mb": "ram", "root_gb": "disk", "vcpus": "vcpus",
    "ephemeral_gb": "OS-FLV-EXT-DATA:ephemeral", "is_public": "os-flavor-access:is_public",
    "description": "description", "created_at": "created_at", "updated_at": "updated_at",
}  # fmt: skip
_BY_RESOURCE = {"server": SORT, "flavor": _FLAVOR_SORT}
