"""Application credentials and their access rules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import Keystone, by_token

pytestmark = pytest.mark.everywhere


def make(keystone: Keystone, user: dict[str, Any], token: str, **fields: Any) -> dict[str, Any]:
    body = {"application_credential": {"name": "c", **fields}}
    path = f"/users/{user['id']}/application_credentials"
    made: dict[str, Any] = keystone.call("POST", path, body, token=token)["application_credential"]
    return made


def by_credential(**fields: Any) -> dict[str, Any]:
    return {"identity": {"methods": ["application_credential"], "application_credential": fields}}


def test_a_program_acts_for_a_user(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = make(keystone, user, token, roles=[{"name": "reader"}], description="d")
    assert len(made["secret"]) == 86 and made["project_id"] == project["id"]
    assert made["unrestricted"] is False and made["expires_at"] is None
    assert [role["name"] for role in made["roles"]] == ["reader"]
    path = f"/users/{user['id']}/application_credentials"
    shown = keystone.call("GET", f"{path}/{made['id']}", token=token)["application_credential"]
    assert "secret" not in shown and shown["links"]["self"].endswith(f"{path}/{made['id']}")
    assert len(keystone.call("GET", f"{path}?name=c", token=token)["application_credentials"]) == 1
    key = keystone.token(by_credential(id=made["id"], secret=made["secret"]))
    body = keystone.body(key)
    assert body["project"]["id"] == project["id"] and body["methods"] == ["application_credential"]
    assert [role["name"] for role in body["roles"]] == ["reader"]
    assert body["application_credential"] == {"id": made["id"], "name": "c", "restricted": True}
    named = {"name": "u", "domain": {"id": "default"}}
    assert keystone.alive(keystone.token(by_credential(name="c", secret=made["secret"], user=named)))
    assert keystone.alive(
        keystone.token(by_credential(name="c", secret=made["secret"], user={"id": user["id"]}))
    )
    for wrong in (
        {"id": made["id"], "secret": "wrong"},
        {"id": made["id"]},
        {"id": "f" * 32, "secret": made["secret"]},
        {"name": "other", "secret": made["secret"], "user": named},
    ):
        assert keystone.login(by_credential(**wrong)).status == 401, wrong
    assert keystone.login(by_credential(name="c", secret=made["secret"])).status == 400
    scoped = by_credential(id=made["id"], secret=made["secret"]) | {
        "scope": {"project": {"id": project["id"]}}
    }
    assert keystone.login(scoped).status == 401
    assert keystone.login(by_token(key)).status == 403
    assert keystone.status("POST", path, {"application_credential": {"name": "c"}}, token=token) == 409
    keystone.call("DELETE", f"{path}/{made['id']}", token=token)
    assert not keystone.alive(key)
    assert keystone.status("GET", f"{path}/{made['id']}", token=token) == 404


def test_a_chosen_secret(keystone: Keystone) -> None:
    user, token = keystone.member("u", keystone.project("p"))
    made = make(keystone, user, token, secret="s3cret")
    assert made["secret"] == "s3cret"
    assert keystone.alive(keystone.token(by_credential(id=made["id"], secret="s3cret")))
    assert keystone.login(by_credential(id=made["id"], secret="S3cret")).status == 401


def test_a_restricted_credential_makes_no_further_ones(keystone: Keystone) -> None:
    user, token = keystone.member("u", keystone.project("p"))
    path = f"/users/{user['id']}/application_credentials"
    tight = make(keystone, user, token)
    key = keystone.token(by_credential(id=tight["id"], secret=tight["secret"]))
    assert keystone.status("POST", path, {"application_credential": {"name": "x"}}, token=key) == 403
    assert keystone.status("DELETE", f"{path}/{tight['id']}", token=key) == 403
    assert len(keystone.call("GET", path, token=key)["application_credentials"]) == 1
    loose = make(keystone, user, token, name="loose", unrestricted=True)
    key = keystone.token(by_credential(id=loose["id"], secret=loose["secret"]))
    make(keystone, user, key, name="x")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"roles": [{"name": "admin"}]}, 400),
        ({"roles": [{"name": "nothing"}]}, 400),
        ({"roles": [{}]}, 400),
        ({"roles": [{"id": "a", "name": "b"}]}, 400),
        ({"expires_at": "yesterday"}, 400),
        ({"expires_at": "2001-01-01T00:00:00"}, 400),
        ({"name": ""}, 400),
        ({"unknown": 1}, 400),
        ({"access_rules": [{"service": "compute"}]}, 400),
        ({"access_rules": [{"service": "compute", "method": "EAT", "path": "/"}]}, 400),
        ({"access_rules": [{"service": "compute", "method": "GET", "path": "x"}]}, 400),
        ({"access_rules": [{"id": "f"}]}, 400),
        ({"secret": 1}, 400),
    ],
)
def test_what_is_refused(shared: Keystone, fields: dict[str, Any], status: int) -> None:
    found = shared.call("GET", "/users?name=demo")["users"][0]
    token = shared.cloud.token("demo")
    path = f"/users/{found['id']}/application_credentials"
    body = {"application_credential": {"name": "c", **fields}}
    assert shared.status("POST", path, body, token=token) == status


def test_whose_they_are(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    other, theirs = keystone.member("v", project)
    made = make(keystone, user, token)
    path = f"/users/{user['id']}/application_credentials"
    # The path's user is not the proof: the credential's own is.
    sly = f"/users/{other['id']}/application_credentials/{made['id']}"
    for method in ("GET", "DELETE"):
        assert keystone.status(method, f"{path}/{made['id']}", token=theirs) == 403
        assert keystone.status(method, sly, token=theirs) == 403
    assert keystone.status("POST", path, {"application_credential": {"name": "x"}}, token=theirs) == 403
    assert keystone.status("POST", path, {"application_credential": {"name": "x"}}) == 403
    assert keystone.call("GET", f"{path}/{made['id']}")["application_credential"]["id"] == made["id"]
    bare = keystone.password(user["id"], "secret")
    assert keystone.status("POST", path, {"application_credential": {"name": "x"}}, token=bare) == 400


def test_what_ends_one(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    made = make(keystone, user, token, expires_at="2030-03-17T17:46:41.5")
    assert made["expires_at"] == "2030-03-17T17:46:41.500000"
    login = by_credential(id=made["id"], secret=made["secret"])
    key = keystone.token(login)
    assert keystone.body(key)["expires_at"] == "2030-03-17T17:46:41.000000Z"
    keystone.grant("member", f"projects/{project['id']}", f"users/{user['id']}", "DELETE")
    assert not keystone.alive(key) and keystone.login(login).status == 401
    assert keystone.count("application_credentials") == 0


def test_an_expired_one(keystone: Keystone) -> None:
    user, token = keystone.member("u", keystone.project("p"))
    made = make(keystone, user, token, expires_at="2030-03-17T17:46:50")
    login = by_credential(id=made["id"], secret=made["secret"])
    key = keystone.token(login)
    keystone.clock.now += 9
    assert keystone.alive(key)
    keystone.clock.now += 2
    assert not keystone.alive(key) and keystone.login(login).status == 401


def test_access_rules(keystone: Keystone) -> None:
    user, token = keystone.member("u", keystone.project("p"))
    rule = {"service": "identity", "method": "GET", "path": "/v3/auth/*"}
    first = make(keystone, user, token, access_rules=[rule])
    second = make(keystone, user, token, name="d", access_rules=[rule, {**rule, "method": "HEAD"}])
    (shared,) = first["access_rules"]
    assert shared in second["access_rules"] and len(second["access_rules"]) == 2
    path = f"/users/{user['id']}/access_rules"
    assert len(keystone.call("GET", path, token=token)["access_rules"]) == 2
    assert len(keystone.call("GET", f"{path}?method=HEAD", token=token)["access_rules"]) == 1
    shown = keystone.call("GET", f"{path}/{shared['id']}", token=token)["access_rule"]
    assert {**rule, "id": shared["id"]}.items() <= shown.items() and "user_id" not in shown
    assert keystone.status("GET", path) == 403  # an admin of a project is not the user
    assert keystone.status("GET", f"{path}/{'f' * 32}", token=token) == 404
    key = keystone.token(by_credential(id=first["id"], secret=first["secret"]))
    assert keystone.body(key, by=keystone.admin)["application_credential"]["access_rules"] == [shared]
    assert keystone.call("GET", "/auth/projects", token=key)["projects"]
    assert keystone.status("GET", f"/users/{user['id']}", token=key) == 401
    assert keystone.status("DELETE", f"{path}/{shared['id']}", token=token) == 403
    for made in (first, second):
        keystone.call("DELETE", f"/users/{user['id']}/application_credentials/{made['id']}", token=token)
    keystone.call("DELETE", f"{path}/{shared['id']}", token=token)
    assert keystone.status("GET", f"{path}/{shared['id']}", token=token) == 404
