"""Identity, image and placement under load, ours and (with --upstream DIR) those of an upstream stand beside them.

The stand has upstream's own services behind nginx and uwsgi, on their usual ports plus 10000, with MariaDB and
memcached. Both sides get the same requests from the same load generator, one after the other, in one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import msgspec
import urllib3

from tests.bench.load import Answer, Figures, Script, request, run
from tests.stand import running

CLIENTS = (1, 8, 32)
PROVIDERS = 1000


@dataclass(kw_only=True)
class Side:
    """Where one side's services are: service -> (port, prefix); and an administrator's token."""

    name: str
    places: dict[str, tuple[int, str]]
    user: str
    password: str
    token: str = ""

    def port(self, service: str) -> int:
        return self.places[service][0]

    def path(self, service: str, path: str) -> str:
        return self.places[service][1] + path

    def call(self, method: str, service: str, path: str, body: Any = None, **headers: str) -> Any:
        """The decoded answer. Raises RuntimeError for a refusal."""
        port, prefix = self.places[service]
        sent = {"X-Auth-Token": self.token, "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        raw = None if body is None else msgspec.json.encode(body)
        answer = urllib3.request(method, f"http://127.0.0.1:{port}{prefix}{path}", body=raw, headers=sent)
        if answer.status >= 300:
            raise RuntimeError(
                f"{self.name}: {method} {service} {path}: {answer.status} {answer.data[:300]!r}"
            )
        found = msgspec.json.decode(answer.data) if answer.data.strip() else {}
        return found | {"token_header": answer.headers.get("X-Subject-Token", "")}

    def log_in(self) -> None:
        self.token = self.call("POST", "identity", "/v3/auth/tokens", self.password_body())["token_header"]

    def password_body(self) -> dict[str, Any]:
        user = {"name": self.user, "domain": {"id": "default"}, "password": self.password}
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        return {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}


def main() -> None:
    """Print a table: what, clients, requests a second of each side, and their ratio."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--upstream", type=Path, help="folder of a running upstream stand")
    options.add_argument("--seconds", type=float, default=5.0, help="of load for each figure")
    options.add_argument("--only", default="", help="part of a name of what is to be measured")
    chosen = options.parse_args()
    with running("--simulate") as stand:
        ours = Side(
            name="altostack", user="admin", password=stand.secrets["admin_password"],
            places={name: (stand.port, f"/{name}") for name in ("identity", "image", "placement")},
        )  # fmt: skip
        sides = [ours]
        if chosen.upstream:
            ports = {"identity": (15000, ""), "image": (19292, ""), "placement": (18778, "")}
            sides.append(Side(name="upstream", user="admin", password="secret", places=ports))
        for side in sides:
            side.log_in()
        print(f"{'what':34} {'clients':>7} " + " ".join(f"{side.name:>12}/s  p95 ms" for side in sides))
        for name, service, prepare in WORKLOADS:
            if chosen.only not in name:
                continue
            scripts = [prepare(side) for side in sides]
            for clients in CLIENTS:
                figures = [
                    run(side.port(service), script, clients=clients, seconds=chosen.seconds, count=counted)
                    for side, (script, counted) in zip(sides, scripts, strict=True)
                ]
                show(name, figures)
        hashes(ours)


def show(name: str, figures: list[Figures]) -> None:
    row = " ".join(f"{one.rate:14.0f} {one.p95:7.1f}" for one in figures)
    ratio = f"   x {figures[0].rate / figures[1].rate:.1f}" if len(figures) > 1 and figures[1].rate else ""
    print(f"{name:34} {figures[0].clients:7} {row}{ratio}", flush=True)


def hashes(side: Side) -> None:
    """How fast the bare password hash is on one core: what issuing tokens by password cannot exceed times cores."""
    kept = bcrypt.hashpw(side.password.encode(), bcrypt.gensalt(12))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < 3:
        bcrypt.checkpw(side.password.encode(), kept)
        done += 1
    print(f"bare bcrypt, 12 rounds, one core: {done / (time.perf_counter() - began):.1f}/s")


