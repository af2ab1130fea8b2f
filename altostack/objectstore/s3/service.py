"""The service itself: whose buckets there are."""

from __future__ import annotations

import re

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import xml
from altostack.objectstore.s3.call import Call, document, iso

_MOST = 10_000
_BUCKET = re.compile(r"[A-Za-z0-9_.-]{3,255}")


def list_buckets(call: Call) -> Response:
    """ListBuckets, with prefix, max-buckets and continuation-token."""
    caller = call.caller
    assert caller is not None
    prefix, limit = call.query.get("prefix", ""), call.number("max-buckets", _MOST, _MOST, 1)
    marker = call.query.get("continuation-token", "")
    found: list[xml.Child] = []
    following: str | None = None
    last = marker
    while following is None:
        query = {"limit": "1000", "format": "json"} | ({"marker": last} if last else {})
        if prefix:
            query["prefix"] = prefix
        response = call.must(call.swift("GET", query=query), 404)
        entries = response.entries or [] if response.good else []
        if not entries:
            break
        for entry in entries:
            name = entry["name"]
            if _BUCKET.fullmatch(name):
                if len(found) == limit:
                    following = last
                    break
                made = entry.get("last_modified")
                found.append(("Bucket", [("Name", name), ("CreationDate", iso(made) if made else None)]))
            last = name
    body: list[xml.Child] = [
        ("Owner", [("ID", caller.id), ("DisplayName", caller.name)]),
        ("Buckets", found),
        ("Prefix", prefix or None),
        ("ContinuationToken", following),
    ]
    return document("ListAllMyBucketsResult", body)
