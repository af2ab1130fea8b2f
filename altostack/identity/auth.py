"""/v3/auth: proving who one is, tokens, and what one may ask a token for.

Whatever is wrong with a login — no such user, a wrong password, a disabled user or project, no role — the answer is
the same 401 and takes the same work.
"""

from __future__ import annotations

from typing import Any

from altostack.identity import compliance, oauth1_request, rules
from altostack.identity.assignment import direct_roles, reachable_domains, reachable_projects
from altostack.identity.claims import Claims
from altostack.identity.common import bump
from altostack.identity.delegation import by_delegation
from altostack.identity.dialect import own_url
from altostack.identity.domain import DOMAINS
from altostack.identity.keeper import Keeper, keeper
from altostack.identity.login import REFUSED, Auth, Login, Proof, facts_of, prove
from altostack.identity.project import PROJECTS
from altostack.identity.receipt import HEADER, Insufficient, enough, redeem
from altostack.identity.receipt import issue as receipt_for
from altostack.identity.token import Token, issue, moment, purge, revoke, validate
from altostack.identity.user import USERS
from altostack.kit.api import load, page
from altostack.kit.call import Call, Reply
from altostack.kit.errors import Forbidden, NotFound, Unauthorized
from altostack.kit.policy import ANY, PUBLIC
from altostack.kit.reconcile import Loop
from altostack.kit.route import Route
from altostack.kit.service import Runtime

# ---- tokens


def create_token(call: Call) -> Reply:
    try:
        token = authenticate(call, call.body.auth)
    except Insufficient as lacking:
        where = f'Keystone uri="{call.runtime.cloud.get("auth_url", call.runtime.url)}"'
        return Reply(status=401, body=lacking.body, headers={HEADER: lacking.key, "WWW-Authenticate": where})
    return _answer(token, with_catalog(call, token))


def authenticate(call: Call, auth: Auth) -> Token:
    """A token for who proves all that is asked of them.

    Everything is read before secrets are compared: that takes long, and no connection is held meanwhile. Raises
    BadRequest, Unauthorized, Forbidden, and Insufficient where further factors are wanted.
    """
    runtime, kept = call.runtime, keeper(call.runtime)
    epoch, now = kept.now(), runtime.clock()
    with runtime.db.read() as session:
        proof = prove(call, session, kept, auth.identity)
        facts = facts_of(call, session, kept, proof, auth.scope)
    earned = _earned(call, kept, proof)
    methods = [*proof.methods, *(earned or [])]
    whole = proof.user is None or enough(proof.user[0], methods)
    answers = [kept.passwords.matches(secret, stored) for secret, stored in proof.checks]
    right = all(answers) and not proof.wrong
    by_password = "password" in auth.identity.methods
    if (by_password or "totp" in auth.identity.methods) and proof.user is not None and not proof.failed:
        right = compliance.accepts(runtime, proof.user[0], right, whole=whole)
    if proof.failed or not right or earned is None or proof.user is None:
        raise Unauthorized(REFUSED)
    if not all(part.enabled for part in proof.user):
        raise Unauthorized(REFUSED)
    if by_password:
        compliance.check_expiry(runtime, proof.user[0])
        if not compliance.check_activity(runtime, proof.user[0]):
            raise Unauthorized(REFUSED)
    if proof.once and not runtime.db.write(lambda session: all(take(session) for take in proof.once)):
        raise Unauthorized(REFUSED)
    if not whole:
        if by_delegation(methods):  # a receipt would outlive what narrows the delegation
            raise Unauthorized(REFUSED)
        raise receipt_for(kept, *proof.user, methods, now)
    limit = proof.credential.expires_at if proof.credential is not None else None
    if facts is None or not facts.usable or (limit is not None and limit.timestamp() <= now):
        raise Unauthorized(REFUSED)
    if proof.use is not None:
        runtime.db.write(proof.use)
    before = proof.before.claims if proof.before is not None else None
    token = issue(kept, facts, methods, now, until=before.expires if before else None, chain=_chain(before))
    kept.remember(token.id, epoch, token)
    return token


def _earned(call: Call, kept: Keeper, proof: Proof) -> list[str] | None:
    """The methods of the receipt that came along; None for one that is not the user's or not good any more."""
    key = call.header(HEADER)
    if not key:
        return []
    return None if proof.user is None else redeem(kept, key, *proof.user, call.runtime.clock())


def _chain(before: Claims | None) -> bytes | None:
    return before.audits[-1] if before is not None else None


def _answer(token: Token, body: dict[str, Any]) -> Reply:
    return Reply(body={"token": body}, headers={"X-Subject-Token": token.id, "Vary": "X-Auth-Token"})


def with_catalog(call: Call, token: Token) -> dict[str, Any]:
    """The token object with the catalogue of its scope, unless the query says ``nocatalog``."""
    body, scope = token.body(), token.facts.scope
    if scope.kind and "nocatalog" not in call.query:
        project_id = scope.project.id if scope.project is not None else None
        kept = keeper(call.runtime)
        body["catalog"] = kept.offers(call.runtime.db.read, token.facts.user.id, project_id)
    return body


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
    return _answer(token, with_catalog(call, token))


def delete_token(call: Call) -> None:
    """Those made from the token go with it, unless ``cascade=false``."""
    token = _subject(call)
    revoke(call.session, token, call.runtime.clock(), chain=call.flag("cascade", True))
    bump(call)


# ---- what one may ask a token for


def auth_catalog(call: Call) -> Any:
    if call.context.project_id is None:
        raise Forbidden("A project-scoped token is required to produce a service catalog.")
    kept = keeper(call.runtime)
    found = kept.offers(call.runtime.db.read, call.context.user_id, call.context.project_id)
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
        runtime.db.write(lambda session: oauth1_request.forget(session, runtime.clock()))

    return (Loop("identity-tidy", tidy, interval=3600.0),)


__all__ = ["AUTH_ROUTES", "TOKEN_RULES", "loops", "moment"]
