"""The tables of metadata definitions, and what stands in them."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.image.model import ImageRow
from altostack.kit.resource import Timed, field, key, private


class Visibility(enum.StrEnum):
    """Who sees a namespace besides its owner."""

    PUBLIC = "public"
    PRIVATE = "private"


class Namespace(Timed, ImageRow):
    """A namespace; its name is what paths name it by."""

    __tablename__ = "metadef_namespaces"
    id: Mapped[str] = key(filter=False)
    namespace: Mapped[str] = field(max_length=80, unique=True, sort=True)
    display_name: Mapped[str | None] = field(max_length=80)
    description: Mapped[str | None] = field(type_=sa.Text())
    visibility: Mapped[Visibility] = field(default=Visibility.PRIVATE, filter=True)
    protected: Mapped[bool] = field(default=False)
    owner: Mapped[str | None] = field(max_length=255, sort=True, index=True)


class Kind(enum.StrEnum):
    """What a definition is."""

    OBJECT = "object"
    PROPERTY = "property"
    TAG = "tag"
    TYPE = "resource_type"


class Definition(Timed, ImageRow):
    """One thing in a namespace: an object, a property, a tag, or a resource type that it is meant for."""

    __tablename__ = "metadef_definitions"
    id: Mapped[int] = private(primary_key=True, autoincrement=True)
    namespace_id: Mapped[str] = private(type_=sa.String(64), index=True)
    kind: Mapped[Kind] = private()
    name: Mapped[str] = private(type_=sa.String(255))
    body: Mapped[dict[str, Any]] = private(default={})

    __table_args__ = (sa.UniqueConstraint("namespace_id", "kind", "name"),)


Name80 = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
Name255 = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Whole = Annotated[int, msgspec.Meta(ge=0)]
_Absent = msgspec.UnsetType
_ABSENT = msgspec.UNSET


class Items(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What an array holds."""

    type: Literal["array", "boolean", "integer", "number", "object", "string"] | _Absent = _ABSENT
    enum: list[Any] | _Absent = _ABSENT


class Property(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The definition of one property: a part of JSON schema, with operators."""

    type: Literal["array", "boolean", "integer", "number", "object", "string"]
    title: str
    description: str | _Absent = _ABSENT
    operators: list[str] | _Absent = _ABSENT
    required: list[str] | _Absent = _ABSENT
    minimum: float | _Absent = _ABSENT
    maximum: float | _Absent = _ABSENT
    maxLength: _Whole | _Absent = _ABSENT
    minLength: _Whole | _Absent = _ABSENT
    pattern: str | _Absent = _ABSENT
    enum: list[Any] | _Absent = _ABSENT
    readonly: bool | _Absent = _ABSENT
    default: Any = _ABSENT
    items: Items | _Absent = _ABSENT
    maxItems: _Whole | _Absent = _ABSENT
    minItems: _Whole | _Absent = _ABSENT
    uniqueItems: bool | _Absent = _ABSENT
    additionalItems: bool | _Absent = _ABSENT


class NamedProperty(Property, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A property with its name, as it is posted by itself."""

    name: Name80


class ObjectBody(msgspec.Struct, forbid_unknown_fields=True):
    """An object: properties that belong together."""

    name: Name255
    description: str | None = None
    required: list[str] = []
    properties: dict[str, Property] = {}


class TagBody(msgspec.Struct, forbid_unknown_fields=True):
    """A tag."""

    name: Name80


class TagsBody(msgspec.Struct, forbid_unknown_fields=True):
    """Several tags."""

    tags: list[TagBody]


class TypeBody(msgspec.Struct, forbid_unknown_fields=True):
    """A resource type, with what its properties' names begin with, and where in the resource they go."""

    name: Name80
    prefix: Annotated[str, msgspec.Meta(max_length=80)] | None = None
    properties_target: Annotated[str, msgspec.Meta(max_length=80)] | None = None


class NamespaceFields(msgspec.Struct, forbid_unknown_fields=True):
    """A namespace without what is in it: the body of PUT, which replaces all of them."""

    namespace: Name80
    display_name: Annotated[str, msgspec.Meta(max_length=80)] | None = None
    description: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    visibility: Literal["public", "private"] = "private"
    protected: bool = False
    owner: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None


class NamespaceBody(NamespaceFields, forbid_unknown_fields=True):
    """A namespace with what is in it: the body of POST."""

    resource_type_associations: list[TypeBody] = []
    properties: dict[str, Property] = {}
    objects: list[ObjectBody] = []
    tags: list[TagBody] = []


def definitions(namespace_id: str, body: NamespaceBody) -> list[Definition]:
    """The rows of everything in the body."""
    found: list[tuple[Kind, str, Any]] = []
    found += [(Kind.TYPE, one.name, _rest(one)) for one in body.resource_type_associations]
    found += [(Kind.PROPERTY, name, msgspec.to_builtins(one)) for name, one in body.properties.items()]
    found += [(Kind.OBJECT, one.name, _rest(one)) for one in body.objects]
    found += [(Kind.TAG, one.name, {}) for one in body.tags]
    return [
        Definition(namespace_id=namespace_id, kind=kind, name=name, body=rest) for kind, name, rest in found
    ]


def _rest(body: Any) -> dict[str, Any]:
    """Everything but the name, without what is not given."""
    return {k: v for k, v in msgspec.to_builtins(body).items() if k != "name" and v is not None}
