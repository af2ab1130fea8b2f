"""OAuth 1.0a: a consumer gets, from a user, an access token for some of the user's roles on one project.

Consumer -> request token -> authorized by the user, who hands over the verifier -> access token -> tokens (method
"oauth1"). Sources: RFC 5849; Identity API v3, OS-OAUTH1.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.application_credential import RoleRef
from altostack.identity.assignment import direct_roles
from altostack.identity.audit import created, deleted, updated
from altostack.identity.common import bump, self_link
from altostack.identity.delegation import refuse_delegated
from altostack.identity.dialect import collection
from altostack.identity.keeper import keeper
from altostack.identity.model import Extra, IdentityRow
from altostack.identity.oauth1_request import OauthRequest, remember, signed
from altostack.identity.password import Passwords, fast_hash
from altostack.identity.project import Project
from altostack.identity.role import ROLES
from altostack.kit.api import add, load, view
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, NotFound, Unauthorized
from altostack.kit.policy import PUBLIC
from altostack.kit.resource import Computed, Resource, field, key, private
from altostack.kit.route import Route


class Consumer(Extra, IdentityRow):
    """A program that users may let act for them. ``sealed``: its secret, encrypted."""

    __tablename__ = "oauth_consumers"
    noun = "consumer"
    id: Mapped[str] = key()
    description: Mapped[str | None] = field(create=True, update=True, default=None, max_length=255)
    sealed: Mapped[str] = private(type_=sa.Text())


class RequestToken(IdentityRow):
    """``user_id``, ``role_ids`` and ``verifier`` (a hash) are there once a user has authorized it."""

    __tablename__ = "oauth_request_tokens"
    __table_args__ = (
        sa.ForeignKeyConstraint(["consumer_id"], ["oauth_consumers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
    )
    noun = "request_token"
    id: Mapped[str] = key()
    consumer_id: Mapped[str] = private(type_=sa.String(64), index=True)
    project_id: Mapped[str] = private(type_=sa.String(64), index=True)
    user_id: Mapped[str | None] = private(default=None, type_=sa.String(64), index=True)
    role_ids: Mapped[list[str]] = private(default=[])
    verifier: Mapped[str | None] = private(default=None)
    sealed: Mapped[str] = private(type_=sa.Text())
    expires_at: Mapped[datetime | None] = private(default=None)


class AccessToken(IdentityRow):
    """What a consumer may do for a user: the roles with ``role_ids`` and what they imply, where the user has them."""

    __tablename__ = "oauth_access_tokens"
    __table_args__ = (
        sa.ForeignKeyConstraint(["consumer_id"], ["oauth_consumers.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
    )
    noun = "access_token"
    id: Mapped[str] = key()
    consumer_id: Mapped[str] = private(type_=sa.String(64), index=True)
    project_id: Mapped[str] = private(type_=sa.String(64), index=True)
    user_id: Mapped[str] = private(type_=sa.String(64), index=True)
    role_ids: Mapped[list[str]] = private()
    sealed: Mapped[str] = private(type_=sa.Text())
    expires_at: Mapped[datetime | None] = private(default=None)


def alive(row: RequestToken | AccessToken, now: float) -> bool:
    """Whether its time has not run out."""
    return row.expires_at is None or row.expires_at.timestamp() > now


# ---- consumers


@created
def create(call: Call, fields: dict[str, Any]) -> Consumer:
    call.memo["secret"] = secret = secrets.token_hex(16)
    row: Consumer = add(call, CONSUMERS, Consumer(**fields, sealed=keeper(call.runtime).vault.seal(secret)))
    return row


@updated
def update(call: Call, row: Consumer, fields: dict[str, Any]) -> None:
    if "secret" in call.extra:
        raise BadRequest("A consumer's secret cannot be changed.", field="secret")
    for attr, value in fields.items():
        setattr(row, attr, value)


@deleted
def delete(call: Call, row: Consumer) -> None:
    """Its tokens go with it."""
    call.session.delete(row)
    bump(call)


CONSUMERS = Resource(
    row=Consumer,
    name="consumer",
    path="/OS-OAUTH1/consumers",
    policy=rules.CONSUMERS,
    create=create,
    update=update,
    delete=delete,
    extra="extra",
    computed={
        "secret": Computed(get=lambda call, row: call.memo.get("secret", msgspec.UNSET)),
        "links": self_link("/OS-OAUTH1/consumers"),
    },
    default_sort=(("id", False),),
    doc="A program that users may let act for them (OAuth 1.0a).",
)


# ---- the three steps


def _consumer(call: Call, request: OauthRequest) -> tuple[Consumer, str]:
    """Who signed, and its secret. Raises Unauthorized."""
    row = call.session.get(Consumer, request.get("oauth_consumer_key"))
    if row is None:
        raise Unauthorized("Invalid signature")
    return row, keeper(call.runtime).vault.open(row.sealed)


def _lasting(call: Call, seconds: int) -> datetime | None:
    return datetime.fromtimestamp(int(call.runtime.clock()) + seconds, UTC) if seconds > 0 else None


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _handed_over(row: RequestToken | AccessToken, secret: str) -> Reply:
    """The form-encoded answer of RFC 5849, 2.1 and 2.3."""
    found = {"oauth_token": row.id, "oauth_token_secret": secret}
    if row.expires_at is not None:
        found["oauth_expires_at"] = str(_time(row.expires_at))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Reply(status=201, stream=[urlencode(found, safe=":").encode()], headers=headers)


def request_token(call: Call) -> Reply:
    request = signed(call)
    project_id = call.header("Requested-Project-Id")
    if not request.get("oauth_consumer_key") or not project_id:
        raise BadRequest("oauth_consumer_key and the header Requested-Project-Id are required.")
    consumer, secret = _consumer(call, request)
    request.verify(secret, "")
    remember(call.session, request)
    if call.session.get(Project, project_id) is None:
        raise NotFound(f"Could not find project: {project_id}.")
    own = secrets.token_hex(16)
    row = RequestToken(
        id=secrets.token_hex(16),
        consumer_id=consumer.id,
        project_id=project_id,
        sealed=keeper(call.runtime).vault.seal(own),
        expires_at=_lasting(call, keeper(call.runtime).settings.oauth1_request_token_duration),
    )
    call.session.add(row)
    return _handed_over(row, own)


class AuthorizeIn(msgspec.Struct):
    """The roles that the user lends."""

    roles: list[RoleRef]


def authorize(call: Call) -> Any:
    refuse_delegated(call.context, "authorize a request token")
    row = call.session.get(RequestToken, call.params["request_token_id"])
    if row is None:
        raise NotFound(f"Could not find request token: {call.params['request_token_id']}.")
    if not alive(row, call.runtime.clock()):
        raise Unauthorized("Request token is expired")
    graph = keeper(call.runtime).graph(call.session)
    project = call.session.get(Project, row.project_id)
    held = set(graph.closure(direct_roles(call.session, call.context.user_id, project=project)))
    names = {graph.roles[one]["name"]: one for one in held}
    wanted = []
    for ref in call.body.roles:
        if (ref.id is None) == (ref.name is None):
            raise BadRequest("A role is named by its id or by its name.", field="roles")
        wanted.append(ref.id if ref.id is not None else names.get(str(ref.name), ""))
    if not wanted or not set(wanted) <= held:
        raise Unauthorized("authorizing user does not have role required")
    verifier = secrets.token_hex(16)
    row.user_id, row.role_ids, row.verifier = call.context.user_id, sorted(set(wanted)), fast_hash(verifier)
    return {"token": {"oauth_verifier": verifier}}


def access_token(call: Call) -> Reply:
    request = signed(call)
    for name in ("oauth_consumer_key", "oauth_token", "oauth_verifier"):
        if not request.get(name):
            raise BadRequest(f"{name} is required.", field=name)
    kept = keeper(call.runtime)
    consumer, secret = _consumer(call, request)
    row = call.session.get(RequestToken, request.get("oauth_token"))
    if row is None or row.consumer_id != consumer.id:
        raise Unauthorized("Invalid signature")
    request.verify(secret, kept.vault.open(row.sealed))
    remember(call.session, request)
    if not alive(row, call.runtime.clock()):
        raise Unauthorized("Request token is expired")
    if row.user_id is None or not Passwords.quick(request.get("oauth_verifier"), row.verifier):
        raise Unauthorized("Provided verifier does not match stored verifier")
    own = secrets.token_hex(16)
    made = AccessToken(
        id=secrets.token_hex(16),
        consumer_id=consumer.id,
        project_id=row.project_id,
        user_id=row.user_id,
        role_ids=row.role_ids,
        sealed=kept.vault.seal(own),
        expires_at=_lasting(call, kept.settings.oauth1_access_token_duration),
    )
    call.session.add(made)
    call.session.delete(row)  # good for one access token
    return _handed_over(made, own)


# ---- what a user has let others do

_TOKENS = "/users/{user_id}/OS-OAUTH1/access_tokens"


def _shown(call: Call, row: AccessToken) -> dict[str, Any]:
    own = call.link(f"/users/{row.user_id}/OS-OAUTH1/access_tokens/{row.id}")
    return {
        "id": row.id,
        "consumer_id": row.consumer_id,
        "project_id": row.project_id,
        "authorizing_user_id": row.user_id,
        "expires_at": _time(row.expires_at),
        "links": {"self": own, "roles": f"{own}/roles"},
    }


def _loaded(call: Call) -> AccessToken:
    """The path's access token, if it is the path's user's. Raises NotFound."""
    refuse_delegated(call.context, "manage OAuth access tokens")
    row = call.session.get(AccessToken, call.params["access_token_id"])
    if row is None or row.user_id != call.params["user_id"]:
        raise NotFound(f"Could not find access token: {call.params['access_token_id']}.")
    return row


