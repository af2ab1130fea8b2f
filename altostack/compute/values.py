"""The kinds of values that requests carry: types with their limits, checked when a body is read.

Source: the Compute API reference's parameter descriptions.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import unicodedata
import uuid
from typing import Annotated, Any

import msgspec

from altostack.kit.errors import BadRequest
from altostack.kit.resource import MAX_INT
from altostack.kit.versions import Version, parse

UUID_PATTERN = r"^[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}$"
KEY_PATTERN = r"^[a-zA-Z0-9\-_:. ]{1,255}$"

Uuid = Annotated[str, msgspec.Meta(pattern=UUID_PATTERN)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Tag = Annotated[str, msgspec.Meta(min_length=1, max_length=60, pattern="^[^,/]*$")]
Description = Annotated[str, msgspec.Meta(max_length=255)]
Text = Annotated[str, msgspec.Meta(max_length=255)]
MetaKey = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=KEY_PATTERN)]
Metadata = dict[MetaKey, Text]
Positive = Annotated[int, msgspec.Meta(ge=1, le=MAX_INT)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=MAX_INT)]
Fqdn = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9\-._]*$")]
Hostname = Annotated[
    str, msgspec.Meta(min_length=2, max_length=63, pattern=r"^[a-zA-Z0-9]+[a-zA-Z0-9\-]*[a-zA-Z0-9]+$")
]
UserData = Annotated[str, msgspec.Meta(max_length=65_535)]
Device = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[a-zA-Z0-9._/\-]*$")]


def is_uuid(text: str) -> bool:
    """Whether ``text`` is a UUID, with or without dashes."""
    return re.match(UUID_PATTERN, text) is not None


def dashed(text: str) -> str:
    """The canonical form of a UUID."""
    return str(uuid.UUID(text))


def printable(text: str) -> bool:
    """Whether every character shows: no controls, no separators but the plain space."""
    return all(c == " " or unicodedata.category(c)[0] not in "CZ" for c in text)


def check_name(text: str, field: str = "name") -> str:
    """Raises BadRequest unless ``text`` may name something: printable, no space at either end."""
    if not text.strip() or text != text.strip() or not printable(text):
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {text!r}. It must hold printable characters "
            "and may neither begin nor end with a space.",
            field=field,
        )
    return text


def check_description(text: str | None, field: str = "description") -> str | None:
    """Raises BadRequest when ``text`` holds characters that do not show (line ends do)."""
    if text is not None and not printable(re.sub(r"[\r\n\t]", "", text)):
        raise BadRequest(
            f"Invalid input for field/attribute {field}. It holds unprintable characters.", field=field
        )
    return text


def check_uuid(text: str, field: str) -> str:
    """The canonical form of a UUID in a body. Raises BadRequest."""
    if not is_uuid(text):
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {text}. {text!r} is not a 'uuid'", field=field
        )
    return dashed(text)


def check_address(text: str, field: str, version: int | None = None) -> str:
    """An IP address in its canonical form. Raises BadRequest."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError as error:
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {text}. {text!r} is not an IP address.",
            field=field,
        ) from error
    if version is not None and found.version != version:
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {text}. {text!r} is not an 'ipv{version}'",
            field=field,
        )
    return str(found)


def check_base64(text: str, field: str) -> str:
    """Raises BadRequest unless ``text`` is base64 (RFC 4648), line ends aside."""
    try:
        base64.b64decode(re.sub(r"\s", "", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(
            f"Invalid input for field/attribute {field}. It is not a 'base64' text.", field=field
        ) from error
    return text


def hostname_of(name: str, fallback: str) -> str:
    """A host name made of a display name: RFC 952's letters, digits and hyphens, at most 63."""
    text = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    text = re.sub(r"[ _.]", "-", text)
    text = re.sub(r"[^\w.-]+", "", text).lower().strip(".-")[:63].rstrip("-")
    return text or fallback


def between(version: Version | None, since: str | None = None, until: str | None = None) -> bool:
    """Whether ``version`` (None: the newest) lies in the closed range of the two."""
    if version is None:
        return until is None
    return not (since and version < parse(since)) and not (until and version > parse(until))


def spec(kind: Any, *, required: bool = False, since: str | None = None, until: str | None = None) -> Any:
    """A body's field: its type, and the versions that know it."""
    return (kind, required, since, until)


def fields_at(table: dict[str, Any], version: Version | None) -> list[tuple[str, Any, bool]]:
    """The fields of ``table`` (attribute -> `spec`) that ``version`` knows, as `kit.resource.struct` wants them."""
    return [
        (attr, kind, required)
        for attr, (kind, required, since, until) in table.items()
        if between(version, since, until)
    ]
