"""Resource providers, their aggregates and their traits."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.route import Route
from altostack.kit.versions import Version
from altostack.placement import query
from altostack.placement.candidates import fits, having
from altostack.placement.dialect import (
    DUPLICATE_NAME,
    PROVIDER_INUSE,
    PROVIDER_IS_PARENT,
    SERVICE,
    fresh,
    located,
    moved,
    path,
)  # fmt: skip
from altostack.placement.model import (
    Allocation,
    Inventory,
    Provider,
    ProviderAggregate,
    ProviderTrait,
)  # fmt: skip
from altostack.placement.trait import require_classes, require_traits

Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")]
Name = Annotated[str, msgspec.Meta(max_length=200)]


class Create(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Name
    uuid: Uuid | None = None


class CreateNested(Create, kw_only=True):
    parent_provider_uuid: Uuid | None = None


class Update(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: Name


class UpdateNested(Update, kw_only=True):
    parent_provider_uuid: Uuid | msgspec.UnsetType | None = msgspec.UNSET


class Traits(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    traits: list[Annotated[str, msgspec.Meta(min_length=1, max_length=255)]]
    resource_provider_generation: int


class Aggregates(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    aggregates: list[Uuid]
    resource_provider_generation: int


# ---- building blocks


def find(call: Call, key: str | None = None, *, lock: bool = False, purpose: str = "") -> Provider:
    """The provider of the path. Raises NotFound. ``lock`` makes this transaction the only one to change it.

    ``purpose`` is the refusal's last word.
    """
    key = call.params["uuid"] if key is None else key
    wanted = sa.select(Provider).where(Provider.uuid == key)
    found = call.session.scalars(wanted.with_for_update() if lock else wanted).first()
    if found is None:
        raise NotFound(f"No resource provider with uuid {key[:80]} found{purpose}.")
    return found


def held(call: Call, generation: int | None = None) -> Provider:
    """The path's provider, locked. Raises the 409 of a wrong ``generation``, where one was given."""
    found = find(call, lock=True)
    if generation is not None and generation != found.generation:
        raise moved(
            "resource provider generation conflict: Resource provider's generation already changed. Please update "
            f"the generation and try again. Resource provider {found.uuid} is at generation {found.generation}, not "
            f"{generation}."
        )
    return found


def show(call: Call, row: Provider) -> dict[str, Any]:
    """A provider as JSON."""
    here = path(call, "resource_providers", row.uuid)
    rels = ["inventories", "usages"]
    rels += [
        rel
        for rel, since in (("aggregates", "1.1"), ("traits", "1.6"), ("allocations", "1.11"))
        if call.at_least(since)
    ]
    found: dict[str, Any] = {
        "uuid": row.uuid,
        "name": row.name,
        "generation": row.generation,
        "links": [{"rel": "self", "href": here}, *({"rel": r, "href": f"{here}/{r}"} for r in rels)],
    }
    if call.at_least("1.14"):
        found |= {"parent_provider_uuid": row.parent, "root_provider_uuid": row.root}
    return found


# ---- providers


def list_providers(call: Call) -> Any:
    query.check_names(
        call,
        {"name": "1.0", "uuid": "1.0", "member_of": "1.3", "resources": "1.4", "in_tree": "1.14", "required": "1.18"},
    )  # fmt: skip
    wish = query.wish(call)
    name, key = call.arg("name"), call.arg("uuid")
    if key is not None and not query.is_uuid(key):
        raise BadRequest(f"Invalid query string parameters: {key!r} is not a 'uuid'.", field="uuid")
    require_classes(call.session, wish.resources)
    require_traits(call.session, wish.traits, 'Invalid trait(s) in "required" parameter: ')
    wanted = sa.select(Provider).order_by(Provider.created_at, Provider.uuid)
    if name is not None:
        wanted = wanted.where(Provider.name == name)
    if key is not None:
        wanted = wanted.where(Provider.uuid == key)
    if wish.in_tree is not None:
        root = sa.select(Provider.root).where(Provider.uuid == wish.in_tree).scalar_subquery()
        wanted = wanted.where(Provider.root == root)
    wanted = wanted.where(*having(wish, Provider.uuid))
    for resource_class, amount in wish.resources.items():
        able = sa.select(Inventory.provider).where(
            Inventory.resource_class == resource_class, fits(Inventory, amount)
        )
        wanted = wanted.where(Provider.uuid.in_(able))
    rows = list(call.session.scalars(wanted))
    fresh(call, *(row.modified for row in rows))
    return {"resource_providers": [show(call, row) for row in rows]}


