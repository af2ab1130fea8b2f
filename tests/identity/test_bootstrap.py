"""The first contents, made once and kept right."""

from __future__ import annotations

from pathlib import Path

import pytest

from altostack.identity import SERVICE
from altostack.identity.bootstrap import people
from altostack.kit.db import Database
from altostack.kit.migrations import climb, head
from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere


def test_it_is_idempotent(keystone: Keystone) -> None:
    files = [path for path in sorted((keystone.state / "keys").rglob("*")) if path.is_file()]
    before, keys = keystone.contents(), [path.read_bytes() for path in files]
    assert len(before["users"]) == 3 and len(before["endpoints"]) == 3
    for _ in range(2):
        keystone.cloud.cloud.prepare()
    assert keystone.contents() == before
    assert [path.read_bytes() for path in files] == keys
    with keystone.queries() as seen:
        SERVICE.bootstrap(keystone.runtime)  # type: ignore[misc]  # it is set
    assert len(seen) <= 12 and all(statement.startswith("SELECT") for statement in seen)


def test_it_mends_what_is_missing_and_follows_the_cloud(keystone: Keystone) -> None:
    facts = dict(keystone.runtime.cloud)
    facts["catalog"] = [
        ("identity", "identity", "http://moved/identity/v3"),
        ("compute", "compute", "http://c"),
    ]
    facts["secrets"] = {
        **facts["secrets"],
        "service_password_identity": "n" * 64,
        "service_password_image": "i" * 64,
    }
    keystone.runtime.cloud = facts
    keystone.call("DELETE", f"/projects/{keystone.call('GET', '/projects?name=demo')['projects'][0]['id']}")
    SERVICE.bootstrap(keystone.runtime)  # type: ignore[misc]  # it is set
    assert keystone.call("GET", "/projects?name=demo")["projects"]
    urls = {
        e["url"] for entry in keystone.call("GET", "/auth/catalog")["catalog"] for e in entry["endpoints"]
    }
    assert urls == {"http://moved/identity/v3", "http://c"}
    scope = {"project": {"name": "service", "domain": {"id": "default"}}}
    for name, secret in (("identity", "n" * 64), ("image", "i" * 64)):
        user = keystone.call("GET", f"/users?name={name}")["users"][0]["id"]
        body = keystone.body(keystone.password(user, secret, scope))
        assert {role["name"] for role in body["roles"]} == {"admin", "manager", "member", "reader", "service"}


def test_a_changed_password_stays(keystone: Keystone) -> None:
    user = keystone.call("GET", "/users?name=demo")["users"][0]["id"]
    keystone.call("PATCH", f"/users/{user}", {"user": {"password": "mine"}})
    keystone.cloud.cloud.prepare()
    keystone.password(user, "mine")


def test_who_is_made() -> None:
    made = people({"admin_password": "a", "demo_password": "d", "service_password_x": "s", "node_key": "k"})
    assert [(person.name, person.made) for person in made] == [("admin", False), ("demo", False), ("x", True)]
    assert [person.name for person in people({"node_key": "k"})] == []


def test_secrets_are_stored_hashed(keystone: Keystone) -> None:
    keystone.user("u", "plain secret")
    for secret in ("plain secret", keystone.cloud.passwords["admin"], *keystone.cloud.cloud.secrets.values()):
        assert secret not in repr(keystone.contents())


def test_climbing_the_ladder_gives_the_declared_schema(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    assert SERVICE.migrations is not None
    db = Database(f"sqlite:///{tmp_path}/climbed.sqlite", name="identity")
    climb(db, SERVICE.migrations, head(SERVICE.migrations))
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SERVICE.metadata) == []
    db.close()
