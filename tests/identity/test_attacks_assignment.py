"""Attacks that go through roles, trees, lists and limits: each is tried, and comes to nothing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere


class World:
    """A domain with its manager, reader and member, and another domain that is none of their business."""

    def __init__(self, keystone: Keystone) -> None:
        self.keystone = keystone
        self.home, self.away = keystone.domain("home")["id"], keystone.domain("away")["id"]
        self.mine = keystone.project("mine", domain_id=self.home)["id"]
        self.theirs = keystone.project("theirs", domain_id=self.away, tags=["secret-tag"])["id"]
        self.victim = keystone.user("victim", domain_id=self.away)["id"]
        self.friend = keystone.user("friend", domain_id=self.home)["id"]
        self.group = keystone.group("party", domain_id=self.away)["id"]
        keystone.grant("member", f"projects/{self.theirs}", f"users/{self.victim}")
        self.manager = self._person("manager", {"domain": {"id": self.home}})
        self.reader = self._person("reader", {"domain": {"id": self.home}})
        self.member = self._person("member", {"project": {"id": self.mine}})

    def _person(self, role: str, scope: dict[str, Any]) -> str:
        (kind, where), *_ = scope.items()
        user = self.keystone.user(f"{role}-{kind}", domain_id=self.home)["id"]
        self.keystone.grant(role, f"{kind}s/{where['id']}", f"users/{user}")
        return self.keystone.password(user, "secret", scope)

    def refused(
        self, method: str, path: str, body: Any = None, *, token: str, by: tuple[int, ...] = (403,)
    ) -> None:
        answer = self.keystone.send(method, f"/v3{path}", body, token=token)
        text = answer.read()
        assert answer.status in by, (method, path, answer.status, text)
        assert b"theirs" not in text and b"victim" not in text, text


@pytest.fixture
def world(keystone: Keystone) -> World:
    return World(keystone)


# ---- more than one was given (OSSA-2014-018, secure RBAC)


def test_a_manager_gives_no_more_than_a_manager_may(world: World) -> None:
    keystone = world.keystone
    own = keystone.group("own", domain_id=world.home)["id"]
    for role in ("admin", "service"):
        key = keystone.role_id(role)
        for who in (f"users/{world.friend}", f"groups/{own}"):
            for where in (f"projects/{world.mine}", f"domains/{world.home}"):
                path = f"/{where}/{who}/roles/{key}"
                world.refused("PUT", path, token=world.manager)
                world.refused("PUT", f"/OS-INHERIT{path}/inherited_to_projects", token=world.manager)
            world.refused("PUT", f"/system/{who}/roles/{key}", token=world.manager)
    member = keystone.role_id("member")
    for path in (
        f"/projects/{world.theirs}/users/{world.friend}/roles/{member}",  # somebody of ours, elsewhere
        f"/projects/{world.mine}/users/{world.victim}/roles/{member}",  # somebody else's, here
        f"/domains/{world.away}/users/{world.friend}/roles/{member}",
        f"/projects/{world.mine}/groups/{world.group}/roles/{member}",
        f"/system/users/{world.friend}/roles/{member}",
    ):
        world.refused("PUT", path, token=world.manager)
    world.refused(
        "DELETE", f"/projects/{world.theirs}/users/{world.victim}/roles/{member}", token=world.manager
    )
    keystone.call("PUT", f"/projects/{world.mine}/users/{world.friend}/roles/{member}", token=world.manager)


def test_nothing_brings_admin_along(world: World) -> None:
    keystone = world.keystone
    admin, member = keystone.role_id("admin"), keystone.role_id("member")
    role = keystone.role("innocent")["id"]
    own = keystone.role("own", domain_id=world.home)["id"]
    for prior in (role, member, own):
        world.refused("PUT", f"/roles/{prior}/implies/{admin}", token=keystone.admin)
    for token in (world.manager, world.reader, world.member):
        world.refused("PUT", f"/roles/{role}/implies/{member}", token=token)
        world.refused("POST", "/roles", {"role": {"name": "x"}}, token=token)
        world.refused("POST", "/roles", {"role": {"name": "x", "domain_id": world.home}}, token=token)
        world.refused("PATCH", f"/roles/{role}", {"role": {"name": "admin2"}}, token=token)
    # The names that policy rests on stay with their roles, even for an administrator.
    for method, body in (("PATCH", {"role": {"name": "nobody"}}), ("DELETE", None)):
        world.refused(method, f"/roles/{member}", body, token=keystone.admin)
    assert keystone.status("POST", "/roles", {"role": {"name": "admin"}}) == 409
    # A domain's own role that is called admin is not admin.
    fake = keystone.role("admin", domain_id=world.home)["id"]
    keystone.call("PUT", f"/projects/{world.mine}/users/{world.friend}/roles/{fake}")
    scope = {"project": {"id": world.mine}}
    answer = keystone.login(
        {"identity": {"methods": ["password"], "password": {"user": {"id": world.friend, "password": "secret"}}},
         "scope": scope}
    )  # fmt: skip
    answer.read()
    assert answer.status == 401  # it brings no role at all


def test_nothing_moves_to_another_owner(world: World) -> None:
    keystone = world.keystone
    for path, kind in ((f"/projects/{world.mine}", "project"), (f"/users/{world.friend}", "user")):
        world.refused("PATCH", path, {kind: {"domain_id": world.away}}, token=world.manager, by=(400, 403))
        world.refused("PATCH", path, {kind: {"domain_id": world.away}}, token=keystone.admin, by=(400, 403))
        world.refused("PATCH", path, {kind: {"id": "f" * 32}}, token=keystone.admin, by=(400,))
    world.refused(
        "PATCH", f"/projects/{world.mine}", {"project": {"parent_id": world.theirs}}, token=world.manager
    )
    body = {"project": {"name": "cuckoo", "domain_id": world.home, "parent_id": world.theirs}}
    world.refused("POST", "/projects", body, token=world.manager, by=(400, 403))
    for body in ({"name": "cuckoo", "parent_id": world.theirs}, {"name": "cuckoo", "domain_id": world.away}):
        world.refused("POST", "/projects", {"project": body}, token=world.manager)
    world.refused("PUT", f"/groups/{world.group}/users/{world.friend}", token=world.manager)


# ---- a token after what it rested on is gone (OSSA-2013-011, 2016-005)


@pytest.mark.parametrize(
    "end",
    [
        lambda k, w: k.grant("member", f"projects/{w['p']}", f"users/{w['u']}", "DELETE"),
        lambda k, w: k.call("PATCH", f"/users/{w['u']}", {"user": {"enabled": False}}),
        lambda k, w: k.call("PATCH", f"/users/{w['u']}", {"user": {"password": "other"}}),
        lambda k, w: k.call("DELETE", f"/users/{w['u']}"),
        lambda k, w: k.call("PATCH", f"/projects/{w['p']}", {"project": {"enabled": False}}),
        lambda k, w: k.call("DELETE", f"/projects/{w['p']}"),
        lambda k, w: k.call("PATCH", f"/domains/{w['d']}", {"domain": {"enabled": False}}),
        lambda k, w: k.call("PATCH", f"/projects/{w['d']}", {"project": {"enabled": False}}),
    ],
    ids=["role", "disabled", "password", "user", "project off", "project", "domain", "acting project"],
)
def test_a_token_dies_with_what_it_rests_on(
    keystone: Keystone, end: Callable[[Keystone, dict[str, str]], None]
) -> None:
    domain = keystone.domain("d")["id"]
    world = {
        "d": domain, "p": keystone.project("p", domain_id=domain)["id"],
        "u": keystone.user("u", domain_id=domain)["id"],
    }  # fmt: skip
    keystone.grant("member", f"projects/{world['p']}", f"users/{world['u']}")
    token = keystone.password(world["u"], "secret", {"project": {"id": world["p"]}})
    assert keystone.alive(token) and keystone.alive(token)  # the second time from what is remembered
    end(keystone, world)
    assert not keystone.alive(token)
    assert keystone.status("GET", "/auth/projects", token=token) == 401


def test_a_role_ends_by_whatever_way_it_came(keystone: Keystone) -> None:
    domain = keystone.domain("d")["id"]
    top = keystone.project("top", domain_id=domain)["id"]
    leaf = keystone.project("leaf", parent_id=top)["id"]
    user, group = keystone.user("u")["id"], keystone.group("g")["id"]
    lead, hand = keystone.role("lead")["id"], keystone.role("hand")["id"]
    inherited = f"/OS-INHERIT/projects/{top}/groups/{group}/roles/{lead}/inherited_to_projects"
    keystone.grant("reader", f"projects/{leaf}", f"users/{user}")

    def roles(token: str) -> set[str]:
        return {role["name"] for role in keystone.body(token)["roles"]}

    for path, back in (
        (f"/roles/{lead}/implies/{hand}", {"lead", "reader"}),
        (f"/groups/{group}/users/{user}", {"reader"}),
        (inherited, {"reader"}),
    ):
        for make in (f"/roles/{lead}/implies/{hand}", f"/groups/{group}/users/{user}", inherited):
            keystone.send("PUT", f"/v3{make}", token=keystone.admin).read()
        token = keystone.password(user, "secret", {"project": {"id": leaf}})
        assert roles(token) == {"lead", "hand", "reader"}
        keystone.call("DELETE", path)
        assert roles(token) == back
    keystone.call("DELETE", f"/groups/{group}")
    keystone.call("DELETE", f"/roles/{lead}")
    assert roles(token) == {"reader"}


# ---- lists asked for what is somebody else's (OSSN-0103, OSSA-2018-002)


def test_filters_open_no_other_domain(world: World) -> None:
    keystone = world.keystone
    foreign = {world.away, world.theirs, world.victim, world.group}
    for path in (
        f"/users?domain_id={world.away}", "/users?name=victim", "/users?name__icontains=VIC",
        f"/users?id={world.victim}",
        f"/projects?domain_id={world.away}", "/projects?name__startswith=th", "/projects?tags=secret-tag",
        "/projects?tags-any=secret-tag,x", "/projects?not-tags=none", f"/projects?parent_id={world.away}",
        "/projects?is_domain=true", "/projects?is_domain=true&name=away", f"/groups?domain_id={world.away}",
        "/groups?name=party", f"/domains?id={world.away}", "/domains?name=away", "/role_assignments",
        f"/role_assignments?scope.domain.id={world.away}", f"/role_assignments?user.id={world.victim}&effective",
        f"/role_assignments?scope.project.id={world.theirs}&include_names", f"/limits?project_id={world.theirs}",
        f"/limits?domain_id={world.away}",
    ):  # fmt: skip
        for token in (world.manager, world.reader):
            answer = keystone.send("GET", f"/v3{path}", token=token)
            text = answer.read().decode()
            assert answer.status in (200, 403), (path, answer.status)
            # The links repeat the question; the rows do not answer it.
            inside = text.partition('"links":{"next"')[0] if answer.status == 200 else ""
            found = [key for key in foreign if f'"id":"{key}"' in inside]
            assert not found, (path, text)
            answer = keystone.send("GET", f"/v3{path}", token=world.member)
            text = answer.read().decode()
            assert answer.status in (200, 403)
            assert answer.status == 403 or '"limits":[]' in text, (path, text)
    for path in (
        f"/users/{world.victim}", f"/users/{world.victim}/projects", f"/users/{world.victim}/groups",
        f"/projects/{world.theirs}", f"/projects/{world.theirs}/tags", f"/groups/{world.group}/users",
        f"/role_assignments?scope.project.id={world.theirs}&include_subtree",
        f"/projects/{world.theirs}?parents_as_list", f"/OS-EP-FILTER/projects/{world.theirs}/endpoints",
        f"/domains/{world.away}", f"/domains/{world.away}/config",
    ):  # fmt: skip
        for token in (world.manager, world.reader, world.member):
            world.refused("GET", path, token=token)


def test_what_is_not_there_and_what_is_not_ones_own_look_alike(world: World) -> None:
    keystone, nowhere = world.keystone, "f" * 32
    for path in (
        "/users/{}",
        "/projects/{}",
        "/groups/{}",
        "/users/{}/projects",
        "/limits/{}",
        "/projects/{}/tags",
    ):
        foreign = world.victim if "users" in path else world.theirs if "projects" in path else world.group
        answers = []
        for key in (foreign, nowhere):
            answer = keystone.send("GET", f"/v3{path.format(key)}", token=world.member)
            answers.append((answer.status, answer.read().replace(key.encode(), b"KEY")))
        assert answers[0] == answers[1], path


# ---- headers that say who one is (OSSA-2026-001)


def test_headers_make_nobody_an_administrator(world: World) -> None:
    keystone = world.keystone
    forged = {
        "X-Roles": "admin", "X-Role": "admin", "X_ROLES": "admin",
        "X-User-Id": keystone.body(keystone.admin)["user"]["id"],
        "X-Is-Admin-Project": "True", "X-Identity-Status": "Confirmed", "X-Domain-Id": world.away,
        "OpenStack-System-Scope": "all", "X-Project-Id": world.theirs, "X-Service-Roles": "service,admin",
    }  # fmt: skip
    for token, status in ((None, 401), (world.member, 403)):
        for path in ("/users", f"/projects/{world.theirs}", "/role_assignments"):
            answer = keystone.send("GET", f"/v3{path}", token=token, headers=dict(forged))
            answer.read()
            assert answer.status == status, (path, answer.status)


# ---- limits


def test_nobody_raises_their_own_limit(world: World) -> None:
    keystone = world.keystone
    service = keystone.call("POST", "/services", {"service": {"type": "alpha"}})["service"]["id"]
    thing = {"service_id": service, "resource_name": "thing"}
    body = {"registered_limits": [{**thing, "default_limit": 10}]}
    (registered,) = keystone.call("POST", "/registered_limits", body)["registered_limits"]
    body = {"limits": [{**thing, "project_id": world.mine, "resource_limit": 5}]}
    (limit,) = keystone.call("POST", "/limits", body)["limits"]
    for token in (world.manager, world.reader, world.member):
        for method, path, sent in (
            ("PATCH", f"/limits/{limit['id']}", {"limit": {"resource_limit": -1}}),
            ("DELETE", f"/limits/{limit['id']}", None),
            ("POST", "/limits", {"limits": [{**thing, "domain_id": world.home, "resource_limit": -1}]}),
            ("PATCH", f"/registered_limits/{registered['id']}", {"registered_limit": {"default_limit": -1}}),
            ("DELETE", f"/registered_limits/{registered['id']}", None),
        ):  # fmt: skip
            world.refused(method, path, sent, token=token)
    assert keystone.call("GET", f"/limits/{limit['id']}", token=world.member)["limit"]["resource_limit"] == 5


def test_a_race_makes_no_second_limit_and_breaks_no_tree(world: World) -> None:
    keystone = world.keystone
    keystone.configure(limit_model="strict_two_level")
    service = keystone.call("POST", "/services", {"service": {"type": "alpha"}})["service"]["id"]
    thing = {"service_id": service, "resource_name": "thing"}
    keystone.call("POST", "/registered_limits", {"registered_limits": [{**thing, "default_limit": 10}]})

    def send(method: str, path: str, body: Any) -> int:
        answer = keystone.send(method, f"/v3{path}", body, token=keystone.admin)
        answer.read()
        return answer.status

    child = {**thing, "project_id": world.mine, "resource_limit": 5}
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: send("POST", "/limits", {"limits": [child]}), range(6)))
        assert sorted(made) == [201, 409, 409, 409, 409, 409]
        (top,) = keystone.call(
            "POST", "/limits", {"limits": [{**thing, "domain_id": world.home, "resource_limit": 9}]}
        )["limits"]
        (low,) = keystone.call("GET", f"/limits?project_id={world.mine}")["limits"]
        for _ in range(5):
            # One lowers the roof while another raises the floor: whoever comes second is refused.
            for key, value in ((low["id"], 5), (top["id"], 9)):
                send("PATCH", f"/limits/{key}", {"limit": {"resource_limit": value}})
            changes = [(top["id"], 6), (low["id"], 8)] * 2
            answers = list(
                pool.map(
                    lambda one: send("PATCH", f"/limits/{one[0]}", {"limit": {"resource_limit": one[1]}}),
                    changes,
                )
            )
            assert set(answers) == {200, 403}, answers
            now = {row["id"]: row["resource_limit"] for row in keystone.call("GET", "/limits")["limits"]}
            assert now[low["id"]] <= now[top["id"]], now
