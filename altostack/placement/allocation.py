"""Allocations: who takes what from whom; and the reshaper, which moves inventories and allocations at once.

One transaction locks the consumers and then the providers it touches, in the order of their ids, checks what is
free, and writes allocations, ``Inventory.used`` and generations together. So parallel requests wait for each other
instead of failing on a provider's generation, and capacity is never passed. Only the generation of a consumer, which
the caller states, can be out of date: that is a 409 placement.concurrent_update.
"""

from __future__ import annotations

import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, NotFound
from altostack.kit.flow import narrate
from altostack.kit.route import Route
from altostack.kit.versions import Version
from altostack.placement import inventory, query
from altostack.placement.dialect import PROVIDER_NOT_FOUND, RESHAPE, SERVICE, fresh, moved
from altostack.placement.inventory import ClassName
from altostack.placement.model import Allocation, Consumer, Inventory, Provider
from altostack.placement.provider import Uuid, find, route
from altostack.placement.trait import require_classes

NOBODY = "00000000-0000-0000-0000-000000000000"  # project and user of consumers written before 1.8
UNKNOWN = "unknown"  # the type of consumers written before 1.38

Key = Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F-]{36}$")]
Who = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Resources = Annotated[dict[ClassName, Annotated[int, msgspec.Meta(ge=1)]], msgspec.Meta(min_length=1)]


# ---- bodies, by version


class ProviderRef(msgspec.Struct, forbid_unknown_fields=True):
    uuid: Uuid


class Item(msgspec.Struct, forbid_unknown_fields=True):
    resource_provider: ProviderRef
    resources: Resources


