"""What the filters that change objects share: requests on behalf of others, rights, ranges, ETags, options."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote

from altostack.objectstore import stamp
from altostack.objectstore.http import Body, Content, Refusal, Request, Response, Stream
from altostack.objectstore.proxy import conditions
from altostack.objectstore.store import Store

EMPTY_ETAG: Final = hashlib.md5(b"", usedforsecurity=False).hexdigest()
ETAG_IS_AT: Final = "x-backend-etag-is-at"
WHOLE_IF: Final = "x-backend-ignore-range-if-metadata-present"
LISTED_ETAG: Final = "x-object-sysmeta-container-update-override-etag"
SLO_ETAG: Final = "x-object-sysmeta-slo-etag"
SLO_SIZE: Final = "x-object-sysmeta-slo-size"
IS_SLO: Final = "x-static-large-object"
bare = conditions.bare
_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")


def true(value: str | None) -> bool:
    """Whether a header, parameter or option says yes."""
    return value is not None and value.strip().lower() in ("true", "1", "yes", "on", "t", "y")


def again(
    request: Request,
    *,
    method: str | None = None,
    path: str | None = None,
    query: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: Body | bytes | None = None,
) -> Request:
    """``request`` with something changed: it may do what ``request`` may, and shares its facts."""
    made = request.sub(
        method or request.method,
        request.path if path is None else path,
        query_string=request.query_string if query is None else query,
        headers=request.headers if headers is None else headers,
        body=request.body if body is None else body,
        keep_authority=True,
    )
    made.facts = request.facts
    return made


def also(header: str | None, *names: str) -> str:
    """A header that lists names, with further ``names`` behind: whoever is farther out comes first."""
    return ",".join((header, *names) if header else names)


def require(store: Store, request: Request, account: str, container: str, *, write: bool) -> None:
    """Make sure that whoever sent ``request`` may read or write in a container, as the proxy would. Raises Refusal."""
    if request.authorize is None:
        return
    info = store.known.container(account, container)
    name = "x-container-write" if write else "x-container-read"
    acl = info.metadata.get(name, ("", ""))[0] if info is not None and not info.gone else ""
    request.authorize(request, acl or None)


def setting(store: Store, account: str, container: str, name: str) -> str:
    """A container's metadata, "" when it is not set or the container is not there. Raises Refusal(503)."""
    info = store.known.container(account, container)
    if info is None or info.gone:
        return ""
    found = info.metadata.get(name)
    return found[0] if found is not None else ""


def unquoted(value: str) -> str:
    """A quoted header value; "" for one that is not UTF-8 or holds NULL."""
    try:
        text = unquote(value, errors="strict")
        text.encode()
    except UnicodeError:
        return ""
    return "" if "\0" in text else text


def two_parts(value: str, header: str) -> tuple[str, str]:
    """(container, object) that a quoted header value names, with or without a slash in front. Raises Refusal(412)."""
    container, _, name = unquoted(value).removeprefix("/").partition("/")
    if not container or not name:
        raise Refusal(412, f"{header} header must be of the form <container name>/<object name>")
    return container, name


def account_name(value: str) -> str:
    """The account that a quoted header value names. Raises Refusal(412)."""
    name = unquoted(value)
    if not name or "/" in name:
        raise Refusal(412, "Account name cannot contain slashes")
    return name


def drained(response: Response) -> Response:
    """``response`` without its body."""
    response.close()
    return Response(response.status, response.headers)


def failed(response: Response) -> Refusal:
    """A response that is no success, as a Refusal. The body is read: errors are short."""
    text = response.read().decode("utf-8", "replace")
    refusal = Refusal(response.status)
    if not text.startswith("<html>") and text:
        refusal.message = text
    return refusal


# ---- ETags in listings: "hash; name=value; name=value"


def parameters(etag: str) -> tuple[str, dict[str, str]]:
    """A listed ETag as (ETag, parameters)."""
    value, *rest = etag.split(";")
    pairs = (part.strip().partition("=") for part in rest)
    return value.strip(), {name: said.strip('"') for name, _, said in pairs if name}


def with_parameters(etag: str, given: Mapping[str, str]) -> str:
    """The reverse of `parameters`."""
    return "; ".join((etag, *(f"{name}={value}" for name, value in given.items())))


