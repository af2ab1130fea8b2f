"""Users, groups, domains, projects, roles, the catalogue: made, listed, changed, deleted, and refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere

NOBODY = "f" * 32


def test_users(keystone: Keystone) -> None:
    made = keystone.user(" u ", email="u@x", description="hi", nested={"a": [1]})
    assert made["name"] == "u" and made["domain_id"] == "default" and made["enabled"] is True
    assert made["email"] == "u@x" and made["nested"] == {"a": [1]} and made["password_expires_at"] is None
    assert made["options"] == {} and "password" not in made and "default_project_id" not in made
    assert made["links"] == {"self": f"{keystone.runtime.url}/v3/users/{made['id']}"}
    path = f"/users/{made['id']}"
    assert keystone.call("GET", path) == {"user": made}
    changed = keystone.call("PATCH", path, {"user": {"name": "v", "email": None, "password": "n"}})["user"]
    assert changed["name"] == "v" and changed["email"] is None and changed["description"] == "hi"
    keystone.call(
        "PATCH", path, {"user": {"options": {"lock_password": True, "ignore_password_expiry": None}}}
    )
    assert keystone.call("GET", path)["user"]["options"] == {"lock_password": True}
    assert keystone.client.send("DELETE", f"/v3{path}", token=keystone.admin).status == 204
    for method, body in (("GET", None), ("PATCH", {"user": {"name": "x"}}), ("DELETE", None)):
        assert keystone.status(method, path, body) == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/users", {"user": {}}, 400),
        ("/users", {"user": {"name": ""}}, 400),
        ("/users", {"user": {"name": "  "}}, 400),
        ("/users", {"user": {"name": "n" * 256}}, 400),
        ("/users", {"user": {"name": 1}}, 400),
        ("/users", {"user": {"name": "n", "enabled": "maybe"}}, 400),
        ("/users", {"user": {"name": "n", "password": 5}}, 400),
        ("/users", {"user": {"name": "n", "options": {"magic": True}}}, 400),
        ("/users", {"user": {"name": "n", "options": {"lock_password": "x"}}}, 400),
        ("/users", {"user": {"name": "n", "password": "p" * 5000}}, 403),
        ("/users", {"user": {"name": "n", "domain_id": NOBODY}}, 404),
        ("/users", {"user": {"name": "admin"}}, 409),
        ("/users", {"nope": {}}, 400),
        ("/users", [], 400),
        ("/projects", {"project": {"name": "n" * 65}}, 400),
        ("/projects", {"project": {"name": "n", "is_domain": True, "domain_id": "default"}}, 400),
        ("/projects", {"project": {"name": "n", "is_domain": True, "parent_id": "default"}}, 400),
        ("/projects", {"project": {"name": "n", "domain_id": NOBODY}}, 400),
        ("/projects", {"project": {"name": "n", "parent_id": NOBODY}}, 400),
        ("/projects", {"project": {"name": "n", "tags": ["a,b"]}}, 400),
        ("/projects", {"project": {"name": "n", "tags": ["a", "a"]}}, 400),
        ("/projects", {"project": {"name": "n", "tags": [""]}}, 400),
        ("/projects", {"project": {"name": "n", "tags": [str(i) for i in range(81)]}}, 400),
        ("/projects", {"project": {"name": "admin"}}, 409),
        ("/domains", {"domain": {"name": "Default"}}, 409),
        ("/domains", {"domain": {"name": "d", "explicit_domain_id": "short"}}, 400),
        ("/groups", {"group": {"name": "g", "domain_id": NOBODY}}, 404),
        ("/roles", {"role": {"name": "admin"}}, 409),
        ("/roles", {"role": {"name": "r", "domain_id": NOBODY}}, 404),
        ("/services", {"service": {"name": "s"}}, 400),
        ("/services", {"service": {"type": "t", "enabled": "yes"}}, 400),
        ("/endpoints", {"endpoint": {"interface": "public", "url": "http://x"}}, 400),
        ("/endpoints", {"endpoint": {"interface": "secret", "url": "http://x", "service_id": NOBODY}}, 400),
        ("/endpoints", {"endpoint": {"interface": "public", "url": "http://x", "service_id": NOBODY}}, 400),
        ("/endpoints", {"endpoint": {"interface": "public", "url": "x", "service_id": NOBODY}}, 400),
        (
            "/endpoints",
            {"endpoint": {"interface": "public", "url": "http://%(pass)s", "service_id": NOBODY}},
            400,
        ),
        ("/regions", {"region": {"id": "RegionOne"}}, 409),
        ("/regions", {"region": {"id": "a", "parent_region_id": "nowhere"}}, 404),
    ],
)
def test_what_is_refused_says_why(shared: Keystone, path: str, body: Any, status: int) -> None:
    error = shared.refused("POST", path, body)
    assert error.status == status, error
    assert error.body["error"]["code"] == status and error.message


def test_what_never_changes(keystone: Keystone) -> None:
    user, project = keystone.user("u"), keystone.project("p")
    for path, body, status in (
        (f"/users/{user['id']}", {"user": {"id": NOBODY}}, 400),
        (f"/users/{user['id']}", {"user": {"domain_id": NOBODY}}, 400),
        (f"/projects/{project['id']}", {"project": {"domain_id": NOBODY}}, 400),
        (f"/projects/{project['id']}", {"project": {"parent_id": NOBODY}}, 403),
        (f"/projects/{project['id']}", {"project": {"is_domain": True}}, 400),
    ):
        assert keystone.status("PATCH", path, body) == status, (path, body)
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"id": user["id"], "domain_id": "default"}})
    keystone.call(
        "PATCH", f"/projects/{project['id']}", {"project": {"parent_id": "default", "is_domain": False}}
    )


def test_ones_own_password(keystone: Keystone) -> None:
    user = keystone.user("u", "old")
    path = f"/v3/users/{user['id']}/password"

    def change(old: str, new: str, at: str = path) -> tuple[int, bytes]:
        body = {"user": {"original_password": old, "password": new}}
        answer = keystone.send("POST", at, body)
        return answer.status, answer.read()

    wrong = change("wrong", "new")
    assert wrong[0] == 401 and wrong == change("old", "new", f"/v3/users/{NOBODY}/password")
    assert change("old", "new") == (204, b"")
    assert change("old", "new") == wrong
    keystone.password(user["id"], "new")
    keystone.call("PATCH", f"/users/{user['id']}", {"user": {"options": {"lock_password": True}}})
    assert change("new", "newer")[0] == 400
    assert keystone.send("GET", path).status == 405
    assert keystone.send("POST", path, {"user": {"password": "x"}}).status == 400


@pytest.mark.parametrize("password", ["", "p" * 72, "p" * 73, "ü" * 100, "p" * 4096, "a b\tc\n"])
def test_every_byte_of_a_password_counts(keystone: Keystone, password: str) -> None:
    user = keystone.user("u", password)
    keystone.password(user["id"], password)
    for wrong in (password + "x", password[:-1] + "?", password[:-1]):
        if wrong != password:
            answer = keystone.login(
                {
                    "identity": {
                        "methods": ["password"],
                        "password": {"user": {"id": user["id"], "password": wrong}},
                    }
                }
            )
            assert answer.status == 401, wrong


def test_groups(keystone: Keystone) -> None:
    group, user = keystone.group("g", description="d"), keystone.user("u")
    member = f"/groups/{group['id']}/users/{user['id']}"
    assert keystone.status("HEAD", member) == 404
    for _ in range(2):
        keystone.call("PUT", member)
    assert keystone.send("HEAD", f"/v3{member}", token=keystone.admin).status == 204
    assert keystone.send("GET", f"/v3{member}", token=keystone.admin).status == 204
    assert [u["id"] for u in keystone.call("GET", f"/groups/{group['id']}/users")["users"]] == [user["id"]]
    assert keystone.call("GET", f"/groups/{group['id']}/users?name=other")["users"] == []
    assert [g["name"] for g in keystone.call("GET", f"/users/{user['id']}/groups")["groups"]] == ["g"]
    keystone.call("DELETE", member)
    assert keystone.status("DELETE", member) == 404
    assert keystone.status("PUT", f"/groups/{group['id']}/users/{NOBODY}") == 404
    assert keystone.status("PUT", f"/groups/{NOBODY}/users/{user['id']}") == 404
    assert keystone.status("GET", f"/groups/{NOBODY}/users") == 404


def test_domains_take_everything_with_them(keystone: Keystone) -> None:
    domain = keystone.domain("d", tags=["t"], explicit_domain_id="a" * 32)
    assert domain["id"] == "a" * 32 and domain["tags"] == ["t"] and "explicit_domain_id" not in domain
    user = keystone.user("u", domain_id=domain["id"])
    project = keystone.project("p", domain_id=domain["id"])
    child = keystone.project("c", parent_id=project["id"])
    assert child["domain_id"] == domain["id"]
    role = keystone.role("r", domain_id=domain["id"])
    keystone.call("PUT", f"/projects/{child['id']}/users/{user['id']}/roles/{role['id']}")
    before = keystone.count("assignments")
    path = f"/domains/{domain['id']}"
    assert keystone.status("DELETE", path) == 403
    keystone.call("PATCH", path, {"domain": {"enabled": False}})
    keystone.call("DELETE", path)
    for gone in (f"/users/{user['id']}", f"/projects/{child['id']}", f"/roles/{role['id']}", path):
        assert keystone.status("GET", gone) == 404
    assert keystone.count("assignments") == before - 1
    keystone.call("PATCH", "/domains/default", {"domain": {"enabled": True}})
    assert keystone.status("DELETE", "/domains/default") == 403


def test_project_trees(keystone: Keystone) -> None:
    top = keystone.project("top")
    middle = keystone.project("middle", parent_id=top["id"])
    leaf = keystone.project("leaf", parent_id=middle["id"], domain_id="default")
    assert (top["parent_id"], leaf["parent_id"]) == ("default", middle["id"])

    def shown(project: dict[str, Any], query: str) -> dict[str, Any]:
        found: dict[str, Any] = keystone.call("GET", f"/projects/{project['id']}?{query}")["project"]
        return found

    chain = {middle["id"]: {top["id"]: {"default": None}}}
    assert shown(leaf, "parents_as_ids")["parents"] == chain
    # Lists tell of those projects alone in which one has a role.
    assert shown(leaf, "parents_as_list")["parents"] == shown(top, "subtree_as_list")["subtree"] == []
    own = f"users/{keystone.body(keystone.admin)['user']['id']}"
    keystone.grant("reader", f"projects/{top['id']}", own)
    assert [p["project"]["name"] for p in shown(leaf, "parents_as_list")["parents"]] == ["top"]
    role = keystone.role_id("reader")
    keystone.call("PUT", f"/OS-INHERIT/projects/{top['id']}/{own}/roles/{role}/inherited_to_projects")
    assert [p["project"]["name"] for p in shown(leaf, "parents_as_list")["parents"]] == ["middle", "top"]
    assert shown(top, "subtree_as_ids")["subtree"] == {middle["id"]: {leaf["id"]: None}}
    assert [p["project"]["name"] for p in shown(top, "subtree_as_list")["subtree"]] == ["middle", "leaf"]
    assert "parents" not in shown(leaf, "")
    assert keystone.status("GET", f"/projects/{leaf['id']}?parents_as_ids&parents_as_list") == 400
    assert keystone.status("DELETE", f"/projects/{middle['id']}") == 403
    off = {"project": {"enabled": False}}
    assert keystone.status("PATCH", f"/projects/{top['id']}", off) == 403
    for project in (leaf, middle, top):
        keystone.call("PATCH", f"/projects/{project['id']}", off)
    assert keystone.status("PATCH", f"/projects/{leaf['id']}", {"project": {"enabled": True}}) == 403
    assert keystone.status("POST", "/projects", {"project": {"name": "x", "parent_id": leaf["id"]}}) == 400
    found = keystone.call("GET", f"/projects?parent_id={top['id']}")["projects"]
    assert [p["name"] for p in found] == ["middle"]
    domain = keystone.domain("d")
    body = {"project": {"name": "x", "parent_id": top["id"], "domain_id": domain["id"]}}
    assert keystone.status("POST", "/projects", body) == 400
    deep = keystone.project("1")
    for name in "2345":
        deep = keystone.project(name, parent_id=deep["id"])
    assert keystone.status("POST", "/projects", {"project": {"name": "6", "parent_id": deep["id"]}}) == 403


def test_tags(keystone: Keystone) -> None:
    one = keystone.project("one", tags=["a", "b"])
    keystone.project("two", tags=["b", "B c"])
    keystone.project("three")

    def names(query: str) -> list[str]:
        found = keystone.call("GET", f"/projects?{query}")["projects"]
        return [p["name"] for p in found if p["name"] in ("one", "two", "three")]

    assert names("tags=b") == ["one", "two"]
    assert names("tags=a,b") == ["one"]
    assert names("tags-any=a,B%20c") == ["one", "two"]
    assert names("not-tags=a,b") == ["three", "two"]
    assert names("not-tags-any=a,b") == ["three"]
    assert names("tags=c") == []
    path = f"/projects/{one['id']}/tags"
    assert keystone.call("GET", path)["tags"] == ["a", "b"]
    assert keystone.send("PUT", f"/v3{path}/z", token=keystone.admin).status == 201
    assert keystone.send("HEAD", f"/v3{path}/z", token=keystone.admin).status == 204
    assert keystone.status("GET", f"{path}/y") == 404
    assert keystone.status("PUT", f"{path}/a,b") == 400
    keystone.call("DELETE", f"{path}/a")
    assert keystone.status("DELETE", f"{path}/a") == 404
    assert keystone.call("PUT", path, {"tags": ["n"]})["tags"] == ["n"]
    assert names("tags=n") == ["one"]
    keystone.call("DELETE", path)
    assert keystone.call("GET", path)["tags"] == []
    assert keystone.status("GET", f"/projects/{NOBODY}/tags") == 404


def test_immutable(keystone: Keystone) -> None:
    for kind, made in (
        ("project", keystone.project("p", options={"immutable": True})),
        ("domain", keystone.domain("d", options={"immutable": True})),
        ("role", keystone.role("r", options={"immutable": True})),
    ):
        path = f"/{kind}s/{made['id']}"
        assert keystone.status("PATCH", path, {kind: {"name": "x"}}) == 403
        assert keystone.status("PATCH", path, {kind: {"name": "x", "options": {"immutable": False}}}) == 403
        assert keystone.status("DELETE", path) == 403
        keystone.call("PATCH", path, {kind: {"options": {"immutable": None}}})
        assert keystone.call("PATCH", path, {kind: {"name": "x"}})[kind]["options"] == {}


def test_catalogue(keystone: Keystone) -> None:
    service = keystone.call("POST", "/services", {"service": {"type": "t", "name": "n", "more": 1}})[
        "service"
    ]
    assert service["enabled"] is True and service["more"] == 1 and "description" not in service
    body = {"service_id": service["id"], "interface": "internal", "url": "http://x", "region": "new"}
    endpoint = keystone.call("POST", "/endpoints", {"endpoint": body})["endpoint"]
    assert endpoint["region"] == endpoint["region_id"] == "new" and endpoint["interface"] == "internal"
    assert keystone.call("GET", "/regions/new")["region"]["description"] == ""
    found = keystone.call("GET", f"/endpoints?interface=internal&service_id={service['id']}")["endpoints"]
    assert [e["id"] for e in found] == [endpoint["id"]]
    assert keystone.call("GET", "/services?type=t&name=n")["services"][0]["id"] == service["id"]
    assert keystone.status("DELETE", "/regions/new") == 403
    path = f"/endpoints/{endpoint['id']}"
    assert keystone.call("PATCH", path, {"endpoint": {"url": "http://y"}})["endpoint"]["url"] == "http://y"
    assert keystone.status("PATCH", path, {"endpoint": {"region_id": "nowhere"}}) == 400
    types = {e["type"] for e in keystone.call("GET", "/auth/catalog")["catalog"]}
    assert types == {"identity", "t"}
    keystone.call("PATCH", f"/services/{service['id']}", {"service": {"enabled": False}})
    assert {e["type"] for e in keystone.call("GET", "/auth/catalog")["catalog"]} == {"identity"}
    keystone.call("DELETE", f"/services/{service['id']}")
    assert keystone.status("GET", path) == 404
    keystone.call("DELETE", "/regions/new")


def test_regions(keystone: Keystone) -> None:
    put = keystone.call("PUT", "/regions/up", {"region": {"description": None}})["region"]
    assert put["id"] == "up" and put["description"] == "" and put["parent_region_id"] is None
    assert keystone.status("PUT", "/regions/up", {"region": {}}) == 409
    assert keystone.status("PUT", "/regions/a", {"region": {"id": "b"}}) == 400
    made = keystone.call("POST", "/regions", {"region": {"parent_region_id": "up"}})["region"]
    assert len(made["id"]) == 32
    found = keystone.call("GET", "/regions?parent_region_id=up")["regions"]
    assert [r["id"] for r in found] == [made["id"]]
    circle = {"region": {"parent_region_id": made["id"]}}
    assert keystone.status("PATCH", "/regions/up", circle) == 400
    keystone.call("DELETE", "/regions/up")
    assert keystone.status("GET", f"/regions/{made['id']}") == 404


def test_lists_page_filter_and_sort(keystone: Keystone) -> None:
    names = ["Anna", "anton", "Berta", "cäsar", "100%", "a_b"]
    for name in names:
        keystone.user(name, None, enabled=name != "Berta")

    def listed(query: str) -> list[str]:
        return [u["name"] for u in keystone.call("GET", f"/users?{query}")["users"] if u["name"] in names]

    assert listed("name=anton") == ["anton"]
    assert listed("name__contains=an") == ["anton"]
    assert sorted(listed("name__icontains=AN")) == ["Anna", "anton"]
    assert listed("name__startswith=A") == ["Anna"]
    assert sorted(listed("name__istartswith=A")) == ["Anna", "a_b", "anton"]
    assert listed("name__endswith=ton") == ["anton"]
    assert listed("name__endswith=xxxxxxxxxxanton") == []
    assert listed("name__contains=%25") == ["100%"] and listed("name__contains=_") == ["a_b"]
    assert listed("enabled=false") == ["Berta"] and "Berta" not in listed("enabled")
    assert listed("sort_key=name&sort_dir=desc") == sorted(names, reverse=True)
    assert listed("domain_id=nowhere") == []
    seen: list[str] = []
    path = "/users?limit=2"
    while path:
        page = keystone.call("GET", path)
        seen += [user["id"] for user in page["users"]]
        assert page["links"]["previous"] is None and page["links"]["self"].endswith(path)
        following = page["links"]["next"]
        assert bool(following) == page.get("truncated", False)
        path = following.removeprefix(f"{keystone.runtime.url}/v3") if following else ""
    everybody = [user["id"] for user in keystone.call("GET", "/users")["users"]]
    assert sorted(seen) == sorted(everybody) and len(seen) == len(set(seen))
    assert keystone.status("GET", "/users?marker=nobody") == 400
    assert keystone.status("GET", "/users?limit=x") == 400
    assert keystone.status("GET", "/users?sort_key=password_hash") == 400


def test_every_list_takes_few_queries_however_long(keystone: Keystone) -> None:
    project, group, role = keystone.project("p"), keystone.group("g"), keystone.role("r")
    service = keystone.call("POST", "/services", {"service": {"type": "t"}})["service"]
    user, token = keystone.member("owner", project)
    for number in range(8):
        other = keystone.user(f"u{number}", None)
        keystone.project(f"p{number}", parent_id=project["id"], tags=["t"])
        keystone.group(f"g{number}")
        keystone.role(f"r{number}")
        keystone.call("PUT", f"/groups/{group['id']}/users/{other['id']}")
        keystone.grant("reader", f"projects/{project['id']}", f"users/{other['id']}")
        body = {"service_id": service["id"], "interface": "public", "url": "http://x"}
        keystone.call("POST", "/endpoints", {"endpoint": body})
        keystone.call(
            "POST",
            f"/users/{user['id']}/application_credentials",
            {"application_credential": {"name": f"c{number}"}},
            token=token,
        )
    own = f"/users/{user['id']}"
    keystone.grant("member", f"projects/{project['id']}", f"groups/{group['id']}")
    for path, most in (
        ("/users", 1), ("/projects", 1), ("/groups", 1), ("/roles", 1), ("/domains", 1), ("/services", 1),
        ("/endpoints", 1), ("/regions", 1), (f"/groups/{group['id']}/users", 2), (f"{own}/projects", 2),
        (f"{own}/groups", 2), (f"{own}/application_credentials", 2), ("/role_assignments", 1),
        ("/role_assignments?include_names", 6), ("/role_assignments?effective&include_names", 9),
        ("/auth/projects", 1), (f"/projects/{project['id']}/groups/{group['id']}/roles", 3),
    ):  # fmt: skip
        keystone.call("GET", path)
        with keystone.queries() as seen:
            keystone.call("GET", path)
        assert len(seen) <= most, (path, seen)
    assert role["name"] == "r"


def test_heads(keystone: Keystone) -> None:
    user = keystone.user("u")
    for path in (
        "/users",
        f"/users/{user['id']}",
        "/projects",
        "/roles",
        "/role_assignments",
        "/auth/catalog",
    ):
        answer = keystone.send("HEAD", f"/v3{path}", token=keystone.admin)
        assert answer.status == 200 and answer.read() == b"", path


def test_nothing_there(shared: Keystone) -> None:
    for path in ("/nothing", "/users/x/nothing", "/OS-TRUST/nothing"):
        error = shared.refused("GET", path)
        assert error.status == 404 and error.body["error"]["title"] == "Not Found", path
    kinds = ("user", "group", "project", "domain", "role", "service", "endpoint", "region")
    for kind in kinds:
        for key in (NOBODY, "%00", "x" * 300, "%F0%9F%98%80"):
            error = shared.refused("GET", f"/{kind}s/{key}")
            assert error.status == 404, (kind, key, error)
    answer = shared.client.send("PUT", "/v3/users", b"{}", token=shared.admin)
    assert answer.status == 405 and msgspec.json.decode(answer.read())["error"]["code"] == 405


def test_lists_are_cut_at_the_clouds_limit(keystone: Keystone) -> None:
    for number in range(3):
        keystone.user(f"u{number}", None)
        keystone.group(f"g{number}")
        keystone.domain(f"d{number}")
    keystone.configure(list_limit=2)
    for kind in ("users", "groups", "projects", "domains", "roles", "endpoints"):
        cut = keystone.call("GET", f"/{kind}")
        assert len(cut[kind]) == 2 and cut["truncated"] is True, kind
        assert len(keystone.call("GET", f"/{kind}?limit=500")[kind]) == 2
        assert len(keystone.call("GET", f"/{kind}?limit=1")[kind]) == 1
        seen, more = [row["id"] for row in cut[kind]], cut["links"]["next"]
        while more:
            page = keystone.call("GET", more.removeprefix(f"{keystone.runtime.url}/v3"))
            seen += [row["id"] for row in page[kind]]
            more = page["links"]["next"]
        keystone.configure(list_limit=0)
        whole = keystone.call("GET", f"/{kind}")
        assert seen == [row["id"] for row in whole[kind]] and "truncated" not in whole
        keystone.configure(list_limit=2)
    assert "truncated" not in keystone.call("GET", "/users?name=u1")