def create(call: Call) -> Any:
    body = call.body
    if not body.name:
        raise BadRequest("Unable to create resource provider: name is required.", field="name")
    key = str(uuid.UUID(body.uuid)) if body.uuid else str(uuid.uuid4())
    session = call.session
    taken = [
        f"{attr}: {value}"
        for attr, column, value in (("uuid", Provider.uuid, key), ("name", Provider.name, body.name))
        if session.scalar(sa.select(Provider.uuid).where(column == value)) is not None
    ]
    if taken:
        raise _exists(", ".join(taken))
    root, parent = key, getattr(body, "parent_provider_uuid", None)
    if parent is not None:
        parent = str(uuid.UUID(parent))
        if parent == key:
            raise _no_child(body.name, key, "parent provider UUID cannot be same as UUID.")
        above = session.scalars(sa.select(Provider).where(Provider.uuid == parent).with_for_update()).first()
        if above is None:
            raise _no_child(body.name, key, f"parent provider UUID {parent} does not exist.")
        root, parent = above.root, above.uuid
    row = Provider(uuid=key, name=body.name, parent=parent, root=root, generation=0)
    session.add(row)
    _flush_named(session, f"name: {body.name}")
    located(call, "resource_providers", key)
    if not call.at_least("1.20"):
        return Reply(status=201)
    fresh(call, row.modified)
    return Reply(status=200, body=show(call, row))


def _no_child(name: str, key: str, why: str) -> BadRequest:
    return BadRequest(
        f'Unable to create resource provider "{name}", {key}: {why}', field="parent_provider_uuid"
    )


def _exists(what: str) -> Conflict:
    return Conflict(f"Conflicting resource provider {what} already exists.", kind=DUPLICATE_NAME)


def _flush_named(session: Session, what: str) -> None:
    try:
        session.flush()
    except IntegrityError as error:  # somebody else was faster
        raise _exists(what) from error


def show_provider(call: Call) -> Any:
    row = find(call)
    fresh(call, row.modified)
    return show(call, row)


def update(call: Call) -> Any:
    row = find(call, lock=True)
    body, session = call.body, call.session
    if not body.name:
        raise BadRequest(f"Unable to save resource provider {row.uuid}: name is required.", field="name")
    parent = getattr(body, "parent_provider_uuid", msgspec.UNSET)
    if parent is not msgspec.UNSET:
        parent = None if parent is None else str(uuid.UUID(parent))
        if parent != row.parent:
            _move(call, row, parent)
    row.name = body.name
    _flush_named(session, body.name)
    session.refresh(row)
    fresh(call, row.modified)
    return show(call, row)


def _move(call: Call, row: Provider, parent: str | None) -> None:
    """Hang the provider, with all below it, under another one (or none). Raises BadRequest."""
    session = call.session

    def refuse(why: str) -> BadRequest:
        return BadRequest(f"Unable to save resource provider {row.uuid}: {why}", field="parent_provider_uuid")

    if row.parent is not None and not call.at_least("1.37"):
        verb = "un-parenting" if parent is None else "re-parenting"
        raise refuse(f"{verb} a provider is not currently allowed.")
    # Whoever changes a tree holds the locks of all of it, so that two moves cannot close a ring.
    tree = list(
        session.scalars(
            sa.select(Provider).where(Provider.root == row.root).order_by(Provider.uuid).with_for_update()
        )
    )
    below: dict[str | None, list[Provider]] = {}
    for one in tree:
        below.setdefault(one.parent, []).append(one)
    family, todo = [row], [row]
    while todo:
        children = below.get(todo.pop().uuid, [])
        family += children
        todo += children
    root = row.uuid
    if parent is not None:
        above = session.scalars(sa.select(Provider).where(Provider.uuid == parent).with_for_update()).first()
        if above is None:
            raise refuse("parent provider UUID does not exist.")
        if any(one.uuid == parent for one in family):
            raise refuse("creating loop in the provider tree is not allowed.")
        root = above.root
    row.parent = parent
    for one in family:
        one.root = root


def delete(call: Call) -> None:
    session = call.session
    row = find(call, lock=True, purpose=" for delete")
    if session.scalar(sa.select(Provider.uuid).where(Provider.parent == row.uuid).limit(1)):
        raise Conflict(
            f"Unable to delete parent resource provider {row.uuid}: It has child resource providers.",
            kind=PROVIDER_IS_PARENT,
        )
    if session.scalar(sa.select(Allocation.provider).where(Allocation.provider == row.uuid).limit(1)):
        raise Conflict(
            f"Unable to delete resource provider {row.uuid}: Resource provider has allocations.",
            kind=PROVIDER_INUSE,
        )
    session.execute(sa.delete(Inventory).where(Inventory.provider == row.uuid))
    session.execute(sa.delete(Provider).where(Provider.uuid == row.uuid))


