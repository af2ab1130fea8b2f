"""Tokens: sealed claims, and what they are worth now.

A token holds who, where, how and until when; nothing is stored when one is issued. It is worth something for as long
as its user, its scope and their domains are enabled and have kept the counters (`model.Worth`) whose sum stands in
it, the user still has a role in the scope, and nobody revoked it by itself.
"""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity.application_credential import ApplicationCredential
from altostack.identity.assignment import direct_roles
from altostack.identity.domain import Domain
from altostack.identity.keeper import Keeper
from altostack.identity.model import IdentityRow
from altostack.identity.project import Project
from altostack.identity.role import Graph
from altostack.identity.user import User
from altostack.kit.dialect import iso_micro

METHODS = ("password", "token", "application_credential")  # bits in a token: the order is for ever
_LONGEST = 4096


class Revocation(IdentityRow):
    """A token that was given up, by its audit id; ``chain``: and those that were made from it."""

    __tablename__ = "revocations"
    audit_id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    chain: Mapped[bool]
    expires_at: Mapped[float] = mapped_column(index=True)  # epoch seconds; afterwards nobody needs it


class Claims(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What is sealed in a token. ``scope``: "" unscoped, "p" project, "d" domain, "s" system; ids as `_packed`."""

    version: int = 1
    user: bytes
    methods: int
    scope: str
    target: bytes
    issued: int  # epoch seconds
    expires: int
    audits: list[bytes]
    worth: int
    credential: bytes

    @property
    def user_id(self) -> str:
        return _unpacked(self.user)

    @property
    def target_id(self) -> str:
        return _unpacked(self.target)

    @property
    def credential_id(self) -> str:
        return _unpacked(self.credential)

    @property
    def audit_ids(self) -> list[str]:
        """The token's own audit id, then that of the first one in its chain."""
        return [base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in self.audits]

    @property
    def method_names(self) -> list[str]:
        return [name for bit, name in enumerate(METHODS) if self.methods >> bit & 1]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Claims).decode


def _packed(key: str) -> bytes:
    """An id as bytes; one of 32 hexadecimal digits takes half the space."""
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    return b"h" + raw if len(raw) == 16 and raw.hex() == key else b"t" + key.encode()


def _unpacked(key: bytes) -> str:
    return key[1:].hex() if key[:1] == b"h" else key[1:].decode()


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Where a token counts; all None and False: nowhere in particular. ``home`` is the project's domain."""

    project: Project | None = None
    home: Domain | None = None
    domain: Domain | None = None
    system: bool = False

    @property
    def kind(self) -> str:
        return "p" if self.project else "d" if self.domain else "s" if self.system else ""

    @property
    def target_id(self) -> str:
        return (self.project or self.domain).id if self.project or self.domain else ""  # type: ignore[union-attr]  # one is set

    @property
    def parts(self) -> list[Project | Domain]:
        return [part for part in (self.project, self.home, self.domain) if part is not None]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a token says about its bearer, as the database has it now."""

    user: User
    domain: Domain
    scope: Scope
    roles: list[dict[str, str]] = field(default_factory=list)
    credential: ApplicationCredential | None = None

    @property
    def worth(self) -> int:
        """The sum of counters that only grow: it changes when any of them does."""
        return self.user.epoch + self.domain.epoch + sum(part.epoch for part in self.scope.parts)

    @property
    def usable(self) -> bool:
        """Everybody and everything enabled, and some role where there is a scope."""
        enabled = all(part.enabled for part in (self.user, self.domain, *self.scope.parts))
        return enabled and (not self.scope.kind or bool(self.roles))


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that is worth something."""

    id: str
    claims: Claims
    facts: Facts

    def body(self) -> dict[str, Any]:
        """The identity API's token object, without its catalogue."""
        claims, facts, scope = self.claims, self.facts, self.facts.scope
        found: dict[str, Any] = {
            "methods": claims.method_names,
            "user": _named(facts.user, facts.domain) | {"password_expires_at": _expiry(facts.user)},
            "audit_ids": claims.audit_ids,
            "expires_at": moment(claims.expires),
            "issued_at": moment(claims.issued),
        }
        if scope.project is not None and scope.home is not None:
            found |= {"project": _named(scope.project, scope.home), "is_domain": False}
        elif scope.domain is not None:
            found["domain"] = {"id": scope.domain.id, "name": scope.domain.name}
        elif scope.system:
            found["system"] = {"all": True}
        if scope.kind:
            found["roles"] = facts.roles
        if facts.credential is not None:
            found["application_credential"] = {
                "id": facts.credential.id,
                "name": facts.credential.name,
                "restricted": not facts.credential.unrestricted,
            }
            if facts.credential.access_rules:
                found["application_credential"]["access_rules"] = facts.credential.access_rules
        return found


def _named(row: User | Project, domain: Domain) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "domain": {"id": domain.id, "name": domain.name}}


def _expiry(user: User) -> str | None:
    return None if user.password_expires_at is None else iso_micro(user.password_expires_at)


def moment(seconds: float) -> str:
    """``2026-01-31T12:00:00.000000Z``"""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# ---- reading


def find_user(session: Session, *conditions: Any) -> tuple[User, Domain] | None:
    """A user with its domain, in one query."""
    found = session.execute(sa.select(User, Domain).join(Domain).where(*conditions)).first()
    return None if found is None else (found[0], found[1])


