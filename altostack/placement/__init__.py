"""Placement: what each provider of resources has, who takes it, and where more would fit."""

from __future__ import annotations

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
        *provider.ROUTES,
        *inventory.ROUTES,
        *allocation.ROUTES,
        *usage.ROUTES,
        *trait.ROUTES,
        *candidates.ROUTES,
    ),
    ladder=LADDER,
    settings=PlacementSettings,
    bootstrap=trait.sync,
    migrations=Path(__file__).parent / "migrations",
)
