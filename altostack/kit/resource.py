"""What a resource is: one row class whose columns carry facets, and one table that names the rest.

Three rungs, and no fourth: a facet on a column; a named function in the `Resource` (an action, a computed
field, a version `Change`); a plain `Route` that calls the same building blocks. A column without a facet
never leaves the database.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from altostack.kit.db import utcnow
from altostack.kit.versions import Change, Version, parse

if TYPE_CHECKING:
    from altostack.kit.api import Call
    from altostack.kit.flow import Flow

_FACET = "facet"
_NO_DEFAULT: Any = object()
MAX_INT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Facet:
    """What the API does with a column. The vocabulary is capped: a new word needs a decision record.

    wire: its name in JSON (default: the attribute's). show: True, False, or "admin" (only to whoever passes the
    resource's "admin_fields" rule). brief: in the short list too. create / update: a client may set it so.
    required: must be there on create. filter / sort: a query parameter / a sort key. since: first microversion
    that knows it. ge, le, max_length, pattern: limits on input. doc: one line for the OpenAPI document.
    """

    wire: str | None = None
    show: bool | str = True
    brief: bool = False
    create: bool = False
    update: bool = False
    required: bool = False
    filter: bool = False
    sort: bool = False
    since: Version | None = None
    ge: int | None = None
    le: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    doc: str = ""


def field(
    *,
    wire: str | None = None,
    show: bool | str = True,
    brief: bool = False,
    create: bool = False,
    update: bool = False,
    required: bool = False,
    default: Any = _NO_DEFAULT,
    filter: bool = False,
    sort: bool = False,
    since: str | None = None,
    ge: int | None = None,
    le: int | None = None,
    max_length: int | None = None,
    pattern: str | None = None,
    doc: str = "",
    **column: Any,
) -> Any:
    """A column that the API shows; see `Facet` for the words. ``default`` is a value or a callable.

    Further keywords go to SQLAlchemy's ``mapped_column`` (``index=True``, ``unique=True``, ...).
    """
    facet = Facet(
        wire=wire, show=show, brief=brief, create=create or required, update=update, required=required,
        filter=filter, sort=sort, since=parse(since) if since else None, ge=ge, le=le, max_length=max_length,
        pattern=pattern, doc=doc,
    )  # fmt: skip
    return _column(facet, default, max_length, column)


def private(*, default: Any = _NO_DEFAULT, **column: Any) -> Any:
    """A column that never leaves the database."""
    return _column(None, default, None, column)


def key(**column: Any) -> Any:
    """The id: a string of at most 64 characters, shown everywhere, made by the service (uuid4, dashed)."""
    facet = Facet(brief=True, filter=column.pop("filter", True), sort=True)
    default = column.pop("default", _NO_DEFAULT)
    return _column(facet, default, 64, {"primary_key": True, **column})


def _column(facet: Facet | None, default: Any, length: int | None, column: dict[str, Any]) -> Any:
    args: list[Any] = []
    if "type_" in column:
        args.append(column.pop("type_"))
    elif length is not None:
        # Past MariaDB's row budget a text is stored outside the row.
        args.append(sa.String(length) if length <= 1024 else sa.Text())
    if default is not _NO_DEFAULT:
        column["default"] = default if callable(default) or default is None else _constant(default)
    return mapped_column(*args, info={_FACET: facet} if facet else {}, **column)


def _constant(value: Any) -> Any:
    """JSON defaults must not be shared between rows."""
    if isinstance(value, dict | list):
        kind = type(value)
        return lambda: kind(value)
    return value


class Timed:
    """created_at and updated_at, both shown; updated_at stays null until the first change."""

    created_at: Mapped[datetime] = field(sort=True, default=utcnow)
    updated_at: Mapped[datetime | None] = field(sort=True, default=None, onupdate=utcnow)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A facet together with where it sits: the compiled view of one column."""

    attr: str
    wire: str
    type: Any  # the Python type, without None
    nullable: bool
    facet: Facet
    sql: Any  # the mapped attribute, for queries
    has_default: bool


def columns(row: type[Any]) -> tuple[Column, ...]:
    """The columns of ``row`` that carry a facet, in their order of declaration."""
    return _columns(row)


def _find_columns(row: Any) -> tuple[Column, ...]:
    hints = typing.get_type_hints(row)
    found = []
    for attribute in sa.inspect(row).column_attrs:
        column = attribute.columns[0]
        facet: Facet | None = column.info.get(_FACET)
        if facet is None:
            continue
        kind, nullable = _plain(hints[attribute.key])
        found.append(
            Column(
                attr=attribute.key,
                wire=facet.wire or attribute.key,
                type=kind,
                nullable=nullable,
                facet=facet,
                sql=getattr(row, attribute.key),
                has_default=column.default is not None,
            )
        )
    return tuple(found)


_columns: Callable[[Any], tuple[Column, ...]] = functools.cache(_find_columns)  # a class never changes


def _plain(annotation: Any) -> tuple[Any, bool]:
    """``Mapped[str | None]`` -> (str, True)."""
    inner = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Mapped else annotation
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(inner) if kind is not type(None)]
        return (kinds[0] if len(kinds) == 1 else typing.Union[tuple(kinds)]), True  # noqa: UP007 - built at run time
    return inner, False


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A field of the answer that no column holds: ``get(call, row)`` gives its JSON value.

    ``msgspec.UNSET`` leaves the key out of this answer.
    """

    get: Callable[[Call, Any], Any]
    brief: bool = False
    show: bool | str = True
    since: Version | None = None
    until: Version | None = None  # the last version that has it
    detail: bool = True  # False: only in the answer to "show" and "create"


@dataclass(frozen=True, kw_only=True)
class Action:
    """Something done to one row: ``run(call, row)`` returns a JSON value, a Reply or None.

    In services that post ``{"os-extend": {...}}`` to ``/action`` the key in `Resource.actions` is that word and
    ``body`` what stands under it (a msgspec Struct, a type, ``version -> type``, or None for null or nothing). With
    ``path`` set it has a path of its own under the row and ``method``.
    """

    run: Callable[[Call, Any], Any]
    body: Any = None
    policy: str | None = None  # a check string; default: the resource's "update" rule
    rule: str | None = None  # the policy name, where the dialect's pattern does not give it
    status: int | None = None
    since: Version | None = None
    until: Version | None = None
    path: str | None = None
    method: str = "PUT"


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One noun of the API. Only ``row``, ``name`` and ``policy`` are needed; every word has a default.

    policy: operation -> oslo.policy check string; an operation that is not named has no route. Operations: list,
        show, create, update, delete; "all" opens other projects' rows to lists; "admin_fields" shows admin columns.
    owner: the column that holds the owning project; None = belongs to nobody (everyone who passes policy sees it).
    visible: further rows that a caller may see: ``(call) -> SQL condition``, or'd with ownership.
    unlisted: large columns that no list shows: a list does not read them.
    narrow: rows no caller sees through these routes: ``(call) -> SQL condition``, and'd.
    create / update / delete: ``(call, fields) -> row``, ``(call, row, fields)``, ``(call, row)``: the named functions
        that replace the default; ``fields`` maps attribute -> value for what the client sent.
    check: ``(call, fields)`` before any transaction begins: the place for calls to other services.
    create_body / update_body: a msgspec Struct, or ``version -> Struct``, instead of the one compiled from facets;
        its fields are then ``fields`` by name. extra_body: further top-level keys beside the envelope -> type.
    inputs: further keys of the compiled create body that no column holds -> type.
    quota: quota name -> 1 or a column whose sum is limited. flow: the lifecycle class; delete then dooms the flow.
    extra: the attribute of a JSON column that keeps the keys which the schema does not know, where the dialect's
        bodies are open; they are shown again. ``fields`` then holds it too.
    lookup: the column that the URL's id names. parent: for nested paths, ``(call) -> None`` that checks the parent
        and path parameters (and raises NotFound), with ``narrow`` restricting the rows.
    """

    row: type[Any]
    name: str
    policy: Mapping[str, str]
    plural: str | None = None
    path: str | None = None
    envelope: str | None = None  # the JSON key where it is not the name
    envelope_plural: str | None = None
    owner: Any = None
    visible: Callable[[Call], Any] | None = None
    narrow: Callable[[Call], Any] | None = None
    parent: Callable[[Call], Any] | None = None
    create: Callable[[Call, dict[str, Any]], Any] | None = None
    update: Callable[[Call, Any, dict[str, Any]], None] | None = None
    delete: Callable[[Call, Any], None] | None = None
    check: Callable[[Call, dict[str, Any]], None] | None = None
    create_body: Any = None
    update_body: Any = None
    extra_body: Mapping[str, Any] = dataclass_field(default_factory=dict)
    inputs: Mapping[str, Any] = dataclass_field(default_factory=dict)
    update_inputs: Mapping[str, Any] = dataclass_field(default_factory=dict)
    actions: Mapping[str, Action] = dataclass_field(default_factory=dict)
    computed: Mapping[str, Computed] = dataclass_field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    filters: Mapping[str, Callable[[Call, list[str]], Any]] = dataclass_field(default_factory=dict)
    quota: Mapping[str, Any] = dataclass_field(default_factory=dict)
    flow: type[Flow[Any]] | None = None
    extra: str | None = None
    lookup: str = "id"
    id_param: str | None = None
    rules: Mapping[str, str] = dataclass_field(
        default_factory=dict
    )  # operation -> policy name, where irregular
    status: Mapping[str, int] = dataclass_field(default_factory=dict)  # operation -> status, where irregular
    since: Mapping[str, Version] = dataclass_field(default_factory=dict)  # operation -> first version
    until: Mapping[str, Version] = dataclass_field(default_factory=dict)  # operation -> last version
    bulk: bool = False  # POST also takes {"plural": [...]}
    default_sort: tuple[tuple[str, bool], ...] = ()  # (attribute, descending)
    unlisted: tuple[Any, ...] = ()
    doc: str = ""

    @property
    def collection(self) -> str:
        """The plural noun."""
        return self.plural or f"{self.name}s"

    @property
    def base(self) -> str:
        """The collection's path below the service's root."""
        return self.path or f"/{self.collection}"

    @property
    def param(self) -> str:
        """The path parameter that holds the id."""
        return self.id_param or f"{self.name.replace('-', '_')}_id"


