"""/v3/auth: proving who one is, tokens, and what one may ask a token for.

Whatever is wrong with a login — no such user, a wrong password, a disabled user or project, no role — the answer is
the same 401 and takes the same work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.identity import compliance, rules
from altostack.identity.application_credential import ApplicationCredential
from altostack.identity.assignment import direct_roles, reachable_domains, reachable_projects
from altostack.identity.common import bump, unbuilt
from altostack.identity.dialect import own_url
from altostack.identity.domain import DOMAINS, Domain
from altostack.identity.keeper import Keeper, keeper
from altostack.identity.project import PROJECTS, Project
from altostack.identity.token import (
    METHODS,
    Claims,
    Facts,
    Scope,
    Token,
    find_domain,
    find_project,
    find_user,
    issue,
    moment,
    purge,
    revoke,
    roles_in,
    validate,
)  # fmt: skip
from altostack.identity.user import USERS, User
from altostack.kit.api import load, page
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Forbidden, NotFound, Unauthorized
from altostack.kit.policy import ANY, PUBLIC
from altostack.kit.reconcile import Loop
from altostack.kit.route import Route
from altostack.kit.service import Runtime

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


class CredentialMethod(msgspec.Struct):
    id: Text | None = None
    name: Text | None = None
    secret: str | None = None
    user: UserRef | None = None


class SystemRef(msgspec.Struct):
    all: bool = False


class ScopeRef(msgspec.Struct, rename={"trust": "OS-TRUST:trust"}):
    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None
    unscoped: dict[str, Any] | None = None
    trust: dict[str, Any] | None = None


class Identity(msgspec.Struct):
    methods: list[str]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    application_credential: CredentialMethod | None = None


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


@dataclass(kw_only=True)
class Proof:
    """What the methods of one login say. ``checks`` are the secrets still to be compared with stored hashes."""

    user: tuple[User, Domain] | None = None
    checks: list[tuple[str, str | None]] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    credential: ApplicationCredential | None = None
    before: Token | None = None  # the token that is exchanged
    failed: bool = False

    def says(self, user: tuple[User, Domain] | None) -> None:
        """One method names ``user``; all must name the same."""
        if user is None or (self.user is not None and self.user[0].id != user[0].id):
            self.failed = True
        else:
            self.user = user


def _domain_is(ref: DomainRef | None, where: str) -> Any:
    """The condition on domains that ``ref`` names. Raises BadRequest."""
    _expect(ref, "domain", where)
    assert ref is not None
    _expect(ref.id or ref.name, "id or name", f"{where}.domain")
    return Domain.id == ref.id if ref.id else Domain.name == ref.name


def _user_is(ref: UserRef | None, where: str) -> list[Any]:
    """The conditions on users and their domains that ``ref`` names. Raises BadRequest."""
    _expect(ref, "user", where)
    assert ref is not None
    _expect(ref.id or ref.name, "id or name", f"{where}.user")
    return [User.id == ref.id] if ref.id else [User.name == ref.name, _domain_is(ref.domain, f"{where}.user")]


def _prove(call: Call, session: Session, kept: Keeper, identity: Identity) -> Proof:
    proof = Proof()
    methods = list(dict.fromkeys(identity.methods))
    _expect(methods, "methods", "identity")
    for name in methods:
        if name not in METHODS:
            raise Unauthorized("Attempted to authenticate with an unsupported method.")
        _expect(getattr(identity, name), name, "identity")
    if identity.password is not None and "password" in methods:
        ref = identity.password.user
        user = find_user(session, *_user_is(ref, "password"))
        proof.says(user)
        proof.checks.append((ref.password or "", user[0].password_hash if user else None))
        proof.methods.append("password")
    if identity.token is not None and "token" in methods:
        _exchange(call, kept, proof, identity.token.id)
    if identity.application_credential is not None and "application_credential" in methods:
        _credential(session, proof, identity.application_credential)
    return proof


def _exchange(call: Call, kept: Keeper, proof: Proof, key: str) -> None:
    """The token method: another token for the same user, no longer lived than the first. Raises Forbidden."""
    before = validate(kept, call.runtime.db.read, key, call.runtime.clock())
    if before is None:
        proof.failed = True
        return
    if before.facts.credential is not None:
        raise Forbidden("Using a delegated token to create another token is not allowed.")
    if before.claims.scope and not kept.settings.allow_rescope_scoped_token:
        raise Forbidden("A token with a scope cannot be exchanged for another one here.")
    proof.before = before
    proof.says((before.facts.user, before.facts.domain))
    proof.methods += ["token", *before.claims.method_names]


def _credential(session: Session, proof: Proof, method: CredentialMethod) -> None:
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
    found = session.execute(query).first()
    proof.says(None if found is None else (found[1], found[2]))
    proof.credential = None if found is None else found[0]
    proof.checks.append((method.secret or "", None if found is None else found[0].secret_hash))
    proof.methods.append("application_credential")


# ---- where the token shall count


def _scope(session: Session, proof: Proof, wanted: ScopeRef | str | None) -> Scope | None:
    """The scope, None for one that is not there. Raises BadRequest, Forbidden."""
    if proof.credential is not None or "application_credential" in proof.methods:
        if wanted is not None:
            raise Unauthorized("Application credentials cannot request a scope.")
        project_id = proof.credential.project_id if proof.credential is not None else ""
        return find_project(session, Project.id == project_id)
    if wanted is None:
        return _default(session, proof)
    if isinstance(wanted, str):
        if wanted != "unscoped":
            raise BadRequest(f"{wanted!r} is not a scope.", field="auth.scope")
        return Scope()
    named = [name for name in wanted.__struct_fields__ if getattr(wanted, name) is not None]
    _expect(len(named) == 1, "one of system, project, domain, OS-TRUST:trust or unscoped", "scope")
    if wanted.trust is not None:
        raise unbuilt("A trust's scope")
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
            return find_project(session, Project.id == ref.id)
        return find_project(session, Project.name == ref.name, _domain_is(ref.domain, "scope.project"))
    if wanted.domain is not None:
        return find_domain(session, _domain_is(wanted.domain, "scope"))
    return Scope(system=wanted.system is not None)


def _default(session: Session, proof: Proof) -> Scope:
    """The user's default project where it will do, else no scope."""
    user = proof.user[0] if proof.user else None
    if user is None or user.default_project_id is None:
        return Scope()
    found = find_project(session, Project.id == user.default_project_id)
    if found is None or not all(part.enabled for part in found.parts):
        return Scope()
    return found if direct_roles(session, user.id, project=found.project) else Scope()


