"""Who may do what: readers of the system, readers and managers of a domain, people in projects, oneself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere

NOBODY = "f" * 32


class World:
    """Two domains with a user, a project and a group each, and somebody of every kind."""

    def __init__(self, keystone: Keystone) -> None:
        self.keystone = keystone
        self.home, self.away = keystone.domain("home"), keystone.domain("away")
        self.things = {}
        for name, domain in (("home", self.home), ("away", self.away)):
            key = domain["id"]
            self.things[name] = {
                "domain": key,
                "user": keystone.user(f"u-{name}", domain_id=key)["id"],
                "project": keystone.project(f"p-{name}", domain_id=key)["id"],
                "group": keystone.group(f"g-{name}", domain_id=key)["id"],
            }
        self.tokens = {
            "domain manager": self._person("manager", {"domain": {"id": self.home["id"]}}),
            "domain reader": self._person("reader", {"domain": {"id": self.home["id"]}}),
            "system reader": self._person("reader", {"system": {"all": True}}),
            "system admin": self._person("admin", {"system": {"all": True}}),
            "member": self._person("member", {"project": {"id": self.things["home"]["project"]}}),
        }

    def _person(self, role: str, scope: dict[str, Any]) -> str:
        (kind, where), *_ = scope.items()
        user = self.keystone.user(f"{kind} {role}", domain_id=self.home["id"])["id"]
        place = "system" if kind == "system" else f"{kind}s/{where['id']}"
        self.keystone.grant(role, place, f"users/{user}")
        return self.keystone.password(user, "secret", scope)

    def ask(self, who: str, method: str, path: str, body: Any = None) -> int:
        answer = self.keystone.send(method, f"/v3{path}", body, token=self.tokens[who])
        answer.read()
        return answer.status


def test_personas(keystone: Keystone) -> None:
    world = World(keystone)
    home, away = world.things["home"], world.things["away"]
    role, admin = keystone.role_id("member"), keystone.role_id("admin")
    named = {"name": "n"}
    # (method, path, body) -> what each of the five gets
    expected: list[tuple[str, str, Any, dict[str, int]]] = []

    def case(method: str, path: str, body: Any, *answers: int) -> None:
        expected.append((method, path, body, dict(zip(world.tokens, answers, strict=True))))

    # answers: domain manager, domain reader, system reader, system admin, project member
    case("GET", f"/users/{home['user']}", None, 200, 200, 200, 200, 403)
    case("GET", f"/users/{away['user']}", None, 403, 403, 200, 200, 403)
    case("GET", f"/users/{NOBODY}", None, 403, 403, 404, 404, 403)
    case("GET", "/users", None, 200, 200, 200, 200, 403)
    case("PATCH", f"/users/{home['user']}", {"user": {"x": 1}}, 200, 403, 403, 200, 403)
    case("PATCH", f"/users/{away['user']}", {"user": {"x": 1}}, 403, 403, 403, 200, 403)
    case("POST", "/users", {"user": {**named, "domain_id": away["domain"]}}, 403, 403, 403, 201, 403)
    case("GET", f"/projects/{home['project']}", None, 200, 200, 200, 200, 200)
    case("GET", f"/projects/{away['project']}", None, 403, 403, 200, 200, 403)
    case("PATCH", f"/projects/{home['project']}", {"project": {"x": 1}}, 200, 403, 403, 200, 403)
    case("POST", "/projects", {"project": {**named, "domain_id": away["domain"]}}, 403, 403, 403, 201, 403)
    case("PUT", f"/projects/{home['project']}/tags/t", None, 201, 403, 403, 201, 403)
    case("GET", f"/groups/{home['group']}", None, 200, 200, 200, 200, 403)
    case("GET", f"/groups/{away['group']}/users", None, 403, 403, 200, 200, 403)
    case("PUT", f"/groups/{home['group']}/users/{home['user']}", None, 204, 403, 403, 204, 403)
    case("PUT", f"/groups/{home['group']}/users/{away['user']}", None, 403, 403, 403, 204, 403)
    case("GET", f"/users/{home['user']}/groups", None, 200, 200, 200, 200, 403)
    case("GET", f"/domains/{home['domain']}", None, 200, 200, 200, 200, 200)
    case("GET", f"/domains/{away['domain']}", None, 403, 403, 200, 200, 403)
    case("PATCH", f"/domains/{home['domain']}", {"domain": {"description": "d"}}, 403, 403, 403, 200, 403)
    case("PATCH", f"/domains/{NOBODY}", {"domain": {"description": "d"}}, 404, 404, 404, 404, 404)
    case("GET", f"/roles/{NOBODY}", None, 404, 404, 404, 404, 404)
    case("GET", "/roles", None, 200, 403, 200, 200, 403)
    case("GET", f"/roles/{role}", None, 200, 403, 200, 200, 403)
    case("GET", f"/roles/{admin}", None, 403, 403, 200, 200, 403)
    grant = f"/projects/{home['project']}/users/{home['user']}/roles"
    case("PUT", f"{grant}/{role}", None, 204, 403, 403, 204, 403)
    case("PUT", f"{grant}/{admin}", None, 403, 403, 403, 204, 403)
    case("GET", grant, None, 200, 200, 200, 200, 403)
    case("HEAD", f"{grant}/{role}", None, 204, 204, 204, 204, 403)
    case(
        "PUT", f"/projects/{home['project']}/users/{away['user']}/roles/{role}", None, 403, 403, 403, 204, 403
    )
    case("PUT", f"/projects/{NOBODY}/users/{home['user']}/roles/{role}", None, 403, 403, 403, 404, 403)
    case("PUT", f"/system/users/{home['user']}/roles/{role}", None, 403, 403, 403, 204, 403)
    case("GET", f"/system/users/{home['user']}/roles", None, 403, 403, 200, 200, 403)
    case("GET", "/role_assignments", None, 200, 200, 200, 200, 403)
    case("GET", "/services", None, 403, 403, 200, 200, 403)
    case("POST", "/services", {"service": {"type": "t"}}, 403, 403, 403, 201, 403)
    case("GET", "/regions", None, 200, 200, 200, 200, 200)
    case("GET", "/role_inferences", None, 403, 403, 200, 200, 403)
    for method, path, body, answers in expected:
        for who, status in answers.items():
            assert world.ask(who, method, path, body) == status, (who, method, path)


def test_a_domains_token_sees_its_domain_alone(keystone: Keystone) -> None:
    world = World(keystone)
    home, away = world.things["home"], world.things["away"]
    token = world.tokens["domain manager"]
    for kind in ("user", "project", "group"):
        ids = {row["id"] for row in keystone.call("GET", f"/{kind}s", token=token)[f"{kind}s"]}
        assert home[kind] in ids and away[kind] not in ids, kind
    assert [d["id"] for d in keystone.call("GET", "/domains", token=token)["domains"]] == [home["domain"]]
    for kind in ("user", "project", "group"):
        assert keystone.status("POST", f"/{kind}s", {kind: {"name": "made"}}, token=token) == 403
        body = {kind: {"name": "made", "domain_id": home["domain"]}}
        assert keystone.call("POST", f"/{kind}s", body, token=token)[kind]["domain_id"] == home["domain"]
    found = keystone.call("GET", "/role_assignments", token=token)["role_assignments"]
    scopes = [next(iter(one["scope"].values()))["id"] for one in found]
    assert set(scopes) == {home["domain"], home["project"]}


def test_oneself(keystone: Keystone) -> None:
    project = keystone.project("p")
    user, token = keystone.member("u", project)
    other = keystone.user("v")
    own, theirs = f"/users/{user['id']}", f"/users/{other['id']}"
    assert keystone.call("GET", own, token=token)["user"]["name"] == "u"
    assert [p["name"] for p in keystone.call("GET", f"{own}/projects", token=token)["projects"]] == ["p"]
    assert keystone.call("GET", f"{own}/groups", token=token)["groups"] == []
    for path in (theirs, f"{theirs}/projects", f"{theirs}/groups", f"{theirs}/application_credentials"):
        assert keystone.status("GET", path, token=token) == 403
    assert keystone.status("PATCH", own, {"user": {"enabled": False}}, token=token) == 403
    assert keystone.status("DELETE", f"{theirs}/tokens", token=token) == 403
    bare = keystone.password(user["id"], "secret")
    assert keystone.call("GET", own, token=bare)["user"]["name"] == "u"


def test_a_refusal_names_the_rule(keystone: Keystone) -> None:
    _, token = keystone.member("u", keystone.project("p"))
    error = keystone.refused("GET", "/users", token=token)
    assert error.body == {
        "error": {
            "code": 403,
            "title": "Forbidden",
            "message": "You are not authorized to perform the requested action: identity:list_users.",
        }
    }


@pytest.mark.parametrize(
    "header", ["X-Roles", "X-User-Id", "X-Is-Admin-Project", "X_Roles", "X-Identity-Status"]
)
def test_no_header_but_the_token_says_who_asks(keystone: Keystone, header: str) -> None:
    _, token = keystone.member("u", keystone.project("p"))
    headers = {header: "admin", "X-Auth-Token": token}
    assert keystone.send("GET", "/v3/users", token=token, headers=headers).status == 403
