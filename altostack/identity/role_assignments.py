"""GET /v3/role_assignments: what was granted, or with ``effective`` what it comes to for users and projects.

Effective: a group's assignment stands for one of each member, an inherited one for one on each project below, and a
role for those that it implies too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from altostack.identity import rules
from altostack.identity.assignment import Assignment, counts_on_project, held_by
from altostack.identity.common import existing, peek
from altostack.identity.dialect import collection, flag
from altostack.identity.domain import Domain
from altostack.identity.group import Group, Membership
from altostack.identity.project import PROJECTS, Project, under
from altostack.identity.role import Graph, Role
from altostack.identity.user import User
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest
from altostack.kit.route import Route


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Somebody has a role somewhere; ``link`` is the path of the grant that says so."""

    role: str
    user: str | None = None
    group: str | None = None
    project: str | None = None
    domain: str | None = None
    system: bool = False
    inherited: bool = False
    via_group: str | None = None
    via_role: str | None = None
    link: str = ""


def _fact(row: Assignment) -> Fact:
    place = (
        f"/projects/{row.project_id}"
        if row.project_id
        else f"/domains/{row.domain_id}"
        if row.domain_id
        else "/system"
    )
    actor = f"/users/{row.user_id}" if row.user_id else f"/groups/{row.group_id}"
    link = f"{place}{actor}/roles/{row.role_id}"
    return Fact(
        role=row.role_id, user=row.user_id, group=row.group_id, project=row.project_id, domain=row.domain_id,
        system=row.system, inherited=row.inherited,
        link=f"/OS-INHERIT{link}/inherited_to_projects" if row.inherited else link,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Question:
    """The filters of one request."""

    user: str | None
    group: str | None
    role: str | None
    project: str | None
    domain: str | None
    system: bool
    inherited: bool | None
    effective: bool
    tree: bool

    @classmethod
    def of(cls, call: Call) -> Question:
        """Raises BadRequest for filters that exclude each other."""
        inherit = call.arg("scope.OS-INHERIT:inherited_to")
        found = cls(
            user=call.arg("user.id") or None, group=call.arg("group.id") or None, role=call.arg("role.id") or None,
            project=call.arg("scope.project.id") or None, domain=call.arg("scope.domain.id") or None,
            system="scope.system" in call.query, inherited=None if inherit is None else inherit == "projects",
            effective=flag(call, "effective"), tree=flag(call, "include_subtree"),
        )  # fmt: skip
        if found.user and found.group:
            raise BadRequest("Specify a user or group, not both.", field="user.id")
        if sum((bool(found.project), bool(found.domain), found.system)) > 1:
            raise BadRequest("Specify a project, a domain or the system, only one of them.", field="scope")
        if found.effective and found.group:
            raise BadRequest(
                "Combining effective and group filter will always result in an empty list.", field="group.id"
            )
        if found.effective and found.inherited and found.domain:
            raise BadRequest(
                "Combining effective, domain and inherited filters will always result in an empty list.",
                field="scope.domain.id",
            )
        if found.tree and not found.project:
            raise BadRequest(
                "scope.project.id must be specified if include_subtree is also specified.",
                field="scope.project.id",
            )
        return found


def list_assignments(call: Call) -> Any:
    question = Question.of(call)
    own = call.context.domain_id
    project = peek(call, PROJECTS, question.project) if question.project else None
    seen: dict[str, Any] = {} if own is None else {"target.domain_id": own}
    if question.tree and project is not None:
        seen = {"target.domain_id": project.domain_id}
    call.require("identity:list_role_assignments_for_tree" if question.tree else call.route.policy, seen)
    if question.tree:
        existing(call, PROJECTS, project, str(question.project))
    wanted = _projects(call, question, project)
    facts: Iterable[Fact] = map(_fact, call.session.execute(_query(call, question, project)).scalars())
    if question.effective:
        facts = _effective(call, question, wanted, list(facts))
    found = list(dict.fromkeys(facts))
    names = Names(call, found) if flag(call, "include_names") or own is not None else None
    if own is not None and names is not None:
        found = [fact for fact in found if names.domain_of(fact) == own]
    shown = names if flag(call, "include_names") else None
    return collection(call, "role_assignments", [_shown(call, fact, shown) for fact in found])


def _projects(call: Call, question: Question, project: Project | None) -> set[str] | None:
    """The ids of the projects that are asked about; None: all."""
    if question.project is None:
        return None
    if not question.tree or project is None:
        return {question.project}
    below = call.session.execute(sa.select(Project.id).where(under(project))).scalars()
    return {question.project, *below}


def _query(call: Call, question: Question, project: Project | None) -> Any:
    """The assignments that may matter: all that the answer can rest on, and little else."""
    query = sa.select(Assignment).order_by(Assignment.id)
    if question.user:
        query = query.where(
            held_by(question.user) if question.effective else Assignment.user_id == question.user
        )
    if question.group:
        query = query.where(Assignment.group_id == question.group)
    if question.system:
        query = query.where(Assignment.system.is_(True))
    if question.domain:
        query = query.where(Assignment.domain_id == question.domain)
        if question.effective:  # what is inherited counts on the projects below, not on the domain
            query = query.where(Assignment.inherited.is_(False))
    if question.project:
        here = [Assignment.project_id == question.project]
        if question.effective and project is not None:
            here.append(counts_on_project(project))
        if question.tree and project is not None:
            here.append(Assignment.project_id.in_(sa.select(Project.id).where(under(project))))
        query = query.where(sa.or_(*here))
    if question.inherited is not None:
        query = query.where(Assignment.inherited.is_(question.inherited))
    if question.role and not question.effective:
        query = query.where(Assignment.role_id == question.role)
    return query


def _effective(call: Call, question: Question, wanted: set[str] | None, facts: list[Fact]) -> Iterator[Fact]:
    graph = Graph.read(call.session)
    members = _members(call, facts, question.user)
    below = _below(call, facts)
    for fact in facts:
        for one in _by_user(fact, members):
            for two in _by_project(one, below):
                if wanted is not None and two.project not in wanted:
                    continue
                for three in _by_role(two, graph):
                    if question.role in (None, three.role):
                        yield three


def _members(call: Call, facts: list[Fact], user: str | None) -> dict[str, list[str]]:
    """Group id -> its members (only ``user``, when given)."""
    groups = {fact.group for fact in facts if fact.group}
    if not groups:
        return {}
    query = sa.select(Membership.group_id, Membership.user_id).where(Membership.group_id.in_(groups))
    if user is not None:
        query = query.where(Membership.user_id == user)
    found: dict[str, list[str]] = {}
    for group, member in call.session.execute(query.order_by(Membership.user_id)):
        found.setdefault(group, []).append(member)
    return found


def _below(call: Call, facts: list[Fact]) -> dict[str, list[str]]:
    """Domain or project id with an inherited assignment -> the projects below it."""
    domains = {fact.domain for fact in facts if fact.inherited and fact.domain}
    tops = {fact.project for fact in facts if fact.inherited and fact.project}
    found: dict[str, list[str]] = {}
    if not domains and not tops:
        return found
    query = sa.select(Project.id, Project.domain_id, Project.path)
    if not tops:
        query = query.where(Project.domain_id.in_(domains))
    for key, domain, path in call.session.execute(query.order_by(Project.id)):
        for above in (domain, *path.split("/")[:-1]):
            if above in domains or above in tops:
                found.setdefault(above, []).append(key)
    return found


def _by_user(fact: Fact, members: dict[str, list[str]]) -> Iterator[Fact]:
    if fact.group is None:
        yield fact
        return
    for user in members.get(fact.group, ()):
        yield replace(fact, user=user, group=None, via_group=fact.group)


def _by_project(fact: Fact, below: dict[str, list[str]]) -> Iterator[Fact]:
    if not fact.inherited:
        yield fact
        return
    for project in below.get(fact.domain or fact.project or "", ()):
        yield replace(fact, project=project, domain=None)


def _by_role(fact: Fact, graph: Graph) -> Iterator[Fact]:
    for role in graph.closure([fact.role]):
        if graph.roles[role]["domain_id"] is not None:
            continue  # a domain's own role counts by what it implies
        yield fact if role == fact.role else replace(fact, role=role, via_role=fact.role)


class Names:
    """The names of everything that facts mention, in one query a kind."""

    def __init__(self, call: Call, facts: list[Fact]) -> None:
        def rows(row: type[Any], keys: set[str | None]) -> dict[str, Any]:
            wanted = {key for key in keys if key}
            if not wanted:
                return {}
            query = sa.select(row)
            if len(wanted) <= 500:
                query = query.where(row.id.in_(wanted))
            return {found.id: found for found in call.session.execute(query).scalars()}

        self.users = rows(User, {fact.user for fact in facts})
        self.groups = rows(Group, {fact.group for fact in facts})
        self.projects = rows(Project, {fact.project for fact in facts})
        self.roles = rows(Role, {fact.role for fact in facts})
        owners = [*self.users.values(), *self.groups.values(), *self.projects.values(), *self.roles.values()]
        self.domains = rows(Domain, {fact.domain for fact in facts} | {row.domain_id for row in owners})

    def domain_of(self, fact: Fact) -> str | None:
        """The domain of the fact's scope."""
        if fact.project is not None:
            return str(self.projects[fact.project].domain_id) if fact.project in self.projects else None
        return fact.domain

    def thing(self, kind: str, key: str) -> dict[str, Any]:
        """``{"id", "name", "domain"}`` of a user, group, project or role; a domain has no domain."""
        row = getattr(self, f"{kind}s").get(key)
        if row is None:
            return {"id": key}
        found = {"id": key, "name": row.name}
        if kind != "domain" and row.domain_id is not None:
            domain = self.domains[row.domain_id]
            found["domain"] = {"id": domain.id, "name": domain.name}
        return found


def _shown(call: Call, fact: Fact, names: Names | None) -> dict[str, Any]:
    def thing(kind: str, key: str) -> dict[str, Any]:
        return {"id": key} if names is None else names.thing(kind, key)

    scope: dict[str, Any] = {}
    if fact.project is not None:
        scope["project"] = thing("project", fact.project)
    elif fact.domain is not None:
        scope["domain"] = thing("domain", fact.domain)
    else:
        scope["system"] = {"all": True}
    if fact.inherited:
        scope["OS-INHERIT:inherited_to"] = "projects"
    links = {"assignment": call.link(fact.link)}
    if fact.via_group is not None:
        links["membership"] = call.link(f"/groups/{fact.via_group}/users/{fact.user}")
    if fact.via_role is not None:
        links["prior_role"] = call.link(f"/prior_role/{fact.via_role}/implies/{fact.role}")
    found: dict[str, Any] = {"role": thing("role", fact.role), "scope": scope, "links": links}
    if fact.user is not None:
        found["user"] = thing("user", fact.user)
    else:
        found["group"] = thing("group", str(fact.group))
    return found


ASSIGNMENT_ROUTES = (
    Route(
        method="GET", path="/role_assignments", handler=list_assignments, guard=False,
        policy="identity:list_role_assignments", check=rules.LIST_ASSIGNMENTS,
    ),
)  # fmt: skip
TREE_RULES = {"identity:list_role_assignments_for_tree": rules.LIST_ASSIGNMENTS}