# ---- traits of a provider


def _traits(session: Session, key: str) -> list[str]:
    names = sa.select(ProviderTrait.trait).where(ProviderTrait.provider == key)
    return sorted(session.scalars(names))


def list_traits(call: Call) -> Any:
    row = find(call)
    fresh(call)
    return {"traits": _traits(call.session, row.uuid), "resource_provider_generation": row.generation}


def set_traits(call: Call) -> Any:
    row = held(call, call.body.resource_provider_generation)
    require_traits(call.session, set(call.body.traits))
    _set_traits(call.session, row, set(call.body.traits))
    fresh(call)
    return {"traits": sorted(set(call.body.traits)), "resource_provider_generation": row.generation}


def delete_traits(call: Call) -> None:
    _set_traits(call.session, held(call), set())


def _set_traits(session: Session, row: Provider, wanted: set[str]) -> None:
    present = set(_traits(session, row.uuid))
    if wanted == present:
        return
    gone = present - wanted
    if gone:
        session.execute(
            sa.delete(ProviderTrait).where(ProviderTrait.provider == row.uuid, ProviderTrait.trait.in_(gone))
        )
    session.add_all(ProviderTrait(provider=row.uuid, trait=name) for name in wanted - present)
    row.generation += 1
    session.flush()


# ---- aggregates of a provider


def _aggregates(session: Session, key: str) -> list[str]:
    found = sa.select(ProviderAggregate.aggregate).where(ProviderAggregate.provider == key)
    return sorted(session.scalars(found))


def list_aggregates(call: Call) -> Any:
    row = find(call)
    return _show_aggregates(call, row, _aggregates(call.session, row.uuid))


def _show_aggregates(call: Call, row: Provider, found: list[str]) -> Any:
    fresh(call)
    shown: dict[str, Any] = {"aggregates": found}
    if call.at_least("1.19"):
        shown["resource_provider_generation"] = row.generation
    return shown


def set_aggregates(call: Call) -> Any:
    counted = call.at_least("1.19")
    asked = call.body.aggregates if counted else call.body
    if len(set(asked)) != len(asked):
        raise BadRequest("JSON does not validate: aggregates has non-unique elements.", field="aggregates")
    row = held(call, call.body.resource_provider_generation if counted else None)
    session = call.session
    session.execute(sa.delete(ProviderAggregate).where(ProviderAggregate.provider == row.uuid))
    session.add_all(ProviderAggregate(provider=row.uuid, aggregate=str(uuid.UUID(one))) for one in asked)
    if counted:
        row.generation += 1
    session.flush()
    return _show_aggregates(call, row, [str(uuid.UUID(one)) for one in asked])


_ONE = "/resource_providers/{uuid}"
_RULE = "placement:resource_providers"


def route(method: str, tail: str, handler: Any, rule: str, **more: Any) -> Route:
    """A route below one provider (or, with an absolute ``tail``, anywhere)."""
    return Route(
        method=method, path=tail if tail.startswith("/r") else _ONE + tail, handler=handler,
        policy=f"{_RULE}:{rule}", check=SERVICE, **more,
    )  # fmt: skip


ROUTES = (
    route("GET", "/resource_providers", list_providers, "list"),
    route(
        "POST", "/resource_providers", create, "create", status=201,
        body=lambda version: CreateNested if version is None or version >= Version(1, 14) else Create,
    ),
    route("GET", "", show_provider, "show"),
    route(
        "PUT", "", update, "update",
        body=lambda version: UpdateNested if version is None or version >= Version(1, 14) else Update,
    ),
    route("DELETE", "", delete, "delete", status=204),
    route("GET", "/traits", list_traits, "traits:list", since=Version(1, 6)),
    route("PUT", "/traits", set_traits, "traits:update", since=Version(1, 6), body=Traits),
    route("DELETE", "/traits", delete_traits, "traits:delete", since=Version(1, 6), status=204),
    route("GET", "/aggregates", list_aggregates, "aggregates:list", since=Version(1, 1)),
    route(
        "PUT", "/aggregates", set_aggregates, "aggregates:update", since=Version(1, 1), names=find,
        body=lambda version: Aggregates if version is None or version >= Version(1, 19) else list[Uuid],
    ),
)  # fmt: skip
