"""What storage nodes say to each other over HTTP: signatures, arguments, errors. Used by `server` and `remote`.

``POST /call/NAME`` runs a method; body and answer are msgpack. ``PUT /object`` writes content as it comes, ``GET
/object`` reads it; their arguments are in a header. A request is signed with the cluster's key over everything but
streamed content: method, path, arguments, the date and a nonce. A signature is good for five minutes; a repeated
request changes nothing (`storage`), so nonces are not remembered. The network between nodes is trusted to keep secrets.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from altostack.objectstore.storage import (
    DeviceFull,
    DeviceGone,
    Exists,
    Missing,
    NotEmpty,
    Spot,
    StorageError,
    Superseded,
    Update,
)

ARGUMENTS: Final = "x-node-arguments"
STORED: Final = "x-node-stored"
FAILED: Final = 422  # the status of an answer that is a `Problem`
SMALL: Final = 64 << 10  # content up to this size goes in one message
_GOOD_FOR: Final = 300.0  # seconds
_KINDS: Final[Mapping[str, type[StorageError]]] = {
    one.__name__: one for one in (DeviceFull, DeviceGone, Exists, Missing, NotEmpty, Superseded, StorageError)
}

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.decode


class Call(msgspec.Struct, frozen=True, array_like=True):
    """Arguments of a call, by place and by name."""

    places: list[msgspec.Raw]
    names: dict[str, msgspec.Raw]


class ReadArguments(msgspec.Struct, frozen=True, array_like=True):
    """Of ``GET /object``. The first time the answer has what is known of the object, with small content; a larger one
    is held open for some seconds under a token, with which a part (from, up to) of its content is asked for."""

    spot: Spot
    frag: int | None = None
    timestamp: str | None = None
    part: tuple[int, int] | None = None
    token: str = ""


class WriteArguments(msgspec.Struct, frozen=True, array_like=True):
    """Of ``PUT /object``. The body is pieces of content, each behind its length (4 bytes, big-endian), a length of
    zero, and a `Put`."""

    spot: Spot
    timestamp: str
    size: int | None = None
    frag: int | None = None
    absent: bool = False


class Put(msgspec.Struct, frozen=True, array_like=True):
    """What `storage.Writer.put` is told."""

    metadata: dict[str, str]
    updates: list[Update]


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What `storage.Stored` says but for its content. token: empty when the content is in the answer."""

    timestamp: str
    changed: str
    own: dict[str, str]
    posted: dict[str, str] | None
    length: int
    frag: int | None
    durable: bool
    token: str


class Problem(msgspec.Struct, frozen=True, array_like=True):
    """A StorageError, or ValueError: a call that the node does not understand."""

    kind: str
    message: str
    timestamp: str | None = None


def problem(error: Exception) -> Problem:
    """How an error goes over the wire."""
    kind = next((one.__name__ for one in type(error).__mro__ if one.__name__ in _KINDS), "ValueError")
    return Problem(kind, str(error), getattr(error, "timestamp", None))


def error(found: Problem) -> Exception:
    """The error that a problem tells of."""
    if found.kind == "Missing":
        return Missing(found.timestamp)
    if found.kind == "Superseded":
        return Superseded(found.timestamp or "")
    kind = _KINDS.get(found.kind)
    return ValueError(found.message) if kind is None else kind(found.message)


def packed(value: Any) -> str:
    """A value in a header."""
    return base64.b64encode(encode(value)).decode()


def unpacked(text: str, kind: Any) -> Any:
    """Raises ValueError."""
    return decode(base64.b64decode(text, validate=True), type=kind)


def call_body(places: Sequence[Any], names: Mapping[str, Any]) -> bytes:
    """The form of `Call`."""
    return encode((places, names))


def signature(key: bytes, method: str, path: str, arguments: str, body: bytes) -> str:
    """The Authorization header of a request that is sent now. ``body``: of a call; streamed content is left out."""
    date, nonce = str(int(time.time())), secrets.token_hex(8)
    return f"Node {date} {nonce} {_mac(key, method, path, arguments, body, date, nonce)}"


def check(key: bytes, said: str, method: str, path: str, arguments: str, body: bytes) -> str:
    """Why a signature is not good; "" when it is."""
    parts = said.split(" ")
    if len(parts) != 4 or parts[0] != "Node" or not (parts[1].isascii() and parts[1].isdigit()):
        return "it is not signed"
    _, date, nonce, mac = parts
    wanted = _mac(key, method, path, arguments, body, date, nonce)
    if not hmac.compare_digest(wanted.encode(), mac.encode("utf-8", "surrogateescape")):
        return "its signature is wrong"
    if abs(time.time() - int(date[:15])) > _GOOD_FOR:
        return "it is not of this time: do the clocks agree?"
    return ""


def _mac(key: bytes, method: str, path: str, arguments: str, body: bytes, date: str, nonce: str) -> str:
    parts = (method, path, arguments, hashlib.sha256(body).hexdigest(), date, nonce)
    return hmac.digest(key, "\n".join(parts).encode("utf-8", "surrogateescape"), "sha256").hex()
