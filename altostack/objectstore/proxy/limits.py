"""Limits of names, metadata and bodies (object storage API, constraints). Everything here raises Refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from altostack.objectstore.config import Settings
from altostack.objectstore.http import Refusal, Request, Unsaid
from altostack.objectstore.storage import Dated

MAX_HEADER: Final = 8192  # characters of one header's value


def check_metadata(headers: Mapping[str, str], kind: str, settings: Settings) -> None:
    """Metadata that a client sets on an account, container or object. Raises Refusal(400)."""
    prefix = f"x-{kind}-meta-"
    count = total = 0
    for name, value in headers.items():
        if len(value) > MAX_HEADER:
            raise Refusal(400, f"Header value too long: {name[: settings.max_meta_name]}")
        if not name.startswith(prefix):
            continue
        short = name[len(prefix) :]
        if not short:
            raise Refusal(400, "Metadata name cannot be empty")
        if not _is_text(short) or not _is_text(value):
            raise Refusal(400, "Metadata must be valid UTF-8")
        size, length = len(short.encode()), len(value.encode())
        if size > settings.max_meta_name:
            raise Refusal(400, f"Metadata name too long: {name}")
        if length > settings.max_meta_value:
            raise Refusal(400, f"Metadata value longer than {settings.max_meta_value}: {name}")
        count += 1
        total += size + length
        if count > settings.max_meta_count:
            raise Refusal(400, f"Too many metadata items; max {settings.max_meta_count}")
        if total > settings.max_meta_overall:
            raise Refusal(400, f"Total metadata too large; max {settings.max_meta_overall}")


def check_text(kept: Mapping[str, str]) -> None:
    """Headers that are stored. Raises Refusal(400) for what did not come as UTF-8."""
    for name, value in kept.items():
        if not value.isascii() and not _is_text(value):
            raise Refusal(400, f"{name} must be valid UTF-8")


def check_type(kind: str) -> None:
    """An object's content type. Raises Refusal(400) for parameters that are Swift's own."""
    if ";" in kind and any(part.lstrip().startswith("swift_") for part in kind.split(";")[1:]):
        raise Refusal(400, "Invalid Content-Type, swift_* is not a valid parameter name.")


def check_merged(held: Dated, added: Dated, kind: str, settings: Settings) -> None:
    """What an account or container has after ``added`` is merged into it. Raises Refusal(400)."""
    prefix = f"x-{kind}-meta-"
    if not any(name.startswith(prefix) and value for name, (value, _) in added.items()):
        return
    count = total = 0
    for name, (value, _) in {**held, **added}.items():
        if value and name.startswith(prefix):
            count += 1
            total += len(name.encode()) - len(prefix) + len(value.encode())
    if count > settings.max_meta_count:
        raise Refusal(400, f"Too many metadata items; max {settings.max_meta_count}")
    if total > settings.max_meta_overall:
        raise Refusal(400, f"Total metadata too large; max {settings.max_meta_overall}")


def check_name(name: str, kind: str, limit: int) -> None:
    """Raises Refusal(400) for a name of more than ``limit`` bytes."""
    if len(name) > limit or (not name.isascii() and len(name.encode("utf-8", "surrogateescape")) > limit):
        raise Refusal(400, f"{kind} name length of {len(name.encode())} longer than {limit}")


def check_length(request: Request, limit: int) -> None:
    """An upload says how long it is, or comes in chunks. Raises Refusal(411) or Refusal(413)."""
    length = request.body.length
    if isinstance(request.body, Unsaid):
        raise Refusal(411, "Missing Content-Length header.")
    if length is not None and length > limit:
        raise Refusal(413, "Your request is too large.")


def _is_text(value: str) -> bool:
    """Whether it came as UTF-8 (surrogates stand for bytes that did not)."""
    return value.isascii() or value.isprintable() or not any("\ud800" <= c <= "\udfff" for c in value)


def listing_limit(request: Request, most: int) -> int:
    """How many names a listing may have. Raises Refusal(412) for more than ``most``."""
    said = request.query.get("limit", "")
    if not (said.isascii() and said.isdecimal()):
        return most
    limit = int(said) if len(said) < 18 else most + 1
    if limit > most:
        raise Refusal(412, f"Maximum limit is {most}")
    return limit
