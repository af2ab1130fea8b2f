"""Short words for placement's tests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from tests.lone import Lone

NEWEST = "1.39"


def call(lone: Lone, method: str, path: str, json: Any = None, **more: Any) -> Any:
    """A request by an admin at the newest version."""
    return lone.call(method, path, json, **{"who": "admin", "version": NEWEST} | more)


def refused(lone: Lone, method: str, path: str, json: Any = None, **more: Any) -> tuple[int, str]:
    """(status, body) of a request of that kind that must be refused."""
    return lone.refusal(method, path, json, **{"who": "admin", "version": NEWEST} | more)


def provider(
    lone: Lone, name: str = "", *, parent: str | None = None, traits: tuple[str, ...] = (),
    aggregates: tuple[str, ...] = (), **stock: Any,
) -> str:  # fmt: skip
    """A provider with inventories: ``VCPU=8`` or ``VCPU={"total": 8, ...}``."""
    key = str(uuid.uuid4())
    body = {"uuid": key, "name": name or key}
    if parent:
        body["parent_provider_uuid"] = parent
    call(lone, "POST", "/resource_providers", body)
    for class_name, what in stock.items():
        record = what if isinstance(what, dict) else {"total": what}
        call(
            lone,
            "POST",
            f"/resource_providers/{key}/inventories",
            {"resource_class": class_name, "max_unit": record["total"], **record},
        )
    if aggregates:
        call(lone, "PUT", f"/resource_providers/{key}/aggregates", list(aggregates), version="1.18")
    if traits:
        found = call(lone, "GET", f"/resource_providers/{key}")["generation"]
        for trait in traits:
            if trait.startswith("CUSTOM_"):
                call(lone, "PUT", f"/traits/{trait}")
        call(
            lone,
            "PUT",
            f"/resource_providers/{key}/traits",
            {"traits": list(traits), "resource_provider_generation": found},
        )
    return key


def claim(
    shares: Mapping[str, Mapping[str, int]] | None = None, generation: int | None = None
) -> dict[str, Any]:
    """A PUT body: ``claim({provider: {"VCPU": 1}})``; generation is the consumer's."""
    return {
        "allocations": {key: {"resources": resources} for key, resources in (shares or {}).items()},
        "project_id": "p",
        "user_id": "u",
        "consumer_generation": generation,
        "consumer_type": "INSTANCE",
    }
