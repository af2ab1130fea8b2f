"""Trusts: what they lend, and everything that ends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.identity.conftest import Keystone, by_password, by_token

pytestmark = pytest.mark.everywhere


@dataclass(kw_only=True)
class Stage:
    """A trustor with two roles on a project, a trustee with none, and a third."""

    keystone: Keystone
    project: dict[str, Any]
    trustor: dict[str, Any]
    token: str
    trustee: dict[str, Any]
    third: dict[str, Any]

    def make(self, *, token: str | None = None, **fields: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.keystone.call(
            "POST", "/OS-TRUST/trusts", {"trust": self.body(**fields)}, token=token or self.token
        )["trust"]
        return made

    def body(self, **fields: Any) -> dict[str, Any]:
        return {
            "trustor_user_id": self.trustor["id"],
            "trustee_user_id": self.trustee["id"],
            "impersonation": True,
            "project_id": self.project["id"],
            "roles": [{"name": "member"}],
            **fields,
        }

    def refused(self, *, token: str | None = None, **fields: Any) -> int:
        body = {"trust": self.body(**fields)}
        return self.keystone.status("POST", "/OS-TRUST/trusts", body, token=token or self.token)

    def login(self, trust: dict[str, Any], who: dict[str, Any] | None = None) -> Any:
        scope = {"OS-TRUST:trust": {"id": trust["id"]}}
        return self.keystone.login(by_password((who or self.trustee)["id"], "secret", scope))

    def key(self, trust: dict[str, Any], who: dict[str, Any] | None = None) -> str:
        answer = self.login(trust, who)
        assert answer.status == 201, answer.read()
        return str(answer.headers["x-subject-token"])


@pytest.fixture
def stage(keystone: Keystone) -> Stage:
    project = keystone.project("p")
    trustor, token = keystone.member("trustor", project)
    keystone.role("worker")
    keystone.grant("worker", f"projects/{project['id']}", f"users/{trustor['id']}")
    return Stage(
        keystone=keystone, project=project, trustor=trustor, token=token, trustee=keystone.user("trustee"),
        third=keystone.user("third"),
    )  # fmt: skip


def test_a_trust_as_the_api_shows_it(stage: Stage) -> None:
    keystone = stage.keystone
    made = stage.make(expires_at="2030-03-17T18:46:40.000000Z")
    path = f"/OS-TRUST/trusts/{made['id']}"
    assert {
        "trustor_user_id": stage.trustor["id"],
        "trustee_user_id": stage.trustee["id"],
        "project_id": stage.project["id"],
        "impersonation": True,
        "expires_at": "2030-03-17T18:46:40.000000Z",
        "remaining_uses": None,
        "redelegation_count": 0,
        "redelegated_trust_id": None,
        "deleted_at": None,
    }.items() <= made.items()
    assert made["links"]["self"].endswith(f"/v3{path}")
    assert made["roles_links"]["self"].endswith(f"/v3{path}/roles")
    assert [role["name"] for role in made["roles"]] == ["member"] and made["roles"][0]["links"]["self"]
    assert "role_ids" not in made and "root_trustor_id" not in made
    assert keystone.call("GET", path, token=stage.token)["trust"] == made
    assert keystone.call("GET", f"{path}/roles", token=stage.token)["roles"] == made["roles"]
    role = made["roles"][0]["id"]
    assert keystone.call("GET", f"{path}/roles/{role}", token=stage.token)["role"] == made["roles"][0]
    other = keystone.role_id("worker")
    assert keystone.status("GET", f"{path}/roles/{other}", token=stage.token) == 404
    (short,) = keystone.call(
        "GET", f"/OS-TRUST/trusts?trustor_user_id={stage.trustor['id']}", token=stage.token
    )["trusts"]
    assert short == {name: value for name, value in made.items() if name not in ("roles", "roles_links")}
    assert [t["id"] for t in keystone.call("GET", "/OS-TRUST/trusts")["trusts"]] == [made["id"]]
    keystone.call("DELETE", path, token=stage.token)
    assert keystone.status("GET", path, token=stage.token) == 404


def test_who_sees_and_ends_one(stage: Stage) -> None:
    keystone, made = stage.keystone, stage.make()
    path = f"/OS-TRUST/trusts/{made['id']}"
    theirs = keystone.password(stage.trustee["id"], "secret")
    third = keystone.password(stage.third["id"], "secret")
    assert keystone.call("GET", path, token=theirs)["trust"]["id"] == made["id"]
    for where in (path, f"{path}/roles", "/OS-TRUST/trusts"):
        assert keystone.status("GET", where, token=third) == 403
    query = f"/OS-TRUST/trusts?trustee_user_id={stage.trustee['id']}"
    assert len(keystone.call("GET", query, token=theirs)["trusts"]) == 1
    assert keystone.status("GET", query, token=third) == 403
    assert keystone.status("GET", query.replace("trustee", "trustor"), token=third) == 403
    # Both in one query: the second narrows, the first is what policy is asked about.
    both = f"{query}&trustor_user_id={stage.third['id']}"
    assert keystone.call("GET", both, token=third)["trusts"] == []
    assert keystone.status("DELETE", path, token=theirs) == 403
    assert keystone.status("DELETE", path, token=third) == 403
    keystone.call("DELETE", path)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"roles": []}, 403),
        ({"roles": [{"name": "admin"}]}, 404),
        ({"roles": [{"name": "nothing"}]}, 404),
        ({"roles": [{"id": "f" * 32}]}, 404),
        ({"roles": [{}]}, 400),
        ({"roles": [{"name": "member", "id": "x"}]}, 400),
        ({"trustor_user_id": "f" * 32}, 403),
        ({"trustee_user_id": "f" * 32}, 404),
        ({"project_id": "f" * 32}, 404),
        ({"impersonation": "yes"}, 400),
        ({"remaining_uses": 0}, 400),
        ({"remaining_uses": "1"}, 400),
        ({"expires_at": "bad.123Z"}, 400),
        ({"expires_at": "2001-01-01T00:00:00Z"}, 400),
        ({"allow_redelegation": True, "redelegation_count": 4}, 403),
        ({"allow_redelegation": True, "remaining_uses": 1}, 400),
        ({"redelegation_count": -1}, 400),
    ],
)
def test_what_is_refused(stage: Stage, fields: dict[str, Any], status: int) -> None:
    assert stage.refused(**fields) == status
    assert stage.keystone.count("trusts") == 0


def test_impersonation(stage: Stage) -> None:
    made = stage.make(roles=[{"name": "worker"}])
    body = stage.keystone.body(key := stage.key(made))
    assert body["user"]["id"] == stage.trustor["id"] and body["project"]["id"] == stage.project["id"]
    assert [role["name"] for role in body["roles"]] == ["worker"]
    assert body["OS-TRUST:trust"] == {
        "id": made["id"],
        "impersonation": True,
        "trustor_user": {"id": stage.trustor["id"]},
        "trustee_user": {"id": stage.trustee["id"]},
    }
    assert body["catalog"] and stage.keystone.alive(key) and len(key) <= 300
    context = stage.keystone.cloud.cloud.tokens.get(key)
    assert context is not None and context.trust_id == made["id"]
    plain = stage.make(impersonation=False)
    body = stage.keystone.body(stage.key(plain))
    assert body["user"]["id"] == stage.trustee["id"]
    assert [role["name"] for role in body["roles"]] == ["member", "reader"]


def test_only_the_trustee_may_use_it(stage: Stage) -> None:
    made = stage.make()
    assert stage.login(made, stage.third).status == 401
    assert stage.login(made, stage.trustor).status == 401
    assert stage.login({"id": "f" * 32}).status == 401
    scope = {"OS-TRUST:trust": {"id": made["id"]}, "project": {"id": stage.project["id"]}}
    assert stage.keystone.login(by_password(stage.trustee["id"], "secret", scope)).status == 400
    bare = stage.keystone.password(stage.trustee["id"], "secret")
    assert stage.keystone.alive(stage.keystone.token(by_token(bare, {"OS-TRUST:trust": {"id": made["id"]}})))


def test_a_trust_without_a_project_lends_nothing(stage: Stage) -> None:
    made = stage.make(project_id=None, roles=[])
    body = stage.keystone.body(stage.key(made))
    assert "roles" not in body and "project" not in body and body["OS-TRUST:trust"]["id"] == made["id"]


def test_uses_are_counted(stage: Stage) -> None:
    made = stage.make(remaining_uses=2)
    first, second = stage.key(made), stage.key(made)
    assert stage.login(made).status == 403
    assert stage.keystone.alive(first) and stage.keystone.alive(second)
    shown = stage.keystone.call("GET", f"/OS-TRUST/trusts/{made['id']}", token=stage.token)["trust"]
    assert shown["remaining_uses"] == 0
    wrong = by_password(
        stage.trustee["id"], "wrong", {"OS-TRUST:trust": {"id": stage.make(remaining_uses=1)["id"]}}
    )
    assert stage.keystone.login(wrong).status == 401
    shown = stage.keystone.call("GET", "/OS-TRUST/trusts")["trusts"]
    assert sorted(one["remaining_uses"] for one in shown) == [0, 1]


def test_its_time_is_the_tokens_time(stage: Stage) -> None:
    made = stage.make(expires_at="2030-03-17T17:46:50Z")
    key = stage.key(made)
    assert stage.keystone.body(key)["expires_at"] == "2030-03-17T17:46:50.000000Z"
    stage.keystone.clock.now += 11
    assert not stage.keystone.alive(key) and stage.login(made).status == 401
    assert stage.keystone.status("GET", f"/OS-TRUST/trusts/{made['id']}", token=stage.token) == 404


@pytest.mark.parametrize(
    "end",
    [
        "delete trust", "delete trustor", "delete trustee", "delete project", "delete role", "disable trustor",
        "disable trustee", "disable project", "remove role", "trustor's password", "trustee's password",
    ],
)  # fmt: skip
@pytest.mark.parametrize("impersonation", [True, False])
def test_what_ends_a_trust_ends_its_tokens(stage: Stage, end: str, impersonation: bool) -> None:
    keystone = stage.keystone
    made = stage.make(roles=[{"name": "worker"}, {"name": "member"}], impersonation=impersonation)
    key = stage.key(made)
    assert keystone.alive(key)
    people = {"trustor": stage.trustor, "trustee": stage.trustee}
    verb, _, what = end.partition(" ")
    if what in people and verb == "delete":
        keystone.call("DELETE", f"/users/{people[what]['id']}")
    elif what in people:
        keystone.call("PATCH", f"/users/{people[what]['id']}", {"user": {"enabled": False}})
    elif end == "delete trust":
        keystone.call("DELETE", f"/OS-TRUST/trusts/{made['id']}", token=stage.token)
    elif end == "delete project":
        keystone.call("DELETE", f"/projects/{stage.project['id']}")
    elif end == "disable project":
        keystone.call("PATCH", f"/projects/{stage.project['id']}", {"project": {"enabled": False}})
    elif end == "delete role":
        keystone.call("DELETE", f"/roles/{keystone.role_id('worker')}")
    elif end == "remove role":
        keystone.grant("worker", f"projects/{stage.project['id']}", f"users/{stage.trustor['id']}", "DELETE")
    else:
        who = people[verb.removesuffix("'s")]
        keystone.call("PATCH", f"/users/{who['id']}", {"user": {"password": "another"}})
    assert not keystone.alive(key)
    if "password" not in end:
        assert stage.login(made).status == 401
        assert keystone.count("trusts") == (0 if end in _GONE else 1)


_GONE = {"delete trust", "delete trustor", "delete trustee", "delete project"}


def test_handing_on(stage: Stage) -> None:
    keystone = stage.keystone
    first = stage.make(
        roles=[{"name": "member"}], allow_redelegation=True, redelegation_count=2,
        expires_at="2030-03-17T18:00:00Z",
    )  # fmt: skip
    assert first["redelegation_count"] == 2
    key = stage.key(first)
    handed: dict[str, Any] = {"trustee_user_id": stage.third["id"], "allow_redelegation": True}
    for wrong, status in (
        ({"roles": [{"name": "worker"}]}, 403),  # not lent to whom hands on, though the trustor has it
        ({"expires_at": "2030-03-17T19:00:00Z"}, 403),
        ({"redelegation_count": 2}, 403),
        ({"remaining_uses": 1, "allow_redelegation": False}, 403),
        ({"trustor_user_id": stage.trustee["id"]}, 403),
    ):
        assert stage.refused(token=key, **{**handed, **wrong}) == status, wrong
    other = keystone.project("q")
    keystone.grant("member", f"projects/{other['id']}", f"users/{stage.trustor['id']}")
    assert stage.refused(token=key, **handed, project_id=other["id"]) == 403
    second = stage.make(token=key, **handed, roles=[{"name": "reader"}])
    assert second["redelegated_trust_id"] == first["id"] and second["redelegation_count"] == 1
    assert second["expires_at"] == first["expires_at"]
    deep = stage.key(second, stage.third)
    assert [role["name"] for role in keystone.body(deep)["roles"]] == ["reader"]
    third = stage.make(token=deep, trustee_user_id=stage.trustee["id"], roles=[{"name": "reader"}])
    assert third["redelegation_count"] == 0
    last = stage.key(third)
    assert stage.refused(token=last, trustee_user_id=stage.third["id"], roles=[{"name": "reader"}]) == 403
    # Somebody in the middle is disabled, then the beginning goes.
    keystone.call("PATCH", f"/users/{stage.third['id']}", {"user": {"enabled": False}})
    assert not keystone.alive(last) and not keystone.alive(deep) and keystone.alive(key)
    keystone.call("DELETE", f"/OS-TRUST/trusts/{first['id']}", token=stage.token)
    assert keystone.count("trusts") == 0 and not keystone.alive(key)


def test_no_impersonation_out_of_nothing(stage: Stage) -> None:
    first = stage.make(impersonation=False, allow_redelegation=True)
    assert first["redelegation_count"] == 3
    key = stage.key(first)
    mine: dict[str, Any] = {"trustor_user_id": stage.trustee["id"], "trustee_user_id": stage.third["id"]}
    assert stage.refused(token=key, **mine, impersonation=True) == 403
    second = stage.make(token=key, **mine, impersonation=False)
    assert stage.keystone.body(stage.key(second, stage.third))["user"]["id"] == stage.third["id"]
    # Whose roles are lent is the first trustor, not the one who hands on.
    stage.keystone.grant(
        "member", f"projects/{stage.project['id']}", f"users/{stage.trustor['id']}", "DELETE"
    )
    assert stage.login(second, stage.third).status == 401


def test_a_trust_may_not_be_handed_on_unless_it_says_so(stage: Stage) -> None:
    key = stage.key(stage.make())
    assert stage.refused(token=key, trustee_user_id=stage.third["id"]) == 403
