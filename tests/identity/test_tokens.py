"""Tokens: their form, their scopes, what validating costs, and how at once they end."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from altostack.identity.keys import rotate
from tests.identity.conftest import Keystone, by_password, by_token

pytestmark = pytest.mark.everywhere

TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.000000Z$")


def test_version_documents(shared: Keystone) -> None:
    many = shared.send("GET", "/")
    assert many.status == 300
    assert many.headers["location"] == f"{shared.runtime.url}/v3/"
    (version,) = msgspec.json.decode(many.read())["versions"]["values"]
    assert (version["id"], version["status"]) == ("v3.14", "stable")
    assert version["links"] == [{"rel": "self", "href": f"{shared.runtime.url}/v3/"}]
    for path in ("/v3", "/v3/"):
        assert msgspec.json.decode(shared.send("GET", path).read()) == {"version": version}
    assert shared.send("HEAD", "/v3").status == 200


def test_a_project_token_says_what_the_api_promises(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    body = keystone.body(token)
    domain = {"id": "default", "name": "Default"}
    assert body["user"] == {"id": user["id"], "name": "u", "domain": domain, "password_expires_at": None}
    assert body["project"] == {"id": project["id"], "name": "p", "domain": domain}
    assert body["is_domain"] is False and body["methods"] == ["password"]
    assert [role["name"] for role in body["roles"]] == ["member", "reader"]
    assert TIME.match(body["expires_at"]) and TIME.match(body["issued_at"])
    assert [len(audit) for audit in body["audit_ids"]] == [22]
    (entry,) = body["catalog"]
    assert (entry["type"], entry["name"]) == ("identity", "identity")
    assert {e["interface"] for e in entry["endpoints"]} == {"public", "internal", "admin"}
    assert {e["url"] for e in entry["endpoints"]} == {f"{keystone.runtime.url}/v3"}
    assert {e["region"] for e in entry["endpoints"]} == {e["region_id"] for e in entry["endpoints"]}
    assert "catalog" not in keystone.body(token, query="?nocatalog")
    assert len(token) <= 255
    head = keystone.send("HEAD", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": token})
    assert head.status == 200 and head.headers["x-subject-token"] == token and not head.read()


def test_scopes(keystone: Keystone) -> None:
    user = keystone.user("u")
    user_id = user["id"]
    bare = keystone.body(keystone.password(user_id, "secret"))
    assert not {"project", "domain", "system", "roles", "catalog", "is_domain"} & set(bare)
    scopes: tuple[Any, ...] = ({"system": {"all": True}}, {"domain": {"id": "default"}})
    for scope in scopes:
        assert keystone.login(by_password(user_id, "secret", scope)).status == 401
    keystone.grant("reader", "system", f"users/{user_id}")
    keystone.grant("manager", "domains/default", f"users/{user_id}")
    system = keystone.body(keystone.password(user_id, "secret", {"system": {"all": True}}))
    assert system["system"] == {"all": True} and [r["name"] for r in system["roles"]] == ["reader"]
    domain = keystone.body(keystone.password(user_id, "secret", {"domain": {"name": "Default"}}))
    assert domain["domain"] == {"id": "default", "name": "Default"}
    assert [r["name"] for r in domain["roles"]] == ["manager", "member", "reader"]
    assert "catalog" in domain and "project" not in domain


def test_a_default_project_is_the_scope_where_none_is_named(keystone: Keystone) -> None:
    project = keystone.project("p")
    user = keystone.user("u", default_project_id=project["id"])
    assert "project" not in keystone.body(keystone.password(user["id"], "secret"))
    keystone.grant("reader", f"projects/{project['id']}", f"users/{user['id']}")
    assert keystone.body(keystone.password(user["id"], "secret"))["project"]["id"] == project["id"]
    nowhere: tuple[Any, ...] = ("unscoped", {"unscoped": {}})
    for scope in nowhere:
        assert "project" not in keystone.body(keystone.password(user["id"], "secret", scope))
    keystone.call("PATCH", f"/projects/{project['id']}", {"project": {"enabled": False}})
    assert "project" not in keystone.body(keystone.password(user["id"], "secret"))


def test_exchanging_a_token(keystone: Keystone) -> None:
    one, two = keystone.project("one"), keystone.project("two")
    user, first = keystone.member("u", one)
    keystone.grant("reader", f"projects/{two['id']}", f"users/{user['id']}")
    keystone.clock.now += 600
    second = keystone.token(by_token(first, {"project": {"id": two["id"]}}))
    before, after = keystone.body(first), keystone.body(second)
    assert after["project"]["id"] == two["id"] and after["expires_at"] == before["expires_at"]
    assert sorted(after["methods"]) == ["password", "token"]
    assert len(after["audit_ids"]) == 2 and after["audit_ids"][1] == before["audit_ids"][0]
    third = keystone.body(keystone.token(by_token(second, {"project": {"id": one["id"]}})))
    assert third["audit_ids"][1] == before["audit_ids"][0]
    keystone.grant("reader", "system", f"users/{user['id']}")
    system = keystone.password(user["id"], "secret", {"system": {"all": True}})
    assert keystone.login(by_token(system, {"project": {"id": one["id"]}})).status == 403
    assert keystone.login(by_token("nonsense")).status == 404


def test_a_cloud_may_keep_scoped_tokens_where_they_are(keystone: Keystone) -> None:
    one = keystone.project("one")
    user, scoped = keystone.member("u", one)
    bare = keystone.password(user["id"], "secret")
    keystone.configure(allow_rescope_scoped_token=False)
    scopes: tuple[Any, ...] = ({"project": {"id": one["id"]}}, "unscoped", None)
    for scope in scopes:
        assert keystone.login(by_token(scoped, scope)).status == 403
    assert keystone.login(by_token(bare, {"project": {"id": one["id"]}})).status == 201


def test_warm_validation_asks_the_database_nothing(keystone: Keystone) -> None:
    project = keystone.project("p")
    _, token = keystone.member("u", project)
    keystone.body(token)
    keystone.body(token, by=keystone.admin)
    with keystone.queries() as seen:
        keystone.body(token)
        keystone.body(token, by=keystone.admin)
        assert keystone.cloud.cloud.tokens.get(token) is not None
    assert seen == []


def test_issuing_takes_three_queries(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    keystone.body(token)
    for scope in (
        {"project": {"id": project["id"]}},
        {"project": {"name": "p", "domain": {"id": "default"}}},
    ):
        with keystone.queries() as seen:
            keystone.password(user["id"], "secret", scope)
        assert len(seen) <= 3, seen
    with keystone.queries() as seen:
        keystone.token(by_token(token, {"project": {"id": project["id"]}}))
    assert len(seen) <= 3, seen
    assert not [statement for statement in seen if not statement.startswith("SELECT")]


def test_a_stranger_learns_nothing(keystone: Keystone) -> None:
    user = keystone.user("u")
    off = keystone.user("off", enabled=False)
    bare = keystone.user("bare", password=None)
    project = keystone.project("p")
    gone = keystone.project("gone", enabled=False)

    def answer(auth: dict[str, Any]) -> tuple[int, bytes, str]:
        found = keystone.login(auth)
        return found.status, found.read(), found.headers["www-authenticate"]

    named = {"name": "nobody", "domain": {"id": "default"}, "password": "x"}
    nowhere = {"name": "u", "domain": {"id": "no-domain"}, "password": "x"}
    answers = {
        answer(by_password(user["id"], "wrong")),
        answer(by_password(off["id"], "secret")),
        answer(by_password(bare["id"], "")),
        answer(by_password("f" * 32, "secret")),
        answer({"identity": {"methods": ["password"], "password": {"user": named}}}),
        answer({"identity": {"methods": ["password"], "password": {"user": nowhere}}}),
        answer(by_password(user["id"], "secret", {"project": {"id": project["id"]}})),
        answer(by_password(user["id"], "secret", {"project": {"id": "f" * 32}})),
        answer(by_password(user["id"], "secret", {"project": {"id": gone["id"]}})),
        answer(by_password(user["id"], "wrong", {"project": {"id": project["id"]}})),
    }
    assert len(answers) == 1
    ((status, body, header),) = answers
    assert status == 401 and header.startswith('Keystone uri="http')
    assert msgspec.json.decode(body) == {
        "error": {
            "code": 401,
            "title": "Unauthorized",
            "message": "The request you have made requires authentication.",
        }
    }


@pytest.mark.parametrize(
    ("auth", "status"),
    [
        ({}, 400),
        ({"identity": {}}, 400),
        ({"identity": {"methods": []}}, 400),
        ({"identity": {"methods": ["password"]}}, 400),
        ({"identity": {"methods": ["password"], "password": {"user": {}}}}, 400),
        ({"identity": {"methods": ["password"], "password": {"user": {"name": "u", "password": "p"}}}}, 400),
        ({"identity": {"methods": "password"}}, 400),
        ({"identity": {"methods": ["magic"], "magic": {}}}, 401),
        ({"identity": {"methods": ["token"], "token": {}}}, 400),
        ({"identity": {"methods": ["token"], "token": {"id": 1}}}, 400),
        (by_password("u", "p", {"project": {}}), 400),
        (by_password("u", "p", {"project": {"name": "p"}}), 400),
        (by_password("u", "p", {"project": {"id": "a"}, "domain": {"id": "b"}}), 400),
        (by_password("u", "p", {}), 400),
        (by_password("u", "p", "somewhere"), 400),
        (by_password("u", "p", {"OS-TRUST:trust": {"id": "t"}}), 401),
        (by_password("u", "p", {"OS-TRUST:trust": {}}), 400),
        (by_password("u" * 300, "p"), 400),
    ],
)
def test_malformed_logins(shared: Keystone, auth: dict[str, Any], status: int) -> None:
    answer = shared.login(auth)
    body = msgspec.json.decode(answer.read())["error"]
    assert (answer.status, body["code"]) == (status, status), body
    assert set(body) == {"code", "message", "title"}


def test_no_login_is_a_server_error(shared: Keystone) -> None:
    for raw in (b"", b"{", b"[]", b"null", b'{"auth": null}', b'{"auth": {"identity": null}}', b"\xff" * 10):
        answer = shared.client.send("POST", "/v3/auth/tokens", raw)
        assert answer.status == 400, raw
    large = shared.client.send("POST", "/v3/auth/tokens", b" " * 114_689)
    assert large.status == 413
    assert msgspec.json.decode(large.read())["error"]["code"] == 413


def test_asking_about_a_token(keystone: Keystone) -> None:
    project = keystone.project("p")
    _, mine = keystone.member("u", project)
    _, other = keystone.member("v", project)
    keystone.body(mine, by=keystone.admin)

    def ask(token: str | None, subject: str | None, method: str = "GET") -> int:
        headers = {"X-Subject-Token": subject} if subject else {}
        return keystone.send(method, "/v3/auth/tokens", token=token, headers=headers).status

    assert ask(other, mine) == 403
    assert ask(other, mine, "HEAD") == 403
    assert ask(other, mine, "DELETE") == 403
    assert ask(other, "nonsense") == 404
    assert ask(keystone.admin, "nonsense") == 404
    assert ask(keystone.admin, None) == 404
    assert ask("nonsense", mine) == 401
    assert ask(None, mine) == 401
    assert ask(keystone.admin, mine[:-2] + ("AA" if mine[-2:] != "AA" else "BB")) == 404


def test_expiry_and_the_service_window(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    keystone.clock.now += 3599
    assert keystone.alive(token)
    keystone.clock.now += 2
    keystone.admin = keystone.password(
        keystone.call("GET", "/users?name=admin", token=_fresh_admin(keystone))["users"][0]["id"],
        keystone.cloud.passwords["admin"],
        {"project": {"name": "admin", "domain": {"id": "default"}}},
    )
    assert not keystone.alive(token)
    late = keystone.body(token, by=keystone.admin, query="?allow_expired=1")
    assert late["user"]["id"] == user["id"]
    keystone.clock.now += 172_800
    admin = _fresh_admin(keystone)
    headers = {"X-Subject-Token": token}
    assert keystone.send("GET", "/v3/auth/tokens?allow_expired=1", token=admin, headers=headers).status == 404


def _fresh_admin(keystone: Keystone) -> str:
    user = {"name": "admin", "domain": {"id": "default"}, "password": keystone.cloud.passwords["admin"]}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    return keystone.token({"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope})


# ---- ending tokens


def test_a_revoked_token_ends_at_once_with_what_was_made_from_it(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, first = keystone.member("u", project)
    second = keystone.token(by_token(first, {"project": {"id": project["id"]}}))
    other = keystone.password(user["id"], "secret")
    assert keystone.alive(first) and keystone.alive(second)
    answer = keystone.send("DELETE", "/v3/auth/tokens", token=first, headers={"X-Subject-Token": first})
    assert answer.status == 204
    assert not keystone.alive(first) and not keystone.alive(second) and keystone.alive(other)
    assert keystone.login(by_token(first)).status == 404
    assert keystone.count("revocations") == 1


def test_further_down_a_chain_a_revoked_token_goes_alone(keystone: Keystone) -> None:
    """A token names itself and the first of its chain, as the API has it, and nobody between."""
    project = keystone.project("p")
    _, first = keystone.member("u", project)
    second = keystone.token(by_token(first, {"project": {"id": project["id"]}}))
    third = keystone.token(by_token(second, {"project": {"id": project["id"]}}))
    keystone.send("DELETE", "/v3/auth/tokens", token=second, headers={"X-Subject-Token": second})
    assert [keystone.alive(token) for token in (first, second, third)] == [True, False, True]
    keystone.send("DELETE", "/v3/auth/tokens", token=first, headers={"X-Subject-Token": first})
    assert not keystone.alive(third)


def test_a_revoked_token_may_go_alone(keystone: Keystone) -> None:
    project = keystone.project("p")
    _, first = keystone.member("u", project)
    second = keystone.token(by_token(first, {"project": {"id": project["id"]}}))
    headers = {"X-Subject-Token": first}
    keystone.send("DELETE", "/v3/auth/tokens?cascade=false", token=first, headers=headers)
    assert not keystone.alive(first) and keystone.alive(second)


@pytest.mark.parametrize(
    "end",
    [
        "disable user", "delete user", "change password", "own password", "disable project", "delete project",
        "remove role", "disable domain", "remove from group", "delete group", "revoke all", "delete role",
        "remove domain of user",
    ],
)  # fmt: skip
def test_what_ends_a_token_ends_it_at_once_and_for_good(keystone: Keystone, end: str) -> None:
    domain = keystone.domain("d")
    project = keystone.project("p", domain_id=domain["id"])
    role = keystone.role("worker")
    home = keystone.domain("home")
    user = keystone.user("u", domain_id=home["id"])
    group = keystone.group("g")
    grouped = end in ("remove from group", "delete group")
    who = f"groups/{group['id']}" if grouped else f"users/{user['id']}"
    keystone.call("PUT", f"/groups/{group['id']}/users/{user['id']}")
    keystone.grant("worker", f"projects/{project['id']}", who)
    token = keystone.password(user["id"], "secret", {"project": {"id": project["id"]}})
    witness = keystone.password(user["id"], "secret")
    assert keystone.alive(token)

    def patch(kind: str, row: dict[str, Any], **fields: Any) -> None:
        keystone.call("PATCH", f"/{kind}s/{row['id']}", {kind: fields})

    if end == "disable user":
        patch("user", user, enabled=False)
    elif end == "delete user":
        keystone.call("DELETE", f"/users/{user['id']}")
    elif end == "change password":
        patch("user", user, password="another")
    elif end == "own password":
        body = {"user": {"original_password": "secret", "password": "another"}}
        assert keystone.send("POST", f"/v3/users/{user['id']}/password", body).status == 204
    elif end == "disable project":
        patch("project", project, enabled=False)
    elif end == "delete project":
        keystone.call("DELETE", f"/projects/{project['id']}")
    elif end == "remove role":
        keystone.grant("worker", f"projects/{project['id']}", who, "DELETE")
    elif end == "disable domain":
        patch("domain", domain, enabled=False)
    elif end == "remove domain of user":
        patch("domain", home, enabled=False)
        keystone.call("DELETE", f"/domains/{home['id']}")
    elif end == "remove from group":
        keystone.call("DELETE", f"/groups/{group['id']}/users/{user['id']}")
    elif end == "delete group":
        keystone.call("DELETE", f"/groups/{group['id']}")
    elif end == "revoke all":
        keystone.call("DELETE", f"/users/{user['id']}/tokens")
    elif end == "delete role":
        keystone.call("DELETE", f"/roles/{role['id']}")
    assert not keystone.alive(token)
    of_the_user = {"disable user", "delete user", "change password", "own password", "revoke all"}
    assert keystone.alive(witness) is (end not in of_the_user | {"remove domain of user"})
    # Enabling again does not wake the dead.
    if end == "disable user":
        patch("user", user, enabled=True)
    elif end == "disable project":
        patch("project", project, enabled=True)
    elif end == "disable domain":
        patch("domain", domain, enabled=True)
    if end.startswith("disable"):
        assert not keystone.alive(token)
        assert (
            keystone.login(by_password(user["id"], "secret", {"project": {"id": project["id"]}})).status
            == 201
        )


def test_a_role_given_counts_in_tokens_that_are_out(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project, "reader")
    assert keystone.cloud.cloud.tokens.get(token).roles == {"reader"}  # type: ignore[union-attr]  # it is there
    keystone.grant("admin", f"projects/{project['id']}", f"users/{user['id']}")
    assert "admin" in keystone.cloud.cloud.tokens.get(token).roles  # type: ignore[union-attr]  # it is there


def test_rotation_keeps_tokens_until_their_key_is_gone(keystone: Keystone) -> None:
    project = keystone.project("p")
    _, token = keystone.member("u", project)
    folder = keystone.state / "keys"
    assert rotate(folder, max_active_keys=3) == 2
    assert keystone.alive(token)
    newer = keystone.password(keystone.user("v")["id"], "secret")
    assert rotate(folder, max_active_keys=3) == 3
    keystone.admin = _fresh_admin(keystone)
    keystone.runtime.memo["keeper"]._tokens.clear()
    keystone.cloud.cloud.epoch.bump()
    assert not keystone.alive(token) and keystone.alive(newer)


def test_expired_revocations_are_forgotten(keystone: Keystone) -> None:
    _, token = keystone.member("u", keystone.project("p"))
    keystone.send("DELETE", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": token})
    (loop,) = (one for one in keystone.cloud.loops if one.name == "identity-tidy")
    loop.once()
    assert keystone.count("revocations") == 1
    keystone.clock.now += 3600 + 172_800 + 1
    loop.once()
    assert keystone.count("revocations") == 0


# ---- what one may ask for


def test_auth_lists(keystone: Keystone) -> None:
    project, other = keystone.project("p"), keystone.project("q")
    user, token = keystone.member("u", project)
    group = keystone.group("g")
    keystone.call("PUT", f"/groups/{group['id']}/users/{user['id']}")
    keystone.grant("reader", f"projects/{other['id']}", f"groups/{group['id']}")
    assert [p["name"] for p in keystone.call("GET", "/auth/projects", token=token)["projects"]] == ["p", "q"]
    assert keystone.call("GET", "/auth/domains", token=token)["domains"] == []
    assert keystone.call("GET", "/auth/system", token=token)["system"] == []
    keystone.grant("reader", "domains/default", f"users/{user['id']}")
    keystone.grant("reader", "system", f"groups/{group['id']}")
    assert [d["id"] for d in keystone.call("GET", "/auth/domains", token=token)["domains"]] == ["default"]
    assert keystone.call("GET", "/auth/system", token=token)["system"] == [{"all": True}]
    assert keystone.call("GET", "/auth/catalog", token=token)["catalog"][0]["type"] == "identity"
    bare = keystone.password(user["id"], "secret")
    assert keystone.status("GET", "/auth/catalog", token=bare) == 403


def test_urls_in_the_catalogue_hold_the_project(keystone: Keystone) -> None:
    service = keystone.call("POST", "/services", {"service": {"type": "thing", "name": "t"}})["service"]
    for url in ("http://x/%(project_id)s", "http://x/$(tenant_id)s", "http://x/plain"):
        body = {"service_id": service["id"], "interface": "public", "url": url}
        keystone.call("POST", "/endpoints", {"endpoint": body})
    project = keystone.project("p")
    user, token = keystone.member("u", project)

    def urls(key: str) -> set[str]:
        found = next(entry for entry in keystone.body(key)["catalog"] if entry["type"] == "thing")
        return {endpoint["url"] for endpoint in found["endpoints"]}

    assert urls(token) == {f"http://x/{project['id']}", "http://x/plain"}
    keystone.grant("reader", "system", f"users/{user['id']}")
    assert urls(keystone.password(user["id"], "secret", {"system": {"all": True}})) == {"http://x/plain"}
