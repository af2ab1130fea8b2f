"""The catalogue in a token: what the cloud offers, as one project sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.identity.catalog import PLACE, CatalogService, Endpoint
from altostack.identity.endpoint_filter import filtered


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Every enabled service with its enabled endpoints, whose URLs may still hold places for ids.

    ``shown``: the ids of the endpoints that a project sees, for those projects whose catalogue is filtered.
    """

    entries: Sequence[dict[str, Any]]
    shown: Mapping[str, frozenset[str]]

    @classmethod
    def read(cls, session: Session) -> Catalog:
        """The catalogue as it stands, in four queries."""
        query = (
            sa.select(CatalogService, Endpoint)
            .outerjoin(
                Endpoint, sa.and_(Endpoint.service_id == CatalogService.id, Endpoint.enabled.is_(True))
            )
            .where(CatalogService.enabled.is_(True))
            .order_by(CatalogService.type, CatalogService.id, Endpoint.interface, Endpoint.id)
        )
        entries: dict[str, dict[str, Any]] = {}
        for service, endpoint in session.execute(query):
            entry = entries.setdefault(
                service.id, {"endpoints": [], "id": service.id, "type": service.type, "name": service.name}
            )
            if endpoint is not None:
                entry["endpoints"].append(
                    {
                        **endpoint.extra, "id": endpoint.id, "interface": str(endpoint.interface),
                        "region_id": endpoint.region_id, "region": endpoint.region_id, "url": endpoint.url,
                    }
                )  # fmt: skip
        return cls(entries=tuple(entries.values()), shown=filtered(session))

    def seen_by(self, user_id: str, project_id: str | None) -> list[dict[str, Any]]:
        """The catalogue with ids in their places; an endpoint that needs a project is left out without one.

        A project with endpoints or endpoint groups of its own sees these alone, and services without any not at all.
        """
        values = {"user_id": user_id}
        if project_id is not None:
            values |= {"project_id": project_id, "tenant_id": project_id}
        only = None if project_id is None else self.shown.get(project_id)

        def filled(endpoint: dict[str, Any]) -> dict[str, Any] | None:
            if only is not None and endpoint["id"] not in only:
                return None
            url = endpoint["url"]
            if any(name not in values for name in PLACE.findall(url)):
                return None
            return {**endpoint, "url": PLACE.sub(lambda found: values[found.group(1)], url)}

        found = []
        for entry in self.entries:
            endpoints = [one for each in entry["endpoints"] if (one := filled(each)) is not None]
            if endpoints or only is None:
                found.append({**entry, "endpoints": endpoints})
        return found
