"""Security groups: named sets of rules that ports are put under."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.api import claim, view
from altostack.kit.call import Call
from altostack.kit.policy import MEMBER, READER
from altostack.kit.resource import Computed, Resource
from altostack.network import access, address, tag
from altostack.network.bells import bells
from altostack.network.dialect import in_use, missing
from altostack.network.groups import DEFAULT, default_group, first_rules, version_up
from altostack.network.model import assign
from altostack.network.rows import GroupChange, Membership, Rule, SecurityGroup
from altostack.network.security_group_rule import RULES


def _with_default(call: Call) -> None:
    """Whoever looks for groups finds the project's default group, as if it had always been there."""
    if call.route.op not in ("list", "create"):
        return
    everybody = call.allows("get_security_group:all")
    named = (call.arg("project_id") or call.arg("tenant_id")) if everybody else None
    project = named or call.context.project_id
    if not project:
        return
    if call.write:
        default_group(call.session, project)
        return
    with call.runtime.db.read() as session:
        known = sa.select(SecurityGroup.id).where(SecurityGroup.default_of == project)
        there = session.execute(known).first() is not None
    if not there:
        call.runtime.db.write(lambda session: default_group(session, project))


def _create(call: Call, fields: dict[str, Any]) -> SecurityGroup:
    project = access.project(call, fields)
    if fields.get("name", "").lower() == DEFAULT:
        raise _default_exists()
    default_group(call.session, project)
    group = SecurityGroup(id=str(uuid.uuid4()), project_id=project, **fields)
    claim(call, SECURITY_GROUPS, [group])
    call.session.add(group)
    call.session.flush()
    call.session.add_all(first_rules(group, among_themselves=False))
    call.session.flush()
    call.session.refresh(group, ["rules"])
    return group


def _update(call: Call, group: SecurityGroup, fields: dict[str, Any]) -> None:
    if group.default_of and fields.get("name", group.name) != group.name:
        raise in_use("SecurityGroupCannotUpdateDefault", "Updating default security group not allowed.")
    if not group.default_of and fields.get("name", "").lower() == DEFAULT:
        raise _default_exists()
    if fields.get("stateful", group.stateful) != group.stateful and _has_ports(call.session, group.id):
        raise in_use("SecurityGroupInUse", f"Security Group {group.id} in use.")
    if "stateful" in assign(group, fields):
        version_up(call.session, group.id)
        bells(call).groups([group.id])


def _delete(call: Call, group: SecurityGroup) -> None:
    """Rules of other groups that name this one as their remote go with it."""
    session = call.session
    if _has_ports(session, group.id):
        raise in_use("SecurityGroupInUse", f"Security Group {group.id} in use.")
    if group.default_of and not call.context.is_admin:
        raise in_use(
            "SecurityGroupCannotRemoveDefault", "Insufficient rights for removing default security group."
        )
    naming = sa.select(Rule.security_group_id).where(
        Rule.remote_group_id == group.id, Rule.security_group_id != group.id
    )
    others = sorted(set(session.execute(naming).scalars()))
    session.execute(
        sa.delete(Rule).where(sa.or_(Rule.security_group_id == group.id, Rule.remote_group_id == group.id))
    )
    for other in others:
        version_up(session, other)
    session.execute(sa.delete(GroupChange).where(GroupChange.group_id == group.id))
    tag.forget(session, group.id)
    session.execute(sa.delete(SecurityGroup).where(SecurityGroup.id == group.id))
    bells(call).groups([group.id, *others])


def _default_exists() -> Exception:
    return in_use("SecurityGroupDefaultAlreadyExists", "Default security group already exists.")


def _has_ports(session: Session, group_id: str) -> bool:
    here = sa.select(Membership.port_id).where(Membership.group_id == group_id).limit(1)
    return session.execute(here).first() is not None


def usable(call: Call, wanted: list[Any], project_id: str) -> list[str]:
    """Groups that a port of the project may be put under.

    Raises BadRequest for what is no id, NotFound for a group that neither the project nor the caller has, Conflict
    when stateful and stateless groups are mixed.
    """
    asked = sorted({address.uuid(one, "security_groups") for one in wanted})
    if not asked:
        return []
    query = sa.select(SecurityGroup.id, SecurityGroup.stateful).where(SecurityGroup.id.in_(asked))
    if not call.allows("get_security_group:all"):
        query = query.where(SecurityGroup.project_id.in_({project_id, call.context.project_id}))
    known = {one.id: one.stateful for one in call.session.execute(query)}
    for one in asked:
        if one not in known:
            raise missing("security_group", one)
    if len(set(known.values())) > 1:
        raise in_use(
            "SecurityGroupConflict",
            "Stateful and stateless security groups cannot be applied to the same port at the same time.",
        )
    return asked


SECURITY_GROUPS = Resource(
    row=SecurityGroup,
    name="security_group",
    path="/security-groups",
    owner=SecurityGroup.project_id,
    policy={"list": READER, "show": READER, "create": MEMBER, "update": MEMBER, "delete": MEMBER},
    parent=_with_default,
    create=_create,
    update=_update,
    delete=_delete,
    inputs={"tenant_id": str},
    computed={
        "tenant_id": Computed(get=lambda call, row: row.project_id),
        "security_group_rules": Computed(get=lambda call, row: [view(call, RULES, r) for r in row.rules]),
    },
    filters={
        **access.filters(SecurityGroup),
        **tag.filters(SecurityGroup),
    },
    quota={"security_group": 1},
    bulk=True,
    default_sort=(("created_at", False),),
)
