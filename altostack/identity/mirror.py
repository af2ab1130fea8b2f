"""What a directory holds, mirrored in rows, so that its users have roles and tokens like all others.

A row follows its entry whenever the directory is read: at a login, when a domain's users or groups are listed, and
every few minutes. Whoever is no longer there is disabled, which ends their tokens; the row and its grants stay, in
case the entry comes back. Passwords are never here: the directory is asked at every login.
"""

from __future__ import annotations

import logging
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.identity.directory import Directory, Party, Person, public_id
from altostack.identity.domain import Domain
from altostack.identity.domain_config import directory_of, settings_of
from altostack.identity.group import Group, Membership
from altostack.identity.password import ELSEWHERE
from altostack.identity.user import User
from altostack.kit.errors import Unavailable
from altostack.kit.reconcile import Loop
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
Entry = TypeVar("Entry", Person, Party)
_GONE = f"{ELSEWHERE}gone"


def marker(domain_id: str, key: str) -> str:
    """What stands in the place of a password's hash."""
    return f"{ELSEWHERE}{domain_id}:{key}"


def accepts(runtime: Runtime, password: str, stored: str) -> bool:
    """Whether the directory that ``stored`` names takes the password. Raises Unavailable."""
    domain_id, _, key = stored.removeprefix(ELSEWHERE).partition(":")
    directory = directory_of(runtime, domain_id)
    return directory is not None and directory.accepts(key, password)


def learn(runtime: Runtime, session: Session, name: str | None, domain: Any) -> bool:
    """Mirror a user who logs in by ``name`` in the domain that meets the condition ``domain``, if it is there.

    ``session`` sees it afterwards. Raises Unavailable.
    """
    if not settings_of(runtime) or not name:
        return False
    domain_id = session.execute(sa.select(Domain.id).where(domain)).scalar()
    directory = None if domain_id is None else directory_of(runtime, domain_id)
    people = [] if directory is None else directory.people(name=name)
    if not people:
        return False
    session.rollback()  # what is written now is to be seen by the next query
    refresh(runtime, str(domain_id), people)
    return True


def refresh(runtime: Runtime, domain_id: str, people: list[Person] | None = None) -> None:
    """Make the rows follow the directory, if there is one: all entries, or ``people`` alone. Raises Unavailable."""
    directory = directory_of(runtime, domain_id)
    if directory is None:
        return
    whole = people is None
    found = directory.people() if people is None else people
    parties = directory.parties()
    changed = runtime.db.write(lambda session: _follow(session, domain_id, directory, found, parties, whole))
    if changed:
        runtime.cloud["epoch"].bump()


def _follow(
    session: Session,
    domain_id: str,
    directory: Directory,
    people: list[Person],
    parties: list[Party],
    whole: bool,
) -> bool:
    """Whether what tokens are worth changed."""
    changed = False
    users = {
        row.id: row for row in session.execute(sa.select(User).where(User.domain_id == domain_id)).scalars()
    }
    groups = {
        row.id: row for row in session.execute(sa.select(Group).where(Group.domain_id == domain_id)).scalars()
    }
    seen = _distinct({public_id(domain_id, "user", person.key): person for person in people})
    there = _distinct({public_id(domain_id, "group", party.key): party for party in parties})
    _make_room(session, users, seen)
    _make_room(session, groups, there)
    for key, person in seen.items():
        row = users.get(key)
        if row is None:
            row = User(id=key, domain_id=domain_id, name=person.name, enabled=person.enabled)
            session.add(row)
        elif row.enabled != person.enabled:
            row.epoch += 1
            row.enabled = person.enabled
            changed = True
        row.name, row.extra, row.password_hash = person.name, person.extra, marker(domain_id, person.key)
    if whole:
        for key, row in users.items():
            if key not in seen and row.password_hash != _GONE:
                row.enabled, row.password_hash = False, _GONE
                row.epoch += 1
                changed = True
    for key, party in there.items():
        group = groups.get(key)
        if group is None:
            group = Group(id=key, domain_id=domain_id, name=party.name)
            session.add(group)
        group.name, group.description, group.extra = party.name, party.description, party.extra
    session.flush()
    wanted = {
        (user, group)
        for user, person in seen.items()
        for group, party in there.items()
        if directory.is_member(person, party)
    }
    ours = set(groups) | set(there)
    held = {
        (user, group): row
        for row in session.execute(sa.select(Membership).where(Membership.group_id.in_(ours))).scalars()
        for user, group in [(row.user_id, row.group_id)]
        if whole or user in seen
    }
    for pair in wanted - held.keys():
        session.add(Membership(user_id=pair[0], group_id=pair[1]))
        changed = True
    for pair in held.keys() - wanted:
        session.delete(held[pair])
        changed = True
    return changed


def _distinct(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The entries by id, without those whose name another has: names are unique in a domain."""
    found: dict[str, Entry] = {}
    names: set[str] = set()
    for key, entry in entries.items():
        if entry.name.casefold() in names:
            log.warning("a directory has the name %r twice; the entry %r is left out", entry.name, entry.key)
            continue
        names.add(entry.name.casefold())
        found[key] = entry
    return found


def _make_room(session: Session, rows: dict[str, Any], entries: dict[str, Entry]) -> None:
    """Whoever has a name that is another's now is called by its id, till its own new name is known."""
    wanted = {entry.name.casefold(): key for key, entry in entries.items()}
    for key, row in rows.items():
        if wanted.get(row.name.casefold(), key) != key:
            row.name = key
    session.flush()


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Every five minutes: read every directory."""

    def body(ids: tuple[str, ...]) -> None:
        for domain_id in settings_of(runtime):
            try:
                refresh(runtime, domain_id)
            except Unavailable as error:
                log.warning("domain %s: %s", domain_id, error.message)

    return (Loop("identity-directories", body, interval=300.0),)
