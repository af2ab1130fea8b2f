"""Requests and answers as the object store's pipeline hands them on.

A `Handler` turns a `Request` into a `Response`. The pipeline is handlers inside each other; the innermost is the
proxy. Header names are lower case inside, values are text (UTF-8 on the wire); the server writes them as people are
used to see them. A `Refusal` may be raised anywhere; whoever makes a request of its own inside the pipeline uses
`ask`, which turns it into a `Response`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, quote, unquote_to_bytes

from altostack.kit.context import Context

CHUNK: Final = 1 << 18

REASONS: Final[Mapping[int, str]] = {one.value: one.phrase for one in HTTPStatus} | {
    408: "Request Timeout",
    413: "Request Entity Too Large",
    416: "Requested Range Not Satisfiable",
    422: "Unprocessable Entity",
    498: "Rate Limited",
    499: "Client Disconnect",
}
_WORDS: Final[Mapping[int, str]] = {
    400: "The server could not comply with the request since it is either malformed or otherwise incorrect.",
    401: "This server could not verify that you are authorized to access the document you requested.",
    403: "Access was denied to this resource.",
    404: "The resource could not be found.",
    405: "The method is not allowed for this resource.",
    406: "The resource is not available in a format acceptable to your browser.",
    409: "There was a conflict when trying to complete your request.",
    411: "Content-Length header required.",
    412: "A precondition for this request was not met.",
    413: "The body of your request was too large for this server.",
    416: "The Range requested is not available.",
    422: "Unable to process the contained instructions",
    499: "The client was disconnected during request.",
    500: "The server has either erred or is incapable of performing the requested operation.",
    503: "The server is currently unavailable. Please try again at a later time.",
    507: "There was not enough space to save the resource.",
}


class ClientGone(ConnectionError):
    """The client went away, or was silent for too long, before its request's body was complete."""


class Body(Protocol):
    """A request's body."""

    length: int | None  # bytes in all; None when the client did not say (chunked)

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, less only at the end; all that is left without a size.

        Raises ClientGone when the body ends early, Refusal for a broken chunk frame.
        """
        ...


class Bytes:
    """A body that is already here."""

    def __init__(self, content: bytes = b"") -> None:
        self._content, self._at = content, 0
        self.length: int | None = len(content)

    def read(self, size: int = -1) -> bytes:
        end = len(self._content) if size < 0 else self._at + size
        part = self._content[self._at : end]
        self._at += len(part)
        return part


class Unsaid(Bytes):
    """No body, of a request that does not say whether it has one: neither Content-Length nor Transfer-Encoding."""


class Stream:
    """A body made of an iterable of bytes. ``length``: how many they are, if that is known."""

    def __init__(self, chunks: Iterable[bytes], length: int | None = None) -> None:
        self._chunks, self._rest = iter(chunks), b""
        self.length = length

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        parts: list[bytes] = []
        while size > 0:
            if not self._rest:
                self._rest = next(filter(None, self._chunks), b"")  # an empty piece is not the end
                if not self._rest:
                    break
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def chunks(body: Body, size: int = CHUNK) -> Iterator[bytes]:
    """The body piece by piece."""
    while part := body.read(size):
        yield part


@dataclass(frozen=True, slots=True)
class Place:
    """What a Swift path names: ``/v1/account[/container[/object]]``, each part decoded."""

    account: str
    container: str | None = None
    object: str | None = None
    version: str = "v1"

    @property
    def path(self) -> str:
        """The decoded path. Object names may hold slashes."""
        return "/".join(
            part for part in ("", self.version, self.account, self.container, self.object) if part is not None
        )


Authorize = Callable[["Request", "str | None"], None]


class Request:
    """One request.

    method; target: path as it came, still quoted, without the query; path: decoded; query_string: as it came; headers:
    lower-case name -> value, repeated ones joined by ","; body; remote: the client's address; scheme; trans_id: the
    transaction's id. context: the token's bearer, once known. authorize: called by the proxy with the request and the
    container's ACL once that is known; raises Refusal; None lets everything through (requests of our own). facts: what
    handlers tell each other.
    """

    __slots__ = (
        "_place", "_query", "authorize", "body", "context", "facts", "headers", "method", "path", "query_string",
        "remote", "scheme", "target", "trans_id",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        target: str,
        *,
        query_string: str = "",
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        remote: str = "",
        scheme: str = "http",
        trans_id: str = "",
    ) -> None:
        self.method = method
        self.target = target
        self.query_string = query_string
        self.headers = {} if headers is None else headers
        self.body: Body = Bytes() if body is None else body
        self.remote = remote
        self.scheme = scheme
        self.trans_id = trans_id
        self.context: Context | None = None
        self.authorize: Authorize | None = None
        self.facts: dict[str, Any] = {}
        self._query: dict[str, str] | None = None
        self._place: Place | str | None = ""  # not looked at yet
        try:
            self.path = unquote_to_bytes(target).decode() if "%" in target or not target.isascii() else target
        except UnicodeDecodeError:
            raise Refusal(412, "Invalid UTF8 or contains NULL") from None
        if "\0" in self.path:
            raise Refusal(412, "Invalid UTF8 or contains NULL")

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters; the last of a name counts. Raises Refusal for what is not UTF-8."""
        if self._query is None:
            try:
                pairs = parse_qsl(self.query_string, keep_blank_values=True, errors="strict")
            except (UnicodeDecodeError, ValueError):
                raise Refusal(400, "Query parameters must be UTF-8.") from None
            self._query = dict(pairs)
        return self._query

    @property
    def place(self) -> Place | None:
        """The account, container and object that the path names; None for other paths."""
        if isinstance(self._place, str):
            self._place = place_of(self.path)
        return self._place

    def rewrite(self, *, path: str | None = None, query_string: str | None = None) -> None:
        """Go on as if this had been asked for. ``path`` is decoded. Raises Refusal(412) if it is no Unicode text."""
        if path is not None:
            self.path, self.target, self._place = path, _quoted(path), ""
        if query_string is not None:
            self.query_string, self._query = query_string, None

    def header(self, name: str, default: str = "") -> str:
        """A header's value; ``name`` in lower case."""
        return self.headers.get(name, default)

    def sub(
        self,
        method: str,
        path: str,
        *,
        query_string: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        keep_authority: bool = False,
    ) -> Request:
        """A request of our own on this one's behalf; ``path`` is decoded.

        It carries the same bearer, transaction and facts (a copy) and only the headers given. It is let through
        everywhere unless ``keep_authority``: then it may do what this request may. Raises Refusal(412) for a path that
        is no Unicode text.
        """
        made = Request(
            method,
            _quoted(path),
            query_string=query_string,
            headers=dict(headers or {}),
            body=Bytes(body) if isinstance(body, bytes) else body,
            remote=self.remote,
            scheme=self.scheme,
            trans_id=self.trans_id,
        )
        made.context = self.context
        made.facts = dict(self.facts)
        made.authorize = self.authorize if keep_authority else None
        return made