# ---- tokens


def create_token(call: Call) -> Reply:
    kept, clock = keeper(call.runtime), call.runtime.clock
    auth: Auth = call.body.auth
    epoch = kept.now()
    # Everything is read before secrets are compared: that takes long, and no connection is held meanwhile.
    with call.runtime.db.read() as session:
        proof = _prove(call, session, kept, auth.identity)
        scope = _scope(session, proof, auth.scope)
        user_id = proof.user[0].id if proof.user else ""
        roles = []
        if scope is not None and scope.kind:
            roles = roles_in(session, kept.graph(session), user_id, scope, proof.credential)
        catalog = kept.catalog(session) if scope is not None and scope.kind else None
    answers = [kept.passwords.matches(secret, stored) for secret, stored in proof.checks]
    right = all(answers)
    by_password = auth.identity.password is not None and "password" in auth.identity.methods
    if by_password and proof.user is not None and not proof.failed:
        right = compliance.accepts(call.runtime, proof.user[0], right)
    if proof.failed or not right or proof.user is None or scope is None:
        raise Unauthorized(REFUSED)
    facts = Facts(
        user=proof.user[0], domain=proof.user[1], scope=scope, roles=roles, credential=proof.credential
    )
    now = clock()
    limit = facts.credential.expires_at if facts.credential is not None else None
    if not facts.usable or (limit is not None and limit.timestamp() <= now):
        raise Unauthorized(REFUSED)
    if by_password:
        compliance.check_expiry(call.runtime, facts.user)
        if not compliance.check_activity(call.runtime, facts.user):
            raise Unauthorized(REFUSED)
    before = proof.before.claims if proof.before is not None else None
    token = issue(
        kept, facts, proof.methods, now, until=before.expires if before else None, chain=_chain(before)
    )
    kept.remember(token.id, epoch, token)
    body = token.body()
    if catalog is not None and "nocatalog" not in call.query:
        body["catalog"] = catalog.seen_by(facts.user.id, scope.project.id if scope.project else None)
    return _answer(token, body)


def _chain(before: Claims | None) -> bytes | None:
    return before.audits[-1] if before is not None else None


