"""Key pairs: a user's public keys, handed to servers through their metadata."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy.orm import Mapped

from altostack.compute.dialect import micro
from altostack.compute.model import ComputeRow, Stamped
from altostack.compute.values import fields_at, spec
from altostack.kit import listing
from altostack.kit.api import view, views
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, NotFound, OverQuota
from altostack.kit.policy import ANY
from altostack.kit.resource import Computed, Resource, field, given, private, struct
from altostack.kit.route import Route
from altostack.kit.versions import Version

# ---- row


class Keypair(Stamped, ComputeRow):
    """A public key under a name that is unique for its user."""

    __tablename__ = "keypairs"
    __table_args__ = (sa.UniqueConstraint("user_id", "name"),)
    number: Mapped[int] = private(primary_key=True, autoincrement=True)
    user_id: Mapped[str] = private(type_=sa.String(64))
    name: Mapped[str] = field(brief=True, sort=True)
    public_key: Mapped[str] = field(brief=True, max_length=65_535)
    fingerprint: Mapped[str] = field(brief=True)
    type: Mapped[str] = field(brief=True, since="2.2", type_=sa.String(16))


# ---- actions

_SAFE = r"^[a-zA-Z0-9 _\-]+$"
_SAFE_292 = r"^[a-zA-Z0-9 _\-@.]+$"
_OLD_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_SAFE)]
_NEW_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_SAFE_292)]
_CREATE = {
    "name": spec(_OLD_NAME, required=True, until="2.91"),
    "public_key": spec(str, until="2.91"),
    "type": spec(Literal["ssh", "x509"], since="2.2"),
    "user_id": spec(str, since="2.10"),
}
_CREATE_292 = {
    "name": spec(_NEW_NAME, required=True),
    "public_key": spec(str, required=True),
    "type": _CREATE["type"],
    "user_id": _CREATE["user_id"],
}
_RULE = "os_compute_api:os-keypairs:{}"
# A user's own, or an admin's.
_CHECK = "role:admin or user_id:%(user_id)s"


def create_body(version: Version | None) -> Any:
    """What a client may send; from 2.92 on keys are only imported."""
    newer = version is None or version >= (2, 92)
    inner = struct("KeypairCreate", fields_at(_CREATE_292 if newer else _CREATE, version))
    return struct("KeypairCreateBody", [("keypair", inner, True)])


def create(call: Call) -> Any:
    """Import a public key, or make a pair and give away the private half, once."""
    fields = given(call.body.keypair)
    user_id = fields.get("user_id") or call.context.user_id
    call.require(_RULE.format("create"), {"user_id": user_id})
    name, kind = fields["name"].strip(), fields.get("type", "ssh")
    if not name:
        raise BadRequest("Invalid input for field/attribute name. It may not be blank.", field="name")
    private_key = None
    if "public_key" in fields:
        public_key = fields["public_key"]
    elif kind == "x509":
        raise BadRequest(
            "Keys of type x509 can only be imported here: public_key is missing.", field="public_key"
        )
    else:
        private_key, public_key = _generate()
    fingerprint = fingerprint_of(public_key, kind)
    if _find(call, user_id, name) is not None:
        raise Conflict(f"Key pair '{name}' already exists.", field="name")
    limit = call.runtime.quotas.limits(call.session, call.context.project_id or "").get("key_pairs", -1)
    if 0 <= limit <= _count(call, user_id):
        raise OverQuota("Quota exceeded, too many key pairs.", field="key_pairs")
    row = Keypair(user_id=user_id, name=name, public_key=public_key, fingerprint=fingerprint, type=kind)
    call.session.add(row)
    call.session.flush()
    answer = {**view(call, KEYPAIRS, row, op="create", brief=True), "user_id": user_id}
    if private_key is not None:
        answer["private_key"] = private_key
    return Reply(body={"keypair": answer}, status=201 if call.at_least("2.2") else 200)


def _generate() -> tuple[str, str]:
    """A fresh RSA key of 2048 bits: (PEM of the private half, OpenSSH line of the public one)."""
    made = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    secret = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = made.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return secret.decode(), public.decode() + " Generated-by-Altostack"


def fingerprint_of(public_key: str, kind: str) -> str:
    """MD5 of an SSH key (RFC 4716, section 4), SHA-1 of a certificate. Raises BadRequest when it is neither."""
    try:
        if kind == "x509":
            certificate = load_pem_x509_certificate(public_key.encode())
            digest = hashlib.sha1(certificate.public_bytes(serialization.Encoding.DER), usedforsecurity=False)
        else:
            serialization.load_ssh_public_key(public_key.encode())
            digest = hashlib.md5(base64.b64decode(public_key.split()[1]), usedforsecurity=False)
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise BadRequest(
            f"Keypair data is invalid: failed to generate fingerprint: {error}", field="public_key"
        ) from error
    text = digest.hexdigest()
    return ":".join(text[n : n + 2] for n in range(0, len(text), 2))


def _user(call: Call, op: str) -> str:
    """Whose keys are meant; policy is asked for that user."""
    asked = call.arg("user_id") if call.at_least("2.10") else None
    user_id = asked or call.context.user_id
    call.require(_RULE.format(op), {"user_id": user_id})
    return user_id


def _find(call: Call, user_id: str, name: str) -> Keypair | None:
    query = sa.select(Keypair).where(Keypair.user_id == user_id, Keypair.name == name)
    found: Keypair | None = call.session.execute(query).scalars().first()
    return found


def find(call: Call, name: str) -> Keypair | None:
    """The caller's own key pair of that name."""
    return _find(call, call.context.user_id, name)


