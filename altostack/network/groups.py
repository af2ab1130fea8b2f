"""Which ports are in which security groups, and the numbered changes by which nodes keep up with that.

A node that knows version 7 of a group asks for what came after 7; so a port that joins a group of a thousand costs
each node one address, not a thousand.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from altostack.network.bells import Bells
from altostack.network.rows import GroupChange, Membership, Port, Rule, SecurityGroup

DEFAULT = "default"


def default_group(session: Session, project_id: str) -> str:
    """The id of the project's default group, made if it is not there."""
    known = sa.select(SecurityGroup.id).where(SecurityGroup.default_of == project_id)
    found = session.execute(known).scalar()
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
        return str(session.execute(known).scalar_one())
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
    here = SecurityGroup.id == group_id
    session.execute(
        sa.update(SecurityGroup)
        .where(here)
        .values(version=SecurityGroup.version + 1, updated_at=SecurityGroup.updated_at),
        execution_options={"synchronize_session": False},
    )
    version = session.execute(sa.select(SecurityGroup.version).where(here)).scalar_one()
    session.execute(
        sa.insert(GroupChange).values(
            group_id=group_id, version=version, port_id=port_id, addresses=list(addresses)
        )
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
    if after - before:
        session.execute(
            sa.insert(Membership), [{"port_id": port.id, "group_id": one} for one in sorted(after - before)]
        )
    if before - after:
        session.execute(
            sa.delete(Membership).where(
                Membership.port_id == port.id, Membership.group_id.in_(before - after)
            )
        )
    touched = sorted((before ^ after) | (before & after if moved else set()))
    for one in touched:
        version_up(session, one, port_id=port.id, addresses=reach(port) if one in after else ())
    bells.groups(touched)
    if set(port.security_groups or []) != after:
        port.security_groups = sorted(after)


def reach(port: Port) -> list[str]:
    """The addresses and prefixes that a port speaks for."""
    own = [one["ip_address"] for one in port.fixed_ips]
    return own + [one["ip_address"] for one in port.allowed_address_pairs or []]
