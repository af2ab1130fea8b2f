"""Lists: who may see which rows, filters, sorting, and paging by marker."""

from __future__ import annotations

import enum
import functools
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from altostack.kit.errors import ApiError, BadRequest, Forbidden
from altostack.kit.resource import MAX_INT, Column, Resource, columns

if TYPE_CHECKING:
    from altostack.kit.call import Call
    from altostack.kit.dialect import Dialect

_PAGING = {"limit", "marker", "sort", "sort_key", "sort_dir", "page_reverse", "with_count", "offset"}


def visible(call: Call, resource: Resource, *, listing: bool = False) -> list[Any]:
    """The WHERE conditions that tenancy and policy put on every query of ``resource``.

    Raises Forbidden when the caller asks for every project's rows and the dialect answers that with a 403.
    """
    found: list[Any] = []
    if resource.narrow is not None:
        found.append(resource.narrow(call))
    everything = call.allows(rule_name(call, resource, "all"))
    word = call.runtime.service.dialect.all_projects
    if listing and word is not None and resource.owner is not None:
        asked = call.flag(word)
        if asked and not everything and call.runtime.service.dialect.all_projects_strict:
            raise Forbidden(f"Policy doesn't allow {rule_name(call, resource, 'all')} to be performed.")
        everything = everything and asked
    if not everything:
        mine = [] if resource.owner is None else [resource.owner == call.context.project_id]
        if resource.visible is not None:
            mine.append(resource.visible(call))
        if mine:
            found.append(sa.or_(*mine))
    return found


def rule_name(call: Call, resource: Resource, op: str) -> str:
    """The policy name of an operation."""
    return resource.rules.get(op) or call.runtime.service.dialect.policy_name(resource, op)


def fetch(
    call: Call, resource: Resource, *, options: tuple[Any, ...] = (), extra: tuple[Any, ...] = ()
) -> tuple[list[Any], bool]:
    """The page of rows that the query string asks for, and whether more follow."""
    dialect = call.runtime.service.dialect
    shown = {column.wire: column for column in columns(resource.row)}
    conditions = [*visible(call, resource, listing=True), *extra, *_filters(call, resource, shown)]
    order = _order(call, resource, shown)
    reverse = call.flag("page_reverse")
    if reverse:
        order = [(column, not descending) for column, descending in order]
    marker = call.arg("marker")
    if marker:
        conditions.append(_after(call, resource, order, marker))
    limit = _limit(call, dialect)
    if limit == 0:
        return [], False
    row: Any = resource.row
    query = _ordered(row, tuple(resource.unlisted), tuple(order)).where(*conditions)
    if options:
        query = query.options(*options)
    rows = list(call.session.execute(query.limit(limit + 1)).scalars())
    more = len(rows) > limit
    rows = rows[:limit]
    return (rows[::-1] if reverse else rows), more


@functools.lru_cache(maxsize=1024)
def _ordered(row: Any, unlisted: tuple[Any, ...], order: tuple[tuple[Any, bool], ...]) -> Any:
    """The query's part that is the same for many requests; building it takes as long as running it."""
    clauses = []
    for column, descending in order:
        if column.expression.nullable:
            empty = column.is_(None)
            clauses.append(empty.desc() if descending else empty.asc())
        clauses.append(column.desc() if descending else column.asc())
    unread = (sa.orm.defer(column, raiseload=True) for column in unlisted)
    return sa.select(row).options(*unread).order_by(*clauses)


def count(call: Call, resource: Resource) -> int:
    """How many rows the query would list without paging."""
    shown = {column.wire: column for column in columns(resource.row)}
    conditions = [*visible(call, resource, listing=True), *_filters(call, resource, shown)]
    return int(
        call.session.execute(
            sa.select(sa.func.count()).select_from(resource.row).where(*conditions)
        ).scalar_one()
    )


def _limit(call: Call, dialect: Dialect) -> int:
    most, zero = dialect.max_limit, dialect.zero_limit
    text = call.arg("limit")
    if text is None:
        return dialect.default_limit or most
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadRequest(f"limit must be a non-negative integer, not {text!r}.", field="limit")
    limit = int(text)
    if limit == 0:
        if zero == "bad":
            raise BadRequest("limit must be at least 1.", field="limit")
        return 0 if zero == "empty" else most
    return min(limit, most)


def _filters(call: Call, resource: Resource, shown: dict[str, Column]) -> list[Any]:
    dialect = call.runtime.service.dialect
    found = []
    for name, values in call.query.items():
        if name in resource.filters:
            clause = resource.filters[name](call, values)
            if clause is not None:
                found.append(clause)
            continue
        column = shown.get(name)
        if (
            column is not None
            and column.facet.filter
            and not (column.facet.since and call.version and call.version < column.facet.since)
        ):
            clause = dialect.filter(call, column, values) if dialect.filter else equals(column, values)
            if clause is not None:
                found.append(clause)
            continue
        if name in _PAGING or name in (dialect.all_projects, dialect.select):
            continue
        if dialect.strict_query is True or (dialect.strict_query and dialect.strict_query(call)):
            raise BadRequest(f"Additional properties are not allowed ('{name}' was unexpected).", field=name)
    return found