# ---- the workloads: (script, what is counted)

Prepared = tuple[Callable[[int], Script], Callable[[Answer], bool]]


def good(answer: Answer) -> bool:
    if answer.status >= 300:
        raise RuntimeError(f"{answer.status}: {answer.body[:300]!r}")
    return True


def repeated(asked: bytes) -> Prepared:
    """The same request over and over; every one is counted."""

    def script(number: int) -> Script:
        while True:
            yield asked

    return script, good


def validate(side: Side) -> Prepared:
    path = side.path("identity", "/v3/auth/tokens")
    return repeated(request("GET", path, token=side.token, X_Subject_Token=side.token))


def issue_password(side: Side) -> Prepared:
    return repeated(request("POST", side.path("identity", "/v3/auth/tokens"), body=side.password_body()))


def issue_rescope(side: Side) -> Prepared:
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = {"auth": {"identity": {"methods": ["token"], "token": {"id": side.token}}, "scope": scope}}
    return repeated(request("POST", side.path("identity", "/v3/auth/tokens"), body=body))


def issue_credential(side: Side) -> Prepared:
    token = side.call("GET", "identity", "/v3/auth/tokens", X_Subject_Token=side.token)["token"]
    path = f"/v3/users/{token['user']['id']}/application_credentials"
    for old in side.call("GET", "identity", path)["application_credentials"]:
        side.call("DELETE", "identity", f"{path}/{old['id']}")
    made = side.call("POST", "identity", path, {"application_credential": {"name": "bench"}})
    key = {name: made["application_credential"][name] for name in ("id", "secret")}
    body = {"auth": {"identity": {"methods": ["application_credential"], "application_credential": key}}}
    return repeated(request("POST", side.path("identity", "/v3/auth/tokens"), body=body))


def listing(service: str, path: str) -> Callable[[Side], Prepared]:
    return lambda side: repeated(request("GET", side.path(service, path), token=side.token))


def image_pairs(side: Side) -> Prepared:
    body = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
    make = request("POST", side.path("image", "/v2/images"), token=side.token, body=body)

    def script(number: int) -> Script:
        while True:
            answer = yield make
            key = msgspec.json.decode(answer.body)["id"]
            yield request("DELETE", side.path("image", f"/v2/images/{key}"), token=side.token)

    return script, lambda answer: good(answer) and answer.status == 204


def candidates(side: Side) -> Prepared:
    version = {"OpenStack_API_Version": "placement 1.39"}
    known = {
        one["name"]
        for one in side.call("GET", "placement", "/resource_providers", **version)["resource_providers"]
    }
    kinds = {"VCPU": 64, "MEMORY_MB": 262_144, "DISK_GB": 4_000}
    for number in range(PROVIDERS):
        name = f"bench-{number}"
        if name in known:
            continue
        made = side.call("POST", "placement", "/resource_providers", {"name": name}, **version)
        stock = {kind: {"total": total} for kind, total in kinds.items()}
        body = {"resource_provider_generation": made["generation"], "inventories": stock}
        side.call("PUT", "placement", f"/resource_providers/{made['uuid']}/inventories", body, **version)
    path = side.path("placement", "/allocation_candidates?resources=VCPU:2,MEMORY_MB:2048,DISK_GB:20")
    return repeated(request("GET", path, token=side.token, **version))


WORKLOADS: tuple[tuple[str, str, Callable[[Side], Prepared]], ...] = (
    ("token validated", "identity", validate),
    ("token by password", "identity", issue_password),
    ("token by rescope", "identity", issue_rescope),
    ("token by application credential", "identity", issue_credential),
    ("projects listed", "identity", listing("identity", "/v3/projects")),
    ("roles listed", "identity", listing("identity", "/v3/roles")),
    ("images listed", "image", listing("image", "/v2/images")),
    ("image made and deleted", "image", image_pairs),
    (f"candidates among {PROVIDERS}", "placement", candidates),
)


if __name__ == "__main__":
    main()
