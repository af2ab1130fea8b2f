"""Placement: what each provider of resources has, who takes it, and where more would fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from altostack.kit.call import Call
from altostack.kit.policy import PUBLIC
from altostack.kit.route import Route
from altostack.kit.service import Service
from altostack.placement import allocation, candidates, inventory, provider, trait, usage
from altostack.placement.config import PlacementSettings
from altostack.placement.dialect import DIALECT, fresh
from altostack.placement.model import PlacementRow
from altostack.placement.versions import LADDER
from altostack.placement.world import changed


def versions(call: Call) -> dict[str, Any]:
    """The version document; its link is "this URL", as the reference has it."""
    fresh(call)
    return {
        "versions": [
            {
                "id": "v1.0", "min_version": str(LADDER.low), "max_version": str(LADDER.high),
                "status": "CURRENT", "links": [{"rel": "self", "href": ""}],
            }
        ]
    }  # fmt: skip


def _noting(route: Route) -> Route:
    """The same route; if it changes anything, the processes that remember all providers learn of it."""
    if route.method not in ("POST", "PUT", "DELETE"):
        return route
    inner = route.handler

    def handler(call: Call) -> Any:
        answer = inner(call)
        changed(call.session)
        return answer

    return replace(route, handler=handler)


SERVICE = Service(
    name="placement",
    type="placement",
    title="Placement",
    prefix="/placement",
    root="",
    endpoint="/placement",
    dialect=DIALECT,
    metadata=PlacementRow.metadata,
    routes=(
        Route(method="GET", path="//", handler=versions, policy=PUBLIC),
        *map(_noting, provider.ROUTES),
        *map(_noting, inventory.ROUTES),
        *map(_noting, allocation.ROUTES),
        *usage.ROUTES,
        *map(_noting, trait.ROUTES),
        *candidates.ROUTES,
    ),
    ladder=LADDER,
    settings=PlacementSettings,
    bootstrap=trait.sync,
    migrations=Path(__file__).parent / "migrations",
)