def find_project(session: Session, *conditions: Any) -> Scope | None:
    """A project as a scope, in one query."""
    found = session.execute(
        sa.select(Project, Domain).join(Domain, Domain.id == Project.domain_id).where(*conditions)
    ).first()
    return None if found is None else Scope(project=found[0], home=found[1])


def find_domain(session: Session, *conditions: Any) -> Scope | None:
    """A domain as a scope, in one query."""
    found = session.execute(sa.select(Domain).where(*conditions)).scalar()
    return None if found is None else Scope(domain=found)


def roles_in(
    session: Session,
    graph: Graph,
    user_id: str,
    scope: Scope,
    credential: ApplicationCredential | None = None,
) -> list[dict[str, str]]:
    """What the user is in the scope, at most what the credential allows. One query."""
    found = graph.granted(
        direct_roles(session, user_id, project=scope.project, domain=scope.domain, system=scope.system)
    )
    if credential is not None:
        found = [role for role in found if role["id"] in credential.role_ids]
    return sorted(found, key=lambda role: role["name"])


# ---- issuing


def issue(
    keeper: Keeper,
    facts: Facts,
    methods: Iterable[str],
    now: float,
    *,
    until: int | None = None,
    chain: bytes | None = None,
) -> Token:
    """A new token. ``until``: not beyond this second; ``chain``: the audit id of the chain it continues."""
    issued = int(now)
    expires = issued + keeper.settings.token_expiration if until is None else until
    if facts.credential is not None and facts.credential.expires_at is not None:
        expires = min(expires, math.floor(facts.credential.expires_at.timestamp()))
    own = secrets.token_bytes(16)
    claims = Claims(
        user=_packed(facts.user.id),
        methods=sum(1 << METHODS.index(name) for name in set(methods)),
        scope=facts.scope.kind,
        target=_packed(facts.scope.target_id),
        issued=issued,
        expires=expires,
        audits=[own] if chain is None else [own, chain],
        worth=facts.worth,
        credential=_packed(facts.credential.id) if facts.credential is not None else b"",
    )
    return Token(id=keeper.keys.seal(_encode(claims), now), claims=claims, facts=facts)


# ---- validating


def claims_of(keeper: Keeper, token: str) -> Claims | None:
    """What a token claims, if one of our keys sealed it."""
    raw = keeper.keys.open(token) if token and len(token) <= _LONGEST else None
    if raw is None:
        return None
    try:
        return _decode(raw)
    except msgspec.DecodeError:
        return None  # sealed by these keys for another purpose, or by another version


def validate(keeper: Keeper, sessions: Any, token: str, now: float, *, window: float = 0.0) -> Token | None:
    """The token if it is worth something, else None. ``sessions``: a context manager that gives a reading session.

    ``window``: seconds for which an expired one still counts. No query when it was validated since the epoch moved.
    """
    found = keeper.recall(token)
    if found is None:
        claims = claims_of(keeper, token)
        if claims is None or claims.expires + window <= now:
            return None
        epoch = keeper.now()
        with sessions() as session:
            facts = _facts(keeper, session, claims, now)
        if facts is None:
            return None
        found = Token(id=token, claims=claims, facts=facts)
        keeper.remember(token, epoch, found)
    kept: Token = found
    if kept.claims.expires + window <= now:
        return None
    limit = kept.facts.credential.expires_at if kept.facts.credential is not None else None
    return None if limit is not None and limit.timestamp() + window <= now else kept


def _facts(keeper: Keeper, session: Session, claims: Claims, now: float) -> Facts | None:
    """Three queries, four with an application credential."""
    given_up = sa.exists().where(
        sa.or_(
            Revocation.audit_id == claims.audit_ids[0],
            sa.and_(Revocation.audit_id.in_(claims.audit_ids), Revocation.chain.is_(True)),
        )
    )
    found = find_user(session, User.id == claims.user_id, sa.not_(given_up))
    scope: Scope | None = Scope(system=claims.scope == "s")
    if claims.scope == "p":
        scope = find_project(session, Project.id == claims.target_id)
    elif claims.scope == "d":
        scope = find_domain(session, Domain.id == claims.target_id)
    credential = None
    if claims.credential_id:
        credential = session.get(ApplicationCredential, claims.credential_id)
        if credential is None or credential.user_id != claims.user_id:
            return None
    if found is None or scope is None:
        return None
    roles = roles_in(session, keeper.graph(session), claims.user_id, scope, credential) if scope.kind else []
    facts = Facts(user=found[0], domain=found[1], scope=scope, roles=roles, credential=credential)
    return facts if facts.usable and facts.worth == claims.worth else None


def revoke(session: Session, token: Token, *, chain: bool) -> None:
    """Give up one token, with ``chain`` those made from it too. The caller bumps the epoch."""
    own = token.claims.audit_ids[0]
    row = session.get(Revocation, own)
    if row is None:
        session.add(Revocation(audit_id=own, chain=chain, expires_at=float(token.claims.expires)))
    elif chain:
        row.chain = True


def purge(session: Session, now: float, margin: float) -> int:
    """Forget revocations of tokens that have run out more than ``margin`` seconds ago; how many."""
    result = session.execute(sa.delete(Revocation).where(Revocation.expires_at < now - margin))
    return int(result.rowcount)  # type: ignore[attr-defined]  # CursorResult
