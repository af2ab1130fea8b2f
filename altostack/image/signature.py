"""Signed images: properties that carry a signature over the bits, and the certificate that it must match.

img_signature (base64), img_signature_hash_method, img_signature_key_type and img_signature_certificate_uuid belong
together. Certificates are ``<uuid>.pem`` in the folder that the setting ``certificates`` names.
Source: Image Service API v2, "Image signature verification"; RFC 8017 (RSASSA-PSS), FIPS 186-5 (ECDSA, DSA).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa, utils

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "SHA-224": hashes.SHA224,
    "SHA-256": hashes.SHA256,
    "SHA-384": hashes.SHA384,
    "SHA-512": hashes.SHA512,
}
_CURVES = {
    "ECC_SECT571K1": "sect571k1",
    "ECC_SECT409K1": "sect409k1",
    "ECC_SECT571R1": "sect571r1",
    "ECC_SECT409R1": "sect409r1",
    "ECC_SECP521R1": "secp521r1",
    "ECC_SECP384R1": "secp384r1",
}
WORDS = (
    "img_signature",
    "img_signature_hash_method",
    "img_signature_key_type",
    "img_signature_certificate_uuid",
)
_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")


class BadSignature(Exception):
    """The signature, or what is needed to verify it, is not right. The message says what."""


class Verifier:
    """Takes the bits; `finish` says whether the signature is over just these."""

    def __init__(self, properties: Mapping[str, str], certificate: x509.Certificate) -> None:
        method, self._kind = properties[WORDS[1]], properties[WORDS[2]]
        if method not in _HASHES:
            raise BadSignature(f"{WORDS[1]} must be one of {', '.join(_HASHES)}")
        try:
            self._signature = base64.b64decode(properties[WORDS[0]], validate=True)
        except (binascii.Error, ValueError) as trouble:
            raise BadSignature(f"{WORDS[0]} is not base64") from trouble
        self._algorithm = _HASHES[method]()
        self._hash = hashes.Hash(self._algorithm)
        self._key = self._public_key(certificate)

    def _public_key(self, certificate: x509.Certificate) -> Any:
        now = datetime.now(UTC)
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise BadSignature("the certificate is not valid now")
        key = certificate.public_key()
        if self._kind == "RSA-PSS":
            fits = isinstance(key, rsa.RSAPublicKey)
        elif self._kind == "DSA":
            fits = isinstance(key, dsa.DSAPublicKey)
        elif self._kind in _CURVES:
            fits = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == _CURVES[self._kind]
        else:
            raise BadSignature(f"{WORDS[2]} must be one of RSA-PSS, DSA, {', '.join(_CURVES)}")
        if not fits:
            raise BadSignature(f"the certificate's key is not of the type {self._kind}")
        return key

    def update(self, chunk: bytes) -> None:
        """The next bits."""
        self._hash.update(chunk)

    def finish(self) -> None:
        """Raises BadSignature unless the signature is over what passed."""
        digest, whole = self._hash.finalize(), utils.Prehashed(self._algorithm)
        try:
            if self._kind == "RSA-PSS":
                scheme = padding.PSS(mgf=padding.MGF1(self._algorithm), salt_length=padding.PSS.AUTO)
                self._key.verify(self._signature, digest, scheme, whole)
            elif self._kind == "DSA":
                self._key.verify(self._signature, digest, whole)
            else:
                self._key.verify(self._signature, digest, ec.ECDSA(whole))
        except InvalidSignature as trouble:
            raise BadSignature("its signature does not match its bits") from trouble


def verifier(properties: Mapping[str, str], folder: str) -> Verifier | None:
    """The verifier of an image with these properties; None for an image that is not signed. Raises BadSignature."""
    there = [word for word in WORDS if properties.get(word)]
    if not there:
        return None
    if len(there) < len(WORDS):
        missing = ", ".join(word for word in WORDS if word not in there)
        raise BadSignature(f"it is signed, but these properties are missing: {missing}")
    if not folder:
        raise BadSignature(
            "it is signed, and this cloud has no certificates to verify it by (setting image.certificates)"
        )
    key = properties[WORDS[3]]
    if not _UUID.match(key):  # it becomes a file name: nothing but a UUID may
        raise BadSignature(f"{WORDS[3]} must be a UUID")
    try:
        certificate = x509.load_pem_x509_certificate((Path(folder) / f"{key.lower()}.pem").read_bytes())
    except OSError as trouble:
        raise BadSignature(f"there is no certificate {key}") from trouble
    except ValueError as trouble:
        raise BadSignature(f"the certificate {key} cannot be read") from trouble
    return Verifier(properties, certificate)
