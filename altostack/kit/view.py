"""Rows as answers: compiled once a version and audience, run for every row."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from altostack.kit.resource import Column, Resource, columns

if TYPE_CHECKING:
    from altostack.kit.call import Call
    from altostack.kit.dialect import Dialect

Getter = Callable[[Any, Any], Any]


class Views:
    """The views of one resource. Thread-safe: a race compiles the same thing twice."""

    def __init__(self, resource: Resource, dialect: Dialect, admin_rule: str) -> None:
        self.resource = resource
        self._dialect = dialect
        self._admin_rule = admin_rule
        self._columns = columns(resource.row)
        self._compiled: dict[Any, tuple[tuple[str, Getter], ...]] = {}
        self._needs_admin = any(c.facet.show == "admin" for c in self._columns) or any(
            c.show == "admin" for c in resource.computed.values()
        )

    def view(self, call: Call, row: Any, *, op: str = "show", brief: bool = False) -> dict[str, Any]:
        """The JSON object of ``row`` for this caller. ``op`` chooses version changes and detail-only fields."""
        return self.many(call, [row], op=op, brief=brief)[0]

    def many(
        self, call: Call, rows: list[Any], *, op: str = "list", brief: bool = False
    ) -> list[dict[str, Any]]:
        """The same for several rows."""
        admin = self._needs_admin and call.allows(self._admin_rule)
        key = (call.version, op == "list", brief, admin)
        getters = self._compiled.get(key)
        if getters is None:
            getters = self._compiled[key] = tuple(self._compile(*key))
        found = [
            {wire: value for wire, get in getters if (value := get(call, row)) is not msgspec.UNSET}
            for row in rows
        ]
        if self.resource.extra is not None and not brief:
            found = [getattr(row, self.resource.extra) | one for row, one in zip(rows, found, strict=True)]
        if call.version is not None:
            for change in reversed(self.resource.changes):
                if change.response and call.version < change.at and op in change.ops:
                    for one in found:
                        change.response(one)
        picked = call.query.get(self._dialect.select, []) if self._dialect.select else []
        if picked and call.route.method == "GET":
            wanted = {name for text in picked for name in text.split(",") if name}
            if wanted:
                found = [{name: one[name] for name in one if name in wanted} for one in found]
        return found

    def _compile(self, version: Any, listing: bool, brief: bool, admin: bool) -> list[tuple[str, Getter]]:
        getters: list[tuple[str, Getter]] = []
        for column in self._columns:
            facet = column.facet
            if facet.show is False or (brief and not facet.brief) or (facet.show == "admin" and not admin):
                continue
            if facet.since and version and version < facet.since:
                continue
            getters.append((column.wire, _getter(column, self._dialect)))
        for wire, computed in self.resource.computed.items():
            if brief and not computed.brief:
                continue
            if (computed.show == "admin" and not admin) or (listing and not computed.detail):
                continue
            if version and computed.since and version < computed.since:
                continue
            if version and computed.until and version > computed.until:
                continue
            getters.append((wire, computed.get))
        return getters


def _getter(column: Column, dialect: Dialect) -> Getter:
    attr = column.attr
    if column.type is datetime:
        time = dialect.time

        def moment(call: Any, row: Any) -> Any:
            value = getattr(row, attr)
            return None if value is None else time(value)

        return moment
    if isinstance(column.type, type) and issubclass(column.type, enum.Enum):

        def word(call: Any, row: Any) -> Any:
            value = getattr(row, attr)
            return value.value if isinstance(value, enum.Enum) else value

        return word
    return lambda call, row: getattr(row, attr)
