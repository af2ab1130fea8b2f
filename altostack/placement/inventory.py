"""Inventories: how much of each class a provider has."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict, MethodNotAllowed, NotFound
from altostack.kit.resource import MAX_INT
from altostack.placement.dialect import CONCURRENT_UPDATE, INVENTORY_INUSE, fresh, located, moved
from altostack.placement.model import Inventory, Provider
from altostack.placement.provider import find, held, route
from altostack.placement.trait import require_classes, standing

_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_INT)]
ClassName = Annotated[str, msgspec.Meta(pattern="^[A-Z0-9_]+$", max_length=255)]
FIELDS = ("total", "reserved", "min_unit", "max_unit", "step_size", "allocation_ratio")


class Amounts(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One inventory as clients send it; the defaults are the API's."""

    total: _Count
    reserved: Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)] = 0
    min_unit: _Count = 1
    max_unit: _Count = MAX_INT
    step_size: _Count = 1
    allocation_ratio: Annotated[float, msgspec.Meta(le=3.40282e38)] = 1.0

    @property
    def capacity(self) -> int:
        return int((self.total - self.reserved) * self.allocation_ratio)


class Create(Amounts, kw_only=True):
    resource_class: ClassName
    resource_provider_generation: int | None = None


class Update(Amounts, kw_only=True):
    resource_provider_generation: int


class Record(Amounts, kw_only=True):
    resource_provider_generation: int | None = None


class Replace(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    resource_provider_generation: int
    inventories: dict[ClassName, Record]


def check_capacity(call: Call, row: Provider, wanted: dict[str, Any], verb: str = "update") -> None:
    """Raises BadRequest where nothing could ever be allocated (since 1.26: where less than nothing could)."""
    least = 0 if call.at_least("1.26") else 1
    for name, amounts in wanted.items():
        if amounts.capacity < least:
            raise BadRequest(
                f"Unable to {verb} inventory for resource provider {row.uuid}: Invalid inventory for {name!r}. "
                f"The reserved value is greater than {'' if least == 0 else 'or equal to '}total.",
                field=f"inventories.{name}.reserved",
            )


def write(session: Session, row: Provider, wanted: dict[str, Any], *, prune: bool = True) -> list[Inventory]:
    """Make the provider's inventories ``wanted`` (class -> Amounts); without ``prune`` others stay.

    Raises BadRequest (unknown class) and Conflict (one that goes is in use). The caller holds the provider.
    """
    require_classes(
        session, wanted, f"Unknown resource class in inventory for resource provider {row.uuid}: "
    )
    present = {one.resource_class: one for one in _all(session, row)}
    gone = [one for name, one in present.items() if prune and name not in wanted]
    if busy := sorted((one.resource_class for one in gone if one.used), key=standing):
        raise Conflict(
            f"update conflict: Inventory for '{', '.join(busy)}' on resource provider '{row.uuid}' in use.",
            kind=INVENTORY_INUSE,
        )
    for one in gone:
        session.delete(one)
    found = []
    for name, amounts in wanted.items():
        one = present.get(name) or Inventory(provider=row.uuid, resource_class=name, used=0)
        for field in FIELDS:
            setattr(one, field, getattr(amounts, field))
        if name not in present:
            session.add(one)
        found.append(one)
    session.flush()
    return found


def _all(session: Session, row: Provider) -> list[Inventory]:
    mine = sa.select(Inventory).where(Inventory.provider == row.uuid).order_by(Inventory.resource_class)
    return list(session.scalars(mine))


def _show(one: Any) -> dict[str, Any]:
    return {field: getattr(one, field) for field in FIELDS}


def _show_all(call: Call, row: Provider, found: list[Inventory]) -> Any:
    fresh(call, *(one.modified for one in found))
    return {
        "resource_provider_generation": row.generation,
        "inventories": {one.resource_class: _show(one) for one in found},
    }


def _show_one(call: Call, row: Provider, one: Inventory) -> Any:
    fresh(call, one.modified)
    return _show(one) | {"resource_provider_generation": row.generation}


def _one(call: Call, row: Provider, purpose: str = "") -> Inventory:
    name = call.params["resource_class"]
    found = call.session.get(Inventory, (row.uuid, name))
    if found is None:
        raise NotFound(f"No inventory of class {name[:80]} {purpose}for {row.uuid}")
    return found


# ---- handlers


def list_inventories(call: Call) -> Any:
    row = find(call)
    return _show_all(call, row, _all(call.session, row))


def show(call: Call) -> Any:
    row = find(call)
    return _show_one(call, row, _one(call, row))


def create(call: Call) -> Any:
    row, name = held(call), call.body.resource_class
    check_capacity(call, row, {name: call.body}, "create")
    if call.session.get(Inventory, (row.uuid, name)) is not None:
        raise moved(f"Update conflict: resource provider {row.uuid} has an inventory of {name} already.")
    one = write(call.session, row, {name: call.body}, prune=False)[0]
    row.generation += 1
    call.session.flush()
    located(call, "resource_providers", row.uuid, "inventories", name)
    return _show_one(call, row, one)


def replace(call: Call) -> Any:
    row = held(call, call.body.resource_provider_generation)
    check_capacity(call, row, call.body.inventories)
    found = write(call.session, row, call.body.inventories)
    row.generation += 1
    call.session.flush()
    return _show_all(call, row, found)


def update(call: Call) -> Any:
    row = held(call, call.body.resource_provider_generation)
    name = call.params["resource_class"]
    check_capacity(call, row, {name: call.body})
    if call.session.get(Inventory, (row.uuid, name)) is None:
        raise BadRequest(
            f"No inventory record with resource class for resource provider {row.uuid}: {name[:80]}.",
            field="resource_class",
        )
    one = write(call.session, row, {name: call.body}, prune=False)[0]
    row.generation += 1
    call.session.flush()
    return _show_one(call, row, one)


def delete_all(call: Call) -> None:
    if not call.at_least("1.5"):
        raise MethodNotAllowed("The method specified is not allowed for this resource.")
    row = held(call)
    write(call.session, row, {})
    row.generation += 1


def delete(call: Call) -> None:
    row = held(call)
    one = _one(call, row, "found for delete: none ")
    if one.used:
        raise Conflict(
            f"Unable to delete inventory of class {one.resource_class}: "
            f"Inventory for '{one.resource_class}' on resource provider '{row.uuid}' in use.",
            kind=CONCURRENT_UPDATE,
        )
    call.session.delete(one)
    row.generation += 1


ROUTES = (
    route("GET", "/inventories", list_inventories, "inventories:list"),
    route("POST", "/inventories", create, "inventories:create", body=Create, status=201),
    route("PUT", "/inventories", replace, "inventories:update", body=Replace),
    route("DELETE", "/inventories", delete_all, "inventories:delete", status=204),
    route("GET", "/inventories/{resource_class}", show, "inventories:show"),
    route("PUT", "/inventories/{resource_class}", update, "inventories:update", body=Update),
    route("DELETE", "/inventories/{resource_class}", delete, "inventories:delete", status=204),
)
