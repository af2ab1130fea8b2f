"""Traits and resource classes: the words that providers and requests share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.route import Route
from altostack.kit.service import Runtime
from altostack.kit.versions import Version
from altostack.placement import query
from altostack.placement.dialect import SERVICE, fresh, located, path
from altostack.placement.model import Inventory, ProviderTrait, ResourceClass, Trait

CUSTOM = r"^CUSTOM_[A-Z0-9_]+$"
SHARES = "MISC_SHARES_VIA_AGGREGATE"  # os-traits: the provider shares what it has with its aggregates


class Named(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(pattern=CUSTOM, max_length=255)]


def require_traits(session: Session, names: Iterable[str], where: str = "") -> None:
    """Raises BadRequest that names the traits which do not exist."""
    asked = set(names)
    if asked:
        missing = asked - set(session.scalars(sa.select(Trait.name).where(Trait.name.in_(asked))))
        if missing:
            raise BadRequest(f"{where}No such trait(s): {', '.join(sorted(missing))}.")


def require_classes(session: Session, names: Iterable[str], where: str | None = None) -> None:
    """Raises BadRequest that names the resource classes which do not exist."""
    asked = set(names)
    if asked:
        known = session.scalars(sa.select(ResourceClass.name).where(ResourceClass.name.in_(asked)))
        missing = asked - set(known)
        if missing:
            start = "Invalid resource class in resources parameter: " if where is None else where
            raise BadRequest(f"{start}No such resource class {', '.join(sorted(missing))}.")


def standing(name: str) -> tuple[int, str]:
    """The sort key of a trait or class: standard classes as their library lists them, other standard words, custom."""
    import os_resource_classes  # type: ignore[import-untyped]  # has no stubs

    if name.startswith("CUSTOM_"):
        return (len(os_resource_classes.STANDARDS) + 1, name)
    if name in os_resource_classes.STANDARDS:
        return (os_resource_classes.STANDARDS.index(name), name)
    return (len(os_resource_classes.STANDARDS), name)


def sync(runtime: Runtime) -> None:
    """Write the standard traits and classes that the field's libraries name and the database lacks. Idempotent."""
    import os_resource_classes
    import os_traits  # type: ignore[import-untyped]  # has no stubs

    def write(session: Session) -> None:
        for row, names in ((Trait, os_traits.get_traits()), (ResourceClass, os_resource_classes.STANDARDS)):
            missing = set(names) - set(session.scalars(sa.select(row.name)))
            session.add_all(row(name=name) for name in sorted(missing))

    runtime.db.write(write)


# ---- traits


def list_traits(call: Call) -> Any:
    query.check_names(call, {"name": "1.6", "associated": "1.6"})
    wanted = sa.select(Trait).order_by(Trait.name)
    name, associated = call.arg("name"), call.arg("associated")
    if name is not None:
        how, colon, value = name.partition(":")
        if not colon:
            raise BadRequest(
                "Badly formatted name parameter. Expected name query string parameter in form: "
                f'?name=[in|startswith]:[name1,name2|prefix]. Got: "{name}"',
                field="name",
            )
        if how == "in":
            wanted = wanted.where(Trait.name.in_(value.split(",")))
        elif how == "startswith":
            wanted = wanted.where(Trait.name.startswith(value, autoescape=True))
    if associated is not None:
        if associated.lower() not in ("true", "false"):
            raise BadRequest(
                'The query parameter "associated" only accepts "true" or "false"', field="associated"
            )
        used = Trait.name.in_(sa.select(ProviderTrait.trait))
        wanted = wanted.where(used if associated.lower() == "true" else ~used)
    rows = list(call.session.scalars(wanted))
    fresh(call, *(row.modified for row in rows))
    return {"traits": [row.name for row in rows]}


def show_trait(call: Call) -> None:
    fresh(call, _trait(call).modified)


def _trait(call: Call) -> Trait:
    name = call.params["name"]
    found = call.session.get(Trait, name)
    if found is None:
        raise NotFound(f"No such trait(s): {name}.")
    return found


def put_trait(call: Call) -> Reply:
    name = call.params["name"]
    if not re.fullmatch(CUSTOM, name) or len(name) > 255:
        raise BadRequest(
            "The trait is invalid. A valid trait must be no longer than 255 characters, start with the prefix "
            '"CUSTOM_" and use following characters: "A"-"Z", "0"-"9" and "_"',
            field="name",
        )
    row, made = _ensure(call, Trait, name)
    fresh(call, row.created_at)
    located(call, "traits", name)
    return Reply(status=201 if made else 204)