def _answer(token: Token, body: dict[str, Any]) -> Reply:
    return Reply(body={"token": body}, headers={"X-Subject-Token": token.id, "Vary": "X-Auth-Token"})


def _subject(call: Call, *, window: float = 0.0) -> Token:
    """The token that the request is about. Raises NotFound for one that is worth nothing, whoever asks: to know one
    is to have held it. Raises Forbidden for those who may not ask about another's.
    """
    key = call.header("X-Subject-Token")
    found = None
    if key:
        found = validate(keeper(call.runtime), call.runtime.db.read, key, call.runtime.clock(), window=window)
    if found is None:
        raise NotFound("Failed to validate token." if key else "No token in the request.")
    head = call.request.method == "HEAD"
    seen = {"target.token.user_id": found.facts.user.id}
    call.require("identity:check_token" if head else call.route.policy, seen)
    return found


def show_token(call: Call) -> Reply:
    kept = keeper(call.runtime)
    late = call.flag("allow_expired")
    token = _subject(call, window=float(kept.settings.allow_expired_window) if late else 0.0)
    body = token.body()
    scope = token.facts.scope
    if scope.kind and "nocatalog" not in call.query:
        project_id = scope.project.id if scope.project is not None else None
        body["catalog"] = _catalog(call).seen_by(token.facts.user.id, project_id)
    return _answer(token, body)


def _catalog(call: Call) -> Any:
    with call.runtime.db.read() as session:
        return keeper(call.runtime).catalog(session)


def delete_token(call: Call) -> None:
    """Those made from the token go with it, unless ``cascade=false``."""
    token = _subject(call)
    revoke(call.session, token, chain=call.flag("cascade", True))
    bump(call)


# ---- what one may ask a token for


def auth_catalog(call: Call) -> Any:
    if call.context.project_id is None:
        raise Forbidden("A project-scoped token is required to produce a service catalog.")
    found = _catalog(call).seen_by(call.context.user_id, call.context.project_id)
    return {"catalog": found, "links": {"self": own_url(call)}}


def auth_projects(call: Call) -> Any:
    return page(call, PROJECTS, brief=False, extra=(reachable_projects(call.context.user_id),))


def auth_domains(call: Call) -> Any:
    return page(call, DOMAINS, brief=False, extra=(reachable_domains(call.context.user_id),))


def auth_system(call: Call) -> Any:
    some = direct_roles(call.session, call.context.user_id, system=True)
    return {"system": [{"all": True}] if some else [], "links": {"self": own_url(call)}}


def user_projects(call: Call) -> Any:
    user = load(call, USERS, rule=call.route.policy)
    return page(call, PROJECTS, brief=False, extra=(reachable_projects(user.id),))


_TOKENS = "/auth/tokens"
AUTH_ROUTES = (
    Route(method="POST", path=_TOKENS, handler=create_token, policy=PUBLIC, body=Login, status=201),
    Route(
        method="GET", path=_TOKENS, handler=show_token, guard=False, policy="identity:validate_token",
        check=rules.VALIDATE_TOKEN,
    ),
    Route(
        method="DELETE", path=_TOKENS, handler=delete_token, guard=False, policy="identity:revoke_token",
        check=rules.REVOKE_TOKEN, status=204,
    ),
    Route(method="GET", path="/auth/catalog", handler=auth_catalog, policy="identity:get_auth_catalog", check=ANY),
    Route(method="GET", path="/auth/projects", handler=auth_projects, policy="identity:get_auth_projects", check=ANY),
    Route(method="GET", path="/auth/domains", handler=auth_domains, policy="identity:get_auth_domains", check=ANY),
    Route(method="GET", path="/auth/system", handler=auth_system, policy="identity:get_auth_system", check=ANY),
    Route(
        method="GET", path="/users/{user_id}/projects", handler=user_projects, guard=False,
        policy="identity:list_user_projects", check=rules.LIST_USER_PROJECTS,
    ),
)  # fmt: skip
TOKEN_RULES = {"identity:check_token": rules.CHECK_TOKEN}


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Hourly: forget what nobody needs to know any more."""

    def tidy(ids: tuple[str, ...]) -> None:
        margin = float(keeper(runtime).settings.allow_expired_window)
        runtime.db.write(lambda session: purge(session, runtime.clock(), margin))

    return (Loop("identity-tidy", tidy, interval=3600.0),)


__all__ = ["AUTH_ROUTES", "TOKEN_RULES", "loops", "moment"]
