"""The routes of a node's agent: what is wanted of the node, and what the node observed."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.compute.host import Host, by_name, inventory
from altostack.compute.server_row import Disk, Interface, Server
from altostack.kit import flow
from altostack.kit.api import wake
from altostack.kit.call import Call
from altostack.kit.policy import NODE
from altostack.kit.route import Route

_FETCH = 200  # ids that one request may name


class Report(msgspec.Struct):
    """What an agent posts: facts about its host with each heartbeat, observations of guests when they change."""

    host: dict[str, Any] | None = None
    servers: dict[str, dict[str, Any]] = {}


def desired(call: Call) -> dict[str, Any]:
    """What the node is to make of its guests: all of them, or those that ``id`` names."""
    host, ids = call.params["host"], call.query.get("id", [])[:_FETCH]
    query = sa.select(Server).where(Server.host == host)
    if ids:
        query = query.where(Server.id.in_(ids))
    rows = list(call.session.execute(query).scalars())
    keys = [row.id for row in rows]
    cards = _by_server(call.session, Interface, keys)
    disks = _by_server(call.session, Disk, keys)
    return {
        "servers": [document(row, cards.get(row.id, []), disks.get(row.id, [])) for row in rows if row.wanted]
    }


def _by_server(session: Session, kind: Any, keys: list[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for start in range(0, len(keys), 500):
        query = sa.select(kind).where(kind.server_id.in_(keys[start : start + 500]))
        for row in session.execute(query.order_by(kind.position, kind.id)).scalars():
            found.setdefault(row.server_id, []).append(row)
    return found


def document(row: Server, cards: list[Interface], disks: list[Disk]) -> dict[str, Any]:
    """What a node needs to know to make a guest."""
    wanted = row.wanted
    if wanted.get("power") == "gone":
        return {"id": row.id, "generation": row.generation, "power": "gone"}
    blank = [disk for disk in disks if disk.destination == "local" and disk.source == "blank"]
    eph = [disk.size or row.flavor["ephemeral"] for disk in blank if disk.guest_format != "swap"]
    if not eph and row.flavor["ephemeral"]:
        eph = [row.flavor["ephemeral"]]
    return {
        "id": row.id,
        "generation": row.generation,
        "power": wanted.get("power", "running"),
        "verb": wanted.get("verb"),
        "name": row.instance_name,
        "vcpus": row.flavor["vcpus"],
        "memory_mib": row.flavor["ram"],
        "root": {
            "image_id": row.image_id,
            "format": row.image.get("disk_format"),
            "checksum": row.image.get("checksum"),
            "size_gib": row.flavor["disk"],
        }
        if row.image_id
        else None,
        "ephemerals_gib": eph,
        "swap_mib": row.flavor["swap"],
        "volumes": [
            {
                "volume_id": disk.volume_id, "connection": disk.connection, "device": disk.device,
                "boot_index": disk.boot_index,
            }
            for disk in disks
            if disk.connection and disk.state in ("attaching", "attached")
        ],
        "nics": [
            {"port_id": card.port_id, "mac": card.info["mac"], "tap": card.info["tap"], "mtu": card.info["mtu"]}
            for card in cards
            if card.state in ("plugged", "attached")
        ],
        "config_drive": bool(row.config_drive),
        "metadata": {"project": row.project_id, "flavor": row.flavor["name"], "name": row.name},
    }  # fmt: skip


def observed(call: Call) -> None:
    """Write down what the node saw, and wake the lifecycles that wait for it."""
    host, report = call.params["host"], call.body
    if report.host is not None:
        _heartbeat(call, host, report.host)
    if not report.servers:
        return
    session = call.session
    for server_id, seen in report.servers.items():
        session.execute(
            sa.update(Server)
            .where(Server.id == server_id, Server.host == host)
            # A view's "updated" tells of the server's own changes, not of ours.
            .values(seen=seen, updated_at=Server.updated_at)
        )
    flow.poke(session, *report.servers)
    wake(call)


def _heartbeat(call: Call, name: str, facts: dict[str, Any]) -> None:
    session, now = call.session, datetime.fromtimestamp(call.runtime.clock(), UTC)
    row = by_name(session, name)
    if row is None:
        row = Host(
            id=str(uuid.uuid4()),
            service_id=str(uuid.uuid4()),
            host=name,
            heartbeat_at=now,
            facts=facts,
            placed={},
        )
        session.add(row)
    row.heartbeat_at = now
    # How much disk is free changes all the time, and nothing is decided by it.
    row.facts = facts
    session.flush()
    if row.placed != inventory(call.runtime, facts):
        call.after(lambda: call.runtime.bus.ring("compute.hosts"))


ROUTES = (
    Route(method="GET", path="//internal/nodes/{host}/servers", handler=desired, policy=NODE),
    Route(
        method="POST", path="//internal/nodes/{host}/observed", handler=observed, policy=NODE, body=Report,
        status=204,
    ),
)  # fmt: skip
