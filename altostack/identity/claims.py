"""What a token says of itself, and its two forms: sealed (Fernet, short) and signed (JWS, readable)."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

# Bits in a token: the order is for ever.
METHODS = ("password", "token", "application_credential", "totp", "oauth1", "ec2credential")


class Claims(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What is sealed in a token. ``scope``: "" unscoped, "p" project, "d" domain, "s" system; ids as `packed`."""

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
    trust: bytes = b""
    access: bytes = b""

    @property
    def user_id(self) -> str:
        return unpacked(self.user)

    @property
    def target_id(self) -> str:
        return unpacked(self.target)

    @property
    def credential_id(self) -> str:
        return unpacked(self.credential)

    @property
    def trust_id(self) -> str:
        return unpacked(self.trust)

    @property
    def access_id(self) -> str:
        return unpacked(self.access)

    @property
    def audit_ids(self) -> list[str]:
        """The token's own audit id, then that of the first one in its chain."""
        return [base64.urlsafe_b64encode(raw).decode().rstrip("=") for raw in self.audits]

    @property
    def method_names(self) -> list[str]:
        return [name for bit, name in enumerate(METHODS) if self.methods >> bit & 1]


def bits(methods: Any) -> int:
    """The methods' names as `Claims.methods`."""
    return sum(1 << METHODS.index(name) for name in set(methods))


def packed(key: str) -> bytes:
    """An id as bytes; one of 32 hexadecimal digits takes half the space."""
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    return b"h" + raw if len(raw) == 16 and raw.hex() == key else b"t" + key.encode()


def unpacked(key: bytes) -> str:
    return key[1:].hex() if key[:1] == b"h" else key[1:].decode()


# ---- sealed


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Claims).decode


def to_sealed(claims: Claims) -> bytes:
    """The claims as what is sealed."""
    return _encode(claims)


def from_sealed(raw: bytes) -> Claims | None:
    """The claims, or None for what was sealed for another purpose or by another version."""
    try:
        return _decode(raw)
    except ValueError:
        return None


# ---- signed: the names are those of the identity service's JWS tokens (RFC 7519 and ``openstack_*``)


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON that is signed."""

    sub: str
    iat: int
    exp: int
    openstack_methods: list[str]
    openstack_audit_ids: list[str]
    altostack_worth: int
    openstack_project_id: str | None = None
    openstack_domain_id: str | None = None
    openstack_system: str | None = None
    openstack_trust_id: str | None = None
    openstack_app_cred_id: str | None = None
    openstack_access_token_id: str | None = None


def to_signed(claims: Claims) -> bytes:
    """The claims as the JSON to sign."""
    return msgspec.json.encode(
        Payload(
            sub=claims.user_id,
            iat=claims.issued,
            exp=claims.expires,
            openstack_methods=claims.method_names,
            openstack_audit_ids=claims.audit_ids,
            altostack_worth=claims.worth,
            openstack_project_id=claims.target_id if claims.scope == "p" else None,
            openstack_domain_id=claims.target_id if claims.scope == "d" else None,
            openstack_system="all" if claims.scope == "s" else None,
            openstack_trust_id=claims.trust_id if claims.trust else None,
            openstack_app_cred_id=claims.credential_id if claims.credential else None,
            openstack_access_token_id=claims.access_id if claims.access else None,
        )
    )


def from_signed(raw: bytes) -> Claims | None:
    """The claims, or None for what another program signed with these keys."""
    try:
        found = msgspec.json.decode(raw, type=Payload)
        audits = [base64.urlsafe_b64decode(audit + "==") for audit in found.openstack_audit_ids]
        methods = bits(found.openstack_methods)
    except ValueError:
        return None
    project, domain = found.openstack_project_id, found.openstack_domain_id
    scope = "p" if project else "d" if domain else "s" if found.openstack_system else ""
    return Claims(
        user=packed(found.sub),
        methods=methods,
        scope=scope,
        target=packed(project or domain or ""),
        issued=found.iat,
        expires=found.exp,
        audits=audits,
        worth=found.altostack_worth,
        credential=_optional(found.openstack_app_cred_id),
        trust=_optional(found.openstack_trust_id),
        access=_optional(found.openstack_access_token_id),
    )


def _optional(key: str | None) -> bytes:
    return b"" if key is None else packed(key)
