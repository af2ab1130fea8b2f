"""Which ports are in which security groups, and the numbered changes by which nodes keep up with that.

A node that knows version 7 of a group asks for what came after 7; so a port that joins a group of a thousand costs
each node one address, not a thousand.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.kit.db import UtcDateTime, utcnow
from altostack.network.bells import Bells
from altostack.network.rows import GroupChange, Membership, Port, Rule, SecurityGroup

DEFAULT = "default"

# Statements of every port's way, built once.
_GROUPS: Any = SecurityGroup.__table__
_CHANGES: Any = GroupChange.__table__
_MEMBERS: Any = Membership.__table__
_COUNT = (
    sa.update(_GROUPS)
    .where(_GROUPS.c.id == sa.bindparam("one"))
    .values(version=_GROUPS.c.version + 1, updated_at=_GROUPS.c.updated_at)
)
_WRITE_DOWN = sa.insert(_CHANGES).from_select(
    ["group_id", "version", "port_id", "addresses", "at"],
    sa.select(
        _GROUPS.c.id, _GROUPS.c.version, sa.bindparam("port", type_=sa.String(64)),
        sa.bindparam("reach", type_=sa.JSON()), sa.bindparam("now", type_=UtcDateTime()),
    ).where(_GROUPS.c.id == sa.bindparam("one")),
)  # fmt: skip
_DEFAULT_OF = sa.select(_GROUPS.c.id).where(_GROUPS.c.default_of == sa.bindparam("project"))
_JOIN = sa.insert(_MEMBERS)
_LEAVE = sa.delete(_MEMBERS).where(
    _MEMBERS.c.port_id == sa.bindparam("port"), _MEMBERS.c.group_id == sa.bindparam("one")
)


def default_group(session: Session, project_id: str) -> str:
    """The id of the project's default group, made if it is not there."""
    found = session.connection().execute(_DEFAULT_OF, {"project": project_id}).scalar()
    if found is not None:
        return str(found)
    group = SecurityGroup(
        id=str(uuid.uuid4()), name=DEFAULT, description="Default security group", project_id=project_id,
        default_of=project_id,
    )  # fmt: skip
    try:
        with session.begin_nested():
            session.add(group)
            session.flush()
            session.add_all(first_rules(group, among_themselves=True))
            session.flush()
    except IntegrityError:  # another transaction was quicker
        return str(session.connection().execute(_DEFAULT_OF, {"project": project_id}).scalar_one())
    return group.id


def first_rules(group: SecurityGroup, *, among_themselves: bool) -> list[Rule]:
    """What a new group lets through: everything out, and in the default group everything between its own ports."""
    kinds = [("egress", None)] + ([("ingress", group.id)] if among_themselves else [])
    return [
        Rule(
            id=str(uuid.uuid4()), project_id=group.project_id, security_group_id=group.id,
            direction=direction, ethertype=ethertype, remote_group_id=remote,
        )
        for direction, remote in kinds
        for ethertype in ("IPv4", "IPv6")
    ]  # fmt: skip


def version_up(session: Session, group_id: str, *, port_id: str = "", addresses: Iterable[str] = ()) -> None:
    """Count a new version of the group and write down what it brought: new rules, or one port's addresses.

    The group's row stays locked until the transaction ends, so versions appear in the order of their numbers.
    """
    connection = session.connection()
    connection.execute(_COUNT, {"one": group_id})
    connection.execute(
        _WRITE_DOWN, {"one": group_id, "port": port_id, "reach": list(addresses), "now": utcnow()}
    )


def enroll(
    session: Session,
    bells: Bells,
    port: Port,
    groups: Iterable[str],
    *,
    moved: bool = False,
    new: bool = False,
) -> None:
    """Make the port a member of exactly these groups; ``moved``: its addresses changed; ``new``: it is in none yet."""
    before, after = set() if new else set(port.security_groups or []), set(groups)
    connection = session.connection()
    if after - before:
        connection.execute(_JOIN, [{"port_id": port.id, "group_id": one} for one in sorted(after - before)])
    for one in before - after:
        connection.execute(_LEAVE, {"port": port.id, "one": one})
    touched = sorted((before ^ after) | (before & after if moved else set()))
    for one in touched:
        version_up(session, one, port_id=port.id, addresses=reach(port) if one in after else ())
    bells.members(touched)
    if set(port.security_groups or []) != after:
        port.security_groups = sorted(after)


def reach(port: Port) -> list[str]:
    """The addresses and prefixes that a port speaks for."""
    own = [one["ip_address"] for one in port.fixed_ips]
    return own + [one["ip_address"] for one in port.allowed_address_pairs or []]
