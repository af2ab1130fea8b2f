"""What every declaration promises: unknown fields refused, filters, sorting and paging, version floors."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from altostack.kit import api
from altostack.kit.call import Call
from altostack.kit.resource import columns
from altostack.kit.route import Route
from altostack.kit.versions import Version
from tests.registry.conftest import Registry, everything
from tests.registry.samples import sample


@pytest.fixture(autouse=True)
def _dry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Call, "commit", Call.rollback)


def _send(
    registry: Registry, name: str, route: Route, body: Any, *, query: str = "", version: Any = None
) -> Any:
    service = registry.cloud.cloud.services[name]
    asked = version or (service.ladder.high if service.ladder else None)
    path = route.path[1:] if route.path.startswith("//") else service.root + route.path
    return registry.cloud.client(name).send(
        route.method, registry.path(path) + query, None if body is None else msgspec.json.encode(body), token="admin",
        version=str(asked) if asked else None, headers={"Content-Type": "application/json"},
    )  # fmt: skip


def test_unknown_fields_are_refused(registry: Registry) -> None:
    tried = 0
    for name, route in everything(registry.cloud):
        service = registry.cloud.cloud.services[name]
        if route.resource is None or route.op not in ("create", "update") or service.dialect.open_bodies:
            continue
        body = sample(route.kind(service.ladder.high if service.ladder else None))
        inner = body.get(route.resource.envelope or route.resource.name) if service.dialect.envelope else body
        if not isinstance(inner, dict):
            continue
        inner["no_such_field"] = 1
        answer = _send(registry, name, route, body)
        text = answer.read()
        assert answer.status == 400, f"{name} {route.name}: {answer.status} {text[:200]!r}"
        assert b"no_such_field" in text, f"{name} {route.name} does not name the field: {text[:200]!r}"
        tried += 1
    assert tried > 10


def test_filters_sorting_and_paging(registry: Registry) -> None:
    tried = 0
    for name, route in everything(registry.cloud):
        resource = route.resource
        if resource is None or route.op != "list":
            continue
        service = registry.cloud.cloud.services[name]
        queries = ["?limit=1"]
        for column in columns(resource.row):
            if column.facet.filter:
                value = {int: "1", bool: "true", float: "1.0", datetime: "2030-01-01T00:00:00Z"}.get(
                    column.type, "x"
                )
                queries.append(f"?{column.wire}={value}")
            if column.facet.sort:
                queries += [f"?sort_key={column.wire}&sort_dir={way}&limit=1" for way in ("asc", "desc")]
        for query in queries:
            if service.dialect.sort is not None and "sort_key" in query:
                continue
            answer = _send(registry, name, route, None, query=query)
            raw = answer.read()
            if answer.status in (403, 404):
                break  # below a parent that is not there, or somebody else's
            assert answer.status == 200, f"{name} {route.name}{query}: {answer.status} {raw[:300]!r}"
            rows = msgspec.json.decode(raw)[resource.envelope_plural or resource.collection]
            if "limit=1" in query:
                assert len(rows) <= 1, f"{name} {route.name}{query} gave {len(rows)} rows"
            tried += 1
    assert tried > 50


def test_version_floors_hold(registry: Registry) -> None:
    for name, route in everything(registry.cloud):
        service = registry.cloud.cloud.services[name]
        if (
            service.ladder is None
            or route.since is None
            or route.since <= service.ladder.low
            or route.word is not None
        ):
            continue
        same = [r for r in api.routes(service) if (r.method, r.path) == (route.method, route.path)]
        below = Version(route.since.major, route.since.minor - 1)
        if any(other.speaks(below) for other in same):
            continue
        answer = _send(registry, name, route, {}, version=below)
        assert answer.status == 404, f"{name} {route.name} answers {answer.status} at {below}"


def test_fields_are_unknown_before_their_version(registry: Registry) -> None:
    for name, route in everything(registry.cloud):
        service = registry.cloud.cloud.services[name]
        resource = route.resource
        if (
            service.ladder is None
            or resource is None
            or route.op != "create"
            or resource.create_body is not None
        ):
            continue
        for column in columns(resource.row):
            since = column.facet.since
            if not column.facet.create or since is None or since <= service.ladder.low:
                continue
            below = Version(since.major, since.minor - 1)
            body = sample(route.kind(below))
            body[resource.envelope or resource.name][column.wire] = "x"
            answer = _send(registry, name, route, body, version=below)
            text = answer.read()
            assert answer.status == 400, f"{name} {route.name} takes {column.wire} at {below}: {text[:200]!r}"
            assert column.wire.encode() in text