# ---- conditions and ranges (RFC 9110, 13 and 14)


def unconditional(headers: Mapping[str, str]) -> dict[str, str]:
    """``headers`` without conditions and ranges."""
    return {name: value for name, value in headers.items() if name not in (*_CONDITIONS, "range", "if-range")}


def ranges(header: str, size: int) -> list[tuple[int, int]] | None:
    """The (first, last) bytes that a Range header asks for, of ``size`` bytes; None and [] as `parse_ranges`."""
    found = conditions.parse_ranges(header, size)
    return None if found is None else [(start, stop - 1) for start, stop in found]


class Cut(Exception):
    """What a response is made of is not there as it should be; the connection has to be cut."""


def sliced(
    request: Request,
    headers: Mapping[str, str],
    size: int,
    opened: Callable[[int, int], Content],
    *,
    etag: str,
) -> Response:
    """A GET or HEAD of something that is put together, with its conditions and ranges.

    headers: of the answer to a plain GET; what they say of the length is ignored. opened: gives the bytes from a first
    to a last one; for all ranges but the first it is called while the answer is being sent.
    """
    headers = {k: v for k, v in headers.items() if k not in ("content-length", "content-range")}
    headers["accept-ranges"] = "bytes"
    changed = headers.get("x-timestamp", stamp.ZERO)
    unmet = conditions.unmet(request.headers, etag, changed)
    if unmet is not None:
        return Response(unmet, headers)
    if request.method == "HEAD":
        return Response(200, headers | {"content-length": str(size)})
    wanted = None
    asked = request.headers.get("range")
    if asked is not None and conditions.applies(request.headers, etag, changed):
        wanted = ranges(asked, size)
    if wanted is None:
        content = opened(0, size - 1) if size else b""
        return Response(200, headers | {"content-length": str(size)}, content)
    if not wanted:
        kept = {name: headers[name] for name in ("etag", "last-modified", "x-timestamp") if name in headers}
        refusal = Refusal(416, headers=kept | {"content-range": f"bytes */{size}", "accept-ranges": "bytes"})
        return refusal.response()
    first, last = wanted[0]
    content = opened(first, last)
    if len(wanted) == 1:
        headers["content-range"] = f"bytes {first}-{last}/{size}"
        headers["content-length"] = str(last - first + 1)
        return Response(206, headers, content)
    return _many(headers, size, wanted, content, opened)


def _many(
    headers: dict[str, str],
    size: int,
    wanted: list[tuple[int, int]],
    content: Content,
    opened: Callable[[int, int], Content],
) -> Response:
    boundary = secrets.token_hex(16)
    kind = headers.get("content-type", "application/octet-stream")
    heads = [
        f"--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n".encode()
        for first, last in wanted
    ]
    end = f"--{boundary}--".encode()
    length = sum(len(head) + last - first + 3 for head, (first, last) in zip(heads, wanted, strict=True))

    headers["content-length"] = str(length + len(end))
    headers["content-type"] = f"multipart/byteranges;boundary={boundary}"
    return Response(206, headers, _Multipart(heads, wanted, end, content, opened))


class _Multipart:
    """The body of an answer with several ranges; closing it closes the one that is open."""

    def __init__(
        self,
        heads: list[bytes],
        wanted: list[tuple[int, int]],
        end: bytes,
        content: Content,
        opened: Callable[[int, int], Content],
    ) -> None:
        self._heads, self._wanted, self._end = heads, wanted, end
        self._content, self._opened = content, opened

    def __iter__(self) -> Iterator[bytes]:
        for number, head in enumerate(self._heads):
            if number:
                self._content = self._opened(*self._wanted[number])
            yield head
            yield from pieces(self._content)
            yield b"\r\n"
        yield self._end

    def close(self) -> None:
        close = getattr(self._content, "close", None)
        if close is not None:
            close()


def as_body(content: Content, length: int | None) -> Stream:
    """A response's body as a request's. What breaks off in it is a conflict, as other writers caused it."""

    def whole() -> Iterator[bytes]:
        try:
            yield from pieces(content)
        except Cut as trouble:
            raise Refusal(409, str(trouble)) from None

    return Stream(whole(), length)


def pieces(content: Content) -> Iterator[bytes]:
    """A response's body as an iterator."""
    return iter((content,)) if isinstance(content, bytes) else iter(content)
