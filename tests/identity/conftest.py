"""The identity service alone, in this process, with its real bootstrap, database and token filter."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import event

from altostack.identity.keeper import keeper
from altostack.inprocess import InProcessCloud
from altostack.kit.clients import Client, RemoteError, Response
from tests import databases


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def __call__(self) -> float:
        return self.now


class Keystone:
    """What tests say to the service."""

    def __init__(self, state: Path, url: str | None = None) -> None:
        self.clock = Clock()
        self.state = state
        settings: dict[str, dict[str, Any]] = {"identity": {"password_rounds": 4}}
        if url is not None:
            settings["cloud"] = {"database": url}
        self.cloud = InProcessCloud(
            state,
            services=("identity",),
            hosts=(),
            settings=settings,
            clock=self.clock,
        )
        self.client: Client = self.cloud.client("identity")
        self.runtime = self.cloud.cloud.runtimes["identity"]
        self.admin = self.cloud.token("admin")
        self._before = self.admin, self.runtime.cloud, self.clock.now
        self._settings = self.runtime.settings
        self._rows = self.contents()
        shutil.copytree(state / "keys", state / "pristine")

    def contents(self) -> dict[str, list[Any]]:
        """Every row of every table."""
        with self.runtime.db.read() as session:
            return {
                table.name: [tuple(row) for row in session.execute(sa.select(table))]
                for table in self.runtime.service.metadata.sorted_tables
            }

    def restore(self) -> None:
        """Put back everything as it was in the beginning."""
        tables = self.runtime.service.metadata.sorted_tables
        with self.runtime.db.begin() as session:
            for table in reversed(tables):
                session.execute(table.delete())
            for table in tables:
                if rows := self._rows[table.name]:
                    session.execute(
                        table.insert(), [dict(zip(table.columns.keys(), row, strict=True)) for row in rows]
                    )
        shutil.rmtree(self.state / "keys")
        shutil.copytree(self.state / "pristine", self.state / "keys")
        self.admin, self.runtime.cloud, self.clock.now = self._before
        self.configure(self._settings)
        self.cloud.cloud.epoch.bump()

    def configure(self, settings: Any = None, **changes: Any) -> None:
        """Other settings from now on, until the test's end."""
        self.runtime.settings = msgspec.structs.replace(settings or self.runtime.settings, **changes)
        keeper(self.runtime).settings = self.runtime.settings

    def call(self, method: str, path: str, json: Any = None, *, token: str | None = None, **more: Any) -> Any:
        """A request under /v3 as ``token`` (default: the admin); raises RemoteError."""
        return self.client.call(method, f"/v3{path}", json, token=token or self.admin, **more)

    def send(self, method: str, path: str, json: Any = None, **more: Any) -> Response:
        """The same without a default token, answering with the raw response."""
        body = None if json is None else msgspec.json.encode(json)
        more.setdefault("headers", {})
        if body is not None:
            more["headers"].setdefault("Content-Type", "application/json")
        return self.client.send(method, path, body, **more)

    def refused(self, method: str, path: str, json: Any = None, **more: Any) -> RemoteError:
        """The error that a request ends in."""
        with pytest.raises(RemoteError) as caught:
            self.call(method, path, json, **more)
        return caught.value

    def status(self, method: str, path: str, json: Any = None, **more: Any) -> int:
        """The status of the error that a request ends in."""
        return self.refused(method, path, json, **more).status

    # ---- logging in

    def login(self, auth: dict[str, Any], query: str = "") -> Response:
        """POST /v3/auth/tokens."""
        return self.send("POST", f"/v3/auth/tokens{query}", {"auth": auth})

    def token(self, auth: dict[str, Any]) -> str:
        """A token. Fails unless the login is right."""
        answer = self.login(auth)
        assert answer.status == 201, answer.read()
        return answer.headers["x-subject-token"]

    def password(self, user: str, password: str, scope: Any = None) -> str:
        """A token by user id and password."""
        return self.token(by_password(user, password, scope))

    def body(self, token: str, *, by: str | None = None, query: str = "") -> dict[str, Any]:
        """GET /v3/auth/tokens about ``token``, asked by itself unless ``by`` says otherwise."""
        answer = self.send(
            "GET", f"/v3/auth/tokens{query}", token=by or token, headers={"X-Subject-Token": token}
        )
        found: dict[str, Any] = msgspec.json.decode(answer.read())
        assert answer.status == 200, found
        inner: dict[str, Any] = found["token"]
        return inner

    def alive(self, token: str) -> bool:
        """Whether the token is worth something, to the edge of every service and to a service that asks."""
        inside = self.cloud.cloud.tokens.get(token) is not None
        asked = self.send("GET", "/v3/auth/tokens", token=self.admin, headers={"X-Subject-Token": token})
        asked.read()
        assert inside == (asked.status == 200), (inside, asked.status)
        return inside

    # ---- making things

    def user(self, name: str, password: str | None = "secret", **more: Any) -> dict[str, Any]:
        return self._make("user", name=name, password=password, **more)

    def project(self, name: str, **more: Any) -> dict[str, Any]:
        return self._make("project", name=name, **more)

    def domain(self, name: str, **more: Any) -> dict[str, Any]:
        return self._make("domain", name=name, **more)

    def group(self, name: str, **more: Any) -> dict[str, Any]:
        return self._make("group", name=name, **more)

    def role(self, name: str, **more: Any) -> dict[str, Any]:
        return self._make("role", name=name, **more)

    def _make(self, kind: str, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.call("POST", f"/{kind}s", {kind: fields})[kind]
        return made

    def role_id(self, name: str) -> str:
        return str(self.call("GET", f"/roles?name={name}")["roles"][0]["id"])

    def grant(self, role: str, where: str, who: str, method: str = "PUT") -> None:
        """``where``: projects/ID, domains/ID or system; ``who``: users/ID or groups/ID."""
        self.call(method, f"/{where}/{who}/roles/{self.role_id(role)}")

    def member(self, name: str, project: dict[str, Any], role: str = "member") -> tuple[dict[str, Any], str]:
        """A user with a role in a project, and a token of theirs for it."""
        user = self.user(name)
        self.grant(role, f"projects/{project['id']}", f"users/{user['id']}")
        return user, self.password(user["id"], "secret", {"project": {"id": project["id"]}})

    @contextlib.contextmanager
    def queries(self) -> Iterator[list[str]]:
        """The SELECT, INSERT, ... statements that run inside of the with-block."""
        seen: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if not statement.startswith(("BEGIN", "PRAGMA")):
                seen.append(statement)

        engine = self.runtime.db.engine
        event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(engine, "before_cursor_execute", note)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        with self.runtime.db.read() as session:
            return int(session.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one())


def by_password(user: str, password: str, scope: Any = None) -> dict[str, Any]:
    """The body of a login by user id."""
    auth: dict[str, Any] = {
        "identity": {"methods": ["password"], "password": {"user": {"id": user, "password": password}}}
    }
    return auth if scope is None else auth | {"scope": scope}


def by_token(token: str, scope: Any = None) -> dict[str, Any]:
    """The body of an exchange of one token for another."""
    auth: dict[str, Any] = {"identity": {"methods": ["token"], "token": {"id": token}}}
    return auth if scope is None else auth | {"scope": scope}


@pytest.fixture(scope="session")
def _services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Keystone]]:
    """One service a kind of database."""
    made: dict[str, Keystone] = {}

    def service(kind: str) -> Keystone:
        if kind not in made:
            url = os.environ.get(databases.VARIABLE)
            made[kind] = Keystone(tmp_path_factory.mktemp("identity"), url)
        return made[kind]

    yield service
    for keystone in made.values():
        keystone.cloud.stop()


@pytest.fixture
def keystone(_services: Callable[[str], Keystone], database: str) -> Iterator[Keystone]:
    """The service as its bootstrap leaves it: what a test does is undone after it."""
    keystone = _services(database)
    yield keystone
    keystone.restore()


@pytest.fixture
def shared(_services: Callable[[str], Keystone], database: str) -> Keystone:
    """The service for tests that change nothing."""
    return _services(database)
