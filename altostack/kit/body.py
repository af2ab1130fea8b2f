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
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


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
    """Raises UnsupportedMediaType unless the body says that it is JSON, or (mostly) says nothing."""
    kind = (request.content_type or "").partition(";")[0].strip().lower()
    if not kind and dialect.media_required:
        raise UnsupportedMediaType("The media type None is not supported, use application/json.")
    if kind and kind not in dialect.media:
        raise UnsupportedMediaType(f"Unsupported Content-Type {kind}.", code=dialect.media_error)


# msgspec learns what a type is made of when it first meets it, and for a moment other threads see half of that, which
# ends the process. So one thread at a time may meet new types.
_LEARNING = threading.Lock()


@lru_cache(maxsize=4096)
def _decoder(kind: Any, lax: bool) -> msgspec.json.Decoder[Any]:
    with _LEARNING:
        return msgspec.json.Decoder(kind, strict=not lax)


def check_stated(request: falcon.Request) -> None:
    """Raises BadRequest where a body comes without its type, or its length is no number (`Dialect.media_required`)."""
    length = request.env.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit()):
        raise BadRequest("The content-length header must be an integer.", field="Content-Length")
    if int(length) and not request.content_type:
        raise BadRequest(
            "A body needs to say what it is: content-type header required.", field="Content-Type"
        )


def decode(raw: bytes, kind: Any, *, lax: bool = False, quote: bool = False) -> Any:
    """JSON bytes -> a value of ``kind``. Raises BadRequest that names the field, and with ``quote`` holds its values.

    What is not JSON at all is called that, wherever the schema breaks before.
    """
    if not raw.strip():
        raise BadRequest("The request needs a JSON body.", field="body")
    if b"\\u0000" in raw:
        raise BadRequest("The request body holds a NUL character.", field="body")
    try:
        value = _decoder(kind, lax).decode(raw)
    except msgspec.ValidationError as error:
        refusal = invalid(str(error))
        try:
            document = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as worse:
            raise BadRequest(f"Malformed request body: {worse}.", field="body") from worse
        if quote and (found := _AT.search(str(error))):
            refusal.values = tuple(_at(document, found.group(1)))
        raise refusal from error
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


def _at(document: Any, path: str) -> list[Any]:
    """What stands at msgspec's ``path``, which names no keys of mappings: then it is one of several."""
    found = [document]
    for name, place in _STEP.findall(path.removeprefix("$")):
        if place == "...":
            found = [v for one in found if isinstance(one, dict | list) for v in _items(one)]
        elif place:
            found = [one[int(place)] for one in found if isinstance(one, list) and int(place) < len(one)]
        else:
            found = [one[name] for one in found if isinstance(one, dict) and name in one]
    return found


def _items(one: dict[str, Any] | list[Any]) -> list[Any]:
    return list(one.values()) if isinstance(one, dict) else one


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
