"""Usages: what of a provider is taken, and what a project takes."""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa

from altostack.kit.call import Call
from altostack.kit.route import Route
from altostack.kit.versions import Version
from altostack.placement import query
from altostack.placement.allocation import UNKNOWN
from altostack.placement.dialect import READER, bad_query, fresh
from altostack.placement.model import Allocation, Consumer, Inventory
from altostack.placement.provider import find, route


def of_provider(call: Call) -> Any:
    row = find(call)
    mine = sa.select(Inventory).where(Inventory.provider == row.uuid).order_by(Inventory.resource_class)
    fresh(call)
    return {
        "resource_provider_generation": row.generation,
        "usages": {one.resource_class: one.used for one in call.session.scalars(mine)},
    }


def of_project(call: Call) -> Any:
    """Sums by class; since 1.38 by type of consumer, with the number of consumers."""
    project, user, kind = call.arg("project_id"), call.arg("user_id"), call.arg("consumer_type")
    call.require("placement:usages", {"project_id": project})
    query.check_names(call, {"project_id": "1.9", "user_id": "1.9", "consumer_type": "1.38"})
    for name, value in (("project_id", project), ("user_id", user), ("consumer_type", kind)):
        if name == "project_id" and value is None:
            raise bad_query("Invalid query string parameters: 'project_id' is a required property.")
        if value is not None and not 1 <= len(value) <= 255:
            keyword = "maxLength" if value else "minLength"
            raise bad_query(
                f"Invalid query string parameters: {name} must have 1 to 255 characters. Failed validating "
                f"{keyword!r} in schema"
            )
    if kind is not None and not re.fullmatch("[A-Z0-9_]+|all|unknown", kind):
        raise bad_query(f"Invalid query string parameters: {kind!r} is not a consumer type.")
    mine = [Consumer.project_id == project]
    if user is not None:
        mine.append(Consumer.user_id == user)
    fresh(call)
    if not call.at_least("1.38"):
        sums = (
            sa.select(Allocation.resource_class, sa.func.sum(Allocation.used))
            .join(Consumer, Consumer.uuid == Allocation.consumer)
            .where(*mine)
            .group_by(Allocation.resource_class)
        )
        return {"usages": {name: int(used) for name, used in call.session.execute(sums)}}
    return {"usages": _by_type(call, mine, kind)}


def _by_type(call: Call, mine: list[Any], kind: str | None) -> dict[str, dict[str, int]]:
    of_type = sa.func.coalesce(Consumer.type, UNKNOWN)
    group: Any = sa.literal("all") if kind == "all" else of_type
    if kind not in (None, "all"):
        mine = [*mine, of_type == kind]
    found: dict[str, dict[str, int]] = {}
    # In a subquery, because databases differ in whether a bound value may be grouped by.
    inner = (
        sa.select(group.label("kind"), Allocation.consumer, Allocation.resource_class, Allocation.used)
        .join(Consumer, Consumer.uuid == Allocation.consumer)
        .where(*mine)
        .subquery()
    )
    sums = sa.select(inner.c.kind, inner.c.resource_class, sa.func.sum(inner.c.used)).group_by(
        inner.c.kind, inner.c.resource_class
    )
    for name, resource_class, used in call.session.execute(sums):
        found.setdefault(name, {})[resource_class] = int(used)
    heads = sa.select(inner.c.kind, sa.func.count(inner.c.consumer.distinct())).group_by(inner.c.kind)
    for name, count in call.session.execute(heads):
        found[name]["consumer_count"] = int(count)
    return found


ROUTES = (
    route("GET", "/usages", of_provider, "usages"),
    Route(
        method="GET", path="/usages", handler=of_project, policy="placement:usages", check=READER, guard=False,
        since=Version(1, 9),
    ),
)  # fmt: skip
