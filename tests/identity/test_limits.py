"""Registered limits, limits, and the two enforcement models; the strict one against a model of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.identity.conftest import Keystone

pytestmark = pytest.mark.everywhere


class Limits:
    """A service whose resource ``thing`` is limited to ten, in a domain with two projects."""

    def __init__(self, keystone: Keystone) -> None:
        self.keystone = keystone
        body = {"service": {"type": "alpha", "name": "a"}}
        self.service: str = keystone.call("POST", "/services", body)["service"]["id"]
        self.registered = self.register(resource_name="thing", default_limit=10)
        self.domain: str = keystone.domain("d")["id"]
        self.projects: list[str] = [keystone.project(n, domain_id=self.domain)["id"] for n in ("p", "q")]

    def register(self, **fields: Any) -> dict[str, Any]:
        body = {"registered_limits": [{"service_id": self.service, **fields}]}
        (made,) = self.keystone.call("POST", "/registered_limits", body)["registered_limits"]
        return dict(made)

    def body(self, *limits: dict[str, Any]) -> dict[str, Any]:
        return {"limits": [{"service_id": self.service, "resource_name": "thing", **one} for one in limits]}

    def make(self, **fields: Any) -> dict[str, Any]:
        (made,) = self.keystone.call("POST", "/limits", self.body(fields))["limits"]
        return dict(made)

    def all(self, query: str = "", **more: Any) -> list[dict[str, Any]]:
        return list(self.keystone.call("GET", f"/limits{query}", **more)["limits"])


@pytest.fixture
def limits(keystone: Keystone) -> Limits:
    return Limits(keystone)


def test_registered_limits(limits: Limits) -> None:
    keystone, one = limits.keystone, limits.registered
    assert one["links"]["self"].endswith(f"/v3/registered_limits/{one['id']}")
    assert (one["region_id"], one["description"], one["default_limit"]) == (None, None, 10)
    again = {"service_id": limits.service, "resource_name": "thing", "default_limit": 1}
    assert keystone.status("POST", "/registered_limits", {"registered_limits": [again]}) == 409
    other = limits.register(resource_name="thing", default_limit=1, region_id="RegionOne", description="d")
    assert keystone.call("GET", f"/registered_limits/{other['id']}")["registered_limit"] == other
    rows = keystone.call("GET", "/registered_limits?resource_name=thing&region_id=RegionOne")
    assert [row["id"] for row in rows["registered_limits"]] == [other["id"]]
    path = f"/registered_limits/{other['id']}"
    changed = keystone.call("PATCH", path, {"registered_limit": {"default_limit": 0, "resource_name": "x"}})
    assert changed["registered_limit"] == other | {"default_limit": 0, "resource_name": "x"}
    same = {"registered_limit": {"region_id": None, "resource_name": "thing"}}
    assert keystone.status("PATCH", path, same) == 409
    for wrong in (
        {"default_limit": -2}, {"default_limit": "1"}, {"default_limit": 2**31}, {"service_id": "f" * 32},
        {"region_id": "nowhere"}, {"resource_name": ""}, {"strange": 1},
    ):  # fmt: skip
        assert keystone.status("PATCH", path, {"registered_limit": wrong}) == 400
        body = {"registered_limits": [again | {"resource_name": "new"} | wrong]}
        assert keystone.status("POST", "/registered_limits", body) == 400
    assert keystone.status("POST", "/registered_limits", {"registered_limits": []}) == 400
    keystone.call("DELETE", path)
    assert keystone.status("GET", path) == 404
    # What limits rest on stays as it is.
    made = limits.make(project_id=limits.projects[0], resource_limit=3)
    path = f"/registered_limits/{one['id']}"
    assert keystone.status("PATCH", path, {"registered_limit": {"default_limit": 0}}) == 403
    assert keystone.status("DELETE", path) == 403
    keystone.call("DELETE", f"/limits/{made['id']}")
    keystone.call("DELETE", path)


def test_limits(limits: Limits) -> None:
    keystone = limits.keystone
    project, other = limits.projects
    made = limits.make(project_id=project, resource_limit=50, description="d")
    assert made == {
        "id": made["id"], "project_id": project, "domain_id": None, "service_id": limits.service,
        "region_id": None, "resource_name": "thing", "resource_limit": 50, "description": "d",
        "links": {"self": f"{keystone.runtime.url}/v3/limits/{made['id']}"},
    }  # fmt: skip
    assert keystone.call("GET", f"/limits/{made['id']}")["limit"] == made
    own = limits.make(domain_id=limits.domain, resource_limit=5)
    acting = limits.body({"project_id": limits.domain, "resource_limit": 5})
    assert (
        keystone.status("POST", "/limits", acting) == 409
    )  # the project that acts as the domain is the domain
    assert [row["id"] for row in limits.all(f"?domain_id={limits.domain}")] == [own["id"]]
    assert [row["id"] for row in limits.all(f"?project_id={project}&resource_name=thing")] == [made["id"]]
    # All of a body or nothing.
    pair = limits.body(
        {"project_id": other, "resource_limit": 1}, {"project_id": project, "resource_limit": 1}
    )
    assert keystone.status("POST", "/limits", pair) == 409
    assert len(limits.all()) == 2
    for wrong, status in (
        ({"resource_limit": 1}, 400), ({"project_id": other, "domain_id": limits.domain, "resource_limit": 1}, 400),
        ({"project_id": "f" * 32, "resource_limit": 1}, 400), ({"project_id": other, "resource_limit": -2}, 400),
        ({"project_id": other, "resource_limit": 1, "resource_name": "unknown"}, 403),
        ({"project_id": other, "resource_limit": 1, "region_id": "RegionOne"}, 403),
        ({"project_id": other, "resource_limit": 1, "extra": 1}, 400),
    ):  # fmt: skip
        assert keystone.status("POST", "/limits", limits.body(wrong)) == status, wrong
    path = f"/limits/{made['id']}"
    changed = keystone.call("PATCH", path, {"limit": {"resource_limit": 0, "description": None}})["limit"]
    assert (changed["resource_limit"], changed["description"]) == (0, None)
    for wrong in ({"project_id": other}, {"resource_limit": -2}, {"resource_limit": None}):
        assert keystone.status("PATCH", path, {"limit": wrong}) == 400
    keystone.call("DELETE", f"/projects/{project}")
    assert keystone.status("GET", path) == 404


def test_who_sees_which_limits(limits: Limits) -> None:
    keystone = limits.keystone
    mine, theirs = (limits.make(project_id=p, resource_limit=1)["id"] for p in limits.projects)
    whole = limits.make(domain_id=limits.domain, resource_limit=2)["id"]
    _, reader = keystone.member("r", {"id": limits.projects[0]}, "reader")
    assert [row["id"] for row in limits.all(token=reader)] == [mine]
    keystone.call("GET", f"/limits/{mine}", token=reader)
    assert keystone.status("GET", f"/limits/{theirs}", token=reader) == 403
    assert keystone.status("GET", f"/limits/{whole}", token=reader) == 403
    assert keystone.status("GET", f"/limits/{'f' * 32}", token=reader) == 403
    user = keystone.user("d")
    keystone.grant("reader", f"domains/{limits.domain}", f"users/{user['id']}")
    head = keystone.password(user["id"], "secret", {"domain": {"id": limits.domain}})
    assert {row["id"] for row in limits.all(token=head)} == {mine, theirs, whole}
    for one in (mine, whole):
        keystone.call("GET", f"/limits/{one}", token=head)
    for token in (reader, head):
        assert (
            keystone.status("PATCH", f"/limits/{mine}", {"limit": {"resource_limit": 9}}, token=token) == 403
        )
        assert keystone.status("DELETE", f"/limits/{mine}", token=token) == 403
        body = limits.body({"domain_id": "default", "resource_limit": 1})
        assert keystone.status("POST", "/limits", body, token=token) == 403
        assert keystone.call("GET", "/registered_limits", token=token)["registered_limits"]
        assert keystone.call("GET", "/limits/model", token=token)["model"]["name"] == "flat"


def test_the_strict_model_keeps_projects_flat(limits: Limits) -> None:
    keystone = limits.keystone
    deep = keystone.project("deep", parent_id=limits.projects[0])
    keystone.configure(limit_model="strict_two_level")
    assert keystone.call("GET", "/limits/model")["model"]["name"] == "strict_two_level"
    body = {"project": {"name": "deeper", "parent_id": limits.projects[0]}}
    assert keystone.status("POST", "/projects", body) == 403
    assert (
        keystone.status("POST", "/limits", limits.body({"project_id": deep["id"], "resource_limit": 1}))
        == 403
    )


_AMOUNT = st.sampled_from([-1, 0, 1, 9, 10, 11, 12])
_OWNER = st.sampled_from(["domain", "p", "q"])
_STEP = st.one_of(
    st.tuples(st.just("make"), st.lists(st.tuples(_OWNER, _AMOUNT), min_size=1, max_size=3)),
    st.tuples(st.just("change"), st.tuples(_OWNER, _AMOUNT)),
    st.tuples(st.just("drop"), _OWNER),
)
_DEFAULT = 10


def _right(state: dict[str, int]) -> bool:
    """The rule, told once more in other words."""
    as_number = {name: float("inf") if value == -1 else value for name, value in state.items()}
    top = as_number.get("domain", _DEFAULT)
    return all(as_number[name] <= top for name in ("p", "q") if name in state)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEP, max_size=12))
def test_the_strict_model_against_a_model(limits: Limits, steps: list[Any]) -> None:
    keystone = limits.keystone
    keystone.configure(limit_model="strict_two_level")
    for row in limits.all():
        keystone.configure(limit_model="flat")
        keystone.call("DELETE", f"/limits/{row['id']}")
        keystone.configure(limit_model="strict_two_level")
    owners = dict(zip(("p", "q"), limits.projects, strict=True))
    state: dict[str, int] = {}
    ids: dict[str, str] = {}

    def fields(name: str, amount: int) -> dict[str, Any]:
        key = {"domain_id": limits.domain} if name == "domain" else {"project_id": owners[name]}
        return key | {"resource_limit": amount}

    for word, what in steps:
        if word == "make":
            names = [name for name, _ in what]
            after = state | dict(what)
            body = limits.body(*(fields(*one) for one in what))
            answer = keystone.send("POST", "/v3/limits", body, token=keystone.admin)
            known = len(set(names)) < len(names) or any(name in state for name in names)
            assert answer.status == (409 if known else 201 if _right(after) else 403), (state, what)
            if answer.status == 201:
                state = after
        elif word == "change" and what[0] in state:
            after = state | {what[0]: what[1]}
            body = {"limit": {"resource_limit": what[1]}}
            answer = keystone.send("PATCH", f"/v3/limits/{ids[what[0]]}", body, token=keystone.admin)
            assert answer.status == (200 if _right(after) else 403), (state, what)
            state = after if answer.status == 200 else state
        elif word == "drop" and what in state:
            after = {name: value for name, value in state.items() if name != what}
            answer = keystone.send("DELETE", f"/v3/limits/{ids[what]}", token=keystone.admin)
            assert answer.status == (204 if _right(after) else 403), (state, what)
            state = after if answer.status == 204 else state
        back = {key: name for name, key in owners.items()} | {limits.domain: "domain"}
        rows = {back[row["project_id"] or row["domain_id"]]: row for row in limits.all()}
        assert {name: row["resource_limit"] for name, row in rows.items()} == state
        ids = {name: row["id"] for name, row in rows.items()}
