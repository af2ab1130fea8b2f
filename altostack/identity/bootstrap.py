"""The first contents: what must be there before anybody can log in. Run at every start; changes only what differs."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.identity import jws, vault
from altostack.identity.assignment import Assignment, key_of
from altostack.identity.catalog import CatalogService, Endpoint, Interface, Region
from altostack.identity.common import DEFAULT_DOMAIN
from altostack.identity.compliance import set_password
from altostack.identity.domain import Domain
from altostack.identity.keeper import keeper
from altostack.identity.keys import prepare, rotate
from altostack.identity.model import IdentityRow
from altostack.identity.password import ENOUGH, fast_hash
from altostack.identity.project import Project
from altostack.identity.role import ImpliedRole, Role
from altostack.identity.user import User
from altostack.identity.vault import FOLDER
from altostack.kit.dialect import hex_uuid
from altostack.kit.service import Runtime

ROLES = ("admin", "manager", "member", "reader", "service")
IMPLIES = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
PROJECTS = ("admin", "demo", "service")
_SERVICE = "service_password_"


@dataclass(frozen=True, kw_only=True)
class Person:
    """A user that the cloud makes. ``roles``: (role, project or None for the system). made: its secret is random."""

    name: str
    password: str
    roles: tuple[tuple[str, str | None], ...]
    made: bool = False


def people(secrets: Mapping[str, str]) -> list[Person]:
    """The users that ``secrets`` has passwords for: admin, demo, and one a service (service_password_<name>)."""
    found = []
    if "admin_password" in secrets:
        roles = (("admin", "admin"), ("admin", None))
        found.append(Person(name="admin", password=secrets["admin_password"], roles=roles))
    if "demo_password" in secrets:
        found.append(Person(name="demo", password=secrets["demo_password"], roles=(("member", "demo"),)))
    for key in sorted(secrets):
        if key.startswith(_SERVICE):
            found.append(
                Person(
                    name=key.removeprefix(_SERVICE), password=secrets[key], made=True,
                    roles=(("admin", "service"), ("service", "service")),
                )
            )  # fmt: skip
    return found


def bootstrap(runtime: Runtime) -> None:
    """Keys, domain, roles, projects, users, assignments, region and catalogue. Idempotent.

    A person's password is set when the user is made and is the API's from then on; a service user's is always that
    of the cloud's secrets.
    """
    prepare(Path(runtime.cloud["keys"]))
    prepare(Path(runtime.cloud["keys"]) / FOLDER)
    if keeper(runtime).settings.token_provider == "jws":
        jws.prepare(Path(runtime.cloud["keys"]) / jws.FOLDER)
    wanted = people(runtime.cloud["secrets"])
    with runtime.db.read() as session:
        names = [person.name for person in wanted]
        query = sa.select(User.name, User.password_hash).where(
            User.domain_id == DEFAULT_DOMAIN, User.name.in_(names)
        )
        known = dict(session.execute(query).all())
    hashes = _hashes(runtime, wanted, known)
    runtime.db.write(lambda session: _fill(session, runtime, wanted, hashes))
    runtime.cloud["epoch"].bump()


def reset_admin(runtime: Runtime) -> None:
    """Let the administrator in again: the password of the cloud's secrets, enabled, unlocked, not expired.

    Raises LookupError when there is no such user (``bootstrap`` makes it).
    """
    hashed = keeper(runtime).passwords.hash(str(runtime.cloud["secrets"]["admin_password"]))

    def write(session: Session) -> None:
        query = sa.select(User).where(User.domain_id == DEFAULT_DOMAIN, User.name == "admin")
        row = session.execute(query).scalar()
        if row is None:
            raise LookupError("there is no user admin in the default domain")
        set_password(runtime, row, hashed, chosen=True)
        row.enabled, row.active_at, row.password_expires_at = True, None, None
        row.epoch += 1

    runtime.db.write(write)
    runtime.cloud["epoch"].bump()


def rotate_keys(runtime: Runtime) -> int:
    """A new primary key for tokens, and a new pair where they are signed; the primary's number."""
    folder, settings = Path(runtime.cloud["keys"]), keeper(runtime).settings
    primary = rotate(folder, max_active_keys=settings.max_active_keys)
    if settings.token_provider == "jws":
        jws.rotate(folder / jws.FOLDER, max_active_keys=settings.max_active_keys)
    runtime.cloud["epoch"].bump()
    return primary


def rotate_vault(runtime: Runtime) -> tuple[int, int]:
    """A new primary key for stored secrets, and all of them sealed with it; (its number, how many secrets)."""
    rows = [mapper.class_ for mapper in IdentityRow.registry.mappers]
    columns = tuple(row.sealed for row in rows if hasattr(row, "sealed"))
    return vault.rotate(Path(runtime.cloud["keys"]) / FOLDER, runtime.db, columns)


