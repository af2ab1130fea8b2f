"""Hosts: the nodes that run servers, as they last reported."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.compute.model import ComputeRow, Stamped
from altostack.kit.db import utcnow
from altostack.kit.resource import private
from altostack.kit.service import Runtime


class Host(Stamped, ComputeRow):
    """A node. ``id`` is its uuid as a hypervisor and as a resource provider, ``number`` what older versions call it.

    facts: what its driver says of it (vcpus, memory_mib, disk_gib, disk_free_gib, hypervisor_type,
    hypervisor_version, virt_type, cpu, hostname, address). placed: the inventory that placement was told.
    """

    __tablename__ = "hosts"
    number: Mapped[int] = private(primary_key=True, autoincrement=True)
    id: Mapped[str] = private(type_=sa.String(64), unique=True)
    service_id: Mapped[str] = private(type_=sa.String(64), unique=True)
    host: Mapped[str] = private(unique=True)
    enabled: Mapped[bool] = private(default=True)
    disabled_reason: Mapped[str | None] = private(default=None)
    forced_down: Mapped[bool] = private(default=False)
    heartbeat_at: Mapped[datetime] = private(default=utcnow)
    facts: Mapped[dict[str, Any]] = private(default={})
    placed: Mapped[dict[str, Any]] = private(default={})


def alive(runtime: Runtime, host: Host) -> bool:
    """Whether the host's agent reported lately and nobody declared it dead."""
    age = runtime.clock() - host.heartbeat_at.timestamp()
    return not host.forced_down and age < float(runtime.settings.host_down_after)


def by_name(session: Session, name: str | None) -> Host | None:
    """The host of that name."""
    if name is None:
        return None
    return session.execute(sa.select(Host).where(Host.host == name)).scalars().first()


def host_id(host: str | None, project_id: str) -> str:
    """How a project sees a host: the same text for the same host, and nothing that another project could compare."""
    return "" if not host else hashlib.sha224((project_id + host).encode()).hexdigest()


def inventory(runtime: Runtime, facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The host's inventory in placement's form."""
    settings = runtime.settings
    amounts = {
        "VCPU": (int(facts["vcpus"]), 0, settings.cpu_ratio),
        "MEMORY_MB": (int(facts["memory_mib"]), settings.reserved_ram_mib, settings.ram_ratio),
        "DISK_GB": (int(facts["disk_gib"]), settings.reserved_disk_gib, settings.disk_ratio),
    }
    return {
        name: {
            "total": total, "reserved": min(reserved, total), "min_unit": 1, "max_unit": total, "step_size": 1,
            "allocation_ratio": ratio,
        }
        for name, (total, reserved, ratio) in amounts.items()
        if total > 0
    }  # fmt: skip
