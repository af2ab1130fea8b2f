"""Listings against a model of what S3 says they are."""

from __future__ import annotations

import random
from typing import Any

import pytest


def expected(keys: list[str], prefix: str, delimiter: str, after: str) -> list[str]:
    """Keys and common prefixes in order."""
    found: list[str] = []
    for key in sorted(keys, key=str.encode):
        if not key.startswith(prefix) or key.encode() <= after.encode():
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        shown = key[: cut + len(delimiter)] if cut >= 0 else key
        if shown not in found:
            found.append(shown)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_listings_page_by_page(s3: Any, bucket: str, seed: int) -> None:
    chance = random.Random(seed)
    letters = ["a", "b", "/", "--", "é", "🜚", " "]
    keys = sorted({"".join(chance.choices(letters, k=chance.randrange(1, 6))) for _ in range(40)})
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    for _ in range(25):
        prefix = "".join(chance.choices(letters, k=chance.randrange(3)))
        delimiter = chance.choice(["", "/", "/", "--", "b"])
        size = chance.choice([1, 2, 7, 1000])
        about = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": size} | (
            {"Delimiter": delimiter} if delimiter else {}
        )
        wanted = expected(keys, prefix, delimiter, "")
        assert pages(s3.list_objects_v2, about, "NextContinuationToken", "ContinuationToken") == wanted, about
        assert pages(s3.list_objects, about, "NextMarker", "Marker") == wanted, about
        found = pages(s3.list_object_versions, about, "NextKeyMarker", "KeyMarker")
        assert found == wanted, about
    for key in chance.sample(keys, 5):
        found = pages(
            s3.list_objects_v2,
            {"Bucket": bucket, "StartAfter": key},
            "NextContinuationToken",
            "ContinuationToken",
        )
        assert found == expected(keys, "", "", key)


def pages(ask: Any, about: dict[str, Any], told: str, sent: str) -> list[str]:
    found: list[str] = []
    more: dict[str, Any] = {}
    for _ in range(200):
        page = ask(**about, **more)
        here = [one["Key"] for one in page.get("Contents", page.get("Versions", []))]
        here += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
        assert len(here) <= about.get("MaxKeys", 1000)
        found += sorted(here, key=str.encode)
        if not page["IsTruncated"]:
            return found
        assert here
        more = {sent: page[told]}
    raise AssertionError("the listing does not end")
