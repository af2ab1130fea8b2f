"""Password hashes, and checking one in a time that tells nothing.

People's passwords: BLAKE2b first, so that no length and no byte is special to bcrypt (which reads 72 bytes and stops
at a NUL), then bcrypt. Secrets that this service or the cloud made at random, of 128 bits and more, need no slow
hash: nobody guesses them; they get a salted BLAKE2b. See docs/adr/0011-password-hashes.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

import bcrypt

_SLOW, _FAST = "b2bcrypt:", "blake2b:"
_PERSON = b"altostack-passwd"
_LONGEST = 16_384
ELSEWHERE = "elsewhere:"  # in the place of a hash: another service knows the password
ENOUGH = 32  # characters of a random secret that is safe under a fast hash


def fast_hash(secret: str) -> str:
    """The stored form of a secret made at random. Raises ValueError for one that is too short to be that."""
    if len(secret) < ENOUGH:
        raise ValueError(f"a secret of fewer than {ENOUGH} characters needs a slow hash")
    salt = secrets.token_bytes(16)
    return f"{_FAST}{salt.hex()}:{_fast(secret, salt)}"


def _fast(secret: str, salt: bytes) -> str:
    return hashlib.blake2b(_bytes(secret), digest_size=32, salt=salt, person=_PERSON).hexdigest()


def _bytes(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")


def _prepared(password: str) -> bytes:
    """48 bytes of BLAKE2b as 64 characters: what bcrypt can take, whole."""
    return base64.b64encode(hashlib.blake2b(_bytes(password), digest_size=48, person=_PERSON).digest())


class Passwords:
    """Hashes with bcrypt at ``rounds`` and checks either kind.

    A password that was right is remembered under a key that lives in this process alone, so that the next login of a
    busy client costs microseconds; what was wrong always costs the full work. ``elsewhere(password, stored)`` asks
    whoever knows the passwords that are not here.
    """

    def __init__(self, rounds: int, *, remember: int = 1024) -> None:
        self._rounds = rounds
        self.elsewhere: Callable[[str, str], bool] | None = None
        self._most = remember
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def hash(self, password: str) -> str:
        """The stored form of a person's password."""
        return _SLOW + bcrypt.hashpw(_prepared(password), bcrypt.gensalt(self._rounds)).decode()

    @staticmethod
    def quick(secret: str, stored: str | None) -> bool:
        """Whether ``secret`` is the one, where a fast hash is stored; False for every other kind."""
        if stored is None or not stored.startswith(_FAST):
            return False
        salt, _, digest = stored.removeprefix(_FAST).partition(":")
        return hmac.compare_digest(_fast(secret, bytes.fromhex(salt)), digest)

    def matches(self, password: str, stored: str | None) -> bool:
        """Whether ``password`` is the one. A no costs the same work whatever the reason, also without a ``stored``."""
        if len(password) > _LONGEST:
            password, stored = "", None
        if stored is not None and stored.startswith(ELSEWHERE) and self.elsewhere is not None:
            return self.elsewhere(password, stored)
        if self.quick(password, stored):
            return True
        if stored is not None and not stored.startswith(_SLOW):
            stored = None
        if stored is None:
            bcrypt.hashpw(_prepared(password), bcrypt.gensalt(self._rounds))
            return False
        seal = hashlib.blake2b(stored.encode() + b"\0" + _prepared(password), key=self._key).digest()
        if seal in self._right:
            return True
        if not bcrypt.checkpw(_prepared(password), stored.removeprefix(_SLOW).encode()):
            return False
        with self._lock:
            self._right[seal] = None
            while len(self._right) > self._most:
                self._right.popitem(last=False)
        return True
