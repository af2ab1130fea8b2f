"""Manifests of static large objects: what a client may send, what is kept, and which bytes lie where.

Kept is a JSON list in which a segment is {"name", "bytes", "hash", "content_type", "last_modified"} with "range" and
"sub_slo" where they apply, or {"data"} (object storage API, static large objects).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.middleware.joined import Piece
from altostack.objectstore.middleware.report import status_line
from altostack.objectstore.middleware.shape import IS_SLO, Cut, bare, ranges, true

MAX_DEPTH: Final = 10
_ALLOWED: Final[dict[str, frozenset[str]]] = {
    "data": frozenset(),
    "path": frozenset({"range", "etag", "size_bytes"}),
}
Kept = dict[str, Any]


@dataclass(slots=True)
class Wish:
    """A segment as a client describes it. ``data``: bytes given in the manifest itself."""

    path: str = ""
    etag: str | None = None
    size: int | None = None
    range: str | None = None
    data: bytes | None = None


def parse(text: bytes, request: Request) -> list[Wish]:
    """The segments of a manifest that a client sent. Raises Refusal(400) that says what is wrong with which."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(400, "Manifest must be valid JSON.\n") from None
    if not isinstance(given, list):
        raise Refusal(400, "Manifest must be a list.\n")
    place = request.place
    assert place is not None
    own = f"{place.container}/{place.object}"
    wishes: list[Wish] = []
    errors: list[str] = []
    for index, one in enumerate(given):
        try:
            wishes.append(_wish(one, own, last=index == len(given) - 1))
        except ValueError as trouble:
            errors.append(f"Index {index}: {trouble}")
    if given and not errors and all(wish.data is not None for wish in wishes):
        errors.append("Inline data segments require at least one object-backed segment.")
    if errors:
        raise Refusal(400, "".join(f"{error}\n" for error in errors))
    return wishes


def _wish(one: Any, own: str, *, last: bool) -> Wish:
    if not isinstance(one, dict):
        raise ValueError("not a JSON object")
    kind = next((name for name in _ALLOWED if name in one), None)
    if kind is None:
        raise ValueError("expected keys to include one of 'data' or 'path'")
    allowed = _ALLOWED[kind]
    extra = sorted(key for key in one if key != kind and key not in allowed)
    if extra:
        raise ValueError("extraneous keys " + ", ".join(json.dumps(key) for key in extra))
    if kind == "data":
        return Wish(data=_inline(one["data"]))
    path, etag, size, wanted = one["path"], one.get("etag"), one.get("size_bytes"), one.get("range")
    if not isinstance(path, str):
        raise ValueError('"path" must be a string')
    if etag is not None and not isinstance(etag, str):
        raise ValueError('"etag" must be a string or null (if provided)')
    name = path.lstrip("/")
    container, _, rest = name.partition("/")
    if not container or not rest or not path.strip("/").partition("/")[2]:
        raise ValueError("path does not refer to an object. Path must be of the form /container/object.")
    if "\0" in path or not _is_utf8(path):
        raise ValueError("path must be UTF-8 without NULL")
    if size is not None:
        try:
            if isinstance(size, bool | float):
                raise ValueError
            size = int(size)
        except (TypeError, ValueError):
            raise ValueError("invalid size_bytes") from None
        if size < 1 and not last:
            raise ValueError("too small; each segment must be at least 1 byte.")
    if name == own:
        raise ValueError("manifest must not include itself as a segment")
    if wanted:
        _check_range(wanted, size)
    return Wish(name, bare(etag) if etag is not None else None, size, wanted or None)


def _inline(text: Any) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        data = None
    if data is None:
        raise ValueError("data must be valid base64")
    if not data:
        raise ValueError("too small; each segment must be at least 1 byte.")
    return data


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_range(wanted: Any, size: int | None) -> None:
    if not isinstance(wanted, str):
        raise ValueError("invalid range")
    if "," in wanted:
        raise ValueError("multiple ranges (only one allowed)")
    if ranges(f"bytes={wanted}", 1 << 62) is None:
        raise ValueError("invalid range")
    if size is not None and not ranges(f"bytes={wanted}", size):
        raise ValueError("unsatisfiable range")


