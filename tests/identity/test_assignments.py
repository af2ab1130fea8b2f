"""Grants, implied roles, inheritance, and the list of all that was granted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere


def rows(keystone: Keystone, query: str, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = keystone.call("GET", f"/role_assignments?{query}", **more)[
        "role_assignments"
    ]
    return found


@pytest.mark.parametrize("place", ["project", "domain", "system"])
@pytest.mark.parametrize("who", ["user", "group"])
def test_grants(keystone: Keystone, place: str, who: str) -> None:
    target = {"project": keystone.project, "domain": keystone.domain}.get(place)
    where = f"{place}s/{target('t')['id']}" if target else "system"
    actor = (keystone.user if who == "user" else keystone.group)("a")["id"]
    path = f"/{where}/{who}s/{actor}/roles"
    one = f"{path}/{keystone.role_id('member')}"
    assert keystone.call("GET", path)["roles"] == []
    assert keystone.status("HEAD", one) == 404
    missing = keystone.refused("DELETE", one)
    assert missing.status == 404 and "Could not find role assignment" in missing.message
    for _ in range(2):
        assert keystone.send("PUT", f"/v3{one}", token=keystone.admin).status == 204
    assert keystone.send("GET", f"/v3{one}", token=keystone.admin).status == 204
    (role,) = keystone.call("GET", path)["roles"]
    assert role["name"] == "member" and role["links"]["self"].endswith(f"/roles/{role['id']}")
    (listed,) = rows(keystone, f"{who}.id={actor}")
    assert listed["role"] == {"id": role["id"]} and listed[who] == {"id": actor}
    assert listed["links"]["assignment"] == f"{keystone.runtime.url}/v3{one}"
    assert keystone.send("DELETE", f"/v3{one}", token=keystone.admin).status == 204
    assert keystone.call("GET", path)["roles"] == [] and rows(keystone, f"{who}.id={actor}") == []
    for wrong in (one.replace(actor, "f" * 32), one.replace(role["id"], "f" * 32)):
        assert keystone.status("PUT", wrong) == 404


def test_implied_roles(keystone: Keystone) -> None:
    lead, hand = keystone.role("lead"), keystone.role("hand")
    path = f"/roles/{lead['id']}/implies/{hand['id']}"
    assert keystone.status("GET", path) == 404
    made = keystone.call("PUT", path)["role_inference"]
    assert (made["prior_role"]["name"], made["implies"]["name"]) == ("lead", "hand")
    assert keystone.status("PUT", path) == 409
    assert keystone.send("HEAD", f"/v3{path}", token=keystone.admin).status == 204
    assert keystone.status("PUT", f"/roles/{hand['id']}/implies/{lead['id']}") == 400
    assert keystone.status("PUT", f"/roles/{hand['id']}/implies/{keystone.role_id('admin')}") == 403
    listed = keystone.call("GET", f"/roles/{lead['id']}/implies")["role_inference"]["implies"]
    assert [role["name"] for role in listed] == ["hand"]
    project = keystone.project("p")
    user, token = keystone.member("u", project, "lead")
    assert [r["name"] for r in keystone.body(token)["roles"]] == ["hand", "lead"]
    found = rows(keystone, f"user.id={user['id']}&effective")
    assert {one["role"]["id"] for one in found} == {lead["id"], hand["id"]}
    (implied,) = (one for one in found if "prior_role" in one["links"])
    assert implied["role"]["id"] == hand["id"]
    assert len(rows(keystone, f"role.id={hand['id']}&effective")) == 1 and not rows(
        keystone, f"role.id={hand['id']}"
    )
    keystone.call("DELETE", path)
    assert [r["name"] for r in keystone.body(token)["roles"]] == ["lead"]
    inferences = keystone.call("GET", "/role_inferences")["role_inferences"]
    chain = {one["prior_role"]["name"]: [i["name"] for i in one["implies"]] for one in inferences}
    assert chain == {"admin": ["manager"], "manager": ["member"], "member": ["reader"]}


def test_inheritance(keystone: Keystone) -> None:
    domain = keystone.domain("d")
    top = keystone.project("top", domain_id=domain["id"])
    leaf = keystone.project("leaf", parent_id=top["id"])
    user = keystone.user("u")
    role = keystone.role_id("reader")
    for place, reached in (
        (f"/OS-INHERIT/domains/{domain['id']}", ["leaf", "top"]),
        (f"/OS-INHERIT/projects/{top['id']}", ["leaf"]),
    ):
        path = f"{place}/users/{user['id']}/roles/{role}/inherited_to_projects"
        assert keystone.status("HEAD", path) == 404
        keystone.call("PUT", path)
        assert keystone.send("HEAD", f"/v3{path}", token=keystone.admin).status == 204
        listed = keystone.call("GET", path.replace(f"/{role}", ""))["roles"]
        assert [one["name"] for one in listed] == ["reader"]
        found = keystone.call("GET", f"/users/{user['id']}/projects")["projects"]
        assert [p["name"] for p in found] == reached
        token = keystone.password(user["id"], "secret", {"project": {"id": leaf["id"]}})
        assert [r["name"] for r in keystone.body(token)["roles"]] == ["reader"]
        (plain,) = rows(keystone, f"user.id={user['id']}")
        assert plain["scope"]["OS-INHERIT:inherited_to"] == "projects"
        assert plain["links"]["assignment"] == f"{keystone.runtime.url}/v3{path}"
        effective = rows(keystone, f"user.id={user['id']}&effective")
        names = {leaf["id"]: "leaf", top["id"]: "top"}
        assert sorted(names[one["scope"]["project"]["id"]] for one in effective) == reached
        assert len(rows(keystone, f"scope.project.id={leaf['id']}&effective")) == 1
        assert rows(keystone, f"user.id={user['id']}&scope.OS-INHERIT:inherited_to=projects") == [plain]
        keystone.call("DELETE", path)
        assert not keystone.alive(token)
    nowhere = f"/OS-INHERIT/projects/{'f' * 32}/users/{user['id']}/roles/{role}/inherited_to_projects"
    assert keystone.status("PUT", nowhere) == 404


def test_the_list_and_its_filters(keystone: Keystone) -> None:
    project = keystone.project("p")
    child = keystone.project("c", parent_id=project["id"])
    user, group, other = keystone.user("u"), keystone.group("g"), keystone.user("v")
    for member in (user, other):
        keystone.call("PUT", f"/groups/{group['id']}/users/{member['id']}")
    keystone.grant("reader", f"projects/{project['id']}", f"groups/{group['id']}")
    keystone.grant("manager", f"projects/{child['id']}", f"users/{user['id']}")
    keystone.grant("reader", "domains/default", f"users/{user['id']}")
    keystone.grant("reader", "system", f"users/{user['id']}")
    names = rows(keystone, f"user.id={user['id']}&include_names")
    assert {one["user"]["name"] for one in names} == {"u"}
    scoped = next(one for one in names if "project" in one["scope"])
    domain = {"id": "default", "name": "Default"}
    assert scoped["scope"] == {"project": {"id": child["id"], "name": "c", "domain": domain}}
    assert scoped["role"]["name"] == "manager" and scoped["user"]["domain"] == domain
    assert len(rows(keystone, f"user.id={user['id']}")) == 3
    assert len(rows(keystone, f"group.id={group['id']}")) == 1
    assert len(rows(keystone, f"scope.project.id={project['id']}")) == 1
    assert len(rows(keystone, f"user.id={user['id']}&scope.domain.id=default")) == 1
    assert len(rows(keystone, f"user.id={user['id']}&scope.system=all")) == 1
    assert len(rows(keystone, f"scope.project.id={project['id']}&include_subtree")) == 2
    effective = rows(keystone, f"scope.project.id={project['id']}&effective&include_names")
    assert {one["user"]["name"] for one in effective} == {"u", "v"}
    assert all(one["links"]["membership"].endswith(one["user"]["id"]) for one in effective)
    mine = rows(keystone, f"user.id={user['id']}&scope.project.id={child['id']}&effective&include_names")
    assert [one["role"]["name"] for one in mine] == ["manager", "member", "reader"]
    assert rows(keystone, f"user.id={'f' * 32}") == [] and rows(keystone, "effective=0&user.id=x") == []
    for wrong in (
        "user.id=a&group.id=b",
        "scope.project.id=a&scope.domain.id=b",
        "scope.system=all&scope.domain.id=b",
        "effective&group.id=b",
        "effective&scope.domain.id=b&scope.OS-INHERIT:inherited_to=projects",
        "include_subtree",
    ):
        assert keystone.status("GET", f"/role_assignments?{wrong}") == 400, wrong


def test_a_domains_own_role(keystone: Keystone) -> None:
    domain = keystone.domain("d")
    inside, outside = keystone.project("in", domain_id=domain["id"]), keystone.project("out")
    role = keystone.role("member", domain_id=domain["id"])
    assert role["domain_id"] == domain["id"]
    assert [r["name"] for r in keystone.call("GET", f"/roles?domain_id={domain['id']}")["roles"]] == [
        "member"
    ]
    assert role["id"] not in {r["id"] for r in keystone.call("GET", "/roles")["roles"]}
    user = keystone.user("u")
    end = f"users/{user['id']}/roles/{role['id']}"
    assert keystone.status("PUT", f"/projects/{outside['id']}/{end}") == 403
    assert keystone.status("PUT", f"/system/{end}") == 400
    keystone.call("PUT", f"/projects/{inside['id']}/{end}")
    scope = {"project": {"id": inside["id"]}}
    auth = {
        "identity": {"methods": ["password"], "password": {"user": {"id": user["id"], "password": "secret"}}}
    }
    assert keystone.login(auth | {"scope": scope}).status == 401
    reader = keystone.role_id("reader")
    assert keystone.status("PUT", f"/roles/{reader}/implies/{role['id']}") == 403
    between = keystone.role("between", domain_id=domain["id"])
    keystone.call("PUT", f"/roles/{role['id']}/implies/{between['id']}")
    keystone.call("PUT", f"/roles/{between['id']}/implies/{reader}")
    assert [r["name"] for r in keystone.body(keystone.token(auth | {"scope": scope}))["roles"]] == ["reader"]
