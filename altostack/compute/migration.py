"""Migrations: servers that became another size. /os-migrations and /servers/{id}/migrations"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.compute.dialect import micro, only
from altostack.compute.model import ComputeRow
from altostack.kit.call import Call
from altostack.kit.db import utcnow
from altostack.kit.errors import BadRequest
from altostack.kit.listing import read_time
from altostack.kit.policy import ADMIN
from altostack.kit.resource import private
from altostack.kit.route import Route

# ---- row


class Migration(ComputeRow):
    """A resize, on the host where the server is. status: migrating, finished, confirmed, reverted or error."""

    __tablename__ = "migrations"
    number: Mapped[int] = private(primary_key=True, autoincrement=True)
    id: Mapped[str] = private(type_=sa.String(64), unique=True)
    server_id: Mapped[str] = private(type_=sa.String(64), index=True)
    project_id: Mapped[str] = private(type_=sa.String(64))
    user_id: Mapped[str] = private(type_=sa.String(64))
    host: Mapped[str | None] = private(default=None)
    status: Mapped[str] = private(type_=sa.String(32))
    old_flavor: Mapped[str] = private(type_=sa.String(255))
    new_flavor: Mapped[str] = private(type_=sa.String(255))
    created_at: Mapped[datetime] = private(default=utcnow)
    updated_at: Mapped[datetime | None] = private(default=None)


def begin(call: Call, row: Any, new_flavor: str) -> None:
    """Note a resize, in the call's transaction."""
    call.session.add(
        Migration(
            id=str(uuid.uuid4()), server_id=row.id, project_id=row.project_id, user_id=call.context.user_id,
            host=row.host, status="migrating", old_flavor=row.flavor_id, new_flavor=new_flavor,
        )
    )  # fmt: skip


def move(session: Session, server_id: str, status: str) -> None:
    """The server's running migration is now ``status``."""
    session.execute(
        sa.update(Migration)
        .where(Migration.server_id == server_id, Migration.status.in_(("migrating", "finished")))
        .values(status=status, updated_at=utcnow())
    )


# ---- actions

_FILTERS = {
    "host": Migration.host,
    "instance_uuid": Migration.server_id,
    "status": Migration.status,
    "user_id": Migration.user_id,
    "project_id": Migration.project_id,
}


def _view(call: Call, one: Migration) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": one.number,
        "source_node": one.host,
        "dest_node": one.host,
        "source_compute": one.host,
        "dest_compute": one.host,
        "dest_host": None,
        "status": one.status,
        "instance_uuid": one.server_id,
        "old_instance_type_id": _number(one.old_flavor),
        "new_instance_type_id": _number(one.new_flavor),
        "created_at": micro(one.created_at),
        "updated_at": micro(one.updated_at),
    }
    if call.at_least("2.23"):
        found["migration_type"] = "resize"
    if call.at_least("2.59"):
        found["uuid"] = one.id
    if call.at_least("2.80"):
        found |= {"user_id": one.user_id, "project_id": one.project_id}
    return found


def _number(flavor_id: str) -> int:
    """A number where the API wants one; flavors have only their ids here."""
    return int(flavor_id) if flavor_id.isascii() and flavor_id.isdigit() and len(flavor_id) < 10 else 0


def index(call: Call) -> Any:
    names = ("hidden", "host", "instance_uuid", "source_compute", "status", "migration_type")
    newer = (*names, "limit", "marker", "changes-since", "changes-before", "user_id", "project_id")
    only(call, *newer, since="2.59")
    query = sa.select(Migration).order_by(Migration.number.desc())
    for name, column in _FILTERS.items():
        value = call.arg(name)
        if value and (name not in ("user_id", "project_id") or call.at_least("2.80")):
            query = query.where(column == value)
    if call.arg("source_compute"):
        query = query.where(Migration.host == call.arg("source_compute"))
    kind = call.arg("migration_type")
    if kind and kind != "resize":
        return {"migrations": []}
    changed = sa.func.coalesce(Migration.updated_at, Migration.created_at)
    if call.at_least("2.59") and call.arg("changes-since"):
        query = query.where(changed >= _moment(call, "changes-since"))
    if call.at_least("2.66") and call.arg("changes-before"):
        query = query.where(changed <= _moment(call, "changes-before"))
    if not call.at_least("2.59"):
        return {"migrations": [_view(call, one) for one in call.session.execute(query).scalars()]}
    marker = call.arg("marker")
    if marker:
        at = call.session.execute(sa.select(Migration.number).where(Migration.id == marker)).scalar()
        if at is None:
            raise BadRequest(f"Marker {marker} could not be found.", field="marker")
        query = query.where(Migration.number < at)
    limit = min(call.number("limit", 1000) or 1000, 1000)
    rows = list(call.session.execute(query.limit(limit + 1)).scalars())
    found: dict[str, Any] = {"migrations": [_view(call, one) for one in rows[:limit]]}
    if len(rows) > limit:
        href = call.link(f"/os-migrations?limit={limit}&marker={rows[limit - 1].id}")
        found["migrations_links"] = [{"rel": "next", "href": href}]
    return found


def _moment(call: Call, name: str) -> datetime:
    try:
        return read_time((call.arg(name) or "").replace("Z", "+00:00"))
    except ValueError as error:
        raise BadRequest(
            f"Invalid input for query parameters {name}: it is not a 'date-time'", field=name
        ) from error


ROUTES = (
    Route(
        method="GET", path="/os-migrations", handler=index, policy="os_compute_api:os-migrations:index",
        check=ADMIN,
    ),
)  # fmt: skip
