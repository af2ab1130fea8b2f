"""The network service's abstract row, and what most of its resources have in common."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.kit import db, flow, quota
from altostack.kit.db import Row, utcnow
from altostack.kit.resource import field

ACTIVE, DOWN, ERROR, NOT_APPLICABLE = "ACTIVE", "DOWN", "ERROR", "N/A"


class NetworkRow(Row):
    __abstract__ = True
    metadata = db.metadata()
    # A revision is counted by the database: fetch it with the statement that counted.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's word, read once


flow.tables(NetworkRow.metadata)
quota.tables(NetworkRow.metadata)


class Standard:
    """Description, tags, revision and times: the attributes that every resource of this API carries."""

    description: Mapped[str] = field(
        create=True, update=True, filter=True, sort=True, default="", max_length=255
    )
    tags: Mapped[list[str]] = field(default=[])
    revision_number: Mapped[int] = field(filter=True, sort=True, default=1)
    created_at: Mapped[datetime] = field(sort=True, default=utcnow)
    updated_at: Mapped[datetime] = field(sort=True, default=utcnow, onupdate=utcnow)


class Owned:
    """The project that a resource belongs to; shown as ``tenant_id`` too."""

    project_id: Mapped[str] = field(create=True, filter=True, sort=True, max_length=255, index=True)


def foreign(*pairs: tuple[str, str]) -> tuple[sa.ForeignKeyConstraint, ...]:
    """Foreign keys for ``__table_args__``: (column, "table.column") each."""
    return tuple(sa.ForeignKeyConstraint([column], [target]) for column, target in pairs)


def changed(row: Any) -> None:
    """Count a new revision of ``row``."""
    row.revision_number = type(row).revision_number + 1


def assign(row: Any, fields: dict[str, Any]) -> frozenset[str]:
    """Set attributes and count a revision if that changed anything; the names of what changed."""
    different = frozenset(name for name, value in fields.items() if getattr(row, name) != value)
    for name in different:
        setattr(row, name, fields[name])
    if different:
        changed(row)
    return different


def ids(session: Any, query: Any) -> list[str]:
    """The first column of a query."""
    return [str(value) for value in session.execute(query).scalars()]


def chunks(values: Iterable[Any], size: int = 400) -> Iterable[list[Any]]:
    """``values`` in lists that fit into one statement."""
    batch: list[Any] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