def _quoted(path: str) -> str:
    """As it stands in a request. Raises Refusal(412) for what came out of bytes that are not UTF-8."""
    try:
        return quote(path, safe="/~")
    except UnicodeEncodeError:
        raise Refusal(412, "Invalid UTF8 or contains NULL") from None


def place_of(path: str) -> Place | None:
    """The account, container and object in a decoded path, None for a path of another form."""
    parts = path.split("/", 4)
    if len(parts) < 3 or parts[0] or parts[1] not in ("v1", "v1.0") or not parts[2]:
        return None
    account = parts[2]
    container = parts[3] if len(parts) > 3 and parts[3] else None
    name = parts[4] if len(parts) > 4 and parts[4] else None
    if container is None and len(parts) > 4:
        return None
    return Place(account, container, name, parts[1])


class Extent:
    """A run of bytes in an open file: the server sends it without taking it through this process. Closes the file."""

    __slots__ = ("descriptor", "length", "offset")

    def __init__(self, descriptor: int, offset: int, length: int) -> None:
        self.descriptor, self.offset, self.length = descriptor, offset, length

    def __iter__(self) -> Iterator[bytes]:
        at, left = self.offset, self.length
        try:
            while left and (part := os.pread(self.descriptor, min(left, CHUNK), at)):
                at += len(part)
                left -= len(part)
                yield part
        finally:
            self.close()

    def close(self) -> None:
        """Close the file. May be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


Content = bytes | Extent | Iterable[bytes]


@dataclass(slots=True)
class Response:
    """An answer. A body that is an iterable has its length in the header ``content-length`` or is sent in chunks.

    entries: a listing that is not text yet, so that handlers can look into it and change it: JSON objects as the object
    storage API documents them ("name", "hash", "bytes", ... or "subdir"). The handler ``listing`` near the edge writes
    them in the format that the client asked for; requests of our own read them as they are.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Content = b""
    entries: list[dict[str, Any]] | None = None

    @property
    def good(self) -> bool:
        """Whether the status is of the 200s."""
        return 200 <= self.status < 300

    @property
    def length(self) -> int | None:
        """How many bytes the body has, if that is known."""
        if isinstance(self.body, bytes):
            return len(self.body)
        if isinstance(self.body, Extent):
            return self.body.length
        said = self.headers.get("content-length")
        return int(said) if said is not None else None

    def read(self) -> bytes:
        """The whole body; for bodies that are known to be small."""
        if isinstance(self.body, bytes):
            return self.body
        try:
            return b"".join(self.body)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of what the body holds. Whoever does not send or read a response closes it."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


class Refusal(Exception):
    """The request ends here with ``status``; ``message`` is for whoever sent it."""

    def __init__(
        self, status: int, message: str = "", *, headers: Mapping[str, str] | None = None, kind: str = ""
    ) -> None:
        self.status = status
        self.message = message or _WORDS.get(status, REASONS.get(status, ""))
        self.headers = dict(headers or {})
        self.kind = kind  # for dialects that have error codes of their own
        super().__init__(f"{status} {self.message}")

    def response(self) -> Response:
        """The refusal as the Swift API says it: HTML for the usual words, plain text for words of a handler's own."""
        reason = REASONS.get(self.status, "")
        usual = self.message == _WORDS.get(self.status)
        text = f"<html><h1>{reason}</h1><p>{self.message}</p></html>" if usual else self.message
        kind = "text/html; charset=UTF-8" if usual else "text/plain; charset=UTF-8"
        return Response(
            self.status, {"content-type": kind, **self.headers}, text.encode(errors="backslashreplace")
        )


Handler = Callable[[Request], Response]


def ask(app: Handler, request: Request) -> Response:
    """Have ``app`` answer; a Refusal is an answer too."""
    try:
        return app(request)
    except Refusal as refusal:
        return refusal.response()
