"""Role assignments: who is what, where. A user or a group has a role on a project, a domain or the whole system.

An inherited assignment on a domain or project counts on every project below it, and not on itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity import rules
from altostack.identity.application_credential import ApplicationCredential
from altostack.identity.audit import note
from altostack.identity.common import bump, existing, peek
from altostack.identity.dialect import collection, seen
from altostack.identity.domain import DOMAINS, Domain
from altostack.identity.group import GROUPS, Membership
from altostack.identity.model import IdentityRow
from altostack.identity.project import PROJECTS, Project
from altostack.identity.role import ROLES, ImpliedRole, Role
from altostack.identity.user import USERS
from altostack.kit.api import view
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden, NotFound
from altostack.kit.resource import Resource
from altostack.kit.route import Route


def _column(target: str, *, null: bool = True) -> Any:
    key = sa.ForeignKey(f"{target}.id", ondelete="CASCADE")
    return mapped_column(sa.String(64), key, nullable=null, index=True)


class Assignment(IdentityRow):
    """One of user_id and group_id is set, and one of project_id, domain_id and (true) system.

    ``id`` is made from the rest, so that the same grant twice is one row.
    """

    __tablename__ = "assignments"
    id: Mapped[str] = mapped_column(sa.String(255), primary_key=True)
    user_id: Mapped[str | None] = _column("users")
    group_id: Mapped[str | None] = _column("groups")
    project_id: Mapped[str | None] = _column("projects")
    domain_id: Mapped[str | None] = _column("domains")
    system: Mapped[bool] = mapped_column(default=False)
    role_id: Mapped[str] = _column("roles", null=False)
    inherited: Mapped[bool] = mapped_column(default=False)


def key_of(actor: str, target: str, role: str, *, inherited: bool) -> str:
    """The id of an assignment. Ids hold no slash."""
    return f"{actor}/{target}/{role}/{'i' if inherited else '-'}"


def held_by(user_id: str) -> Any:
    """The condition on assignments that a user has, by itself or in a group."""
    groups = sa.select(Membership.group_id).where(Membership.user_id == user_id)
    return sa.or_(Assignment.user_id == user_id, Assignment.group_id.in_(groups))


def counts_on_project(project: Project) -> Any:
    """The condition on assignments that count on a project."""
    above = project.above
    found = [
        sa.and_(Assignment.project_id == project.id, Assignment.inherited.is_(False)),
        sa.and_(Assignment.domain_id == project.domain_id, Assignment.inherited.is_(True)),
    ]
    if above:
        found.append(sa.and_(Assignment.project_id.in_(above), Assignment.inherited.is_(True)))
    return sa.or_(*found)


def direct_roles(
    session: Session,
    user_id: str,
    *,
    project: Project | None = None,
    domain: Domain | None = None,
    system: bool = False,
) -> set[str]:
    """The ids of the roles that a user was given in a scope, without those they imply. One query."""
    if project is not None:
        where = counts_on_project(project)
    elif domain is not None:
        where = sa.and_(Assignment.domain_id == domain.id, Assignment.inherited.is_(False))
    elif system:
        where = Assignment.system.is_(True)
    else:
        return set()
    query = sa.select(Assignment.role_id).where(held_by(user_id), where)
    return set(session.execute(query).scalars())


def _telling() -> Any:
    """The ids of the roles that come to anything in a token: a domain's own only by what they imply."""
    found = sa.select(Role.id).where(Role.domain_id.is_(None)).cte("telling", recursive=True)
    found = found.union(
        sa.select(ImpliedRole.prior_id).where(ImpliedRole.implied_id == found.c.id).correlate(None)
    )
    return sa.select(found.c.id)


def reachable_projects(user_id: str) -> Any:
    """The condition on projects in which a user has a role."""
    held = sa.and_(held_by(user_id), Assignment.role_id.in_(_telling()))
    mine = sa.select(sa.literal(1)).where(held)
    inherited = mine.where(Assignment.inherited.is_(True))
    ancestor = sa.orm.aliased(Project)
    above = (
        sa.select(sa.literal(1))
        .select_from(Assignment)
        .join(ancestor, ancestor.id == Assignment.project_id)
        .where(
            held,
            Assignment.inherited.is_(True),
            Project.path.like(ancestor.path + ancestor.id + "/%"),
        )
        .correlate(Project)
    )
    return sa.or_(
        mine.where(Assignment.project_id == Project.id, Assignment.inherited.is_(False))
        .correlate(Project)
        .exists(),
        inherited.where(Assignment.domain_id == Project.domain_id).correlate(Project).exists(),
        above.exists(),
    )


def reachable_domains(user_id: str) -> Any:
    """The condition on domains on which a user has a role."""
    query = sa.select(Assignment.domain_id).where(
        held_by(user_id),
        Assignment.role_id.in_(_telling()),
        Assignment.domain_id.is_not(None),
        Assignment.inherited.is_(False),
    )
    return Domain.id.in_(query)


# ---- grants: one assignment, by the path that names its parts

_ACTORS: dict[str, tuple[str, Resource]] = {"user": ("user_id", USERS), "group": ("group_id", GROUPS)}
_TARGETS: dict[str, tuple[str, Resource]] = {
    "project": ("project_id", PROJECTS),
    "domain": ("domain_id", DOMAINS),
}