def struct(
    name: str,
    fields: list[tuple[str, Any, bool]],
    *,
    rename: Mapping[str, str] | None = None,
    open: bool = False,
) -> type[msgspec.Struct]:
    """A struct for a request body: (attribute, type, required) each; unknown keys are refused unless ``open``.

    A key that the client left out is ``msgspec.UNSET``, so null and absent differ.
    """
    spec: list[Any] = []
    for attr, kind, required in fields:
        spec.append((attr, kind) if required else (attr, kind | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(
        name, spec, rename=dict(rename or {}), forbid_unknown_fields=not open, kw_only=True
    )


def body_struct(resource: Resource, op: str, version: Version | None, *, open: bool = False) -> Any:
    """The struct of what a client may send to create or update ``resource`` at ``version``."""
    custom = resource.create_body if op == "create" else resource.update_body
    if custom is not None:
        return custom if isinstance(custom, type) else custom(version)
    fields: list[tuple[str, Any, bool]] = []
    rename: dict[str, str] = {}
    for column in columns(resource.row):
        facet = column.facet
        if not (facet.create if op == "create" else facet.update):
            continue
        if facet.since and version and version < facet.since:
            continue
        fields.append((column.attr, input_type(column), op == "create" and facet.required))
        rename[column.attr] = column.wire
    for wire, kind in (resource.inputs if op == "create" else resource.update_inputs).items():
        attr = wire.replace(":", "__").replace("-", "_")
        fields.append((attr, kind, False))
        rename[attr] = wire
    title = resource.name.title().replace("_", "").replace("-", "").replace(" ", "")
    return struct(f"{title}{op.title()}", fields, rename=rename, open=open)


def input_type(column: Column) -> Any:
    """The msgspec type of a column as input, with its limits."""
    facet = column.facet
    kind: Any = column.type
    meta: dict[str, Any] = {}
    if kind is str:
        meta["max_length"] = facet.max_length or getattr(column.sql.type, "length", None) or 255
        if facet.required and facet.ge:
            meta["min_length"] = facet.ge
        if facet.pattern:
            meta["pattern"] = facet.pattern
    elif kind is int:
        meta["ge"] = -MAX_INT if facet.ge is None else facet.ge
        meta["le"] = MAX_INT if facet.le is None else facet.le
    elif kind is float:
        if facet.ge is not None:
            meta["ge"] = facet.ge
        if facet.le is not None:
            meta["le"] = facet.le
    if meta:
        kind = typing.Annotated[kind, msgspec.Meta(**meta)]
    return kind | None if column.nullable else kind


def given(body: Any) -> dict[str, Any]:
    """The attributes that a client really sent."""
    if isinstance(body, dict):
        return dict(body)
    return {
        name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not msgspec.UNSET
    }
