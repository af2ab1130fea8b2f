"""Copies within the store: of whole objects, and of ranges into parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from altostack.objectstore.http import Content as Bytes_
from altostack.objectstore.http import Response
from altostack.objectstore.middleware.shape import as_body
from altostack.objectstore.middleware.versioned import VERSION_ID
from altostack.objectstore.s3 import (
    access,
    checksums,
    classes,
    headers,
    lock,
    notification,
    objects,
    tagging,
    xml,
)
from altostack.objectstore.s3.body import Content
from altostack.objectstore.s3.call import Call, document, iso
from altostack.objectstore.s3.errors import S3Error, invalid
from altostack.objectstore.s3.versioning import kept_versions


@dataclass
class Opened:
    """A source that is being read. shown: headers that tell of it."""

    response: Response
    length: int
    shown: dict[str, str]

    def content(self, *algorithms: str | None) -> Content:
        """Its bytes, with checksums computed on their way."""
        body: Bytes_ = self.response.body
        made = Content(as_body(body, self.length), self.length)
        for algorithm in algorithms:
            if algorithm:
                made.count(algorithm)
        return made.begin()

    def close(self) -> None:
        self.response.close()


@dataclass
class Source:
    """What is to be copied, which the caller may read. call: a call of its own, about the source."""

    call: Call
    headers: dict[str, str]

    @property
    def size(self) -> int:
        return int(self.headers.get("content-length", "0"))

    def open(self, span: str | None = None) -> Opened:
        """Begin to read it, or the range that ``bytes=first-last`` names. Raises S3Error."""
        sent: dict[str, str] = {}
        if span is not None:
            first, dash, last = span.removeprefix("bytes=").partition("-")
            whole = span.startswith("bytes=") and dash and first.isdecimal() and last.isdecimal()
            if not whole or int(first) > int(last):
                raise invalid(
                    "x-amz-copy-source-range", span, "The range must have the form bytes=first-last."
                )
            if int(last) >= self.size:
                raise invalid("x-amz-copy-source-range", span, f"The source has {self.size} bytes.")
            sent["range"] = span
        call = self.call
        response = call.must(
            call.swift("GET", call.name, call.object, query=objects.version_query(call), headers=sent)
        )
        length = response.length
        if length is None:
            response.close()
            raise S3Error("InternalError")
        if headers.etag_of(response.headers) != headers.etag_of(self.headers):
            response.close()
            raise S3Error("PreconditionFailed", "The source was replaced at this moment.")
        shown = {}
        if kept_versions(call.info):
            shown["x-amz-copy-source-version-id"] = self.headers.get(VERSION_ID, "null")
        return Opened(response, length, shown)


def source_of(call: Call) -> Source:
    """The object that x-amz-copy-source names, under its conditions. Raises S3Error."""
    said = call.header("x-amz-copy-source")
    path, _, query = said.partition("?")
    try:
        bucket, slash, key = unquote(path, errors="strict").removeprefix("/").partition("/")
        version = (
            unquote(query.partition("versionId=")[2], errors="strict") if "versionId=" in query else None
        )
    except UnicodeDecodeError:
        bucket = slash = key = ""
        version = None
    if not slash or not bucket or not key or "\0" in key:
        raise invalid("x-amz-copy-source", said, "It must have the form bucket/key.")
    other = Call(
        gate=call.gate, request=call.request, bucket=bucket, key=key, caller=call.caller, signed=call.signed,
        version=version,
    )  # fmt: skip
    access.locate_other(other, call.header("x-amz-source-expected-bucket-owner"))
    permission = "s3:GetObject" if version is None else "s3:GetObjectVersion"
    access.authorize(other, permission, info=other.info, key=key)
    held = other.swift("HEAD", bucket, key, query=objects.version_query(other))
    held.close()
    if not held.good:
        raise objects.absent(other, held)
    etag = headers.etag_of(held.headers)
    given: Mapping[str, str] = call.request.headers
    failed = headers.conditions(given, etag, held.headers.get("last-modified", ""), "x-amz-copy-source-")
    if failed is not None:
        raise S3Error("PreconditionFailed")
    return Source(other, held.headers)


def copy_object(call: Call) -> Response:
    """CopyObject."""
    objects.check_encryption(call)
    source = source_of(call)
    if source.size > objects.MOST:
        raise S3Error("InvalidRequest", f"A source may have {objects.MOST} bytes at most.")
    given = _headers(call, source)
    given |= objects.acl_for_put(call) | lock.for_put(call)
    kept = [name for name in checksums.SIZES if checksums.KEPT + name in source.headers]
    chosen = call.header("x-amz-checksum-algorithm")
    algorithms = [checksums.algorithm_named(chosen)] if chosen else kept[:1]
    opened = source.open()
    try:
        content = opened.content(*algorithms)
        response = objects.store(call, given, content)
    finally:
        opened.close()
    shown = dict(opened.shown)
    if kept_versions(call.info):
        shown["x-amz-version-id"] = response.headers.get(VERSION_ID, "null")
    etag = headers.etag_of(response.headers)
    notification.event(
        call, "s3:ObjectCreated:Copy", size=source.size, etag=etag, version=shown.get("x-amz-version-id", "")
    )
    body: list[xml.Child] = [
        ("LastModified", iso(call.store.clock.now())),
        ("ETag", f'"{etag}"'),
        *((f"Checksum{name.upper()}", value) for name, value in content.sums.items()),
    ]
    return document("CopyObjectResult", body, shown)


def _headers(call: Call, source: Source) -> dict[str, str]:
    """The Swift headers of the copy: the source's or the request's, as it says. Raises S3Error."""
    directive = call.header("x-amz-metadata-directive", "COPY")
    tags = call.header("x-amz-tagging-directive", "COPY")
    if directive not in ("COPY", "REPLACE"):
        raise invalid("x-amz-metadata-directive", directive, "Unknown metadata directive.")
    if tags not in ("COPY", "REPLACE"):
        raise invalid("x-amz-tagging-directive", tags, "Unknown tagging directive.")
    same = (source.call.account, source.call.name, source.call.object) == (
        call.account,
        call.name,
        call.object,
    )
    policy = classes.policy_of(call, call.header("x-amz-storage-class"))
    chosen = classes.name_of(policy) if policy is not None else classes.STANDARD
    held = source.headers.get(classes.CLASS) or classes.STANDARD
    if (
        same
        and source.call.version is None
        and directive == "COPY"
        and chosen == held
        and "x-amz-website-redirect-location" not in call.request.headers
        and "x-amz-checksum-algorithm" not in call.request.headers
    ):
        raise S3Error(
            "InvalidRequest", "A copy of an object to itself must change its metadata or its storage class."
        )
    if directive == "REPLACE":
        found = headers.for_put(call.request)
    else:
        found = {
            name: value
            for name, value in source.headers.items()
            if headers.is_metadata(name) or name in headers.STORED or name == "content-type"
        }
    if tags == "REPLACE":
        found |= tagging.for_put(call)
    elif source.headers.get(headers.TAGS):
        found[headers.TAGS] = source.headers[headers.TAGS]
    return found
