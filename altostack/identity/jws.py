"""Tokens that anybody can read and check with a public key: JWS in compact form, ES256.

The repository: ``private/private.pem`` signs; every ``public/<kid>.pem`` verifies, the kid being a digest of the key
itself. Sources: RFC 7515 and 7518 (ES256: P-256, SHA-256, r and s side by side).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from altostack.identity.keys import locked, write_whole

FOLDER = "jws"
_HALF = 32  # bytes of r, and of s
_ES256 = ec.ECDSA(hashes.SHA256())


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str


def prepare(folder: Path) -> None:
    """Make the repository with one pair of keys; what is there already stays. Idempotent."""
    for name in ("private", "public"):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(folder):
        if not (folder / "private" / "private.pem").exists():
            _pair(folder)


def rotate(folder: Path, *, max_active_keys: int = 3) -> str:
    """A new pair signs; the newest ``max_active_keys`` public keys still verify. Returns the new kid.

    The public key is there before anything is signed with the private one. May be killed anywhere and run again.
    Raises ValueError for fewer than two keys.
    """
    if max_active_keys < 2:
        raise ValueError("tokens that are out need their key: max_active_keys must be 2 or more")
    prepare(folder)
    with locked(folder):
        kid = _pair(folder)
        known = sorted((folder / "public").glob("*.pem"), key=lambda path: path.stat().st_mtime_ns)
        old = [path for path in known if path.stem != kid]
        for path in old[: max(0, len(old) - (max_active_keys - 1))]:
            path.unlink()
    return kid


def _pair(folder: Path) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    kid = _kid(key.public_key())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(folder / "public" / f"{kid}.pem", public)
    write_whole(folder / "private" / "private.pem", private)
    return kid


def _kid(key: ec.EllipticCurvePublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    return hashlib.sha256(raw).hexdigest()[:32]


def _plain(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class JwsRing:
    """The repository as a process uses it; a rotation elsewhere is noticed at the next use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._private: tuple[int, int, ec.EllipticCurvePrivateKey, str] | None = None
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}

    def sign(self, payload: bytes) -> str:
        """``header.payload.signature``"""
        key, kid = self._signer()
        head = msgspec.json.encode({"alg": "ES256", "typ": "JWT", "kid": kid})
        text = f"{_plain(head)}.{_plain(payload)}"
        r, s = decode_dss_signature(key.sign(text.encode(), _ES256))
        return f"{text}.{_plain(r.to_bytes(_HALF, 'big') + s.to_bytes(_HALF, 'big'))}"

    def verify(self, token: str) -> bytes | None:
        """The payload, or None for what none of the keys signed, in this very way."""
        parts = token.split(".")
        if len(parts) != 3:
            return None
        try:
            head, payload, signature = (_raw(part) for part in parts)
            header = msgspec.json.decode(head, type=_Header)
        except ValueError:
            return None
        key = self._known(header.kid) if header.alg == "ES256" else None
        if key is None or len(signature) != 2 * _HALF:
            return None
        r, s = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
        try:
            key.verify(encode_dss_signature(r, s), f"{parts[0]}.{parts[1]}".encode(), _ES256)
        except InvalidSignature:
            return None
        return payload

    def _signer(self) -> tuple[ec.EllipticCurvePrivateKey, str]:
        path = self._folder / "private" / "private.pem"
        status = os.stat(path)
        stamp = (status.st_mtime_ns, status.st_ino)
        if self._private is None or self._private[:2] != stamp:
            key: Any = serialization.load_pem_private_key(path.read_bytes(), password=None)
            self._private = (*stamp, key, _kid(key.public_key()))
        return self._private[2], self._private[3]

    def _known(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        """The public key, as long as its file is there."""
        if len(kid) != 32 or not set(kid) <= set("0123456789abcdef"):
            return None
        path = self._folder / "public" / f"{kid}.pem"
        if not path.exists():
            self._public.pop(kid, None)
            return None
        found = self._public.get(kid)
        if found is None:
            key: Any = serialization.load_pem_public_key(path.read_bytes())
            if _kid(key) != kid:
                return None
            found = self._public[kid] = key
        return found


def _raw(text: str) -> bytes:
    """Base 64 in its one canonical form. Raises ValueError."""
    try:
        found = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError(str(error)) from None
    if _plain(found) != text:
        raise ValueError("not canonical")
    return found