def _ensure(call: Call, kind: Any, name: str) -> tuple[Any, bool]:
    """The row of that name, made if it is missing, and whether it was."""
    session = call.session
    found = session.get(kind, name)
    if found is not None:
        return found, False
    try:
        with session.begin_nested():
            row = kind(name=name, created_at=datetime.now(UTC))
            session.add(row)
    except IntegrityError:  # somebody else just made it
        return session.get_one(kind, name), False
    return row, True


def delete_trait(call: Call) -> None:
    row = _trait(call)
    if not row.name.startswith("CUSTOM_"):
        raise BadRequest(f"Cannot delete standard trait {row.name}.")
    session = call.session
    if session.scalar(sa.select(ProviderTrait.trait).where(ProviderTrait.trait == row.name).limit(1)):
        raise Conflict(f"The trait {row.name} is in use by a resource provider.")
    session.delete(row)


# ---- resource classes


def list_classes(call: Call) -> Any:
    rows = list(call.session.scalars(sa.select(ResourceClass).order_by(ResourceClass.name)))
    fresh(call, *(row.modified for row in rows))
    return {"resource_classes": [_show_class(call, row.name) for row in rows]}


def _show_class(call: Call, name: str) -> dict[str, Any]:
    return {"name": name, "links": [{"rel": "self", "href": path(call, "resource_classes", name)}]}


def _class(call: Call) -> ResourceClass:
    name = call.params["name"]
    found = call.session.get(ResourceClass, name)
    if found is None:
        raise NotFound(f"No such resource class {name}.")
    return found


def show_class(call: Call) -> Any:
    row = _class(call)
    fresh(call, row.modified)
    return _show_class(call, row.name)


def create_class(call: Call) -> None:
    name = call.body.name
    if not _ensure(call, ResourceClass, name)[1]:
        raise Conflict(f"Conflicting resource class already exists: {name}")
    located(call, "resource_classes", name)


def put_class(call: Call) -> Reply:
    """Since 1.7: make the class, or see that it is there."""
    name = call.params["name"]
    keyword = "pattern" if not re.fullmatch(CUSTOM, name) else "maxLength" if len(name) > 255 else None
    if keyword:
        raise BadRequest(
            f"JSON does not validate: {name[:80]!r} is not a custom resource class (CUSTOM_ and A-Z, 0-9, _; at most "
            f"255 characters). Failed validating {keyword!r} in schema",
            field="name",
        )
    made = _ensure(call, ResourceClass, name)[1]
    located(call, "resource_classes", name)
    return Reply(status=201 if made else 204)


def rename_class(call: Call) -> Any:
    """Up to 1.6: give a custom class another name."""
    row, name, session = _class(call), call.body.name, call.session
    if not row.name.startswith("CUSTOM_"):
        raise BadRequest(f"Cannot update standard resource class {row.name}")
    if session.get(ResourceClass, name) is not None:
        raise Conflict(f"Resource class already exists: {name}")
    if session.scalar(sa.select(Inventory.provider).where(Inventory.resource_class == row.name).limit(1)):
        raise Conflict(f"Resource class {row.name} is in use in inventory.")
    row.name = name
    session.flush()
    return _show_class(call, name)


def delete_class(call: Call) -> None:
    row, session = _class(call), call.session
    if not row.name.startswith("CUSTOM_"):
        raise BadRequest(f"Error in delete resource class: Cannot delete standard resource class {row.name}.")
    if session.scalar(sa.select(Inventory.provider).where(Inventory.resource_class == row.name).limit(1)):
        raise Conflict(
            f"Error in delete resource class: Cannot delete resource class {row.name}. "
            "Class is in use in inventory."
        )
    session.delete(row)


def _route(method: str, kind: str, tail: str, handler: Any, op: str, since: str, **more: Any) -> Route:
    return Route(
        method=method, path=f"/{kind}{tail}", handler=handler, policy=f"placement:{kind}:{op}", check=SERVICE,
        since=Version(1, int(since.partition(".")[2])), **more,
    )  # fmt: skip


ROUTES = (
    _route("GET", "traits", "", list_traits, "list", "1.6"),
    _route("GET", "traits", "/{name}", show_trait, "show", "1.6", status=204),
    _route("PUT", "traits", "/{name}", put_trait, "update", "1.6"),
    _route("DELETE", "traits", "/{name}", delete_trait, "delete", "1.6", status=204),
    _route("GET", "resource_classes", "", list_classes, "list", "1.2"),
    _route("POST", "resource_classes", "", create_class, "create", "1.2", status=201, body=Named),
    _route("GET", "resource_classes", "/{name}", show_class, "show", "1.2"),
    _route(
        "PUT", "resource_classes", "/{name}", rename_class, "update", "1.2", until=Version(1, 6), body=Named
    ),
    _route("PUT", "resource_classes", "/{name}", put_class, "update", "1.7"),
    _route("DELETE", "resource_classes", "/{name}", delete_class, "delete", "1.2", status=204),
)
