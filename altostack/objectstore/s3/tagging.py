"""Tags of buckets and objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import notification, settings, xml
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.s3.headers import TAGS

_MOST: Final = 10  # of an object
_MOST_OF_BUCKET: Final = 50


def of(headers: Mapping[str, str]) -> dict[str, str]:
    """An object's tags, from Swift's headers."""
    kept = headers.get(TAGS, "")
    return dict(parse_qsl(kept, keep_blank_values=True)) if kept else {}


def from_header(said: str) -> dict[str, str]:
    """Tags as x-amz-tagging gives them: like a query. Raises S3Error."""
    try:
        pairs = parse_qsl(said, keep_blank_values=True, strict_parsing=bool(said), errors="strict")
    except ValueError:
        raise S3Error("InvalidArgument", "x-amz-tagging must be encoded as a URL's query in UTF-8.") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    return checked(found, _MOST)


def checked(tags: dict[str, str], most: int) -> dict[str, str]:
    """Raises S3Error for tags that cannot be."""
    if len(tags) > most:
        raise S3Error(
            "BadRequest" if most == _MOST else "InvalidTag", f"Object tags cannot be greater than {most}"
        )
    for name, value in tags.items():
        if not 1 <= len(name) <= 128 or name.lower().startswith("aws:"):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", TagKey=name)
        if len(value) > 256:
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", TagValue=value)
        if any(ord(letter) < 32 for letter in name + value):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid")
    return tags


def kept(tags: Mapping[str, str]) -> str:
    """Tags as the object's metadata has them."""
    return urlencode(tags)


def for_put(call: Call) -> dict[str, str]:
    """The header that keeps the tags that come with an upload. Raises S3Error."""
    said = call.request.headers.get("x-amz-tagging")
    return {TAGS: kept(from_header(said))} if said else {}


def _from_xml(call: Call, most: int) -> dict[str, str]:
    root = call.document("Tagging")
    if root.find("TagSet") is None:
        raise S3Error("MalformedXML")
    pairs = [(tag.find("Key"), tag.find("Value")) for tag in root.all("TagSet", "Tag")]
    found: dict[str, str] = {}
    for name, value in pairs:
        if name is None or value is None:
            raise S3Error("MalformedXML")
        if name.text in found:
            raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
        found[name.text] = value.text
    return checked(found, most)


def _shown(tags: Mapping[str, str]) -> Response:
    entries: list[xml.Child] = [
        ("Tag", [("Key", name), ("Value", value)]) for name, value in sorted(tags.items())
    ]
    return document("Tagging", [("TagSet", entries)])


# ---- operations


def get_bucket(call: Call) -> Response:
    tags = settings.read(call.info, "tags")
    if not tags:
        raise S3Error("NoSuchTagSet", BucketName=call.name)
    return _shown(tags)


def put_bucket(call: Call) -> Response:
    settings.keep(call, "tags", _from_xml(call, _MOST_OF_BUCKET))
    return Response(204)


def delete_bucket(call: Call) -> Response:
    settings.keep(call, "tags", None)
    return Response(204)


def get_object(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    held = objects.head(call)
    objects.tell_version(call, held)
    return _shown(of(held.headers))


def put_object(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    tags = _from_xml(call, _MOST)
    objects.change(call, {TAGS: kept(tags) if tags else None})
    notification.event(call, "s3:ObjectTagging:Put")
    return Response(200)


def delete_object(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    objects.change(call, {TAGS: None})
    notification.event(call, "s3:ObjectTagging:Delete")
    return Response(204)
