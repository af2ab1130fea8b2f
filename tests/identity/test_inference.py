"""Implied roles, groups and inheritance against a model that is told in the plainest words: all ways, till none is new.

Random roles that imply others, trees of projects in two domains, groups, and grants of every kind are made through the
API; then the list of effective assignments, its filters, tokens and the lists of what one may enter are held against
the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.identity.conftest import Keystone, by_password

pytestmark = pytest.mark.everywhere

_ROLES = ("r0", "r1", "r2", "r3", "own")  # "own" is the first domain's
_USERS = ("u0", "u1", "u2")
_GROUPS = ("g0", "g1")
_DOMAINS = ("d0", "d1")


@dataclass(frozen=True)
class Plan:
    """implies: (prior, implied). parents: the n-th project stands below that project or domain. members: (user, group).
    grants: (user or group, project, domain or "system", role, inherited)."""

    implies: frozenset[tuple[str, str]]
    parents: tuple[str, ...]
    members: frozenset[tuple[str, str]]
    grants: frozenset[tuple[str, str, str, bool]] = field(default_factory=frozenset)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    pairs = [(a, b) for i, a in enumerate(_ROLES) for b in _ROLES[i + 1 : 4]] + [("own", "r3"), ("own", "r2")]
    implies = draw(st.frozensets(st.sampled_from(pairs), max_size=5))
    parents: list[str] = []
    for number in range(draw(st.integers(1, 5))):
        parents.append(draw(st.sampled_from([*_DOMAINS, *(f"p{n}" for n in range(number))])))
    projects = [f"p{number}" for number in range(len(parents))]
    members = draw(st.frozensets(st.tuples(st.sampled_from(_USERS), st.sampled_from(_GROUPS)), max_size=4))
    grant = st.tuples(
        st.sampled_from([*_USERS, *_GROUPS]), st.sampled_from([*projects, *_DOMAINS, "system"]),
        st.sampled_from(_ROLES), st.booleans(),
    )  # fmt: skip
    plan = Plan(implies, tuple(parents), members)
    grants = {
        (who, where, role, inherited and where != "system")
        for who, where, role, inherited in draw(st.frozensets(grant, max_size=7))
        if role != "own" or _domain(plan, where) == "d0"
    }
    return Plan(implies, tuple(parents), members, frozenset(grants))


# ---- the model


def _domain(plan: Plan, where: str) -> str | None:
    while where.startswith("p"):
        where = plan.parents[int(where[1:])]
    return where if where in _DOMAINS else None


def _above(plan: Plan, project: str) -> list[str]:
    found = []
    while project.startswith("p"):
        project = plan.parents[int(project[1:])]
        found.append(project)
    return found


def effective(plan: Plan) -> set[tuple[str, str, str]]:
    """(user, place, role): whatever counts, by applying every rule until nothing new comes."""
    facts = set(plan.grants)
    while True:
        new = set(facts)
        for who, where, role, inherited in facts:
            new |= {(user, where, role, inherited) for user, group in plan.members if group == who}
            new |= {(who, where, implied, inherited) for prior, implied in plan.implies if prior == role}
            if inherited:
                for number in range(len(plan.parents)):
                    if where in _above(plan, f"p{number}"):
                        new.add((who, f"p{number}", role, False))
        if new == facts:
            break
        facts = new
    return {
        (who, where, role)
        for who, where, role, inherited in facts
        if who in _USERS and not inherited and role != "own"
    }


# ---- the same, made through the API


class World:
    def __init__(self, keystone: Keystone, plan: Plan) -> None:
        self.keystone = keystone
        self.ids: dict[str, str] = {name: keystone.domain(name)["id"] for name in _DOMAINS}
        for name in _ROLES:
            more = {"domain_id": self.ids["d0"]} if name == "own" else {}
            self.ids[name] = keystone.role(name, **more)["id"]
        for name in _USERS:
            self.ids[name] = keystone.user(name)["id"]
        for name in _GROUPS:
            self.ids[name] = keystone.group(name)["id"]
        for number, parent in enumerate(plan.parents):
            made = keystone.project(f"p{number}", parent_id=self.ids[parent])
            self.ids[f"p{number}"] = made["id"]
        self.names = {key: name for name, key in self.ids.items()}
        for prior, implied in plan.implies:
            keystone.call("PUT", f"/roles/{self.ids[prior]}/implies/{self.ids[implied]}")
        for user, group in plan.members:
            keystone.call("PUT", f"/groups/{self.ids[group]}/users/{self.ids[user]}")
        for who, where, role, inherited in plan.grants:
            kind = "projects" if where.startswith("p") else "domains"
            place = where if where == "system" else f"{kind}/{self.ids[where]}"
            actor = f"{'users' if who in _USERS else 'groups'}/{self.ids[who]}"
            path = f"/{place}/{actor}/roles/{self.ids[role]}"
            keystone.call("PUT", f"/OS-INHERIT{path}/inherited_to_projects" if inherited else path)

    def listed(self, query: str) -> list[tuple[str, str, str]]:
        found = []
        for row in self.keystone.call("GET", f"/role_assignments?effective&{query}")["role_assignments"]:
            scope = row["scope"]
            where = (scope.get("project") or scope.get("domain") or {"id": "system"})["id"]
            if row["user"]["id"] in self.names:  # bootstrap's users have theirs
                fact = (row["user"]["id"], where, row["role"]["id"])
                found.append(tuple(self.names.get(key, key) for key in fact))
        return found  # type: ignore[return-value]  # three of each

    def token_roles(self, user: str, scope: dict[str, Any]) -> set[str]:
        answer = self.keystone.login(by_password(self.ids[user], "secret", scope))
        if answer.status == 401:
            answer.read()
            return set()
        answer.read()
        shown = self.keystone.body(answer.headers["x-subject-token"])["roles"]
        assert shown, "a scope without a role"
        return {self.names[role["id"]] for role in shown}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans())
def test_what_counts_where(keystone: Keystone, plan: Plan) -> None:
    keystone.restore()
    world = World(keystone, plan)
    wanted = effective(plan)
    assert set(world.listed("")) == wanted
    projects = [f"p{number}" for number in range(len(plan.parents))]
    for user in _USERS:
        assert set(world.listed(f"user.id={world.ids[user]}")) == {f for f in wanted if f[0] == user}
        mine = keystone.call("GET", f"/users/{world.ids[user]}/projects")["projects"]
        assert {world.names[row["id"]] for row in mine} == {
            place for who, place, _ in wanted if who == user and place in projects
        }
        for place in (*projects, *_DOMAINS):
            kind = "project" if place in projects else "domain"
            roles = world.token_roles(user, {kind: {"id": world.ids[place]}})
            assert roles == {role for who, where, role in wanted if (who, where) == (user, place)}
    for place in projects:
        query = f"scope.project.id={world.ids[place]}"
        assert set(world.listed(query)) == {f for f in wanted if f[1] == place}
        below = {place, *(p for p in projects if place in _above(plan, p))}
        assert set(world.listed(f"{query}&include_subtree")) == {f for f in wanted if f[1] in below}
    for place in _DOMAINS:
        assert set(world.listed(f"scope.domain.id={world.ids[place]}")) == {
            f for f in wanted if f[1] == place
        }
    assert set(world.listed("scope.system=all")) == {f for f in wanted if f[1] == "system"}
    for role in _ROLES[:4]:
        assert set(world.listed(f"role.id={world.ids[role]}")) == {f for f in wanted if f[2] == role}
