"""Where storage nodes fetch what is wanted of them and leave what they saw."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.kit import flow
from altostack.kit.api import wake
from altostack.kit.call import Call
from altostack.kit.policy import NODE
from altostack.kit.route import Route
from altostack.volume.model import Status
from altostack.volume.node import heard
from altostack.volume.snapshot import Snapshot
from altostack.volume.volume import Volume


class Capacity(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """GiB, as `altostack.volume.drivers.base.Stats`."""

    total_gib: float
    free_gib: float
    provisioned_gib: float


class Present(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Ids of everything complete that the node holds."""

    volumes: list[str] = []
    snapshots: list[str] = []


class Seen(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What became of a wish: ``gib`` are there, or an image was ``uploaded``, or it is ``gone``, or an ``error``."""

    id: str
    generation: int = 0
    gib: int | None = None
    connection: dict[str, Any] | None = None
    uploaded: str | None = None
    there: bool | None = None
    gone: bool | None = None
    error: str | None = None


class Observed(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    capacity: Capacity | None = None
    present: Present | None = None
    volumes: list[Seen] = []
    snapshots: list[Seen] = []


def _mine(call: Call, row: Any) -> Any:
    mine = [row.host == call.params["host"]]
    ids = call.query.get("id")
    if ids:
        mine.append(row.id.in_(ids))
    return sa.select(row).where(*mine)


def desired(call: Call) -> Any:
    """GET: everything that the node shall hold or be rid of; ``id=`` narrows it."""
    volumes = [
        {
            "id": row.id, "gib": row.wanted, "generation": row.generation, "source": row.source, "gone": row.removing,
            "upload": row.upload,
            "settled": row.observed.get("generation") == row.generation
            and ("error" in row.observed or not row.upload or "uploaded" in row.observed),
        }
        for row in call.session.scalars(_mine(call, Volume))
    ]  # fmt: skip
    snapshots = [
        {
            "id": row.id, "volume_id": row.volume_id, "gone": row.removing,
            "settled": "there" in row.observed or "error" in row.observed,
        }
        for row in call.session.scalars(_mine(call, Snapshot))
    ]  # fmt: skip
    return {"volumes": volumes, "snapshots": snapshots}


def observed(call: Call) -> Any:
    """POST: capacity (a heartbeat), what became of wishes, and what is there; answers what of that nobody owns."""
    host, sent = call.params["host"], call.body
    back = sent.capacity is not None and heard(call, host, sent.capacity)
    if back:  # volumes may have waited for any node to come up
        waiting = sa.select(Volume.id).where(Volume.host.is_(None), Volume.status == Status.CREATING)
        flow.poke(call.session, *call.session.scalars(waiting))
    for row, seen in ((Volume, sent.volumes), (Snapshot, sent.snapshots)):
        for one in seen:
            _record(call, row, host, one)
    if back or sent.volumes or sent.snapshots:
        wake(call)
    return {"orphans": _orphans(call, sent.present) if sent.present else {"volumes": [], "snapshots": []}}


def _record(call: Call, kind: Any, host: str, seen: Seen) -> None:
    wanted = sa.select(kind).where(kind.id == seen.id, kind.host == host).with_for_update()
    row = call.session.scalars(wanted).first()
    if row is None:
        return
    told = {
        name: value
        for name in ("gib", "uploaded", "there", "gone", "error")
        if (value := getattr(seen, name)) is not None
    }
    if kind is Volume:
        if seen.generation != row.generation and not seen.gone:
            return  # about a wish that is no more
        if seen.connection is not None:
            row.connection = seen.connection
        before = row.observed if row.observed.get("generation") == row.generation else {}
        row.observed = before | told | {"generation": row.generation}
    else:
        row.observed = row.observed | told
    call.session.flush()
    flow.poke(call.session, row.id)


def _orphans(call: Call, present: Present) -> dict[str, list[str]]:
    """Ids that no row of any node has. A row is there before its node can make anything, so this is no race."""
    found = {}
    for name, row in (("volumes", Volume), ("snapshots", Snapshot)):
        held = getattr(present, name)
        known: set[str] = set()
        for start in range(0, len(held), 500):
            part = held[start : start + 500]
            known.update(call.session.scalars(sa.select(row.id).where(row.id.in_(part))))
        found[name] = [one for one in held if one not in known]
    return found


_NODE = "//internal/nodes/{host}"
ROUTES = (
    Route(method="GET", path=f"{_NODE}/desired", handler=desired, policy=NODE),
    Route(method="POST", path=f"{_NODE}/observed", handler=observed, policy=NODE, body=Observed),
)
