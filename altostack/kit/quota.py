"""Quotas: counted, never cached, inside the creating transaction.

One guard row a project serialises the creates of that project on databases that do not serialise writers
themselves, so fifty parallel creates against a quota of ten leave exactly ten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.errors import OverQuota
from altostack.kit.resource import Resource

UNLIMITED = -1


def tables(metadata: sa.MetaData) -> None:
    """Add the quota tables to a service's metadata."""
    sa.Table(
        "quota_limits",
        metadata,
        sa.Column("project_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("hard_limit", sa.Integer(), nullable=False),
    )
    sa.Table("quota_guards", metadata, sa.Column("project_id", sa.String(64), primary_key=True))


class Quotas:
    """The quotas of one service: ``defaults`` by name, overrides by project in the database.

    ``resources`` are those that count; what each counts is declared in `Resource.quota`.
    """

    def __init__(
        self, metadata: sa.MetaData, defaults: Mapping[str, int], resources: tuple[Resource, ...]
    ) -> None:
        self._limits = metadata.tables["quota_limits"]
        self._guards = metadata.tables["quota_guards"]
        self.defaults = dict(defaults)
        # Several resources may count into one quota (volumes and snapshots into gigabytes).
        self._meters = [
            (name, resource, what) for resource in resources for name, what in resource.quota.items()
        ]
        # Statements of every create, built once.
        self._limits_of = sa.select(self._limits.c.name, self._limits.c.hard_limit).where(
            self._limits.c.project_id == sa.bindparam("project")
        )
        self._counts: dict[tuple[str, ...] | None, list[tuple[list[str], Any]]] = {}

    def limits(self, session: Session, project_id: str) -> dict[str, int]:
        """Every quota name -> its limit for the project (-1: unlimited)."""
        rows = session.connection().execute(self._limits_of, {"project": project_id})
        return self.defaults | {row.name: row.hard_limit for row in rows}

    def usage(self, session: Session, project_id: str, names: list[str] | None = None) -> dict[str, int]:
        """Quota name -> how much of it the project uses, counted now."""
        key = None if names is None else tuple(names)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = list(self._counting(names))
        session.flush()  # what the connection counts must be there
        connection = session.connection()
        used: dict[str, int] = {}
        for counted, query in counts:
            for name, value in zip(
                counted, connection.execute(query, {"project": project_id}).one(), strict=True
            ):
                used[name] = used.get(name, 0) + int(value)
        return used

    def _counting(self, names: list[str] | None) -> Iterator[tuple[list[str], Any]]:
        """Quota names, and the query that counts them for :project, for every table."""
        by_row: dict[Any, list[tuple[str, Any]]] = {}
        for name, resource, what in self._meters:
            if names is None or name in names:
                by_row.setdefault((resource.row, resource.owner), []).append((name, what))
        for (row, owner), meters in by_row.items():
            sums = [
                sa.func.count() if what == 1 else sa.func.coalesce(sa.func.sum(_amount(what)), 0)
                for _, what in meters
            ]
            yield (
                [name for name, _ in meters],
                sa.select(*sums).select_from(row).where(owner == sa.bindparam("project")),
            )

    def claim(self, session: Session, project_id: str, request: Mapping[str, int]) -> None:
        """Check that ``request`` (quota name -> amount) still fits; call before adding rows, in their transaction.

        Raises OverQuota naming quota, limit and use.
        """
        wanted = {name: amount for name, amount in request.items() if amount > 0}
        if not wanted:
            return
        self.guard(session, project_id)
        limits = self.limits(session, project_id)
        used = self.usage(session, project_id, list(wanted))
        for name, amount in wanted.items():
            limit = limits.get(name, UNLIMITED)
            if limit != UNLIMITED and used.get(name, 0) + amount > limit:
                raise OverQuota(
                    f"Quota exceeded for {name}: requested {amount}, but already used {used.get(name, 0)} "
                    f"of {limit} {name}.",
                    field=name,
                    detail={"quota": name, "limit": limit, "used": used.get(name, 0), "requested": amount},
                )

    def guard(self, session: Session, project_id: str) -> None:
        """Make this transaction the only one that counts for ``project_id`` until it ends."""
        if session.get_bind().dialect.name == "sqlite":
            return  # a SQLite writer is alone already
        held = session.execute(
            sa.select(self._guards).where(self._guards.c.project_id == project_id).with_for_update()
        ).first()
        if held is None:
            try:
                with session.begin_nested():
                    session.execute(self._guards.insert().values(project_id=project_id))
            except IntegrityError:
                session.execute(
                    sa.select(self._guards).where(self._guards.c.project_id == project_id).with_for_update()
                ).first()

    def set(self, session: Session, project_id: str, limits: Mapping[str, int]) -> None:
        """Override limits for a project."""
        for name, limit in limits.items():
            here = (self._limits.c.project_id == project_id) & (self._limits.c.name == name)
            if not session.execute(self._limits.update().where(here).values(hard_limit=limit)).rowcount:  # type: ignore[attr-defined]  # CursorResult
                session.execute(
                    self._limits.insert().values(project_id=project_id, name=name, hard_limit=limit)
                )

    def reset(self, session: Session, project_id: str) -> None:
        """Back to the defaults for a project."""
        session.execute(self._limits.delete().where(self._limits.c.project_id == project_id))

    @property
    def names(self) -> tuple[str, ...]:
        """Every quota of the service, counted or only configured."""
        return tuple(self.defaults)


def _amount(what: Any) -> Any:
    return what() if callable(what) and not isinstance(what, sa.orm.InstrumentedAttribute) else what
