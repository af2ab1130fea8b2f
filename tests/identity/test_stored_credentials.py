"""Credentials that users leave with the service, and their keys' rotation."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from altostack.identity import vault
from altostack.identity.credential import Credential
from altostack.identity.keeper import keeper
from tests.identity.conftest import Keystone, by_password

pytestmark = pytest.mark.everywhere
BLOB = '{"access": "the-access-key", "secret": "the-secret-key"}'


def make(keystone: Keystone, user: str, token: str | None = None, **fields: Any) -> dict[str, Any]:
    body = {"type": "cert", "blob": "the-certificate", "user_id": user, **fields}
    made: dict[str, Any] = keystone.call("POST", "/credentials", {"credential": body}, token=token)[
        "credential"
    ]
    return made


def test_a_credential_from_first_to_last(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = make(keystone, user["id"], token, type="ec2", blob=BLOB, project_id=project["id"])
    assert len(made["id"]) == 64 and made["blob"] == BLOB and made["project_id"] == project["id"]
    assert made["links"]["self"].endswith(f"/v3/credentials/{made['id']}")
    path = f"/credentials/{made['id']}"
    assert keystone.call("GET", path, token=token)["credential"] == made
    new = BLOB.replace("the-secret-key", "another")
    changed = keystone.call("PATCH", path, {"credential": {"blob": new}}, token=token)["credential"]
    assert changed == {**made, "blob": new} == keystone.call("GET", path, token=token)["credential"]
    assert keystone.status("POST", "/credentials", {"credential": {**made}}, token=token) == 409
    keystone.call("DELETE", path, token=token)
    assert keystone.status("GET", path) == 404
    plain = make(keystone, user["id"], token)
    assert len(plain["id"]) == 32 and plain["project_id"] is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"blob": None}, 400),
        ({"type": ""}, 400),
        ({"type": "ec2"}, 400),
        ({"type": "ec2", "blob": BLOB}, 400),
        ({"type": "ec2", "blob": "[]"}, 400),
        ({"type": "ec2", "blob": '{"access": 1}'}, 400),
        ({"type": "ec2", "blob": '{"access": "a", "trust_id": "t"}'}, 400),
        ({"type": "totp", "blob": "not base 32!"}, 400),
        ({"blob": "x" * 10_001}, 400),
        ({"user_id": "f" * 32}, 404),
        ({"project_id": "f" * 32}, 404),
    ],
)
def test_what_is_refused(shared: Keystone, fields: dict[str, Any], status: int) -> None:
    admin = shared.call("GET", "/users?name=admin")["users"][0]["id"]
    body = {"type": "cert", "blob": "b", "user_id": admin, **fields}
    assert shared.status("POST", "/credentials", {"credential": body}) == status


def test_nothing_but_the_secret_changes(keystone: Keystone) -> None:
    user, other = keystone.user("u"), keystone.user("v")
    made = make(keystone, user["id"])
    for change in ({"user_id": other["id"]}, {"project_id": None}, {"type": "ec2"}, {"id": "x"}):
        body = {"credential": {"blob": "b", **change}}
        assert keystone.status("PATCH", f"/credentials/{made['id']}", body) == 400, change
    assert keystone.call("GET", f"/credentials/{made['id']}")["credential"] == made


def test_lists_and_whose_they_are(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, mine = keystone.member("u", project)
    other, theirs = keystone.member("v", project, "admin")
    stranger, third = keystone.member("w", project, "manager")
    one, two = make(keystone, user["id"]), make(keystone, user["id"], type="totp", blob="ABCDEFGH")

    def ids(query: str, token: str | None = None) -> list[str]:
        return sorted(
            row["id"] for row in keystone.call("GET", f"/credentials{query}", token=token)["credentials"]
        )

    assert ids("", mine) == sorted([one["id"], two["id"]]) == ids(f"?user_id={user['id']}", theirs)
    assert ids("", third) == [] and ids(f"?user_id={user['id']}", third) == []
    assert ids("?type=totp", mine) == [two["id"]] and ids(f"?user_id={other['id']}", theirs) == []
    path = f"/credentials/{one['id']}"
    for method, body in (("GET", None), ("PATCH", {"credential": {"blob": "b"}}), ("DELETE", None)):
        assert keystone.status(method, path, body, token=third) == 403
        assert keystone.status(method, f"/credentials/{'f' * 32}", body, token=third) == 403
        assert keystone.status(method, f"/credentials/{'f' * 32}", body) == 404
    body = {"credential": {"type": "cert", "blob": "b", "user_id": user["id"]}}
    assert keystone.status("POST", "/credentials", body, token=third) == 403
    keystone.grant("reader", "system", f"users/{stranger['id']}")
    system = keystone.token(by_password(stranger["id"], "secret", {"system": {"all": True}}))
    assert ids("", system) == sorted([one["id"], two["id"]])
    assert keystone.status("DELETE", path, token=system) == 403


def test_they_end_with_their_user_and_project(keystone: Keystone) -> None:
    one, two = keystone.project("p"), keystone.project("q")
    user = keystone.user("u")
    make(keystone, user["id"], project_id=one["id"])
    make(keystone, user["id"], project_id=two["id"])
    keystone.call("DELETE", f"/projects/{one['id']}")
    assert keystone.count("credentials") == 1
    keystone.call("DELETE", f"/users/{user['id']}")
    assert keystone.count("credentials") == 0


def _rows(keystone: Keystone) -> list[str]:
    with keystone.runtime.db.read() as session:
        return list(session.execute(sa.select(Credential.sealed)).scalars())


def test_the_database_holds_no_secret_and_keys_rotate(keystone: Keystone) -> None:
    user = keystone.user("u")
    made = make(keystone, user["id"], blob="the-certificate")
    (before,) = _rows(keystone)
    assert "certificate" not in before
    folder = keystone.state / "keys" / vault.FOLDER
    for number in (2, 3, 4, 5):
        primary, count = vault.rotate(folder, keystone.runtime.db, (Credential.sealed,))
        assert (primary, count) == (number, 1)
        assert keystone.call("GET", f"/credentials/{made['id']}")["credential"]["blob"] == "the-certificate"
    (after,) = _rows(keystone)
    assert after != before
    with pytest.raises(vault.UnreadableSecret):
        keeper(keystone.runtime).vault.open(before)  # its key is gone
    assert sorted(p.name for p in folder.iterdir()) == ["0", "4", "5"]


def test_a_rotation_that_finds_an_unreadable_secret_drops_no_key(keystone: Keystone) -> None:
    make(keystone, keystone.user("u")["id"])
    folder = keystone.state / "keys" / vault.FOLDER
    names = sorted(p.name for p in folder.iterdir())
    with keystone.runtime.db.begin() as session:
        session.execute(sa.update(Credential).values(sealed="gAAAAAB" + "x" * 100))
    with pytest.raises(vault.UnreadableSecret):
        vault.rotate(folder, keystone.runtime.db, (Credential.sealed,))
    assert sorted(p.name for p in folder.iterdir()) == names


def test_a_token_key_opens_no_credential(keystone: Keystone) -> None:
    kept = keeper(keystone.runtime)
    sealed = kept.vault.seal("x")
    assert kept.keys.open(sealed) is None
    with pytest.raises(vault.UnreadableSecret):
        kept.vault.open(kept.keys.seal(b"x", 1.0))
    assert msgspec.json.encode(sealed)