def list_tokens(call: Call) -> Any:
    refuse_delegated(call.context, "manage OAuth access tokens")
    query = (
        sa.select(AccessToken).where(AccessToken.user_id == call.params["user_id"]).order_by(AccessToken.id)
    )
    return collection(
        call, "access_tokens", [_shown(call, row) for row in call.session.execute(query).scalars()]
    )


def show_token(call: Call) -> Any:
    return {"access_token": _shown(call, _loaded(call))}


def delete_token(call: Call) -> None:
    call.session.delete(_loaded(call))
    bump(call)


def list_roles(call: Call) -> Any:
    found = (call.session.get(ROLES.row, one) for one in _loaded(call).role_ids)
    return collection(call, "roles", [view(call, ROLES, role) for role in found if role is not None])


def show_role(call: Call) -> Any:
    if call.params["role_id"] not in _loaded(call).role_ids:
        raise NotFound(f"Could not find role: {call.params['role_id']}.")
    return {"role": view(call, ROLES, load(call, ROLES, call.params["role_id"]))}


def _route(path: str, handler: Any, policy: str, method: str = "GET", status: int = 200) -> Route:
    return Route(
        method=method, path=_TOKENS + path, handler=handler, policy=f"identity:{policy}", check=rules.PROJECT_ADMIN,
        status=status,
    )  # fmt: skip


OAUTH1_ROUTES = (
    Route(method="POST", path="/OS-OAUTH1/request_token", handler=request_token, policy=PUBLIC, status=201),
    Route(method="POST", path="/OS-OAUTH1/access_token", handler=access_token, policy=PUBLIC, status=201),
    Route(
        method="PUT", path="/OS-OAUTH1/authorize/{request_token_id}", handler=authorize, body=AuthorizeIn,
        policy="identity:authorize_request_token", check=rules.PROJECT_ADMIN,
    ),
    _route("", list_tokens, "list_access_tokens"),
    _route("/{access_token_id}", show_token, "get_access_token"),
    _route("/{access_token_id}", delete_token, "delete_access_token", "DELETE", 204),
    _route("/{access_token_id}/roles", list_roles, "list_access_token_roles"),
    _route("/{access_token_id}/roles/{role_id}", show_role, "get_access_token_role"),
)  # fmt: skip