def _count(call: Call, user_id: str) -> int:
    query = sa.select(sa.func.count()).select_from(Keypair).where(Keypair.user_id == user_id)
    return int(call.session.execute(query).scalar_one())


def _load(call: Call, op: str) -> Keypair:
    user_id, name = _user(call, op), call.params["keypair_name"]
    row = _find(call, user_id, name)
    if row is None:
        raise NotFound(f"Keypair {name} not found for user {user_id}", field="keypair_name")
    return row


def index(call: Call) -> Any:
    """A user's key pairs, each in an envelope of its own; paged from 2.35 on."""
    user_id = _user(call, "index")
    if call.at_least("2.35"):
        rows, more = listing.fetch(call, KEYPAIRS)
    else:
        query = sa.select(Keypair).where(Keypair.user_id == user_id).order_by(Keypair.name)
        rows, more = list(call.session.execute(query).scalars()), False
    found = views(call, KEYPAIRS).many(call, rows, brief=True)
    links = call.runtime.service.dialect.page_links(call, KEYPAIRS, rows, more)
    return {"keypairs": [{"keypair": one} for one in found], **links}


def show(call: Call) -> Any:
    return {"keypair": view(call, KEYPAIRS, _load(call, "show"))}


def delete(call: Call) -> Any:
    call.session.delete(_load(call, "delete"))
    call.session.flush()
    return Reply(status=204 if call.at_least("2.2") else 202)


# ---- table

KEYPAIRS = Resource(
    row=Keypair,
    name="keypair",
    path="/os-keypairs",
    policy={"all": ANY},
    lookup="name",
    narrow=lambda call: Keypair.user_id == (call.arg("user_id") or call.context.user_id),
    filters={"user_id": lambda call, values: None},  # in narrow
    computed={
        "user_id": Computed(get=lambda call, row: row.user_id),
        "id": Computed(get=lambda call, row: row.number),
        "deleted": Computed(get=lambda call, row: False),
        "deleted_at": Computed(get=lambda call, row: None),
        "created_at": Computed(get=lambda call, row: micro(row.created_at)),
        "updated_at": Computed(get=lambda call, row: micro(row.updated_at)),
    },
    default_sort=(("name", False),),
)

_PATH = "/os-keypairs"
ROUTES = (
    Route(method="GET", path=_PATH, handler=index, policy=_RULE.format("index"), check=_CHECK, guard=False),
    Route(
        method="POST", path=_PATH, handler=create, policy=_RULE.format("create"), check=_CHECK, guard=False,
        body=create_body,
    ),
    Route(
        method="GET", path=_PATH + "/{keypair_name}", handler=show, policy=_RULE.format("show"), check=_CHECK,
        guard=False,
    ),
    Route(
        method="DELETE", path=_PATH + "/{keypair_name}", handler=delete, policy=_RULE.format("delete"),
        check=_CHECK, guard=False, status=204,
    ),
)  # fmt: skip
