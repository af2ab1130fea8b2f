"""AES-256 in counter mode (NIST SP 800-38A, 6.5), and how what is encrypted says how: ``value; swift_meta=...``."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator
from typing import Final

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from altostack.objectstore.http import Body, Content
from altostack.objectstore.middleware.shape import pieces

NAME: Final = "AES_CTR_256"
_BLOCK: Final = 16  # bytes
_KEY: Final = 32  # bytes
_META: Final = "; swift_meta="


class KeyId(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which key it is. path: /account/container[/object]; secret: a root secret's id; version: how it is derived."""

    path: str
    secret: str | None = None
    version: int = 1


class Wrapped(msgspec.Struct, frozen=True, kw_only=True):
    """A key, encrypted with another one."""

    iv: bytes
    key: bytes


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How something is encrypted. body_key: the data's own key."""

    iv: bytes
    cipher: str = NAME
    key_id: KeyId | None = None
    body_key: Wrapped | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Meta).decode


class Unreadable(Exception):
    """What is stored does not say in a way that is understood how it is encrypted."""


def cipher(key: bytes, iv: bytes, offset: int = 0) -> CipherContext:
    """Encrypts, and decrypts, what lies ``offset`` bytes behind the beginning: both are the same in this mode."""
    blocks, rest = divmod(offset, _BLOCK)
    if blocks:
        iv = ((int.from_bytes(iv) + blocks) % (1 << 128)).to_bytes(_BLOCK)
    made = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    if rest:
        made.update(bytes(rest))
    return made


def wrap(key: bytes, wrapped: bytes) -> Wrapped:
    """A key, encrypted with another one."""
    iv = os.urandom(_BLOCK)
    return Wrapped(iv=iv, key=cipher(key, iv).update(wrapped))


def unwrap(key: bytes, meta: Meta) -> bytes:
    """The data's key that ``meta`` holds wrapped. Raises Unreadable."""
    held = meta.body_key
    if held is None or len(held.key) != _KEY:
        raise Unreadable("a wrapped key is broken")
    return cipher(key, held.iv).update(held.key)


def new_key() -> bytes:
    """A random key."""
    return os.urandom(_KEY)


def new_meta(key_id: KeyId | None = None, body_key: Wrapped | None = None) -> Meta:
    """Parameters for something new."""
    return Meta(iv=os.urandom(_BLOCK), key_id=key_id, body_key=body_key)


def dump(meta: Meta) -> str:
    """Parameters as text that a header and an ETag's parameter can hold."""
    return base64.urlsafe_b64encode(_encode(meta)).decode()


def load(text: str) -> Meta:
    """The reverse of `dump`. Raises Unreadable."""
    try:
        meta = _decode(base64.urlsafe_b64decode(text))
    except ValueError:
        raise Unreadable("the parameters of an encryption are broken") from None
    if meta.cipher != NAME:
        raise Unreadable(f"the cipher {meta.cipher!r} is not known here")
    if len(meta.iv) != _BLOCK:
        raise Unreadable("the parameters of an encryption are broken")
    return meta


def seal(text: str, key: bytes, key_id: KeyId | None = None) -> str:
    """Text, encrypted, with its parameters behind it."""
    meta = new_meta(key_id)
    sealed = cipher(key, meta.iv).update(text.encode("utf-8", "surrogateescape"))
    return base64.b64encode(sealed).decode() + _META + dump(meta)


def split(text: str) -> tuple[str, Meta] | None:
    """(what is sealed, its parameters), None for text that is not sealed. Raises Unreadable."""
    value, sign, meta = text.partition(_META)
    return (value, load(meta)) if sign else None


def opened(value: str, meta: Meta, key: bytes) -> str:
    """What `seal` sealed. Raises Unreadable."""
    try:
        return cipher(key, meta.iv).update(base64.b64decode(value)).decode("utf-8", "surrogateescape")
    except ValueError:
        raise Unreadable("a sealed value is broken") from None


def etag_mac(key: bytes, etag: str) -> str:
    """What stands for an ETag where it is compared: whoever sees it learns nothing of the content."""
    return base64.b64encode(
        hmac.digest(key, etag.encode("utf-8", "surrogateescape"), hashlib.sha256)
    ).decode()


class Encrypting:
    """A request's body as it is to be stored. ``sum``: of what the client sent; None as long as nothing came."""

    def __init__(self, body: Body, key: bytes, iv: bytes) -> None:
        self._body, self._context = body, cipher(key, iv)
        self.sum: hashlib._Hash | None = None
        self.length = body.length

    def read(self, size: int = -1) -> bytes:
        part = self._body.read(size)
        if not part:
            return part
        if self.sum is None:
            self.sum = hashlib.md5(usedforsecurity=False)
        self.sum.update(part)
        return self._context.update(part)


class Decrypting:
    """A response's body as the client gets it."""

    def __init__(self, content: Content, key: bytes, iv: bytes, offset: int) -> None:
        self._content, self._context = content, cipher(key, iv, offset)

    def __iter__(self) -> Iterator[bytes]:
        update = self._context.update
        for part in pieces(self._content):
            yield update(part)

    def close(self) -> None:
        close = getattr(self._content, "close", None)
        if close is not None:
            close()
