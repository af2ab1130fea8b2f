"""A login: its body, what its methods prove, and where the token shall count.

Whatever is wrong with a login — no such user, a wrong secret, no such project — nobody is told which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.identity import oauth1_request, totp
from altostack.identity.application_credential import ApplicationCredential
from altostack.identity.assignment import direct_roles
from altostack.identity.delegation import by_delegation
from altostack.identity.domain import Domain
from altostack.identity.keeper import Keeper
from altostack.identity.mirror import learn
from altostack.identity.oauth1 import AccessToken, Consumer
from altostack.identity.oauth1 import alive as access_alive
from altostack.identity.project import Project
from altostack.identity.token import (
    Facts,
    Scope,
    Token,
    entrusted,
    find_domain,
    find_project,
    find_user,
    lent,
    roles_in,
    validate,
)  # fmt: skip
from altostack.identity.trust import Trust, consume
from altostack.identity.user import User
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Forbidden, NotFound, Unauthorized

REFUSED = "The request you have made requires authentication."
Text = Annotated[str, msgspec.Meta(max_length=255)]

# ---- the body of a login


class DomainRef(msgspec.Struct):
    id: Text | None = None
    name: Text | None = None


class ProjectRef(msgspec.Struct):
    id: Text | None = None
    name: Text | None = None
    domain: DomainRef | None = None


class UserRef(msgspec.Struct):
    id: Text | None = None
    name: Text | None = None
    domain: DomainRef | None = None
    password: str | None = None


class PasswordMethod(msgspec.Struct):
    user: UserRef


class TokenMethod(msgspec.Struct):
    id: str


class Passcode(UserRef):
    passcode: Text = ""


class TotpMethod(msgspec.Struct):
    user: Passcode


class CredentialMethod(msgspec.Struct):
    id: Text | None = None
    name: Text | None = None
    secret: str | None = None
    user: UserRef | None = None


class SystemRef(msgspec.Struct):
    all: bool = False


class TrustRef(msgspec.Struct):
    id: Text


class ScopeRef(msgspec.Struct, rename={"trust": "OS-TRUST:trust"}):
    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None
    unscoped: dict[str, Any] | None = None
    trust: TrustRef | None = None


class Identity(msgspec.Struct):
    methods: list[str]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    application_credential: CredentialMethod | None = None
    totp: TotpMethod | None = None
    oauth1: dict[str, Any] | None = None


class Auth(msgspec.Struct):
    identity: Identity
    scope: ScopeRef | str | None = None


class Login(msgspec.Struct):
    """``{"auth": {"identity": {"methods": [...], ...}, "scope": {...}}}``"""

    auth: Auth


def _expect(found: Any, what: str, where: str) -> None:
    if not found:
        raise BadRequest(
            f"Expecting to find {what} in {where}. The server could not comply with the request since it is either "
            "malformed or otherwise incorrect. The client is assumed to be in error.",
            field=f"{where}.{what}",
        )


# ---- proving who one is


_METHODS = ("password", "token", "application_credential", "totp", "oauth1")


@dataclass(kw_only=True)
class Proof:
    """What the methods of one login say.

    checks: the secrets still to be compared with stored hashes. once: what is good once (a one-time code, a nonce):
    each takes it in a transaction and says whether it was there to take. use: the same for a trust, when a token is
    issued. wrong: a secret that was checked already was not the one. failed: the methods name nobody, or several.
    """

    user: tuple[User, Domain] | None = None
    checks: list[tuple[str, str | None]] = field(default_factory=list)
    once: list[Callable[[Session], bool]] = field(default_factory=list)
    use: Callable[[Session], None] | None = None
    methods: list[str] = field(default_factory=list)
    credential: ApplicationCredential | None = None
    access: AccessToken | None = None
    before: Token | None = None  # the token that is exchanged
    wrong: bool = False
    failed: bool = False

    def says(self, user: tuple[User, Domain] | None) -> None:
        """One method names ``user``; all must name the same."""
        if user is None or (self.user is not None and self.user[0].id != user[0].id):
            self.failed = True
        else:
            self.user = user


def _named_domain(ref: DomainRef | None, where: str) -> DomainRef:
    """``ref`` if it names a domain. Raises BadRequest."""
    _expect(ref, "domain", where)
    assert ref is not None
    _expect(ref.id or ref.name, "id or name", f"{where}.domain")
    return ref


def _domain_is(ref: DomainRef | None, where: str) -> Any:
    """The condition on domains that ``ref`` names. Raises BadRequest."""
    named = _named_domain(ref, where)
    return Domain.id == named.id if named.id else Domain.name == named.name


def _user_is(ref: UserRef | None, where: str) -> list[Any]:
    """The conditions on users and their domains that ``ref`` names. Raises BadRequest."""
    _expect(ref, "user", where)
    assert ref is not None
    _expect(ref.id or ref.name, "id or name", f"{where}.user")
    return [User.id == ref.id] if ref.id else [User.name == ref.name, _domain_is(ref.domain, f"{where}.user")]


def prove(call: Call, session: Session, kept: Keeper, identity: Identity) -> Proof:
    """Look up everything that the login's methods name. Raises BadRequest, Unauthorized, Forbidden."""
    proof = Proof()
    methods = list(dict.fromkeys(identity.methods))
    _expect(methods, "methods", "identity")
    for name in methods:
        if name not in _METHODS:
            raise Unauthorized("Attempted to authenticate with an unsupported method.")
        _expect(getattr(identity, name) is not None, name, "identity")
    if identity.password is not None and "password" in methods:
        ref = identity.password.user
        which = _user_is(ref, "password")
        user = find_user(session, *which)
        if user is None and not ref.id and learn(call.runtime, session, ref.name, which[1]):
            user = find_user(session, *which)
        proof.says(user)
        proof.checks.append((ref.password or "", user[0].password_hash if user else None))
        proof.methods.append("password")
    if identity.token is not None and "token" in methods:
        _exchange(call, kept, proof, identity.token.id)
    if identity.application_credential is not None and "application_credential" in methods:
        _credential(session, kept, proof, identity.application_credential)
    if identity.totp is not None and "totp" in methods:
        _passcode(call, session, kept, proof, identity.totp.user)
    if identity.oauth1 is not None and "oauth1" in methods:
        _oauth1(call, session, kept, proof)
    return proof


