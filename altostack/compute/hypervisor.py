"""Hypervisors: the hosts as administrators see them. /os-hypervisors"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from altostack.compute.dialect import only
from altostack.compute.host import Host, alive
from altostack.compute.server_row import BUILDING, Server
from altostack.compute.values import is_uuid
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, NotFound
from altostack.kit.policy import ADMIN
from altostack.kit.route import Route
from altostack.kit.versions import Version


def _view(call: Call, host: Host, *, detail: bool, servers: list[Server] | None) -> dict[str, Any]:
    by_uuid = call.at_least("2.53")
    found: dict[str, Any] = {
        "id": host.id if by_uuid else host.number,
        "hypervisor_hostname": host.facts.get("hostname") or host.host,
        "state": "up" if alive(call.runtime, host) else "down",
        "status": "enabled" if host.enabled else "disabled",
    }
    if detail:
        found["hypervisor_type"] = {"qemu": "QEMU", "kvm": "QEMU"}.get(
            str(host.facts.get("virt_type")), host.facts.get("hypervisor_type")
        )
        found["hypervisor_version"] = host.facts.get("hypervisor_version", 0)
        found["host_ip"] = host.facts.get("address") or "127.0.0.1"
        found["service"] = {
            "id": host.service_id if by_uuid else host.number,
            "host": host.host,
            "disabled_reason": host.disabled_reason,
        }
        if call.at_least("2.88"):
            found["uptime"] = host.facts.get("uptime")
        else:
            found.update(_figures(call, host))
            cpu = host.facts.get("cpu") or {}
            found["cpu_info"] = cpu if call.at_least("2.28") else json.dumps(cpu)
    if servers or (servers is not None and call.at_least("2.75")):
        found["servers"] = [{"name": one.instance_name, "uuid": one.id} for one in servers]
    return found


def _figures(call: Call, host: Host) -> dict[str, int]:
    """Capacity and use, as versions before 2.88 show them."""
    query = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(Server.vcpus), 0),
        sa.func.coalesce(sa.func.sum(Server.ram), 0),
    ).where(Server.host == host.host)
    count, vcpus, ram = call.session.execute(query).one()
    flavors = call.session.execute(sa.select(Server.flavor).where(Server.host == host.host)).scalars()
    disk = sum(int(one.get("disk", 0)) + int(one.get("ephemeral", 0)) for one in flavors)
    building = sa.select(sa.func.count()).where(Server.host == host.host, Server.vm_state == BUILDING)
    facts = host.facts
    total_ram, total_disk = int(facts.get("memory_mib", 0)), int(facts.get("disk_gib", 0))
    return {
        "vcpus": int(facts.get("vcpus", 0)),
        "vcpus_used": int(vcpus),
        "memory_mb": total_ram,
        "memory_mb_used": int(ram),
        "free_ram_mb": total_ram - int(ram),
        "local_gb": total_disk,
        "local_gb_used": disk,
        "free_disk_gb": total_disk - disk,
        "disk_available_least": int(facts.get("disk_free_gib", 0)),
        "current_workload": int(call.session.execute(building).scalar_one()),
        "running_vms": int(count),
    }


def _servers(call: Call, host: Host, wanted: bool) -> list[Server] | None:
    if not wanted:
        return None
    query = sa.select(Server).where(Server.host == host.host).order_by(Server.created_at)
    return list(call.session.execute(query).scalars())


def _matching(call: Call, pattern: str) -> list[Host]:
    query = sa.select(Host).where(Host.host.contains(pattern, autoescape=True)).order_by(Host.number)
    found = list(call.session.execute(query).scalars())
    if not found:
        raise NotFound(
            f"No hypervisor matching '{pattern}' could be found.", field="hypervisor_hostname_pattern"
        )
    return found


def _list(call: Call, *, detail: bool) -> Any:
    paged, modern = call.at_least("2.33"), call.at_least("2.53")
    names = (
        ("limit", "marker", "hypervisor_hostname_pattern", "with_servers") if modern else ("limit", "marker")
    )
    only(call, *names, since="2.53")
    pattern = call.arg("hypervisor_hostname_pattern") if modern else None
    with_servers = call.flag("with_servers") if modern else False
    if pattern is not None:
        if call.arg("limit") is not None or call.arg("marker"):
            raise BadRequest(
                "Paging over hypervisors with the hypervisor_hostname_pattern query parameter is not supported.",
                field="hypervisor_hostname_pattern",
            )
        hosts, more = _matching(call, pattern), False
    else:
        hosts, more = _page(call) if paged else (_all(call), False)
    found: dict[str, Any] = {
        "hypervisors": [
            _view(call, host, detail=detail, servers=_servers(call, host, with_servers)) for host in hosts
        ]
    }
    if more:
        last = hosts[-1].id if modern else hosts[-1].number
        path = f"/os-hypervisors{'/detail' if detail else ''}?limit={call.arg('limit')}&marker={last}"
        found["hypervisors_links"] = [{"rel": "next", "href": call.link(path)}]
    return found


def _all(call: Call) -> list[Host]:
    return list(call.session.execute(sa.select(Host).order_by(Host.number)).scalars())


def _page(call: Call) -> tuple[list[Host], bool]:
    query = sa.select(Host).order_by(Host.number)
    marker = call.arg("marker")
    if marker:
        column = Host.id if call.at_least("2.53") else sa.cast(Host.number, sa.String)
        number = call.session.execute(sa.select(Host.number).where(column == marker)).scalar()
        if number is None:
            raise BadRequest(f"marker [{marker}] not found", field="marker")
        query = query.where(Host.number > number)
    limit = min(call.number("limit", 1000) or 1000, 1000)
    rows = list(call.session.execute(query.limit(limit + 1)).scalars())
    return rows[:limit], len(rows) > limit


def index(call: Call) -> Any:
    return _list(call, detail=False)


def detail(call: Call) -> Any:
    return _list(call, detail=True)


def _load(call: Call) -> Host:
    key = call.params["hypervisor_id"]
    if call.at_least("2.53"):
        if not is_uuid(key):
            raise BadRequest(f"Invalid uuid {key}", field="hypervisor_id")
        condition = Host.id == key
    elif key.isascii() and key.isdigit() and len(key) < 10:
        condition = Host.number == int(key)
    else:
        condition = sa.false()
    row = call.session.execute(sa.select(Host).where(condition)).scalars().first()
    if row is None:
        raise NotFound(f"Hypervisor with ID '{key}' could not be found.", field="hypervisor_id")
    return row


def show(call: Call) -> Any:
    only(call, "with_servers", since="2.53")
    host = _load(call)
    wanted = call.at_least("2.53") and call.flag("with_servers")
    return {"hypervisor": _view(call, host, detail=True, servers=_servers(call, host, wanted))}


def uptime(call: Call) -> Any:
    host = _load(call)
    return {
        "hypervisor": {**_view(call, host, detail=False, servers=None), "uptime": host.facts.get("uptime")}
    }


def search(call: Call) -> Any:
    return {
        "hypervisors": [
            _view(call, host, detail=False, servers=None)
            for host in _matching(call, call.params["hypervisor_id"])
        ]
    }


def servers(call: Call) -> Any:
    return {
        "hypervisors": [
            _view(call, host, detail=False, servers=_servers(call, host, True))
            for host in _matching(call, call.params["hypervisor_id"])
        ]
    }


def statistics(call: Call) -> Any:
    total: dict[str, int] = {"count": 0}
    for host in _all(call):
        if not host.enabled:
            continue
        total["count"] += 1
        for name, value in _figures(call, host).items():
            total[name] = total.get(name, 0) + value
    if total["count"] == 0:
        total |= dict.fromkeys(_FIGURES, 0)
    return {"hypervisor_statistics": total}


_FIGURES = (
    "vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "free_ram_mb", "local_gb", "local_gb_used", "free_disk_gb",
    "disk_available_least", "current_workload", "running_vms",
)  # fmt: skip
_RULE = "os_compute_api:os-hypervisors:"
_ONE = "/os-hypervisors/{hypervisor_id}"
_OLD, _OLDER = Version(2, 87), Version(2, 52)
ROUTES = (
    Route(method="GET", path="/os-hypervisors", handler=index, policy=_RULE + "list", check=ADMIN),
    Route(method="GET", path="/os-hypervisors/detail", handler=detail, policy=_RULE + "list-detail", check=ADMIN),
    Route(
        method="GET", path="/os-hypervisors/statistics", handler=statistics, policy=_RULE + "statistics",
        check=ADMIN, until=_OLD,
    ),
    Route(method="GET", path=_ONE, handler=show, policy=_RULE + "show", check=ADMIN),
    Route(
        method="GET", path=_ONE + "/uptime", handler=uptime, policy=_RULE + "uptime", check=ADMIN, until=_OLD
    ),
    Route(
        method="GET", path=_ONE + "/search", handler=search, policy=_RULE + "search", check=ADMIN, until=_OLDER
    ),
    Route(
        method="GET", path=_ONE + "/servers", handler=servers, policy=_RULE + "servers", check=ADMIN, until=_OLDER
    ),
)  # fmt: skip