def _hashes(runtime: Runtime, wanted: list[Person], known: Mapping[str, str | None]) -> dict[str, str]:
    """New hashes by user name, slow ones made side by side; none for what is right already."""
    passwords = keeper(runtime).passwords
    found: dict[str, str] = {}
    slow: list[Person] = []
    for person in wanted:
        if person.made and len(person.password) >= ENOUGH:
            if not passwords.quick(person.password, known.get(person.name)):
                found[person.name] = fast_hash(person.password)
        elif person.name not in known:
            slow.append(person)
    if slow:
        with ThreadPoolExecutor(len(slow)) as pool:
            hashes = pool.map(lambda person: passwords.hash(person.password), slow)
            found |= {person.name: made for person, made in zip(slow, hashes, strict=True)}
    return found


def _fill(session: Session, runtime: Runtime, wanted: list[Person], hashes: Mapping[str, str]) -> None:
    if session.get(Domain, DEFAULT_DOMAIN) is None:
        session.add(Domain(id=DEFAULT_DOMAIN, name="Default", description="The default domain"))
        session.flush()
    roles = _roles(session)
    projects = _projects(session)
    users = {
        row.name: row
        for row in session.execute(sa.select(User).where(User.domain_id == DEFAULT_DOMAIN)).scalars()
    }
    for person in wanted:
        row = users.get(person.name)
        if row is None:
            row = users[person.name] = User(
                id=hex_uuid(),
                name=person.name,
                domain_id=DEFAULT_DOMAIN,
                password_hash=hashes.get(person.name),
            )
            session.add(row)
        elif person.name in hashes:
            row.password_hash = hashes[person.name]
            row.epoch += 1
    session.flush()
    held = set(session.execute(sa.select(Assignment.id)).scalars())
    for person in wanted:
        for role, project in person.roles:
            target = "system" if project is None else projects[project]
            key = key_of(users[person.name].id, target, roles[role], inherited=False)
            if key not in held:
                session.add(
                    Assignment(
                        id=key, user_id=users[person.name].id, role_id=roles[role], system=project is None,
                        project_id=None if project is None else target,
                    )
                )  # fmt: skip
    _catalog(session, runtime)


def _roles(session: Session) -> dict[str, str]:
    """Role name -> id."""
    found = {row.name: row.id for row in session.execute(sa.select(Role).where(Role.realm == "")).scalars()}
    for name in ROLES:
        if name not in found:
            found[name] = hex_uuid()
            session.add(Role(id=found[name], name=name, options={"immutable": True}))
    session.flush()
    pairs = {(found[prior], found[implied]) for prior, implied in IMPLIES}
    held = {(row.prior_id, row.implied_id) for row in session.execute(sa.select(ImpliedRole)).scalars()}
    for prior, implied in sorted(pairs - held):
        session.add(ImpliedRole(prior_id=prior, implied_id=implied))
    session.flush()
    return found


def _projects(session: Session) -> dict[str, str]:
    """Project name -> id."""
    query = sa.select(Project.name, Project.id).where(
        Project.domain_id == DEFAULT_DOMAIN, Project.name.in_(PROJECTS)
    )
    found = dict(session.execute(query).all())
    for name in PROJECTS:
        if name not in found:
            found[name] = hex_uuid()
            session.add(
                Project(id=found[name], name=name, domain_id=DEFAULT_DOMAIN, parent_id=DEFAULT_DOMAIN)
            )
    session.flush()
    return found


def _catalog(session: Session, runtime: Runtime) -> None:
    """One service a type with its three endpoints in the cloud's region; URLs follow where the cloud stands."""
    region = runtime.cloud["region"]
    if session.get(Region, region) is None:
        session.add(Region(id=region, description=""))
        session.flush()
    services = {row.type: row for row in session.execute(sa.select(CatalogService)).scalars()}
    endpoints: dict[Any, Endpoint] = {
        (row.service_id, row.interface, row.region_id): row
        for row in session.execute(sa.select(Endpoint)).scalars()
    }
    for kind, name, url in runtime.cloud["catalog"]:
        service = services.get(kind)
        if service is None:
            service = services[kind] = CatalogService(id=hex_uuid(), type=kind, name=name)
            session.add(service)
            session.flush()
        for interface in Interface:
            row = endpoints.get((service.id, interface, region))
            if row is None:
                session.add(
                    Endpoint(
                        id=hex_uuid(), service_id=service.id, interface=interface, region_id=region, url=url
                    )
                )
            elif row.url != url:
                row.url = url
