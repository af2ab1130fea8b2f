"""Credentials: secrets that users leave with the service (EC2 keys, TOTP seeds, certificates), encrypted at rest."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.common import bump, self_link
from altostack.identity.delegation import delegated, refuse_delegated
from altostack.identity.keeper import keeper
from altostack.identity.model import IdentityRow
from altostack.identity.project import PROJECTS
from altostack.identity.user import USERS
from altostack.kit.api import add, load, remove
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Conflict
from altostack.kit.resource import Computed, Resource, field, key, private

EC2, TOTP = "ec2", "totp"
_DELEGATIONS = ("trust_id", "app_cred_id", "access_token_id")
_MAX_BLOB = 10_000  # characters: encrypted it still fits the smallest TEXT column


class Credential(IdentityRow):
    """``sealed``: the blob, encrypted. ``used``: of a TOTP seed, the last time step whose code was accepted."""

    __tablename__ = "credentials"
    __table_args__ = (
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], ondelete="CASCADE"),
    )
    noun = "credential"
    id: Mapped[str] = key()
    user_id: Mapped[str] = field(required=True, filter=True, sort=True, max_length=64, index=True)
    project_id: Mapped[str | None] = field(create=True, default=None, max_length=64, index=True)
    type: Mapped[str] = field(required=True, filter=True, sort=True, ge=1, max_length=255)
    sealed: Mapped[str] = private(type_=sa.Text())
    used: Mapped[int] = private(default=0, type_=sa.BigInteger())


_Blob = Annotated[str, msgspec.Meta(max_length=_MAX_BLOB)]


class CredentialIn(msgspec.Struct):
    """The body of a create request (identity API v3). Other keys are let through and mean nothing."""

    blob: _Blob
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    user_id: Annotated[str, msgspec.Meta(max_length=64)]
    project_id: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class CredentialChange(msgspec.Struct, forbid_unknown_fields=True):
    """Only the secret itself changes: a credential never gets another owner, project or type."""

    blob: _Blob


def key_of(access: str) -> str:
    """The id of the EC2 credential with that access key."""
    return hashlib.sha256(access.encode("utf-8", "surrogatepass")).hexdigest()


def blob_of(text: str) -> dict[str, Any]:
    """An EC2 credential's blob. Raises BadRequest."""
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise BadRequest("Invalid blob in credential", field="blob") from None
    if not isinstance(found.get("access"), str) or not found["access"]:
        raise BadRequest("The blob of an EC2 credential must hold 'access'.", field="blob")
    for word in _DELEGATIONS:
        if found.get(word) is not None:
            raise BadRequest(f"{word} cannot be set for a credential.", field="blob")
    return found


def seed_of(text: str) -> bytes:
    """A TOTP seed. Raises ValueError for what is not base 32."""
    plain = text.strip().upper().rstrip("=")
    return base64.b32decode(plain + "=" * (-len(plain) % 8))  # binascii.Error is a ValueError


def _checked(kind: str, blob: str) -> str:
    """``blob`` if one of that type can look like it. Raises BadRequest."""
    if kind == EC2:
        blob_of(blob)
    if kind == TOTP:
        try:
            seed_of(blob)
        except ValueError:
            raise BadRequest("The blob of a TOTP credential is its seed in base 32.", field="blob") from None
    return blob


def _parent(call: Call) -> None:
    if call.route.op != "list":
        refuse_delegated(call.context, "use credentials")


def _listed(call: Call) -> Any:
    """Of a list: everybody's for those who may see anybody's, else one's own; nothing for a delegation."""
    if call.route.op != "list":
        return sa.true()
    if delegated(call.context):
        return sa.false()
    if call.allows("identity:get_credential", {"target.credential.user_id": ""}):
        return sa.true()
    return Credential.user_id == call.context.user_id


def create(call: Call, fields: dict[str, Any]) -> Credential:
    call.require("identity:create_credential", {"target.credential.user_id": fields["user_id"]})
    blob = _checked(fields["type"], fields.pop("blob"))
    load(call, USERS, fields["user_id"])
    if fields["project_id"] is not None:
        load(call, PROJECTS, fields["project_id"])
    if fields["type"] == EC2:
        if fields["project_id"] is None:
            raise BadRequest("An EC2 credential needs a project_id.", field="project_id")
        fields["id"] = key_of(blob_of(blob)["access"])
        if call.session.get(Credential, fields["id"]) is not None:
            raise Conflict("Duplicate entry: the access key is in use.", field="blob")
    return store(call, blob, fields)


def store(call: Call, blob: str, fields: dict[str, Any]) -> Credential:
    """A new row with its sealed ``blob``."""
    made: Credential = add(
        call, CREDENTIALS, Credential(**fields, sealed=keeper(call.runtime).vault.seal(blob))
    )
    return made


def update(call: Call, row: Credential, fields: dict[str, Any]) -> None:
    row.sealed = keeper(call.runtime).vault.seal(_checked(row.type, fields["blob"]))
    row.used = 0
    bump(call)  # the object store remembers what signatures are worth


def delete(call: Call, row: Credential) -> None:
    remove(call, CREDENTIALS, row)
    bump(call)


CREDENTIALS = Resource(
    row=Credential,
    name="credential",
    policy=rules.STORED_CREDENTIALS,
    parent=_parent,
    narrow=_listed,
    create=create,
    create_body=CredentialIn,
    update=update,
    update_body=CredentialChange,
    delete=delete,
    computed={
        "blob": Computed(get=lambda call, row: keeper(call.runtime).vault.open(row.sealed)),
        "links": self_link("/credentials"),
    },
    default_sort=(("id", False),),
    doc="A secret that a user leaves with the service, encrypted at rest.",
)