def _passcode(call: Call, session: Session, kept: Keeper, proof: Proof, ref: Passcode) -> None:
    """The TOTP method: a code that is good now and was not used."""
    user = find_user(session, *_user_is(ref, "totp"))
    proof.says(user)
    proof.methods.append("totp")
    use = totp.find(session, kept, user[0].id if user else "", ref.passcode, call.runtime.clock())
    if use is None:
        proof.wrong = True
    else:
        proof.once.append(use)


def _oauth1(call: Call, session: Session, kept: Keeper, proof: Proof) -> None:
    """The OAuth 1.0a method: this very request is signed with an access token."""
    request = oauth1_request.signed(call)
    _expect(request.get("oauth_token"), "oauth_token", "request")
    row = session.get(AccessToken, request.get("oauth_token"))
    consumer = session.get(Consumer, row.consumer_id) if row is not None else None
    proof.methods.append("oauth1")
    if row is None or consumer is None or consumer.id != request.get("oauth_consumer_key"):
        proof.failed = True
        return
    request.verify(kept.vault.open(consumer.sealed), kept.vault.open(row.sealed))
    if not access_alive(row, call.runtime.clock()):
        proof.failed = True
    proof.says(find_user(session, User.id == row.user_id))
    proof.access = row

    def take(session: Session) -> bool:
        oauth1_request.remember(session, request)
        return True

    proof.once.append(take)


def _exchange(call: Call, kept: Keeper, proof: Proof, key: str) -> None:
    """The token method: another token for the same user, no longer lived than the first. Raises Forbidden, and
    NotFound for one that is worth nothing: to know one is to have held it.
    """
    before = validate(kept, call.runtime.db.read, key, call.runtime.clock())
    if before is None:
        raise NotFound("Failed to validate token.")
    if before.facts.trust is not None or by_delegation(before.claims.method_names):
        raise Forbidden("Using a delegated token to create another token is not allowed.")
    if before.claims.scope and not kept.settings.allow_rescope_scoped_token:
        raise Forbidden("A token with a scope cannot be exchanged for another one here.")
    proof.before = before
    proof.says((before.facts.user, before.facts.domain))
    proof.methods += ["token", *before.claims.method_names]


def _credential(session: Session, kept: Keeper, proof: Proof, method: CredentialMethod) -> None:
    """The application credential method: the credential's own user, whatever else the body says."""
    if method.id:
        which = [ApplicationCredential.id == method.id]
    else:
        _expect(method.name, "name or ID", "application credential")
        which = [ApplicationCredential.name == method.name, *_user_is(method.user, "application credential")]
    query = (
        sa.select(ApplicationCredential, User, Domain)
        .join(User, User.id == ApplicationCredential.user_id)
        .join(Domain, Domain.id == User.domain_id)
        .where(*which)
    )
    found = kept.known(
        ("credential", method.id) if method.id else ("credential", *_named(method)),
        lambda: session.execute(query).first(),
    )
    proof.says(None if found is None else (found[1], found[2]))
    proof.credential = None if found is None else found[0]
    proof.checks.append((method.secret or "", None if found is None else found[0].secret_hash))
    proof.methods.append("application_credential")