def checked(wish: Wish, head: Response, *, last: bool) -> tuple[Kept | None, list[str]]:
    """What is kept of a segment whose object answered ``head``, and what is wrong with it."""
    if not head.good:
        return None, [status_line(head.status)]
    size, etag = int(head.headers.get("content-length", "0")), bare(head.headers.get("etag", ""))
    problems = []
    kept: Kept = {
        "name": f"/{wish.path}",
        "bytes": size,
        "hash": etag,
        "content_type": head.headers.get("content-type", ""),
        "last_modified": _modified(head),
    }
    length = size
    if wish.range is not None:
        found = ranges(f"bytes={wish.range}", size)
        if not found:
            problems.append("Unsatisfiable Range")
        elif found[0] != (0, size - 1):
            first, final = found[0]
            kept["range"] = f"{first}-{final}"
            length = final - first + 1
    if length < 1 and not last:
        problems.append("Too small; each segment must be at least 1 byte.")
    if wish.size is not None and wish.size != size:
        problems.append("Size Mismatch")
    if wish.etag is not None and wish.etag != etag:
        problems.append("Etag Mismatch")
    if true(head.headers.get(IS_SLO)):
        kept["sub_slo"] = True
    return kept, problems


def _modified(head: Response) -> str:
    try:
        when = parsedate_to_datetime(head.headers.get("last-modified", ""))
    except (TypeError, ValueError):
        return ""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def inline(data: bytes) -> Kept:
    """What is kept of bytes that the manifest itself holds."""
    return {"data": base64.b64encode(data).decode("ascii")}


def dump(segments: Sequence[Kept]) -> bytes:
    """A manifest as it is kept."""
    return json.dumps(segments).encode()


def load(text: bytes) -> list[Kept]:
    """A kept manifest. Raises Refusal(500) for what is none."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise Refusal(500, "Unable to load SLO manifest")
    return found


def length(segment: Kept) -> int:
    """How many bytes a kept segment contributes."""
    if "data" in segment:
        return len(base64.b64decode(segment["data"]))
    if "range" in segment:
        first, _, last = segment["range"].partition("-")
        return int(last) - int(first) + 1
    return int(segment["bytes"])


def etag_of(segments: Sequence[Kept]) -> str:
    """The large object's ETag: MD5 over its segments' ETags and ranges."""
    total = hashlib.md5(usedforsecurity=False)
    for one in segments:
        if "data" in one:
            part = hashlib.md5(base64.b64decode(one["data"]), usedforsecurity=False).hexdigest()
        elif "range" in one:
            part = f"{one['hash']}:{one['range']};"
        else:
            part = one["hash"]
        total.update(part.encode())
    return total.hexdigest()


def as_sent(segments: Sequence[Kept]) -> bytes:
    """A kept manifest in the form in which clients send one."""
    shown = []
    for one in segments:
        if "data" in one:
            shown.append(one)
            continue
        sent = {"path": one["name"], "size_bytes": one["bytes"], "etag": one["hash"]}
        if "range" in one:
            sent["range"] = one["range"]
        shown.append(sent)
    return json.dumps(shown, sort_keys=True).encode()


@dataclass(slots=True)
class Tree:
    """The pieces of a large object, down through nested ones.

    root: ``/v1/account``. fetch: gives the kept manifest of a nested large object by its decoded path and ETag;
    raises Cut.
    """

    root: str
    fetch: Callable[[str, str], list[Kept]]
    _known: dict[str, list[Kept]] = field(default_factory=dict)

    def pieces(self, segments: Sequence[Kept], first: int, last: int, depth: int = 1) -> Iterator[Piece]:
        """What lies between two bytes, both included. Raises Cut for manifests nested deeper than `MAX_DEPTH`."""
        for one in segments:
            if last < 0:
                return
            size = length(one)
            if first >= size:
                first -= size
                last -= size
                continue
            low, high = max(0, first), min(size - 1, last)
            if size and "data" in one:
                yield Piece(data=base64.b64decode(one["data"]), first=low, last=high)
            elif size:
                offset = int(one["range"].partition("-")[0]) if "range" in one else 0
                path = self.root + quote_free(one["name"])
                if one.get("sub_slo"):
                    if depth >= MAX_DEPTH:
                        raise Cut("large objects are nested too deep")
                    inner = self._inner(path, one["hash"])
                    yield from self.pieces(inner, offset + low, offset + high, depth + 1)
                else:
                    yield Piece(path, offset + low, offset + high, one["hash"], int(one["bytes"]))
            first -= size
            last -= size

    def _inner(self, path: str, etag: str) -> list[Kept]:
        found = self._known.get(path)
        if found is None:
            if len(self._known) >= 2 * MAX_DEPTH:  # a tree is not to fill the memory
                self._known.pop(next(iter(self._known)))
            found = self._known[path] = self.fetch(path, etag)
        return found


def quote_free(name: str) -> str:
    """A kept name with exactly one slash in front."""
    return "/" + name.lstrip("/")


def shown(path: str) -> str:
    """A path as answers name it."""
    return quote(path, safe="/")