class Anonymous(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """1.0"""

    allocations: Annotated[list[Item], msgspec.Meta(min_length=1)]


class Listed(Anonymous, kw_only=True):
    """1.8"""

    project_id: Who
    user_id: Who


class Share(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    resources: Resources
    generation: int | None = None  # accepted and ignored, as documented


class Filled(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """1.12"""

    allocations: Annotated[dict[Key, Share], msgspec.Meta(min_length=1)]
    project_id: Who
    user_id: Who


class Emptiable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """1.13, in POST"""

    allocations: dict[Key, Share]
    project_id: Who
    user_id: Who


class Counted(Emptiable, kw_only=True):
    """1.28"""

    consumer_generation: int | None


Group = Annotated[str, msgspec.Meta(pattern="^([a-zA-Z0-9_-]{1,64})?$")]


class Mapped(Counted, kw_only=True):
    """1.34: mappings are accepted and ignored."""

    mappings: (
        Annotated[dict[Group, Annotated[list[Uuid], msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]
        | msgspec.UnsetType
    ) = msgspec.UNSET


class Typed(Mapped, kw_only=True):
    """1.38"""

    consumer_type: Annotated[str, msgspec.Meta(pattern="^[A-Z0-9_]+$", min_length=1, max_length=255)]


def _newest(version: Version | None, ladder: tuple[tuple[int, Any], ...]) -> Any:
    return next(kind for minor, kind in ladder if version is None or version >= Version(1, minor))


def _put_body(version: Version | None) -> Any:
    return _newest(
        version, ((38, Typed), (34, Mapped), (28, Counted), (12, Filled), (8, Listed), (0, Anonymous))
    )


def _one_of_many(version: Version | None) -> Any:
    return _newest(version, ((38, Typed), (34, Mapped), (28, Counted), (0, Emptiable)))


def _post_body(version: Version | None) -> Any:
    return Annotated[_by_key(_one_of_many(version)), msgspec.Meta(min_length=1)]


def _by_key(kind: Any) -> Any:
    return dict.__class_getitem__((Key, kind))


# ---- what is asked


@dataclass(kw_only=True)
class Wanted:
    """What one consumer shall have from now on: ``shares`` is provider -> class -> amount; empty means nothing.

    generation: what the caller believes the consumer's to be (None: that there is none); UNSET: unchecked.
    removed: by DELETE, which leaves the providers' generations alone.
    """

    consumer: str
    shares: dict[str, dict[str, int]]
    project_id: str = NOBODY
    user_id: str = NOBODY
    generation: int | msgspec.UnsetType | None = msgspec.UNSET
    type: str | None = None
    removed: bool = False


def _wanted(consumer: str, body: Any) -> Wanted:
    if isinstance(body, Anonymous):
        shares: dict[str, dict[str, int]] = {}
        for item in body.allocations:
            shares[str(uuid.UUID(item.resource_provider.uuid))] = item.resources
    else:
        shares = {key: share.resources for key, share in body.allocations.items()}
    return Wanted(
        consumer=consumer,
        shares=shares,
        project_id=getattr(body, "project_id", NOBODY),
        user_id=getattr(body, "user_id", NOBODY),
        generation=getattr(body, "consumer_generation", msgspec.UNSET),
        type=getattr(body, "consumer_type", None),
    )


# ---- the one transaction


def _among(kind: Any, column: Any) -> Any:
    return sa.select(kind).where(column.in_(sa.bindparam("keys", expanding=True))).order_by(column)


# Built once: every server's claim runs them.
_CONSUMERS = _among(Consumer, Consumer.uuid).with_for_update()
_PROVIDERS = _among(Provider, Provider.uuid).with_for_update()
_HELD = _among(Allocation, Allocation.consumer)
_STOCK = _among(Inventory, Inventory.provider)


def replace(session: Session, asked: Iterable[Wanted]) -> None:
    """Give every consumer what it shall have, all or nothing.

    Raises BadRequest (no such provider or class), Conflict (does not fit; a consumer's generation moved).
    """
    wants = sorted(asked, key=lambda one: one.consumer)
    consumers = _lock_consumers(session, wants)
    held = session.scalars(_HELD, {"keys": list(consumers)}).all() if consumers else []
    providers = lock_providers(
        session, {one.provider for one in held}.union(*(want.shares for want in wants))
    )
    for want in wants:
        for key in want.shares:
            if key not in providers:
                raise BadRequest(f"Allocation for resource provider '{key}' that does not exist.")
    rows = session.scalars(_STOCK, {"keys": list(providers)})
    stock = {(row.provider, row.resource_class): row for row in rows}
    change: Counter[tuple[str, str]] = Counter()
    for one in held:
        change[one.provider, one.resource_class] -= one.used
    for want in wants:
        for key, resources in want.shares.items():
            for name, amount in resources.items():
                _check_amount(session, stock.get((key, name)), key, name, amount)
                change[key, name] += amount
    for spot, difference in change.items():
        _take(stock[spot], difference)
    _write(session, wants, consumers, list(held), providers)


def lock_providers(session: Session, keys: Iterable[str]) -> dict[str, Provider]:
    """Those of the providers that exist, held until the transaction ends."""
    return {row.uuid: row for row in session.scalars(_PROVIDERS, {"keys": sorted(keys)})}


def _lock_consumers(session: Session, wants: list[Wanted]) -> dict[str, Consumer]:
    keys = [want.consumer for want in wants]
    rows = session.scalars(_CONSUMERS, {"keys": keys})
    found = {row.uuid: row for row in rows}
    for want in wants:
        row = found.get(want.consumer)
        actual = None if row is None else row.generation
        if want.generation is not msgspec.UNSET and want.generation != actual:
            expected = "null" if actual is None else actual
            given = "null" if want.generation is None else want.generation
            raise moved(
                f"consumer generation conflict - expected {expected} but got {given} "
                f"(consumer {want.consumer})"
            )
    return found


def _check_amount(session: Session, row: Inventory | None, provider: str, name: str, amount: int) -> None:
    if row is None:
        require_classes(session, [name], "Unable to allocate inventory for consumer: ")
        raise Conflict(
            f"Unable to allocate inventory: Inventory for '{name}' on resource provider '{provider}' invalid: there "
            "is none."
        )
    if amount < row.min_unit or amount > row.max_unit or amount % row.step_size:
        raise Conflict(
            f"Unable to allocate inventory: Unable to create allocation for '{name}' on resource provider "
            f"'{provider}'. The requested amount {amount} would violate inventory constraints (min_unit "
            f"{row.min_unit}, max_unit {row.max_unit}, step_size {row.step_size})."
        )


def _take(row: Inventory, difference: int) -> None:
    """Raises Conflict when more is taken than there is; giving back is possible even where too much is taken."""
    used = row.used + difference
    if difference > 0 and used > row.capacity:
        raise Conflict(
            f"Unable to allocate inventory: Unable to create allocation for '{row.resource_class}' on resource "
            f"provider '{row.provider}'. The requested amount would exceed the capacity: {row.used} of "
            f"{row.capacity} are used, {difference} more are requested."
        )
    row.used = used


def _write(
    session: Session,
    wants: list[Wanted],
    consumers: dict[str, Consumer],
    held: list[Allocation],
    providers: dict[str, Provider],
) -> None:
    before: dict[str, set[str]] = defaultdict(set)
    for one in held:
        before[one.consumer].add(one.provider)
    if held:
        session.execute(sa.delete(Allocation).where(Allocation.consumer.in_(list(before))))
    touched: set[str] = set()
    for want in wants:
        row = consumers.get(want.consumer)
        if not want.removed:
            touched |= want.shares.keys() or before[want.consumer]
        if not want.shares:
            if row is not None:
                session.delete(row)
            continue
        if row is None:
            row = Consumer(uuid=want.consumer, generation=0)
            session.add(row)
        row.project_id, row.user_id = want.project_id, want.user_id
        row.type = want.type or row.type
        row.generation += 1
    for key in touched:
        providers[key].generation += 1
    try:
        session.flush()
    except IntegrityError as error:  # another request made the same consumer
        raise moved(
            "Inventory and/or allocations changed while attempting to allocate; try again."
        ) from error
    rows = [
        {"consumer": want.consumer, "provider": key, "resource_class": name, "used": amount}
        for want in wants
        for key, resources in want.shares.items()
        for name, amount in resources.items()
    ]
    if rows:
        session.execute(sa.insert(Allocation), rows)
    for want in wants:
        said = "; ".join(
            f"{key}: " + ", ".join(f"{n} {name}" for name, n in resources.items())
            for key, resources in want.shares.items()
        )
        narrate(
            session, kind="consumer", resource_id=want.consumer, step="allocate", message=said or "nothing"
        )


# ---- handlers


def put(call: Call) -> None:
    key = call.params["consumer_uuid"]
    if not query.is_uuid(key):
        raise BadRequest(f"Malformed consumer_uuid: {key[:80]}", field="consumer_uuid")
    replace(call.session, [_wanted(str(uuid.UUID(key)), call.body)])


def post(call: Call) -> None:
    replace(call.session, [_wanted(key, body) for key, body in call.body.items()])


def delete(call: Call) -> None:
    key, session = call.params["consumer_uuid"], call.session
    row = session.scalars(sa.select(Consumer).where(Consumer.uuid == key).with_for_update()).first()
    if row is None:
        raise NotFound(f"No allocations for consumer '{key[:80]}'")
    replace(session, [Wanted(consumer=key, shares={}, removed=True)])


def show(call: Call) -> Any:
    key, session = call.params["consumer_uuid"], call.session
    rows = session.execute(
        sa.select(Allocation, Provider.generation)
        .join(Provider, Provider.uuid == Allocation.provider)
        .where(Allocation.consumer == key)
        .order_by(Provider.created_at, Provider.uuid, Allocation.resource_class)
    ).all()
    found: dict[str, Any] = {}
    for one, generation in rows:
        share = found.setdefault(one.provider, {"resources": {}, "generation": generation})
        share["resources"][one.resource_class] = one.used
    answer: dict[str, Any] = {"allocations": found}
    fresh(call, *(one.created_at for one, _ in rows))
    consumer = session.get(Consumer, key) if rows else None
    if consumer is not None and call.at_least("1.12"):
        answer |= {"project_id": consumer.project_id, "user_id": consumer.user_id}
        if call.at_least("1.28"):
            answer["consumer_generation"] = consumer.generation
        if call.at_least("1.38"):
            answer["consumer_type"] = consumer.type or UNKNOWN
    return answer


def list_of_provider(call: Call) -> Any:
    row = find(call)
    rows = call.session.execute(
        sa.select(Allocation, Consumer.generation)
        .join(Consumer, Consumer.uuid == Allocation.consumer)
        .where(Allocation.provider == row.uuid)
    ).all()
    found: dict[str, Any] = {}
    for one, generation in rows:
        share = found.setdefault(one.consumer, {"resources": {}})
        share["resources"][one.resource_class] = one.used
        if call.at_least("1.28"):
            share["consumer_generation"] = generation
    fresh(call, *(one.created_at for one, _ in rows))
    return {"allocations": found, "resource_provider_generation": row.generation}


# ---- the reshaper


def _reshape_body(version: Version | None) -> Any:
    return msgspec.defstruct(
        "Reshape",
        [
            ("inventories", dict[Key, inventory.Replace]),
            ("allocations", _by_key(_one_of_many(version))),
        ],
        forbid_unknown_fields=True,
        kw_only=True,
    )


def reshape(call: Call) -> None:
    """Replace inventories of several providers and allocations of several consumers as one step."""
    session, body = call.session, call.body
    wants = [_wanted(key, one) for key, one in body.allocations.items()]
    if call.at_least("1.28"):
        _lock_consumers(session, sorted(wants, key=lambda one: one.consumer))
    rows = lock_providers(session, set(body.inventories).union(*(want.shares for want in wants)))
    for key, asked in body.inventories.items():
        row = rows.get(key)
        if row is None:
            raise BadRequest(
                f"Resource provider {key} in inventories not found.",
                kind=PROVIDER_NOT_FOUND,
                field="inventories",
            )
        if row.generation != asked.resource_provider_generation:
            raise moved(
                f"resource provider generation conflict for provider {key}: actual: {row.generation}, given: "
                f"{asked.resource_provider_generation}"
            )
        inventory.check_capacity(call, row, asked.inventories)
        if asked.inventories:
            inventory.write(session, row, asked.inventories, prune=False)
            row.generation += 1
    replace(session, wants)
    for key, asked in body.inventories.items():
        inventory.write(session, rows[key], asked.inventories)
        rows[key].generation += 1


ROUTES = (
    Route(
        method="POST", path="/allocations", handler=post, policy="placement:allocations:manage", check=SERVICE,
        since=Version(1, 13), status=204, body=_post_body,
    ),
    Route(
        method="GET", path="/allocations/{consumer_uuid}", handler=show, policy="placement:allocations:list",
        check=SERVICE,
    ),
    Route(
        method="PUT", path="/allocations/{consumer_uuid}", handler=put, policy="placement:allocations:update",
        check=SERVICE, status=204, body=_put_body,
    ),
    Route(
        method="DELETE", path="/allocations/{consumer_uuid}", handler=delete,
        policy="placement:allocations:delete", check=SERVICE, status=204,
    ),
    Route(
        method="POST", path="/reshaper", handler=reshape, policy="placement:reshaper:reshape",
        check=RESHAPE, since=Version(1, 30), status=204, body=_reshape_body,
    ),
    route("GET", "/allocations", list_of_provider, "allocations:list"),
)  # fmt: skip
