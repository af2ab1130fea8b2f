"""Requests made from the services' own OpenAPI documents: valid ones, and ones that are wrong in every way we know.

``python -m tests.registry.fuzz --requests 100000`` runs them against a simulated cloud in this process and prints how
they were answered; whatever was not answered as a service may is printed whole, with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from altostack.inprocess import InProcessCloud
from altostack.kit.openapi import document
from tests.registry.conftest import Registry

SERVICES = ("identity", "image", "placement")
WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**63, -(2**63) - 1, 2**200, 0.5, 1e308, -0.0, "", " ", "0", "a",
    "\x00", "\n", "\u202e", "é", "\U0001f4a9" * 40, "x" * 256, "x" * 70_000, "../../etc/passwd", "'; DROP TABLE x; --",
    "%s%n",
    "${jndi:ldap://x}", "{{7*7}}", "<script>", "9999-12-31T23:59:59Z", "1970-01-01", "2026-02-30T00:00:00Z", "-1",
    "00000000-0000-4000-8000-00000000dead", "http://[::1", "1.2.3.4/33", "::/0", [], [[]], [None], {}, {"": ""},
    {"a": {"b": [{}]}},
)  # fmt: skip
RAW = (
    b"",
    b"{",
    b"nul",
    b"\xff\xfe",
    b"[" * 20_000,
    b'{"a":' * 3_000,
    b'{"a":1,"a":2}',
    b"\x00",
    b"5",
    b'"x"',
    b"NaN",
    b"[]",
    b"null",
)
HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Type", "text/plain"), ("Content-Type", ""), ("Content-Type", "application/json; charset=utf-16"),
    ("Accept", "text/html"), ("Accept", ";;;"), ("If-Match", "W/\"x\""), ("If-None-Match", "*"), ("Range", "bytes=9-1"),
    ("OpenStack-API-Version", "placement 9.99"), ("OpenStack-API-Version", "placement latest"), ("X-Roles", "admin"),
    ("OpenStack-API-Version", "placement 1.0"), ("OpenStack-API-Version", "x"), ("X-Subject-Token", "gAAAA"),
    ("X-Service-Token", "\u00e9"), ("Content-Encoding", "gzip"), ("X-Image-Meta-Store", "files"),
    ("Accept-Language", "*"),     ("X-Openstack-Request-Id", "req-" + "0" * 400), ("Content-Range", "bytes 0-1/2"),
)  # fmt: skip
_DEPTH = 5


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a document."""

    service: str
    method: str
    path: str
    query: tuple[tuple[str, Mapping[str, Any]], ...]
    body: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request as it was sent. ``template``: its path in the document."""

    service: str
    template: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None

    def __str__(self) -> str:
        body = "" if self.body is None else f" {self.body[:400]!r}"
        return f"{self.service} {self.method} {self.path[:600]} {dict(self.headers)}{body}"


@dataclass(kw_only=True)
class Outcome:
    """statuses: how often each was answered; wrong: (request, status, beginning of the answer)."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[tuple[Sent, int, bytes]] = field(default_factory=list)


