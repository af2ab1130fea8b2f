"""Bad input, everywhere: the service's own error with a code of the 400s, never a 500 and never a traceback."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from altostack.kit.call import Call
from altostack.kit.policy import NODE
from altostack.kit.route import Route
from tests.registry.conftest import Registry, everything
from tests.registry.samples import sample

RAW = (
    b"",
    b"{",
    b"nul",
    b"\xff\xfe",
    b'"text"',
    b"5",
    b"null",
    b"[]",
    b"[" * 50_000,
    b'{"a":' * 5_000,
    b'{"a":"\\u0000"}',
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 2**70, 1.5, "", "x" * 70_000, "\u202e\U0001f4a9", "../../etc/passwd",
    "'; DROP TABLE x; --", "a\nb", [], [None], {}, {"a": {"b": {}}}, "00000000-0000-4000-8000-00000000dead",
)  # fmt: skip
SEED = 20_260_101


@pytest.fixture(autouse=True)
def _dry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Call, "commit", Call.rollback)


def _send(
    registry: Registry, name: str, route: Route, raw: bytes | None, *, query: str = "", who: str = "admin"
) -> Any:
    service = registry.cloud.cloud.services[name]
    version = route.until or (service.ladder.high if service.ladder else None)
    path = route.path[1:] if route.path.startswith("//") else service.root + route.path
    return registry.cloud.client(name).send(
        route.method, registry.path(path) + query, raw, token=who, version=str(version) if version else None,
        headers={"Content-Type": "application/json"},
    )  # fmt: skip


def _judge(name: str, route: Route, answer: Any, sent: Any) -> None:
    raw = answer.read()
    shown = repr(sent)[:200]
    assert answer.status < 500 or answer.status == 501, (
        f"{name} {route.name} with {shown}: {answer.status} {raw[:300]!r}"
    )
    assert b"Traceback" not in raw and b"sqlalchemy" not in raw.lower(), (
        f"{name} {route.name} with {shown}: {raw[:300]!r}"
    )
    if answer.status >= 400 and raw:
        body = msgspec.json.decode(raw)
        assert isinstance(body, dict) and body, f"{name} {route.name}: no error body: {raw[:300]!r}"


def test_malformed_bodies(registry: Registry) -> None:
    for name, route in everything(registry.cloud):
        if route.body is None and route.word is None:
            continue
        for raw in RAW:
            answer = _send(registry, name, route, raw)
            assert answer.status != 200 or raw in (b"null", b"[]", b"5", b'"text"', b'{"a":"\\u0000"}'), (
                f"{name} {route.name} took {raw[:20]!r}"
            )
            _judge(name, route, answer, raw)
        # Whom policy keeps out is told so before anything is read: nodes' routes are a 404 for people, and some are
        # for services alone.
        kept_out = 404 if route.policy == NODE else 403
        assert _send(registry, name, route, b" " * 2_000_000).status in (413, kept_out), (
            f"{name} {route.name} reads any size"
        )


def test_wrong_values_in_every_field(registry: Registry) -> None:
    chance = random.Random(SEED)
    for name, route in everything(registry.cloud):
        service = registry.cloud.cloud.services[name]
        kind = route.kind(route.until or (service.ladder.high if service.ladder else None))
        if kind is None or route.raw:
            continue
        for _ in range(12):
            body = sample(kind)
            whole = {route.word: body} if route.word else body
            _damage(whole, kind, chance)
            _judge(name, route, _send(registry, name, route, msgspec.json.encode(whole)), whole)


def _damage(body: Any, kind: Any, chance: random.Random) -> None:
    """Put a wrong value somewhere into the body, also into fields that the sample left out."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                places.append((value, name))
                walk(inner)

    walk(body)
    for field in _optional(kind):
        holder = body
        while isinstance(holder, dict) and len(holder) == 1 and isinstance(next(iter(holder.values())), dict):
            holder = next(iter(holder.values()))
        if isinstance(holder, dict):
            places.append((holder, field))
    if places:
        for holder, name in chance.sample(places, min(len(places), chance.randint(1, 2))):
            holder[name] = chance.choice(VALUES)


def _optional(kind: Any) -> list[str]:
    """The names of every field of the innermost struct."""
    from msgspec import inspect

    info: Any = inspect.type_info(kind)
    while isinstance(info, inspect.StructType):
        inner = [f.type for f in info.fields if isinstance(f.type, inspect.StructType)]
        if len(info.fields) > 2 or not inner:
            return [f.encode_name for f in info.fields]
        info = inner[0]
    return []


def test_wrong_queries(registry: Registry) -> None:
    queries = (
        "?limit=-1", "?limit=x", "?limit=99999999999999999999", "?marker=%00", "?marker=none", "?sort_key=nope",
        "?sort_dir=sideways&sort_key=id", "?sort=:", "?%00=1", "?name=%ff%fe", "?a=" + "x" * 5_000, "?limit=1&limit=x",
        "?created_at=never", "?all_tenants=perhaps", "?fields=nope", "?id=%27",
    )  # fmt: skip
    for name, route in everything(registry.cloud):
        if route.method == "GET":
            for query in queries:
                _judge(name, route, _send(registry, name, route, None, query=query), query)


def test_wrong_ids(registry: Registry) -> None:
    for name, route in everything(registry.cloud):
        if "{" not in route.path:
            continue
        service = registry.cloud.cloud.services[name]
        for wrong in (
            "%00",
            "x" * 300,
            "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "%F0%9F%92%A9",
            "%27%20OR%201=1",
            ".",
        ):
            import re

            path = route.path[1:] if route.path.startswith("//") else service.root + route.path
            target = re.sub(r"{[^}]*}", wrong, path)
            version = service.ladder.high if service.ladder else None
            kind = None if route.raw else route.kind(version)
            body = (
                None
                if kind is None
                else msgspec.json.encode({route.word: sample(kind)} if route.word else sample(kind))
            )
            answer = registry.cloud.client(name).send(
                route.method, target, body, token="admin", version=str(version) if version else None,
                headers={"Content-Type": "application/json"},
            )  # fmt: skip
            _judge(name, route, answer, wrong)


def test_wrong_tokens(registry: Registry) -> None:
    for name in registry.cloud.cloud.services:
        client = registry.cloud.client(name)
        route = next(
            r
            for n, r in everything(registry.cloud)
            if n == name
            and r.method == "GET"
            and r.policy != "@public"
            and "{" not in r.path
            and not r.path.startswith("//")
        )
        service = registry.cloud.cloud.services[name]
        for token in ("x", "gAAAA" + "A" * 200, "x" * 9000, "é", "a b", "'", "None"):
            answer = client.send("GET", service.root + route.path, token=token)
            assert answer.status == 401, f"{name}: {token[:10]!r} gave {answer.status}"
