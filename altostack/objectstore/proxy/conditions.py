"""Conditional and range requests for objects (RFC 9110, 13 and 14)."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Final

MAX_RANGES: Final = 50
MAX_OVERLAPS: Final = 2
MIN_UNORDERED: Final = 8  # so many runs have to come in order


def unmet(headers: Mapping[str, str], etag: str, changed: str) -> int | None:
    """304 or 412 when a GET's or HEAD's conditions fail, else None. ``changed``: the timestamp of the newest change."""
    wanted = headers.get("if-match")
    if wanted is not None:
        if not lists(wanted, etag):
            return 412
    elif (since := headers.get("if-unmodified-since")) is not None:
        moment = date(since)
        if moment is not None and _whole(changed) > moment:
            return 412
    unwanted = headers.get("if-none-match")
    if unwanted is not None:
        if lists(unwanted, etag):
            return 304
    elif (since := headers.get("if-modified-since")) is not None:
        moment = date(since)
        if moment is not None and _whole(changed) <= moment:
            return 304
    return None


def lists(value: str, etag: str) -> bool:
    """Whether a header If-Match or If-None-Match names the ETag."""
    return any(one == "*" or one == etag for one in map(bare, value.split(",")))


def bare(etag: str) -> str:
    """An ETag without its quotation marks."""
    return etag.strip().removeprefix("W/").strip('"')


def date(value: str) -> int | None:
    """A header's date, seconds since 1970; None for what is no date: such a condition is to be ignored."""
    try:
        return int(parsedate_to_datetime(value).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def _whole(stamp: str) -> int:
    """Seconds as Last-Modified shows them, rounded up."""
    whole, _, rest = stamp.partition(".")
    return int(whole) + (rest.strip("0") != "")


def applies(headers: Mapping[str, str], etag: str, changed: str) -> bool:
    """Whether If-Range lets the range count (RFC 9110, 13.1.5)."""
    said = headers.get("if-range")
    if said is None:
        return True
    moment = None if said.endswith('"') else date(said)
    if moment is not None:
        return moment == _whole(changed)
    return not said.startswith("W/") and bare(said) == etag


def parse_ranges(header: str, size: int) -> list[tuple[int, int]] | None:
    """The runs (start, stop) of bytes that a Range header asks for, of ``size`` bytes; ``stop`` is not in the run.

    None: the header is no range of bytes and is to be ignored. Empty: there is nothing of what was asked for, or so
    many runs that they are refused (RFC 9110, 14.2 and 17.15).
    """
    unit, equals, said = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    found: list[tuple[int, int]] = []
    asked = said.split(",")
    for one in asked:
        start, dash, end = one.strip().partition("-")
        if not dash or not (start or end) or not _number(start) or not _number(end):
            return None
        if not start:
            count = int(end)
            if count and not size:
                return None  # the last bytes of nothing are all of it
            if count:
                found.append((max(0, size - count), size))
            continue
        begin = int(start)
        if end and int(end) < begin:
            return None
        if begin < size:
            found.append((begin, min(int(end) + 1, size) if end else size))
    if len(asked) > MAX_RANGES:
        return []
    if len(found) > 1:
        ordered = sorted(found)
        overlaps = sum(b[0] < a[1] for a, b in pairwise(ordered))
        if overlaps > MAX_OVERLAPS or (ordered != found and len(found) >= MIN_UNORDERED):
            return []
    return found


def _number(text: str) -> bool:
    return not text or (text.isascii() and text.isdecimal() and len(text) < 1000)
