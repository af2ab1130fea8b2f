"""Every domain is a project too, for those who ask for it as one."""

from __future__ import annotations

import pytest

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere


def test_a_project_that_acts_as_a_domain(keystone: Keystone) -> None:
    made = keystone.project("whole", is_domain=True, description="d", colour="red", tags=["t"])
    assert (made["is_domain"], made["domain_id"], made["parent_id"]) == (True, None, None)
    assert (made["name"], made["description"], made["colour"], made["tags"]) == ("whole", "d", "red", ["t"])
    path, domain_path = f"/projects/{made['id']}", f"/domains/{made['id']}"
    domain = keystone.call("GET", domain_path)["domain"]
    assert (domain["name"], domain["colour"]) == ("whole", "red")
    assert keystone.call("GET", path)["project"] == made
    assert keystone.status("POST", "/projects", {"project": {"name": "whole", "is_domain": True}}) == 409
    assert keystone.status("POST", "/domains", {"domain": {"name": "whole"}}) == 409

    top = keystone.project("top", parent_id=made["id"])
    leaf = keystone.project("leaf", parent_id=top["id"])
    assert top["domain_id"] == leaf["domain_id"] == made["id"]
    tree = keystone.call("GET", f"{path}?subtree_as_ids&parents_as_ids")["project"]
    assert (tree["subtree"], tree["parents"]) == ({top["id"]: {leaf["id"]: None}}, None)

    names = {row["name"] for row in keystone.call("GET", "/projects")["projects"]}
    assert {"top", "leaf"} <= names and "whole" not in names
    for word in ("true", "1", ""):
        acting = keystone.call("GET", f"/projects?is_domain={word}")["projects"]
        assert {row["name"] for row in acting} == {"Default", "whole"} and all(r["is_domain"] for r in acting)
    (one,) = keystone.call("GET", "/projects?is_domain=true&name=whole")["projects"]
    assert one["id"] == made["id"]
    assert "whole" not in {row["name"] for row in keystone.call("GET", "/projects?is_domain=0")["projects"]}

    assert keystone.status("PATCH", path, {"project": {"is_domain": False}}) == 400
    changed = keystone.call("PATCH", path, {"project": {"name": "part", "size": 3}})["project"]
    assert (changed["name"], changed["size"], changed["colour"]) == ("part", 3, "red")
    assert keystone.call("GET", domain_path)["domain"]["name"] == "part"
    assert keystone.status("DELETE", path) == 403
    keystone.call("PATCH", path, {"project": {"enabled": False}})
    assert keystone.status("POST", "/projects", {"project": {"name": "x", "parent_id": made["id"]}}) == 400
    keystone.call("DELETE", path)
    for gone in (path, domain_path, f"/projects/{leaf['id']}"):
        assert keystone.status("GET", gone) == 404


def test_it_takes_who_may_change_domains(keystone: Keystone) -> None:
    domain = keystone.domain("d")
    user = keystone.user("u", domain_id=domain["id"])
    keystone.grant("manager", f"domains/{domain['id']}", f"users/{user['id']}")
    manager = keystone.password(user["id"], "secret", {"domain": {"id": domain["id"]}})
    path = f"/projects/{domain['id']}"
    assert (
        keystone.status("POST", "/projects", {"project": {"name": "n", "is_domain": True}}, token=manager)
        == 403
    )
    assert keystone.status("PATCH", path, {"project": {"description": "x"}}, token=manager) == 403
    assert keystone.status("DELETE", path, token=manager) == 403
    found = keystone.call("GET", "/projects?is_domain=true", token=manager)["projects"]
    assert [row["id"] for row in found] == [domain["id"]]
