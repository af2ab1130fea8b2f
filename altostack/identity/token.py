"""Tokens: sealed claims, and what they are worth now.

A token holds who, where, how and until when; nothing is stored when one is issued. It is worth something for as long
as its user, its scope and their domains are enabled and have kept the counters (`model.Worth`) whose sum stands in
it, the user still has a role in the scope, and nobody revoked it by itself.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity.application_credential import ApplicationCredential
from altostack.identity.assignment import direct_roles
from altostack.identity.claims import Claims, bits, from_sealed, from_signed, packed, to_sealed, to_signed
from altostack.identity.domain import Domain
from altostack.identity.keeper import Keeper
from altostack.identity.model import IdentityRow
from altostack.identity.oauth1 import AccessToken
from altostack.identity.oauth1 import alive as access_alive
from altostack.identity.project import Project
from altostack.identity.role import Graph
from altostack.identity.trust import Trust, pedigree
from altostack.identity.trust import alive as trust_alive
from altostack.identity.user import User
from altostack.kit.dialect import iso_micro

_LONGEST = 4096


class Revocation(IdentityRow):
    """A token that was given up, by its audit id; ``chain``: and those that were made from it."""

    __tablename__ = "revocations"
    audit_id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    chain: Mapped[bool]
    expires_at: Mapped[float] = mapped_column(index=True)  # epoch seconds; afterwards nobody needs it
    revoked_at: Mapped[float] = mapped_column(default=0.0, server_default="0")  # epoch seconds


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
    """What a token says about its bearer, as the database has it now.

    At most one of credential, trust and access (OAuth) is set. others: the people on whom a trust rests, besides user.
    """

    user: User
    domain: Domain
    scope: Scope
    roles: list[dict[str, str]] = field(default_factory=list)
    credential: ApplicationCredential | None = None
    trust: Trust | None = None
    access: AccessToken | None = None
    others: tuple[tuple[User, Domain], ...] = ()

    @property
    def parts(self) -> list[User | Domain | Project]:
        """Everybody and everything that must be enabled."""
        return [self.user, self.domain, *self.scope.parts, *(part for pair in self.others for part in pair)]

    @property
    def worth(self) -> int:
        """The sum of counters that only grow: it changes when any of them does."""
        return sum(part.epoch for part in self.parts)

    @property
    def usable(self) -> bool:
        """Everybody and everything enabled, and some role where there is a scope."""
        return all(part.enabled for part in self.parts) and (not self.scope.kind or bool(self.roles))


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
        if facts.trust is not None:
            found["OS-TRUST:trust"] = {
                "id": facts.trust.id,
                "impersonation": facts.trust.impersonation,
                "trustor_user": {"id": facts.trust.trustor_user_id},
                "trustee_user": {"id": facts.trust.trustee_user_id},
            }
        if facts.access is not None:
            found["OS-OAUTH1"] = {
                "access_token_id": facts.access.id,
                "consumer_id": facts.access.consumer_id,
            }
        return found


def _named(row: User | Project, domain: Domain) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "domain": {"id": domain.id, "name": domain.name}}


def _expiry(user: User) -> str | None:
    return None if user.password_expires_at is None else iso_micro(user.password_expires_at)


def moment(seconds: float) -> str:
    """``2026-01-31T12:00:00.000000Z``"""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="microseconds")[:26] + "Z"


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
    session: Session, graph: Graph, user_id: str, scope: Scope, *, within: Collection[str] | None = None
) -> list[dict[str, str]]:
    """What the user is in the scope, of ``within`` (role ids) alone where that is given. One query."""
    found = graph.granted(
        direct_roles(session, user_id, project=scope.project, domain=scope.domain, system=scope.system)
    )
    if within is not None:
        found = [role for role in found if role["id"] in within]
    return sorted(found, key=lambda role: role["name"])


def lent(session: Session, graph: Graph, access: AccessToken) -> Facts | None:
    """What an OAuth access token makes of its consumer now."""
    user = find_user(session, User.id == access.user_id)
    scope = find_project(session, Project.id == access.project_id)
    if user is None or scope is None:
        return None
    within = set(graph.closure(access.role_ids))
    roles = roles_in(session, graph, access.user_id, scope, within=within)
    return Facts(user=user[0], domain=user[1], scope=scope, roles=roles, access=access)


def entrusted(session: Session, graph: Graph, trust: Trust, now: float) -> Facts | None:
    """What a trust makes of its trustee now; None when something that it rests on is gone."""
    chain = pedigree(session, trust)
    keys = {trust.trustor_user_id, trust.root_trustor_id, *(one.trustee_user_id for one in chain)}
    query = sa.select(User, Domain).join(Domain).where(User.id.in_(keys))
    people = {user.id: (user, domain) for user, domain in session.execute(query)}
    scope = find_project(session, Project.id == trust.project_id) if trust.project_id else Scope()
    if scope is None or people.keys() != keys or not all(trust_alive(one, now) for one in chain):
        return None
    held = set(graph.closure(direct_roles(session, trust.root_trustor_id, project=scope.project)))
    if not set(trust.role_ids) <= held:
        return None
    who = trust.trustor_user_id if trust.impersonation else trust.trustee_user_id
    user, domain = people.pop(who)
    roles = sorted(graph.granted(trust.role_ids), key=lambda role: role["name"])
    others = tuple(people[one] for one in sorted(people))
    return Facts(user=user, domain=domain, scope=scope, roles=roles, trust=trust, others=others)


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
    if facts.trust is not None and facts.trust.expires_at is not None:
        expires = min(expires, math.floor(facts.trust.expires_at.timestamp()))
    if facts.access is not None and facts.access.expires_at is not None:
        expires = min(expires, math.floor(facts.access.expires_at.timestamp()))
    own = secrets.token_bytes(16)
    claims = Claims(
        user=packed(facts.user.id),
        methods=bits(methods),
        scope=facts.scope.kind,
        target=packed(facts.scope.target_id),
        issued=issued,
        expires=expires,
        audits=[own] if chain is None else [own, chain],
        worth=facts.worth,
        credential=packed(facts.credential.id) if facts.credential is not None else b"",
        trust=packed(facts.trust.id) if facts.trust is not None else b"",
        access=packed(facts.access.id) if facts.access is not None else b"",
    )
    if keeper.settings.token_provider == "jws":
        return Token(id=keeper.jws.sign(to_signed(claims)), claims=claims, facts=facts)
    return Token(id=keeper.keys.seal(to_sealed(claims), now), claims=claims, facts=facts)


# ---- validating


def claims_of(keeper: Keeper, token: str) -> Claims | None:
    """What a token claims, if one of our keys sealed or signed it."""
    if not token or len(token) > _LONGEST:
        return None
    if keeper.settings.token_provider == "jws":
        payload = keeper.jws.verify(token)
        return None if payload is None else from_signed(payload)
    raw = keeper.keys.open(token)
    return None if raw is None else from_sealed(raw)


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
    if found is None:
        return None
    facts = _made_again(keeper, session, claims, found, now)
    if facts is None or facts.user.id != claims.user_id or not facts.usable or facts.worth != claims.worth:
        return None
    return facts


def _made_again(
    keeper: Keeper, session: Session, claims: Claims, user: tuple[User, Domain], now: float
) -> Facts | None:
    """The facts for ``claims``, whatever they are worth; None when something is gone."""
    graph = keeper.graph(session)
    if claims.trust:
        trust = session.get(Trust, claims.trust_id)
        return None if trust is None else entrusted(session, graph, trust, now)
    if claims.access:
        access = session.get(AccessToken, claims.access_id)
        return None if access is None or not access_alive(access, now) else lent(session, graph, access)
    scope: Scope | None = Scope(system=claims.scope == "s")
    if claims.scope == "p":
        scope = find_project(session, Project.id == claims.target_id)
    elif claims.scope == "d":
        scope = find_domain(session, Domain.id == claims.target_id)
    if scope is None:
        return None
    credential = None
    if claims.credential:
        credential = session.get(ApplicationCredential, claims.credential_id)
        if credential is None or credential.user_id != claims.user_id:
            return None
    within = None if credential is None else credential.role_ids
    roles = roles_in(session, graph, claims.user_id, scope, within=within) if scope.kind else []
    return Facts(user=user[0], domain=user[1], scope=scope, roles=roles, credential=credential)


def revoke(session: Session, token: Token, now: float, *, chain: bool) -> None:
    """Give up one token, with ``chain`` those made from it too. The caller bumps the epoch."""
    own = token.claims.audit_ids[0]
    row = session.get(Revocation, own)
    if row is None:
        expires_at = float(token.claims.expires)
        session.add(Revocation(audit_id=own, chain=chain, expires_at=expires_at, revoked_at=now))
    elif chain:
        row.chain = True


def purge(session: Session, now: float, margin: float) -> int:
    """Forget revocations of tokens that have run out more than ``margin`` seconds ago; how many."""
    result = session.execute(sa.delete(Revocation).where(Revocation.expires_at < now - margin))
    return int(result.rowcount)  # type: ignore[attr-defined]  # CursorResult
