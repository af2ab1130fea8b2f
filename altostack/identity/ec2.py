"""EC2 credentials, and tokens for requests that were signed with them: /v3/ec2tokens and /v3/s3tokens.

Whoever asks must itself be a service or an admin: to hold a signed request, such as a presigned URL, is not to be
its signer. Source: Identity API v3, OS-EC2.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import sqlalchemy as sa

from altostack.identity import rules, signature
from altostack.identity.auth import with_catalog
from altostack.identity.common import bump
from altostack.identity.credential import EC2, Credential, key_of, store
from altostack.identity.delegation import refuse_delegated
from altostack.identity.dialect import collection
from altostack.identity.keeper import keeper
from altostack.identity.project import PROJECTS, Project
from altostack.identity.signature import Malformed, Signed
from altostack.identity.token import Facts, Token, find_project, find_user, issue, roles_in
from altostack.identity.user import USERS, User
from altostack.kit.api import load
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, NotFound, Unauthorized
from altostack.kit.route import Route

_USER = "/users/{user_id}/credentials/OS-EC2"
_NOT_FOUND = "EC2 access key not found."


class Ec2In(msgspec.Struct):
    """The body of a create request."""

    tenant_id: str


class SignedIn(msgspec.Struct):
    """A signed request under any of the names that callers use."""

    credentials: dict[str, Any] | None = None
    credential: dict[str, Any] | None = None
    ec2_credentials: dict[str, Any] | None = msgspec.field(default=None, name="ec2Credentials")


# ---- the keys of one user


def _shown(call: Call, row: Credential) -> dict[str, Any]:
    blob = msgspec.json.decode(keeper(call.runtime).vault.open(row.sealed))
    return {
        "user_id": row.user_id,
        "tenant_id": row.project_id,
        "access": blob.get("access"),
        "secret": blob.get("secret"),
        "trust_id": None,
        "links": {"self": call.link(f"/users/{row.user_id}/credentials/OS-EC2/{blob.get('access')}")},
    }


def list_keys(call: Call) -> Any:
    user_id = call.params["user_id"]
    call.require(call.route.policy, {"user_id": user_id})
    refuse_delegated(call.context, "use credentials")
    load(call, USERS, user_id)
    query = sa.select(Credential).where(Credential.user_id == user_id, Credential.type == EC2)
    rows = call.session.execute(query.order_by(Credential.id)).scalars()
    return collection(call, "credentials", [_shown(call, row) for row in rows])


def create_key(call: Call) -> Any:
    user_id = call.params["user_id"]
    call.require(call.route.policy, {"target.credential.user_id": user_id})
    refuse_delegated(call.context, "use credentials")
    load(call, USERS, user_id)
    load(call, PROJECTS, call.body.tenant_id)
    blob = {"access": secrets.token_hex(16), "secret": secrets.token_hex(16)}
    fields = {
        "id": key_of(blob["access"]),
        "user_id": user_id,
        "project_id": call.body.tenant_id,
        "type": EC2,
    }
    return {"credential": _shown(call, store(call, msgspec.json.encode(blob).decode(), fields))}


def _key(call: Call) -> Credential:
    """The path's credential; policy sees whose it really is, whatever the path says. Raises NotFound, Forbidden.

    An access key is 128 random bits: to hear that there is no such key is to learn nothing.
    """
    row = call.session.get(Credential, key_of(call.params["access"]))
    if row is None or row.type != EC2:
        raise NotFound(_NOT_FOUND)
    call.require(call.route.policy, {"target.credential.user_id": row.user_id})
    refuse_delegated(call.context, "use credentials")
    load(call, USERS, call.params["user_id"])
    return row


def show_key(call: Call) -> Any:
    return {"credential": _shown(call, _key(call))}


def delete_key(call: Call) -> None:
    call.session.delete(_key(call))
    bump(call)  # the object store remembers what signatures are worth


# ---- tokens for signed requests


def _signed(call: Call) -> Signed:
    body: SignedIn = call.body
    given = body.credentials or body.credential or body.ec2_credentials or {}
    if "access" not in given:
        raise Unauthorized("EC2 Signature not supplied")
    try:
        return msgspec.convert(given, Signed, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The signed request is malformed: {error}.", field="credentials") from None


def _token(call: Call, request: Signed, *, s3: bool) -> tuple[Token, str]:
    """A token for the signer, who must still be all that the credential says, and the secret.

    Raises NotFound, Unauthorized.
    """
    kept, clock = keeper(call.runtime), call.runtime.clock
    epoch = kept.now()
    with call.runtime.db.read() as session:
        row = session.get(Credential, key_of(request.access))
        if row is None or row.type != EC2:
            raise NotFound(_NOT_FOUND)
        blob = msgspec.json.decode(kept.vault.open(row.sealed))
        secret = blob.get("secret")
        if not isinstance(secret, str) or not secret:
            raise Unauthorized("The credential has no secret.")
        _check(call, request, secret, s3=s3)
        user = find_user(session, User.id == row.user_id)
        scope = find_project(session, Project.id == (row.project_id or ""))
        if user is None or scope is None:
            raise Unauthorized("User not valid for project.")
        roles = roles_in(session, kept.graph(session), row.user_id, scope)
    facts = Facts(user=user[0], domain=user[1], scope=scope, roles=roles)
    if not facts.usable:
        raise Unauthorized("User not valid for project.")
    token = issue(kept, facts, ["ec2credential"], clock())
    kept.remember(token.id, epoch, token)
    return token, secret


def _check(call: Call, request: Signed, secret: str, *, s3: bool) -> None:
    """Raises Unauthorized for a wrong signature, and for one of another time than now."""
    try:
        right = signature.verifies_s3(request, secret) if s3 else signature.verifies(request, secret)
        if not right:
            raise Unauthorized("Credential signature mismatch" if s3 else "Invalid EC2 signature.")
        if s3:
            return  # how long a presigned URL lasts is in it, and for the object store to judge
        signed_at = signature.moment(request).timestamp()
    except Malformed as error:
        raise Unauthorized(str(error)) from None
    if abs(call.runtime.clock() - signed_at) > keeper(call.runtime).settings.credential_auth_ttl:
        raise Unauthorized("Credential is expired")


def ec2_token(call: Call) -> Reply:
    token, _ = _token(call, _signed(call), s3=False)
    return Reply(body={"token": with_catalog(call, token)}, headers={"X-Subject-Token": token.id})


def s3_token(call: Call) -> Any:
    """What the signer may do; the token itself stays here.

    ``signing_key``: of a version 4 signature's day, region and service, hexadecimal. It verifies the chunks of a signed
    upload and the signer's further requests of that day; the secret itself stays here too.
    """
    request = _signed(call)
    token, secret = _token(call, request, s3=True)
    key = signature.s3_signing_key(request, secret)
    shown = {} if key is None else {"signing_key": key.hex()}
    return {"token": with_catalog(call, token), **shown}


EC2_ROUTES = (
    Route(
        method="GET", path=_USER, handler=list_keys, guard=False, policy="identity:ec2_list_credentials",
        check=rules.EC2_LIST,
    ),
    Route(
        method="POST", path=_USER, handler=create_key, guard=False, policy="identity:ec2_create_credential",
        check=rules.EC2_CHANGE, body=Ec2In, status=201,
    ),
    Route(
        method="GET", path=_USER + "/{access}", handler=show_key, guard=False,
        policy="identity:ec2_get_credential", check=rules.EC2_SHOW,
    ),
    Route(
        method="DELETE", path=_USER + "/{access}", handler=delete_key, guard=False,
        policy="identity:ec2_delete_credential", check=rules.EC2_CHANGE, status=204,
    ),
    Route(
        method="POST", path="/ec2tokens", handler=ec2_token, policy="identity:ec2tokens_validate",
        check=rules.EC2_VALIDATE, body=SignedIn,
    ),
    Route(
        method="POST", path="/s3tokens", handler=s3_token, policy="identity:s3tokens_validate",
        check=rules.EC2_VALIDATE, body=SignedIn,
    ),
)  # fmt: skip
