"""One simulated cloud with something of everything in it, for the generated tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.inprocess import InProcessCloud
from altostack.kit.auth import TokenCache
from altostack.kit.context import Context
from tests.registry.seeds import seed

HOUR = 3600


def _person(name: str, user: str, project: str, *roles: str, expires_at: float = 9e12) -> Context:
    return Context(
        user_id=user,
        user_name=name,
        user_domain_id="default",
        project_id=project,
        project_name=name,
        project_domain_id="default",
        roles=frozenset(roles),
        token=name,
        methods=("password",),
        expires_at=expires_at,
    )


class Registry:
    """The cloud, its people (a token is a person's name) and ids of what is there, by path parameter."""

    def __init__(self, cloud: InProcessCloud) -> None:
        self.cloud = cloud
        identity = cloud.client("identity")
        admin_token = cloud.token("admin")
        users = {u["name"]: u["id"] for u in identity.call("GET", "/v3/users", token=admin_token)["users"]}
        projects = {
            p["name"]: p["id"] for p in identity.call("GET", "/v3/projects", token=admin_token)["projects"]
        }
        demo, ada = users["demo"], users["admin"]
        own, root = projects["demo"], projects["admin"]
        self.people = {
            "expired": _person("expired", demo, own, "member", "reader", expires_at=1.0),
            "reader": _person("reader", "5" * 32, own, "reader"),
            "member": _person("member", demo, own, "member", "reader"),
            "manager": _person("manager", "6" * 32, own, "manager", "member", "reader"),
            "admin": _person("admin", ada, root, "admin", "manager", "member", "reader"),
            "other": _person("other", "7" * 32, "8" * 32, "member", "reader"),
        }
        real = cloud.cloud.tokens
        validate = cloud.cloud._validate
        cloud.cloud.tokens._validate = lambda token: self.people.get(token) or validate(token)
        assert isinstance(real, TokenCache)
        self.seeds: dict[str, str] = seed(cloud)

    def path(self, template: str) -> str:
        """A route's path with every parameter filled: with what is there, else with an id that is nowhere."""
        import re

        def fill(found: re.Match[str]) -> str:
            return self.seeds.get(found.group(1), "00000000-0000-4000-8000-00000000dead")

        return re.sub(r"{(\w+)(?::\w+)?}", fill, template)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    with tempfile.TemporaryDirectory(prefix="altostack-registry-") as folder:
        cloud = InProcessCloud(Path(folder))
        yield Registry(cloud)
        cloud.stop()


def everything(cloud: InProcessCloud) -> Iterator[tuple[str, Any]]:
    """(service name, route) of every route of the cloud."""
    from altostack.kit import api

    for name, service in cloud.cloud.services.items():
        for route in api.routes(service):
            yield name, route
