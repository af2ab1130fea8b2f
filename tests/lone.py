"""One service alone: its application over SQLite, with made-up people, and no neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from altostack.kit import api
from altostack.kit.auth import AuthFilter, Epoch, RequestIdFilter, TokenCache, node_token
from altostack.kit.bus import MemoryBus
from altostack.kit.clients import Client, WsgiTransport
from altostack.kit.context import Context
from altostack.kit.db import Database
from altostack.kit.policy import Policy
from altostack.kit.quota import Quotas
from altostack.kit.service import Runtime, Service
from tests.databases import make_empty, url_for


def person(name: str, project: str, *roles: str) -> Context:
    """A token's bearer; the token is the name."""
    return Context(
        user_id=f"user-{name}",
        user_name=name,
        project_id=project * 32,
        project_name=f"project-{project}",
        roles=frozenset(roles),
        token=name,
        expires_at=9e12,
    )


PEOPLE = {
    "admin": person("admin", "0", "admin", "manager", "member", "reader"),
    "member": person("member", "1", "member", "reader"),
    "reader": person("reader", "1", "reader"),
    "other": person("other", "2", "member", "reader"),
    "service": person("service", "9", "service"),
}


class Lone:
    """``service`` by itself. ``cloud`` and ``drivers`` become the runtime's."""

    def __init__(
        self,
        service: Service,
        folder: Path,
        *,
        url: str | None = None,
        drivers: Mapping[str, Any] | None = None,
        cloud: Mapping[str, Any] | None = None,
        settings: Any = None,
    ) -> None:
        self.service = service
        self.db = Database(url or url_for(folder, service.name), name=service.name)
        make_empty(self.db, service.metadata)
        self.bus = MemoryBus()
        self.runtime = Runtime(
            service=service,
            db=self.db,
            policy=Policy(api.rules(service)),
            quotas=Quotas(service.metadata, service.quotas, service.resources),
            bus=self.bus,
            settings=settings or (service.settings() if service.settings else None),
            clients={},
            url=f"http://cloud{service.prefix}",
            drivers=dict(drivers or {}),
            cloud=dict(cloud or {}),
            node_key="key",
        )
        tokens = TokenCache(PEOPLE.get, Epoch(folder / "epoch"))
        self.app = RequestIdFilter(AuthFilter(api.build(self.runtime), tokens, "key"))
        word = service.ladder.service if service.ladder else None
        self.client = Client(service.name, WsgiTransport(self.app), versions=word)

    def call(self, method: str, path: str, json: Any = None, *, who: str = "member", **more: Any) -> Any:
        """A request as one of PEOPLE; RemoteError when it is refused."""
        return self.client.call(method, path, json, token=who, **more)

    def refusal(
        self, method: str, path: str, json: Any = None, *, who: str = "member", **more: Any
    ) -> tuple[int, str]:
        """(status, body) of a request that must be refused."""
        body = None if json is None else msgspec.json.encode(json)
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        answer = self.client.send(method, path, body, token=who, headers=headers, **more)
        text = answer.read().decode()
        assert answer.status >= 400, f"{method} {path} was not refused: {answer.status} {text}"
        return answer.status, text

    def node(self, host: str) -> str:
        """The credential of a node."""
        return node_token("key", host)

    def close(self) -> None:
        """Close the database and the bus."""
        self.bus.close()
        self.db.close()
