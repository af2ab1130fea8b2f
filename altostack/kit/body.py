"""Reading request bodies: size, media type, JSON, schema; and saying exactly what was wrong."""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from typing import Any

import falcon
import msgspec

from altostack.kit.dialect import Dialect
from altostack.kit.errors import BadRequest, TooLarge, UnsupportedMediaType

_AT = re.compile(r" - at `([^`]*)`$")
_NAMED = re.compile(r"^Object (?:missing required|contains unknown) field `([^`]*)`")
_ROOT = re.compile(r"^\$\.?")


def read(request: falcon.Request, limit: int) -> bytes:
    """The raw body. Raises TooLarge past ``limit`` bytes, before reading what the header already tells."""
    length = request.content_length
    if length is not None and length > limit:
        raise TooLarge(f"The request body is larger than {limit} bytes.")
    raw: bytes = request.bounded_stream.read(limit + 1) if length is not None else _unbounded(request, limit)
    if len(raw) > limit:
        raise TooLarge(f"The request body is larger than {limit} bytes.")
    if length is not None and len(raw) < length:
        raise BadRequest("The request body ended before its stated length.")
    return raw


def _unbounded(request: falcon.Request, limit: int) -> bytes:
    if "chunked" not in (request.get_header("Transfer-Encoding") or "").lower():
        return b""
    parts, size = [], 0
    while size <= limit and (part := request.stream.read(65_536)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def check_media(request: falcon.Request, dialect: Dialect) -> None:
    """Raises UnsupportedMediaType unless the body says that it is JSON, or says nothing."""
    kind = (request.content_type or "").partition(";")[0].strip().lower()
    if kind and kind not in dialect.media:
        raise UnsupportedMediaType(f"Unsupported Content-Type {kind}.", code=dialect.media_error)


# msgspec learns what a type is made of when it first meets it, and for a moment other threads see half of that, which
# ends the process. So one thread at a time may meet new types.
_LEARNING = threading.Lock()


@lru_cache(maxsize=4096)
def _decoder(kind: Any, lax: bool) -> msgspec.json.Decoder[Any]:
    with _LEARNING:
        return msgspec.json.Decoder(kind, strict=not lax)


def decode(raw: bytes, kind: Any, *, lax: bool = False) -> Any:
    """JSON bytes -> a value of ``kind``. Raises BadRequest that names the field."""
    if not raw.strip():
        raise BadRequest("The request needs a JSON body.", field="body")
    if b"\\u0000" in raw:
        raise BadRequest("The request body holds a NUL character.", field="body")
    try:
        value = _decoder(kind, lax).decode(raw)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"Malformed request body: {error}.", field="body") from error
    return value


def convert(value: Any, kind: Any, *, lax: bool = False, at: str = "") -> Any:
    """A decoded JSON value -> ``kind``. Raises BadRequest that names the field, below ``at``."""
    _decoder(kind, lax)
    try:
        return msgspec.convert(value, kind, strict=not lax)
    except msgspec.ValidationError as error:
        raise invalid(str(error), at) from error


def invalid(text: str, at: str = "") -> BadRequest:
    """msgspec's complaint as ours."""
    path = ""
    if found := _AT.search(text):
        path, text = _ROOT.sub("", found.group(1)), text[: found.start()]
    if named := _NAMED.match(text):
        path = f"{path}.{named.group(1)}" if path else named.group(1)
    path = ".".join(part for part in (at, path) if part)
    name = re.split(r"[.\[]", path.replace("[...]", ""))[-1] or path
    if text.startswith("Object missing required field"):
        return BadRequest(
            f"Invalid input for field/attribute {name}: '{name}' is a required property.",
            field=path or "body",
        )
    if text.startswith("Object contains unknown field"):
        return BadRequest(
            f"Additional properties are not allowed ('{name}' was unexpected).", field=path or "body"
        )
    return BadRequest(f"Invalid input for field/attribute {path or 'body'}. {text}.", field=path or "body")