def equals(column: Column, values: list[str]) -> Any:
    """Plain equality, any of several values. Raises BadRequest when a value cannot be of the column's type."""
    wanted = [read_value(column, value) for value in values]
    if len(wanted) == 1:
        return column.sql.is_(None) if wanted[0] is None else column.sql == wanted[0]
    return column.sql.in_(wanted)


def read_value(column: Column, text: str) -> Any:
    """A query value as the column's type. Raises BadRequest that names it."""
    kind = column.type
    try:
        if kind is bool:
            if text.lower() in ("1", "true", "t", "yes", "y", "on"):
                return True
            if text.lower() in ("0", "false", "f", "no", "n", "off"):
                return False
            raise ValueError("not a boolean")
        if kind is int:
            number = int(text)
            if not -MAX_INT <= number <= MAX_INT:
                raise ValueError("out of range")
            return number
        if kind is float:
            return float(text)
        if kind is datetime:
            return read_time(text)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return kind(text)
    except ValueError as error:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return text  # a status that does not exist is a filter that matches nothing
        raise BadRequest(
            f"Invalid value for {column.wire}: {text!r} ({error}).", field=column.wire
        ) from error
    return text


def read_time(text: str) -> datetime:
    """ISO 8601, with or without a zone (UTC is meant without). Raises ValueError."""
    from datetime import UTC

    moment = datetime.fromisoformat(text.replace(" ", "T") if "T" not in text else text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _order(call: Call, resource: Resource, shown: dict[str, Column]) -> list[tuple[Any, bool]]:
    dialect = call.runtime.service.dialect
    asked = dialect.sort(call) if dialect.sort else sort_words(call)
    order: list[tuple[Any, bool]] = []
    for wire, descending in asked:
        column = shown.get(wire)
        if column is None or not column.facet.sort:
            raise BadRequest(f"{wire!r} is not a valid sort key.", field="sort_key")
        order.append((column.sql, descending))
    if not order:
        order = [(getattr(resource.row, attr), descending) for attr, descending in resource.default_sort]
    if not order and hasattr(resource.row, "created_at"):
        order = [(resource.row.created_at, True)]
    for primary in sa.inspect(resource.row).primary_key:
        tie = sa.inspect(resource.row).get_property_by_column(primary).class_attribute
        if all(column is not tie for column, _ in order):
            order.append((tie, order[-1][1] if order else False))
    return order


def sort_words(call: Call) -> list[tuple[str, bool]]:
    """``sort=a:asc,b:desc`` or repeated ``sort_key`` and ``sort_dir``. Raises BadRequest."""
    found = []
    for text in call.query.get("sort", []):
        for part in text.split(","):
            name, _, direction = part.partition(":")
            found.append((name.strip(), _descending(direction.strip() or "desc")))
    keys = [key for text in call.query.get("sort_key", []) for key in text.split(",")]
    directions = [d for text in call.query.get("sort_dir", []) for d in text.split(",")]
    if len(directions) > max(len(keys), 1):
        raise BadRequest("There are more sort directions than sort keys.", field="sort_dir")
    default = "asc" if call.runtime.service.dialect.select else "desc"
    for position, name in enumerate(keys):
        direction = (
            directions[position] if position < len(directions) else (directions[0] if directions else default)
        )
        found.append((name, _descending(direction)))
    return found


def _descending(direction: str) -> bool:
    if direction not in ("asc", "desc"):
        raise BadRequest(f"{direction!r} is not a sort direction; asc and desc are.", field="sort_dir")
    return direction == "desc"


def _after(call: Call, resource: Resource, order: list[tuple[Any, bool]], marker: str) -> Any:
    """Rows that come after the marker's row in ``order``; nulls come last ascending and first descending."""
    column = getattr(resource.row, resource.lookup)
    last = (
        call.session.execute(sa.select(resource.row).where(column == marker, *visible(call, resource)))
        .scalars()
        .first()
    )
    if last is None:
        raise marker_missing(marker)
    either: list[Any] = []
    ties: list[Any] = []
    for sql, descending in order:
        value = getattr(last, sql.key)
        beyond = _beyond(sql, value, descending)
        if beyond is not None:
            either.append(sa.and_(*ties, beyond))
        ties.append(sql.is_(None) if value is None else sql == value)
    return sa.or_(*either) if either else sa.false()


def _beyond(sql: Any, value: Any, descending: bool) -> Any:
    if value is None:
        return sql.is_not(None) if descending else None
    if descending:
        return sql < value
    return sa.or_(sql > value, sql.is_(None)) if sql.expression.nullable else sql > value


def marker_missing(marker: str) -> ApiError:
    """The 400 for a marker that names no row which the caller can see."""
    return BadRequest(f"The marker {marker} could not be found.", field="marker")
