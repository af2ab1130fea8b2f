"""Storage nodes: their heartbeat, what the API shows of them, and how one is chosen for a volume."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.kit.call import Call
from altostack.kit.dialect import dashed_uuid, iso_micro
from altostack.kit.errors import NotFound
from altostack.kit.policy import ADMIN
from altostack.kit.resource import private
from altostack.kit.route import Route
from altostack.kit.service import Runtime
from altostack.volume.config import VolumeSettings
from altostack.volume.dialect import invalid_input
from altostack.volume.model import VolumeRow
from altostack.volume.values import Text, Unset, backend

BINARY = "cinder-volume"  # what clients know a storage node's service by
BACKEND = "local"


class StorageNode(VolumeRow):
    """A machine that keeps volumes. ``seen_at`` is when it last spoke, in epoch seconds."""

    __tablename__ = "nodes"
    id: Mapped[str] = private(primary_key=True)
    host: Mapped[str] = private(unique=True)
    disabled: Mapped[bool] = private(default=False)
    disabled_reason: Mapped[str | None] = private(default=None)
    seen_at: Mapped[float] = private()
    total_gib: Mapped[float] = private(default=0.0)
    free_gib: Mapped[float] = private(default=0.0)
    provisioned_gib: Mapped[float] = private(default=0.0)


def settings(runtime: Runtime) -> VolumeSettings:
    """The service's settings."""
    found = runtime.settings
    return found if isinstance(found, VolumeSettings) else VolumeSettings()


def ring(runtime: Runtime, host: str | None, *ids: str) -> None:
    """Wake a storage node's agent."""
    if host:
        runtime.bus.ring(f"volume.node.{host}", *ids)


def silence(runtime: Runtime, session: Session, host: str) -> float:
    """For how many seconds a node has said nothing (infinite for one that never spoke)."""
    seen = session.scalar(sa.select(StorageNode.seen_at).where(StorageNode.host == host))
    return float("inf") if seen is None else runtime.clock() - seen


def heard(call: Call, host: str, stats: Any) -> bool:
    """Record a node's heartbeat with its capacity; whether it is new or was silent."""
    session = call.session
    row = session.scalars(sa.select(StorageNode).where(StorageNode.host == host).with_for_update()).first()
    if row is None:
        row = StorageNode(id=dashed_uuid(), host=host, seen_at=0.0)
        session.add(row)
    back = not _up(call.runtime, row)
    row.seen_at = call.runtime.clock()
    row.total_gib, row.free_gib = stats.total_gib, stats.free_gib
    row.provisioned_gib = stats.provisioned_gib
    session.flush()
    return back


def capabilities(runtime: Runtime, row: StorageNode) -> dict[str, Any]:
    """What a node can do, in the words that extra specs and pools use."""
    return {
        "volume_backend_name": BACKEND,
        "storage_protocol": "local",
        "vendor_name": "Altostack",
        "driver_version": "1.0",
        "multiattach": True,
        "thin_provisioning_support": True,
        "thick_provisioning_support": False,
        "QoS_support": False,
        "online_extend_support": True,
        "replication_enabled": False,
        "total_capacity_gb": round(row.total_gib, 2),
        "free_capacity_gb": round(row.free_gib, 2),
        "provisioned_capacity_gb": round(row.provisioned_gib, 2),
        "allocated_capacity_gb": round(row.provisioned_gib, 2),
        "max_over_subscription_ratio": settings(runtime).overcommit,
        "reserved_percentage": 0,
        "location_info": f"{row.host}:{BACKEND}",
        "timestamp": iso_micro(datetime.fromtimestamp(row.seen_at, UTC)),
        "backend_state": "up" if runtime.clock() - row.seen_at <= settings(runtime).node_timeout else "down",
        "pool_name": BACKEND,
    }


# ---- services and pools


def _up(runtime: Runtime, row: StorageNode) -> bool:
    return runtime.clock() - row.seen_at <= settings(runtime).node_timeout


