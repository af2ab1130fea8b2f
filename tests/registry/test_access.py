"""Every route, asked by everybody, held against a committed table.

Nothing that a request does is kept: each is rolled back, so all of them meet the same cloud.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.kit.auth import NODE_HEADER
from altostack.kit.call import Call
from altostack.kit.clients import Client
from altostack.kit.policy import NODE, PUBLIC
from altostack.kit.route import Route
from tests.registry.conftest import Registry, everything
from tests.registry.golden import compare
from tests.registry.samples import sample

TABLE = Path(__file__).with_name("access.json")
PEOPLE = ("nobody", "expired", "other", "reader", "member", "manager", "admin")


def _body(route: Route, version: Any) -> bytes | None:
    kind = route.kind(version)
    if route.word is not None:
        return msgspec.json.encode({route.word: None if kind is None else sample(kind)})
    if route.raw:
        return b"[]"
    return None if kind is None else msgspec.json.encode(sample(kind))


def ask(registry: Registry, client: Client, route: Route, who: str) -> tuple[int, bytes]:
    """Send a valid-looking request; (status, body)."""
    service = registry.cloud.cloud.services[client.service]
    version = service.ladder.high if service.ladder else None
    if version and route.until and version > route.until:
        version = route.until
    path = route.path[1:] if route.path.startswith("//") else service.root + route.path
    headers = {
        "Content-Type": "application/octet-stream"
        if route.raw and route.method == "PUT"
        else "application/json"
    }
    token = None if who == "nobody" else who
    answer = client.send(
        route.method, registry.path(path), _body(route, version), token=token,
        version=str(version) if version else None, headers=headers,
    )  # fmt: skip
    return answer.status, answer.read()


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests forget what they did."""
    monkeypatch.setattr(Call, "commit", Call.rollback)


def test_who_may_do_what(registry: Registry, dry: None) -> None:
    table: dict[str, dict[str, str]] = {}
    private: list[str] = []
    for name, route in everything(registry.cloud):
        client = registry.cloud.client(name)
        answers = {}
        for who in PEOPLE:
            status, raw = ask(registry, client, route, who)
            assert status < 500 or status == 501, f"{name} {route.name} as {who}: {status} {raw[:500]!r}"
            assert b"Traceback" not in raw
            answers[who] = status
            if who == "admin" and status < 300:
                private += _leaks(registry, name, route, raw)
        table.setdefault(name, {})[route.name] = " ".join(
            f"{who}={status}" for who, status in answers.items()
        )
        if route.policy == NODE:
            assert set(answers.values()) == {404}, f"{name} {route.name}: a node's route answers a person"
        elif route.policy != PUBLIC:
            assert answers["nobody"] == answers["expired"] == 401, f"{name} {route.name}: {answers}"
    assert not private, "private columns came out:\n" + "\n".join(private)
    compare(TABLE, table)


def _leaks(registry: Registry, name: str, route: Route, raw: bytes) -> list[str]:
    """Keys of an answer that are names of private columns and of nothing public in the resource."""
    resource = route.resource
    if resource is None or route.op not in ("list", "show", "create", "update") or not raw:
        return []
    import sqlalchemy as sa

    from altostack.kit.resource import columns

    public = {c.wire for c in columns(resource.row)} | set(resource.computed)
    hidden = {
        a.key for a in sa.inspect(resource.row).column_attrs if "facet" not in a.columns[0].info
    } - public  # fmt: skip
    found: Any = json.loads(raw)
    one = found.get(resource.envelope or resource.name, found) if isinstance(found, dict) else {}
    many = found.get(resource.envelope_plural or resource.collection) if isinstance(found, dict) else None
    rows = many if isinstance(many, list) else [one]
    return [
        f"{name} {route.name}: {key}"
        for row in rows[:1]
        if isinstance(row, dict)
        for key in sorted(hidden & set(row))
    ]


def test_a_node_reaches_only_its_own_rows(registry: Registry, dry: None) -> None:
    from altostack.kit.auth import node_token

    key = registry.cloud.cloud.secrets["node_key"]
    for name, route in everything(registry.cloud):
        if route.policy != NODE:
            continue
        client = registry.cloud.client(name)
        path = registry.path(route.path[1:].replace("{host}", "node-1"))
        for credential in (
            node_token(key, "node-2"),
            "node-1:" + "0" * 64,
            "node-1:",
            ":",
            node_token("x", "node-1"),
        ):
            answer = client.send(route.method, path, b"{}", headers={NODE_HEADER: credential})
            assert answer.status == 404, f"{name} {route.name} with {credential[:12]}"