class Maker:
    """Makes requests. ``ids``: values of path parameters that are there. ``kept``: ids of what is not to be changed."""

    def __init__(
        self,
        cloud: InProcessCloud,
        ids: Mapping[str, str],
        kept: frozenset[str],
        seed: int,
        services: tuple[str, ...] = SERVICES,
    ) -> None:
        self._random = random.Random(seed)
        self._documents = {name: document(cloud.cloud.services[name]) for name in services}
        self._operations = [one for name in services for one in _operations(name, self._documents[name])]
        # (service, path of a collection) -> names of the path parameter that stands for one of its things
        self._after: dict[tuple[str, str], set[str]] = {}
        for one in self._operations:
            parts = one.path.split("/")
            for at, part in enumerate(parts):
                if part.startswith("{"):
                    self._after.setdefault((one.service, "/".join(parts[:at])), set()).add(part[1:-1])
        self._ids: dict[str, list[str]] = {name: [value] for name, value in ids.items()}
        self._pool = sorted({*ids.values()})
        self._kept = frozenset(self._pool) | kept

    def learn(self, sent: Sent, text: bytes) -> None:
        """Remember ids that an answer shows, so that later requests are about what is there."""
        try:
            found = list(_ids(msgspec.json.decode(text)))
        except msgspec.DecodeError:
            return
        for parameter in self._after.get((sent.service, sent.template), ()):
            self._ids[parameter] = [*self._ids.get(parameter, ())[-30:], *found[:2]]
        for value in found[:4]:
            if len(self._pool) < 400:
                self._pool.append(value)
            else:
                self._pool[self._random.randrange(len(self._kept), 400)] = value

    def make(self) -> Sent:
        """The next request."""
        rnd = self._random
        operation = rnd.choice(self._operations)
        path = "/".join(
            quote(self._parameter(part[1:-1], operation), safe="") if part.startswith("{") else part
            for part in operation.path.split("/")
        )
        query: list[tuple[str, str]] = []
        for name, schema in operation.query:
            if rnd.random() < min(0.3, 2.0 / len(operation.query)):
                value = self._value(operation.service, schema, 0) if rnd.random() < 0.5 else rnd.choice(WRONG)
                query.append((name, value if isinstance(value, str) else str(value)))
        if rnd.random() < 0.05:
            query.append(
                (
                    rnd.choice(("limit", "marker", "sort", "sort_key", "fields", "nonsense", "")),
                    str(rnd.choice(WRONG)),
                )
            )
        headers = {"Content-Type": "application/json"}
        for _ in range(rnd.choice((0, 0, 0, 1, 2))):
            name, value = rnd.choice(HEADERS)
            headers[name] = value
        if operation.service == "placement":
            headers.setdefault("OpenStack-API-Version", "placement latest")
        text = urlencode(query, errors="surrogatepass")
        return Sent(
            service=operation.service, template=operation.path, method=operation.method,
            path=path + (f"?{text[:4000]}" if text else ""),
            headers=headers, body=self._body(operation),
        )  # fmt: skip

    def who(self) -> str:
        """Whose request it is: a person of the registry."""
        return self._random.choice(("admin",) * 8 + ("member", "reader", "other", "expired"))

    def _parameter(self, name: str, operation: Operation) -> str:
        rnd = self._random
        choice = rnd.random()
        value = (
            str(rnd.choice(WRONG))
            if choice < 0.15
            else rnd.choice(self._ids.get(name) or self._pool)
            if choice < 0.85
            else rnd.choice(self._pool)
        )
        changes = operation.method not in ("GET", "HEAD")
        if changes and value in self._kept:
            value = rnd.choice(self._pool)
            if value in self._kept:
                value = "00000000-0000-4000-8000-00000000dead"
        return value.replace("\x00", "0")[:300] or "x"

    def _body(self, operation: Operation) -> bytes | None:
        rnd = self._random
        if operation.body is None:
            return (
                rnd.choice(RAW)
                if operation.method in ("PUT", "POST", "PATCH") and rnd.random() < 0.3
                else None
            )
        if rnd.random() < 0.03:
            return rnd.choice(RAW)
        made = self._value(operation.service, operation.body, 0)
        for _ in range(rnd.choice((0, 0, 0, 1, 1, 2, 4))):
            made = self._spoil(made)
        try:
            return msgspec.json.encode(made)
        except (OverflowError, ValueError, UnicodeEncodeError):
            return b"{}"

    def _spoil(self, value: Any) -> Any:
        """One place in it changed for something else."""
        rnd = self._random
        if isinstance(value, dict) and value and rnd.random() < 0.85:
            name = rnd.choice(list(value))
            how = rnd.random()
            if how < 0.1:
                return {key: inner for key, inner in value.items() if key != name}
            if how < 0.2:
                return value | {
                    rnd.choice(("nonsense", "id", "", "x" * 300, "links", "project_id")): rnd.choice(WRONG)
                }
            return value | {name: self._spoil(value[name])}
        if isinstance(value, list) and value and rnd.random() < 0.7:
            at = rnd.randrange(len(value))
            return (
                value * 50 if rnd.random() < 0.1 else [*value[:at], self._spoil(value[at]), *value[at + 1 :]]
            )
        return rnd.choice(WRONG)

    def _value(self, service: str, schema: Mapping[str, Any], depth: int) -> Any:
        """Something that the schema allows."""
        rnd = self._random
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            schema = self._documents[service]["components"]["schemas"][name]
        if depth > _DEPTH:
            return None
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._value(service, rnd.choice(schema[word]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rnd.choice(schema["enum"])
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = rnd.choice(kind)
        if kind == "object" or "properties" in schema:
            return self._object(service, schema, depth)
        if kind == "array":
            count = rnd.choice((0, 1, 1, 2, 3))
            items = schema.get("items") or {}
            return [self._value(service, items, depth + 1) for _ in range(count)]
        if kind == "integer" or kind == "number":
            low, high = schema.get("minimum", -1), schema.get("maximum", 2**31 - 1)
            return rnd.choice((low, high, low + 1, rnd.randint(int(low), int(high)), 1))
        if kind == "boolean":
            return rnd.random() < 0.5
        if kind == "null":
            return None
        if kind == "string":
            return self._text(schema)
        return rnd.choice(WRONG)

    def _object(self, service: str, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        rnd = self._random
        required = set(schema.get("required", ()))
        made = {
            name: self._value(service, inner, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or rnd.random() < 0.5
        }
        if isinstance(more := schema.get("additionalProperties"), dict) and rnd.random() < 0.7:
            for _ in range(rnd.choice((1, 2))):
                made[rnd.choice(("a", "VCPU", "CUSTOM_X", *self._pool[:20]))] = self._value(
                    service, more, depth + 1
                )
        return made

    def _text(self, schema: Mapping[str, Any]) -> str:
        rnd = self._random
        if schema.get("format") == "date-time":
            return rnd.choice(
                ("2030-01-01T00:00:00Z", "2020-01-01T00:00:00.000000Z", "2030-01-01T00:00:00+14:00")
            )
        if rnd.random() < 0.4:
            return rnd.choice(self._pool)
        length = schema.get("maxLength", 255)
        plain = "".join(
            rnd.choices("abcXYZ012-_.: é中", k=rnd.choice((1, 5, 20, min(length, 300), length + 1)))
        )
        return rnd.choice(
            (
                plain,
                "VCPU",
                "CUSTOM_FUZZ",
                "raw",
                "bare",
                "public",
                "member",
                "https://example.org/x",
                f"n{rnd.random()}",
            )
        )


def first_contents(cloud: InProcessCloud) -> frozenset[str]:
    """Ids of users, projects and their like as the cloud began: without them it would answer every request alike."""
    identity, token = cloud.client("identity"), cloud.token("admin")
    found = {"default", "Default", "RegionOne"}
    for kind in ("users", "projects", "domains", "roles", "services", "endpoints"):
        rows = identity.call("GET", f"/v3/{kind}", token=token)[kind]
        found |= {row["id"] for row in rows} | {row["name"] for row in rows if "name" in row}
    return frozenset(found)


def _operations(service: str, document: Mapping[str, Any]) -> Iterator[Operation]:
    for path, content in document["paths"].items():
        if path.startswith("/internal/") or path == "/healthcheck":
            continue
        for method, one in content.items():
            if method == "parameters":
                continue
            media = (one.get("requestBody") or {}).get("content", {})
            schema = next((kind.get("schema") for kind in media.values()), None)
            query = tuple(
                (p["name"], p.get("schema", {})) for p in one.get("parameters", ()) if p["in"] == "query"
            )
            yield Operation(service=service, method=method.upper(), path=path, query=query, body=schema)


def _ids(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if (
                name in ("id", "uuid", "name", "namespace")
                and isinstance(inner, str)
                and 0 < len(inner) < 200
            ):
                yield inner
            elif isinstance(inner, dict | list):
                yield from _ids(inner)
    elif isinstance(value, list):
        for inner in value[:3]:
            yield from _ids(inner)


def fuzz(
    registry: Registry, *, count: int, seed: int, services: tuple[str, ...] = SERVICES,
    progress: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> Outcome:  # fmt: skip
    """Send ``count`` requests and judge the answers."""
    maker = Maker(registry.cloud, registry.seeds, first_contents(registry.cloud), seed, services)
    outcome = Outcome()
    for number in range(1, count + 1):
        sent = maker.make()
        answer = registry.cloud.client(sent.service).send(
            sent.method, sent.path, sent.body, token=maker.who(), headers=dict(sent.headers)
        )
        raw = answer.read()
        outcome.statuses[answer.status] += 1
        leaks = b"Traceback" in raw or b"sqlalchemy" in raw.lower()
        if answer.status >= 500 or leaks or (answer.status >= 400 and raw and not _is_error(raw)):
            outcome.wrong.append((sent, answer.status, raw[:300]))
        elif 200 <= answer.status < 300:
            maker.learn(sent, raw)
        if number % 5000 == 0:
            progress(number, outcome)
    return outcome


def _is_error(raw: bytes) -> bool:
    """Whether it is an error body: an object that says something."""
    try:
        found = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw.lstrip().startswith(b"<")  # the image service's pages
    return isinstance(found, dict) and bool(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--services", default=",".join(SERVICES))
    chosen = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cloud = InProcessCloud(Path(folder))
        try:
            outcome = fuzz(
                Registry(cloud), count=chosen.requests, seed=chosen.seed, services=tuple(chosen.services.split(",")),
                progress=lambda number, so_far: print(number, len(so_far.wrong), file=sys.stderr, flush=True),
            )  # fmt: skip
        finally:
            cloud.stop()
    for sent, status, raw in outcome.wrong[:50]:
        print(f"{status} for {sent}\n    {raw!r}")
    total = sum(outcome.statuses.values())
    print(
        f"{total} requests in {time.monotonic() - began:.0f} s: "
        + ", ".join(f"{n} x {s}" for s, n in sorted(outcome.statuses.items()))
    )
    print(f"{len(outcome.wrong)} answers were wrong (seed {chosen.seed})")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