def list_services(call: Call) -> Any:
    wanted = sa.select(StorageNode).order_by(StorageNode.host)
    rows = call.session.scalars(wanted).all()
    host, binary = call.arg("host"), call.arg("binary")
    found = []
    for row in rows:
        name = f"{row.host}@{BACKEND}"
        if host not in (None, "", row.host, name) or binary not in (None, "", BINARY):
            continue
        state = "up" if _up(call.runtime, row) else "down"
        one: dict[str, Any] = {
            "binary": BINARY, "host": name, "zone": settings(call.runtime).availability_zone,
            "status": "disabled" if row.disabled else "enabled", "state": state,
            "updated_at": iso_micro(datetime.fromtimestamp(row.seen_at, UTC)),
            "disabled_reason": row.disabled_reason, "replication_status": "disabled", "active_backend_id": None,
            "frozen": False,
        }  # fmt: skip
        if call.at_least("3.7"):
            one["cluster"] = None
        if call.at_least("3.49"):
            one["backend_state"] = state
        found.append(one)
    return {"services": found}


class ServiceRef(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    host: Text
    binary: Text | Unset = msgspec.UNSET
    service: Text | Unset = msgspec.UNSET


class ServiceReason(ServiceRef, kw_only=True):
    disabled_reason: Text


def set_service(call: Call) -> Any:
    """PUT /os-services/enable, /disable and /disable-log-reason."""
    body, word = call.body, call.route.op
    binary = body.binary or body.service or ""
    if binary not in ("", BINARY):
        raise NotFound(f"Service {binary} could not be found on host {body.host}.")
    if not body.host:
        raise invalid_input("Host field is missing.", "host")
    name = body.host.partition("@")[0]
    row = call.session.scalars(sa.select(StorageNode).where(StorageNode.host == name)).first()
    if row is None:
        raise NotFound(f"Service {BINARY} could not be found on host {body.host}.")
    row.disabled = word != "enable"
    row.disabled_reason = getattr(body, "disabled_reason", None)
    status = "disabled" if row.disabled else "enabled"
    found = {
        "host": body.host, "service": body.service or "", "binary": body.binary or "", "status": status,
        "disabled": row.disabled,
    }  # fmt: skip
    return found | ({"disabled_reason": row.disabled_reason} if word == "disable-log-reason" else {})


def list_pools(call: Call) -> Any:
    rows = call.session.scalars(sa.select(StorageNode).order_by(StorageNode.host)).all()
    name = call.arg("name") if call.at_least("3.28") else None
    found = [
        {"name": backend(row.host)}
        | ({"capabilities": capabilities(call.runtime, row)} if call.flag("detail") else {})
        for row in rows
        if _up(call.runtime, row) and name in (None, backend(row.host))
    ]
    return {"pools": found}


def list_zones(call: Call) -> Any:
    zone = settings(call.runtime).availability_zone
    return {"availabilityZoneInfo": [{"zoneName": zone, "zoneState": {"available": True}}]}


_SERVICES = "volume_extension:services"


def _service(word: str, body: Any) -> Route:
    return Route(
        method="PUT", path=f"/os-services/{word}", handler=set_service, policy=f"{_SERVICES}:update",
        check=ADMIN, body=body, op=word,
    )  # fmt: skip


ROUTES = (
    Route(
        method="GET", path="/os-services", handler=list_services, policy=f"{_SERVICES}:index", check=ADMIN
    ),
    _service("enable", ServiceRef),
    _service("disable", ServiceRef),
    _service("disable-log-reason", ServiceReason),
    Route(
        method="GET", path="/scheduler-stats/get_pools", handler=list_pools,
        policy="scheduler_extension:scheduler_stats:get_pools", check=ADMIN,
    ),
    Route(
        method="GET", path="/os-availability-zone", handler=list_zones,
        policy="volume:availability_zone_list", check="",
    ),
)  # fmt: skip