class Grant:
    """What a grant's path names, loaded and allowed. Raises Forbidden, then NotFound."""

    def __init__(self, call: Call, *, inherited: bool) -> None:
        self._call = call
        self.inherited = inherited
        self.actor = next(name for name in _ACTORS if _ACTORS[name][0] in call.params)
        self.target = next((name for name in _TARGETS if _TARGETS[name][0] in call.params), "system")
        resources = {self.actor: _ACTORS[self.actor][1]}
        if self.target in _TARGETS:
            resources[self.target] = _TARGETS[self.target][1]
        if "role_id" in call.params:
            resources["role"] = ROLES
        keys = {name: call.params[f"{name}_id"] for name in resources}
        rows = {name: peek(call, resource, keys[name]) for name, resource in resources.items()}
        call.require(call.route.policy, seen(*rows.values()))
        self.rows = {name: existing(call, resources[name], rows[name], keys[name]) for name in rows}
        self.values: dict[str, Any] = {f"{name}_id": key for name, key in keys.items()}
        if self.target == "system":
            self.values["system"] = True
        self.values["inherited"] = inherited

    @property
    def id(self) -> str:
        target = self.values[f"{self.target}_id"] if self.target != "system" else "system"
        return key_of(
            self.values[f"{self.actor}_id"], target, self.values["role_id"], inherited=self.inherited
        )

    def row(self) -> Assignment:
        """The assignment. Raises NotFound."""
        row = self._call.session.get(Assignment, self.id)
        if row is None:
            target = self.values.get(f"{self.target}_id", "system")
            raise NotFound(
                f"Could not find role assignment with role: {self.values['role_id']}, user or group: "
                f"{self.values[f'{self.actor}_id']}, project, domain, or system: {target}."
            )
        return row

    def note(self, done: str) -> None:
        """Tell of the grant that was made or taken away."""
        told = {name.removesuffix("_id"): value for name, value in self.values.items() if name != "inherited"}
        note(
            self._call, done, "role_assignment", self.values["role_id"], inherited_to_projects=self.inherited,
            **told,
        )  # fmt: skip


Handler = Callable[[Call], Any]


def _lister(inherited: bool) -> Handler:
    def handler(call: Call) -> Any:
        grant = Grant(call, inherited=inherited)
        where = [getattr(Assignment, name) == value for name, value in grant.values.items()]
        query = (
            sa.select(Role).join(Assignment, Assignment.role_id == Role.id).where(*where).order_by(Role.name)
        )
        found = [view(call, ROLES, role) for role in call.session.execute(query).scalars()]
        return collection(call, "roles", found)

    return handler


def _checker(inherited: bool) -> Handler:
    def handler(call: Call) -> None:
        Grant(call, inherited=inherited).row()

    return handler


def _granter(inherited: bool) -> Handler:
    def handler(call: Call) -> None:
        grant = Grant(call, inherited=inherited)
        own = grant.rows["role"].domain_id
        if own is not None:
            if grant.target == "system":
                raise BadRequest("A domain's own role cannot be granted on the system.", field="role_id")
            project = grant.rows.get("project")
            if project is not None and own != project.domain_id:
                raise Forbidden(
                    f"Project {project.id} must be in the same domain as the role {grant.rows['role'].id} being "
                    f"assigned."
                )
        if call.session.get(Assignment, grant.id) is None:
            call.session.add(Assignment(id=grant.id, **grant.values))
            grant.note("created")
        bump(call)

    return handler


def _revoker(inherited: bool) -> Handler:
    def handler(call: Call) -> None:
        grant = Grant(call, inherited=inherited)
        call.session.delete(grant.row())
        grant.note("deleted")
        if grant.target == "project":
            _forget_credentials(call, grant)
        bump(call)

    return handler


def _forget_credentials(call: Call, grant: Grant) -> None:
    """Application credentials on a project end when a role there that they may rest on is taken away."""
    actor = grant.values[f"{grant.actor}_id"]
    users: Any = [actor]
    if grant.actor == "group":
        users = sa.select(Membership.user_id).where(Membership.group_id == actor)
    call.session.execute(
        sa.delete(ApplicationCredential).where(
            ApplicationCredential.project_id == grant.values["project_id"],
            ApplicationCredential.user_id.in_(users),
        )
    )


def _grant_routes() -> list[Route]:
    found = []
    places = [("/projects/{project_id}", ""), ("/domains/{domain_id}", ""), ("/system", "")]
    places += [(f"/OS-INHERIT{path}", "/inherited_to_projects") for path, _ in places[:2]]
    for place, end in places:
        inherited = bool(end)
        for actor in ("user", "group"):
            many = f"{place}/{actor}s/{{{actor}_id}}/roles{end}"
            one = f"{place}/{actor}s/{{{actor}_id}}/roles/{{role_id}}{end}"
            system = place == "/system"
            for method, path, handler, word, check, status in (
                ("GET", many, _lister(inherited), "list", rules.LIST_GRANTS, 200),
                ("GET", one, _checker(inherited), "check", rules.CHECK_GRANT, 204),
                ("PUT", one, _granter(inherited), "create", rules.CHANGE_GRANT, 204),
                ("DELETE", one, _revoker(inherited), "revoke", rules.CHANGE_GRANT, 204),
            ):
                plural = "s" if word == "list" else ""
                name = f"{word}_system_grant{plural}_for_{actor}" if system else f"{word}_grant{plural}"
                if system:
                    check = rules.CLOUD_READER if method == "GET" else rules.CLOUD_ADMIN
                found.append(
                    Route(
                        method=method, path=path, handler=handler, guard=False, policy=f"identity:{name}",
                        check=check, status=status,
                    )
                )  # fmt: skip
    return found


GRANT_ROUTES = tuple(_grant_routes())
