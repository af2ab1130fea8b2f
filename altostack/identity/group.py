"""Groups of users, and who is in them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from altostack.identity import rules
from altostack.identity.audit import created, deleted, note, updated
from altostack.identity.common import (
    WORD,
    bump,
    domain_of,
    existing,
    free,
    in_scope,
    peek,
    same,
    self_link,
)  # fmt: skip
from altostack.identity.dialect import inexact, seen
from altostack.identity.domain import DOMAINS
from altostack.identity.domain_config import writable
from altostack.identity.model import Extra, IdentityRow
from altostack.identity.user import USERS, User, read_directory
from altostack.kit.api import add, load, page
from altostack.kit.call import Call
from altostack.kit.errors import NotFound
from altostack.kit.resource import Resource, field, key
from altostack.kit.route import Route


class Group(Extra, IdentityRow):
    __tablename__ = "groups"
    __table_args__ = (
        sa.UniqueConstraint("domain_id", "name"),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], ondelete="CASCADE"),
    )
    noun = "group"
    id: Mapped[str] = key()
    domain_id: Mapped[str] = field(create=True, filter=True, sort=True, max_length=64)
    name: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=255, pattern=WORD
    )
    description: Mapped[str | None] = field(create=True, update=True, default="", max_length=1000)


class Membership(IdentityRow):
    __tablename__ = "memberships"
    user_id: Mapped[str] = mapped_column(
        sa.String(64), sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    group_id: Mapped[str] = mapped_column(
        sa.String(64), sa.ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True, index=True
    )


@created
def create(call: Call, fields: dict[str, Any]) -> Group:
    domain_of(call, fields, "identity:create_group")
    fields["name"] = fields["name"].strip()
    row = Group(**fields)
    call.require("identity:create_group", row)
    load(call, DOMAINS, row.domain_id)
    writable(call, row.domain_id)
    _name_free(call, row.domain_id, row.name)
    made: Group = add(call, GROUPS, row)
    return made


@updated
def update(call: Call, row: Group, fields: dict[str, Any]) -> None:
    same(call, id=row.id, domain_id=row.domain_id)
    writable(call, row.domain_id)
    if "name" in fields:
        fields["name"] = fields["name"].strip()
        _name_free(call, row.domain_id, fields["name"], but=row.id)
    for attr, value in fields.items():
        setattr(row, attr, value)


@deleted
def delete(call: Call, row: Group) -> None:
    writable(call, row.domain_id)
    call.session.delete(row)
    bump(call)


def _name_free(call: Call, domain_id: str, name: str, but: str | None = None) -> None:
    free(
        call, Group, Group.domain_id == domain_id, Group.name == name, kind="group", name=name,
        where=f" at domain ID {domain_id}", but=but,
    )  # fmt: skip


GROUPS = Resource(
    row=Group,
    name="group",
    policy=rules.GROUPS,
    parent=read_directory,
    narrow=in_scope(Group.domain_id),
    create=create,
    update=update,
    delete=delete,
    extra="extra",
    computed={"links": self_link("/groups")},
    filters=inexact(name=Group.name),
    default_sort=(("name", False),),
    doc="Users who get roles together.",
)


# ---- membership


def list_members(call: Call) -> Any:
    group = load(call, GROUPS, rule=call.route.policy)
    inside = User.id.in_(sa.select(Membership.user_id).where(Membership.group_id == group.id))
    own = call.context.domain_id
    return page(call, USERS, brief=False, extra=(inside, sa.true() if own is None else User.domain_id == own))


def list_groups(call: Call) -> Any:
    """The groups of one user."""
    user = load(call, USERS, rule=call.route.policy)
    mine = Group.id.in_(sa.select(Membership.group_id).where(Membership.user_id == user.id))
    own = call.context.domain_id
    return page(call, GROUPS, brief=False, extra=(mine, sa.true() if own is None else Group.domain_id == own))


def _both(call: Call) -> tuple[Group, User]:
    """The group and the user that the path names. Raises Forbidden, then NotFound."""
    group = peek(call, GROUPS, call.params["group_id"])
    user = peek(call, USERS, call.params["user_id"])
    call.require(call.route.policy, seen(group, user))
    existing(call, GROUPS, group, call.params["group_id"])
    existing(call, USERS, user, call.params["user_id"])
    return group, user


def _member(call: Call) -> Membership:
    group, user = _both(call)
    row = call.session.get(Membership, (user.id, group.id))
    if row is None:
        raise NotFound(f"User {user.id} is not in group {group.id}.")
    return row


def check_member(call: Call) -> None:
    _member(call)


def add_member(call: Call) -> None:
    group, user = _both(call)
    writable(call, group.domain_id)
    if call.session.get(Membership, (user.id, group.id)) is None:
        call.session.add(Membership(user_id=user.id, group_id=group.id))
        note(call, "updated", "group", group.id, actor_id=user.id, actor_type="user", actor_operation="added")
    bump(call)


def remove_member(call: Call) -> None:
    row = _member(call)
    writable(call, load(call, GROUPS, row.group_id).domain_id)
    call.session.delete(row)
    note(
        call,
        "updated",
        "group",
        row.group_id,
        actor_id=row.user_id,
        actor_type="user",
        actor_operation="removed",
    )
    bump(call)


_MEMBER = "/groups/{group_id}/users/{user_id}"
GROUP_ROUTES = tuple(
    Route(
        method=method, path=path, handler=handler, guard=False, policy=f"identity:{name}", check=check, status=status
    )
    for method, path, handler, name, check, status in (
        ("GET", "/groups/{group_id}/users", list_members, "list_users_in_group", rules.GROUPS["show"], 200),
        ("GET", "/users/{user_id}/groups", list_groups, "list_groups_for_user", rules.LIST_GROUPS_FOR_USER, 200),
        ("GET", _MEMBER, check_member, "check_user_in_group", rules.GROUP_READER, 204),
        ("PUT", _MEMBER, add_member, "add_user_to_group", rules.GROUP_MANAGER, 204),
        ("DELETE", _MEMBER, remove_member, "remove_user_from_group", rules.GROUP_MANAGER, 204),
    )
)  # fmt: skip
