"""Host aggregates, and the availability zones that some of them are."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.compute.dialect import micro
from altostack.compute.host import Host, alive, by_name
from altostack.compute.model import ComputeRow, Stamped
from altostack.compute.server_row import Server
from altostack.compute.values import MetaKey, Name, check_name
from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.policy import ADMIN, ANY
from altostack.kit.resource import private
from altostack.kit.route import Route
from altostack.kit.service import Runtime

# ---- row

ZONE = "availability_zone"


class Aggregate(Stamped, ComputeRow):
    """A named set of hosts; ``meta["availability_zone"]`` makes it a zone."""

    __tablename__ = "aggregates"
    number: Mapped[int] = private(primary_key=True, autoincrement=True)
    id: Mapped[str] = private(type_=sa.String(64), unique=True)
    name: Mapped[str] = private(unique=True)
    meta: Mapped[dict[str, str]] = private(default={})
    hosts: Mapped[list[str]] = private(default=[])


_ZONED = sa.select(Aggregate.meta, Aggregate.hosts)


def zones(session: Session) -> dict[str, str]:
    """Host -> its availability zone, for hosts that are in one."""
    found: dict[str, str] = {}
    for meta, hosts in session.connection().execute(_ZONED):
        if ZONE in meta:
            found.update(dict.fromkeys(hosts, meta[ZONE]))
    return found


def zone_names(session: Session, runtime: Runtime) -> set[str]:
    """Every zone that exists: those of aggregates, and the default one."""
    rows = session.execute(sa.select(Aggregate.meta)).scalars()
    return {meta[ZONE] for meta in rows if ZONE in meta} | {runtime.settings.zone}


# ---- actions


class Fields(msgspec.Struct, forbid_unknown_fields=True):
    name: Name
    availability_zone: Name | None = None


class Changes(msgspec.Struct, forbid_unknown_fields=True):
    name: Name | msgspec.UnsetType = msgspec.UNSET
    availability_zone: Name | msgspec.UnsetType | None = msgspec.UNSET


class Create(msgspec.Struct, forbid_unknown_fields=True):
    aggregate: Fields


class Update(msgspec.Struct, forbid_unknown_fields=True):
    aggregate: Changes


class HostName(msgspec.Struct, forbid_unknown_fields=True):
    host: Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-._]*$")]


class Meta(msgspec.Struct, forbid_unknown_fields=True):
    metadata: dict[MetaKey, Annotated[str, msgspec.Meta(max_length=255)] | None]


def _view(call: Call, row: Aggregate) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": row.number,
        "name": row.name,
        "availability_zone": row.meta.get(ZONE),
        "hosts": list(row.hosts),
        "metadata": dict(row.meta),
        "created_at": micro(row.created_at),
        "updated_at": micro(row.updated_at),
        "deleted": False,
        "deleted_at": None,
    }
    if call.at_least("2.41"):
        found["uuid"] = row.id
    return found


def _load(call: Call) -> Aggregate:
    text = call.params["aggregate_id"]
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise BadRequest(f"Invalid input for aggregate id {text}: it is not a number.", field="aggregate_id")
    row = call.session.get(Aggregate, int(text))
    if row is None:
        raise NotFound(f"Aggregate {text} could not be found.", field="aggregate_id")
    return row


def index(call: Call) -> Any:
    rows = call.session.execute(sa.select(Aggregate).order_by(Aggregate.number)).scalars()
    return {"aggregates": [_view(call, row) for row in rows]}


def show(call: Call) -> Any:
    return {"aggregate": _view(call, _load(call))}


def _free_name(call: Call, name: str, mine: str = "") -> str:
    check_name(name)
    held = call.session.execute(sa.select(Aggregate.id).where(Aggregate.name == name)).scalar()
    if held not in (None, mine):
        raise Conflict(f"Aggregate {name} already exists.", field="name")
    return name


def create(call: Call) -> Any:
    body = call.body.aggregate
    row = Aggregate(id=str(uuid.uuid4()), name=_free_name(call, body.name))
    if body.availability_zone is not None:
        row.meta = {ZONE: _zone(body.availability_zone)}
    call.session.add(row)
    call.session.flush()
    found = _view(call, row)
    del found["hosts"], found["metadata"]  # as this answer has always been
    return {"aggregate": found}


def _zone(name: str) -> str:
    check_name(name, "availability_zone")
    if ":" in name:
        raise BadRequest("Invalid availability_zone: it may not hold a colon.", field="availability_zone")
    return name


def update(call: Call) -> Any:
    row, body = _load(call), call.body.aggregate
    if body.name is msgspec.UNSET and body.availability_zone is msgspec.UNSET:
        raise BadRequest("Invalid input for field/attribute aggregate: it is empty.", field="aggregate")
    if body.name is not msgspec.UNSET:
        row.name = _free_name(call, body.name, row.id)
    if body.availability_zone is not msgspec.UNSET:
        _set_meta(call, row, {ZONE: body.availability_zone})
    call.session.flush()
    return {"aggregate": _view(call, row)}


def delete(call: Call) -> None:
    row = _load(call)
    if row.hosts:
        raise BadRequest(f"Cannot remove aggregate {row.number}: it is not empty.", field="aggregate_id")
    call.session.delete(row)


def add_host(call: Call) -> Any:
    row, name = _load(call), call.body.host
    if by_name(call.session, name) is None:
        raise NotFound(f"Compute host {name} could not be found.", field="host")
    if name in row.hosts:
        raise Conflict(f"Aggregate {row.number} already has host {name}.", field="host")
    zone = row.meta.get(ZONE)
    held = zones(call.session).get(name)
    if zone is not None and held not in (None, zone):
        raise Conflict(f"Cannot add host {name} to zone {zone}: it is in zone {held} already.", field="host")
    if zone is not None:
        _unused(call, [name], "add the host to")
    row.hosts = [*row.hosts, name]
    call.session.flush()
    return {"aggregate": _view(call, row)}


def remove_host(call: Call) -> Any:
    row, name = _load(call), call.body.host
    if name not in row.hosts:
        raise NotFound(f"Aggregate {row.number} has no host {name}.", field="host")
    if ZONE in row.meta:
        _unused(call, [name], "remove the host from")
    row.hosts = [host for host in row.hosts if host != name]
    call.session.flush()
    return {"aggregate": _view(call, row)}


def set_metadata(call: Call) -> Any:
    row = _load(call)
    if not call.body.metadata:
        raise BadRequest("Invalid input for field/attribute metadata: it is empty.", field="metadata")
    _set_meta(call, row, call.body.metadata)
    call.session.flush()
    return {"aggregate": _view(call, row)}


def _set_meta(call: Call, row: Aggregate, changes: dict[str, str | None]) -> None:
    if ZONE in changes and changes[ZONE] != row.meta.get(ZONE):
        if changes[ZONE] is not None:
            _zone(str(changes[ZONE]))
        _unused(call, row.hosts, "change the zone of")
    merged = {**row.meta, **changes}
    row.meta = {name: value for name, value in merged.items() if value is not None}
    row.updated_at = utcnow()


def _unused(call: Call, hosts: list[str], what: str) -> None:
    """A zone holds still under the servers that are in it."""
    if hosts and call.session.execute(sa.select(Server.id).where(Server.host.in_(hosts)).limit(1)).first():
        raise Conflict(f"Cannot {what} the availability zone: its hosts have servers.", field="host")


# ---- availability zones


def list_zones(call: Call) -> Any:
    return {"availabilityZoneInfo": _zones(call, detail=False)}


def detail_zones(call: Call) -> Any:
    return {"availabilityZoneInfo": _zones(call, detail=True)}


def _zones(call: Call, *, detail: bool) -> list[dict[str, Any]]:
    runtime, of = call.runtime, zones(call.session)
    by_zone: dict[str, list[Host]] = {}
    for host in call.session.execute(sa.select(Host).order_by(Host.host)).scalars():
        by_zone.setdefault(of.get(host.host, runtime.settings.zone), []).append(host)
    found = []
    for name, hosts in sorted(by_zone.items()):
        usable = any(host.enabled for host in hosts)
        one: dict[str, Any] = {"zoneName": name, "zoneState": {"available": usable}, "hosts": None}
        if not detail and not usable:
            continue  # nothing can be made there
        if detail:
            one["hosts"] = {
                host.host: {
                    "nova-compute": {
                        "available": alive(runtime, host), "active": host.enabled,
                        "updated_at": micro(host.heartbeat_at),
                    }
                }
                for host in hosts
            }  # fmt: skip
        found.append(one)
    return found


# ---- table

_BASE = "os_compute_api:os-aggregates:"
_ONE = "/os-aggregates/{aggregate_id}"
ROUTES = (
    Route(method="GET", path="/os-aggregates", handler=index, policy=_BASE + "index", check=ADMIN),
    Route(method="POST", path="/os-aggregates", handler=create, policy=_BASE + "create", check=ADMIN, body=Create),
    Route(method="GET", path=_ONE, handler=show, policy=_BASE + "show", check=ADMIN),
    Route(method="PUT", path=_ONE, handler=update, policy=_BASE + "update", check=ADMIN, body=Update),
    Route(method="DELETE", path=_ONE, handler=delete, policy=_BASE + "delete", check=ADMIN),
    Route(
        method="POST", path=_ONE + "/action", word="add_host", handler=add_host, policy=_BASE + "add_host",
        check=ADMIN, body=HostName,
    ),
    Route(
        method="POST", path=_ONE + "/action", word="remove_host", handler=remove_host,
        policy=_BASE + "remove_host", check=ADMIN, body=HostName,
    ),
    Route(
        method="POST", path=_ONE + "/action", word="set_metadata", handler=set_metadata,
        policy=_BASE + "set_metadata", check=ADMIN, body=Meta,
    ),
    Route(
        method="GET", path="/os-availability-zone", handler=list_zones,
        policy="os_compute_api:os-availability-zone:list", check=ANY,
    ),
    Route(
        method="GET", path="/os-availability-zone/detail", handler=detail_zones,
        policy="os_compute_api:os-availability-zone:detail", check=ADMIN,
    ),
)  # fmt: skip