def _named(method: CredentialMethod) -> tuple[str | None, ...]:
    user = method.user or UserRef()
    home = user.domain or DomainRef()
    return method.name, user.id, user.name, home.id, home.name


# ---- where the token shall count


def facts_of(
    call: Call, session: Session, kept: Keeper, proof: Proof, wanted: ScopeRef | str | None
) -> Facts | None:
    """What the token would say, None for a scope that is not there. Raises BadRequest, Forbidden, Unauthorized."""
    if proof.access is not None:
        facts = lent(session, kept.graph(session), proof.access)
        asked = wanted.project.id if isinstance(wanted, ScopeRef) and wanted.project is not None else None
        if wanted is not None and asked != proof.access.project_id:
            raise Unauthorized("An OAuth access token has its own scope.")
        return facts
    if isinstance(wanted, ScopeRef) and wanted.trust is not None and proof.credential is None:
        return _entrusted(call, session, kept, proof, wanted)
    scope = _scope(session, kept, proof, wanted)
    if scope is None or proof.user is None:
        return None
    user, domain = proof.user
    roles: list[dict[str, str]] = []
    if scope.kind:
        within = None if proof.credential is None else proof.credential.role_ids
        roles = kept.known(
            ("roles", user.id, scope.kind, scope.target_id, None if within is None else tuple(within)),
            lambda: roles_in(session, kept.graph(session), user.id, scope, within=within),
        )
    return Facts(user=user, domain=domain, scope=scope, roles=roles, credential=proof.credential)


def _entrusted(call: Call, session: Session, kept: Keeper, proof: Proof, wanted: ScopeRef) -> Facts | None:
    """The facts of a trust, for its trustee alone; a use is taken when the token is issued."""
    named = [name for name in wanted.__struct_fields__ if getattr(wanted, name) is not None]
    _expect(len(named) == 1, "one of system, project, domain, OS-TRUST:trust or unscoped", "scope")
    assert wanted.trust is not None
    trust = session.get(Trust, wanted.trust.id)
    if trust is None or proof.user is None or proof.user[0].id != trust.trustee_user_id:
        return None
    if not (proof.user[0].enabled and proof.user[1].enabled):
        return None

    proof.use = lambda session: consume(session, trust)
    return entrusted(session, kept.graph(session), trust, call.runtime.clock())


def _scope(session: Session, kept: Keeper, proof: Proof, wanted: ScopeRef | str | None) -> Scope | None:
    """The scope, None for one that is not there. Raises BadRequest, Forbidden."""
    if proof.credential is not None or "application_credential" in proof.methods:
        if wanted is not None:
            raise Unauthorized("Application credentials cannot request a scope.")
        project_id = proof.credential.project_id if proof.credential is not None else ""
        return _project(session, kept, project_id)
    if wanted is None:
        return _default(session, proof)
    if isinstance(wanted, str):
        if wanted != "unscoped":
            raise BadRequest(f"{wanted!r} is not a scope.", field="auth.scope")
        return Scope()
    named = [name for name in wanted.__struct_fields__ if getattr(wanted, name) is not None]
    _expect(len(named) == 1, "one of system, project, domain, OS-TRUST:trust or unscoped", "scope")
    if (
        proof.before is not None
        and proof.before.claims.scope == "s"
        and (wanted.project is not None or wanted.domain is not None)
    ):
        raise Forbidden(
            "Using a system-scoped token to create a project-scoped or domain-scoped token is not allowed."
        )
    if wanted.project is not None:
        ref = wanted.project
        _expect(ref.id or ref.name, "id or name", "scope.project")
        if ref.id:
            return _project(session, kept, ref.id)
        home = _named_domain(ref.domain, "scope.project")
        return kept.known(
            ("project", ref.name, home.id, None if home.id else home.name),
            lambda: find_project(session, Project.name == ref.name, _domain_is(home, "scope.project")),
        )
    if wanted.domain is not None:
        return find_domain(session, _domain_is(wanted.domain, "scope"))
    return Scope(system=wanted.system is not None)


def _project(session: Session, kept: Keeper, key: str) -> Scope | None:
    return kept.known(("project", key), lambda: find_project(session, Project.id == key))


def _default(session: Session, proof: Proof) -> Scope:
    """The user's default project where it will do, else no scope."""
    user = proof.user[0] if proof.user else None
    if user is None or user.default_project_id is None:
        return Scope()
    found = find_project(session, Project.id == user.default_project_id)
    if found is None or not all(part.enabled for part in found.parts):
        return Scope()
    return found if direct_roles(session, user.id, project=found.project) else Scope()
