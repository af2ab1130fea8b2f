"""Bodies that are put together from other objects while they are sent: static and dynamic large objects."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from altostack.objectstore.http import Content, Extent, Handler, Refusal, Request, Response, ask
from altostack.objectstore.middleware.shape import Cut, bare, pieces

log = logging.getLogger(__name__)
_CARRIED = ("x-auth-token", "x-open-expired")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of an object, or bytes that are here (``data``).

    path: decoded, /v1/account/container/object. first, last: bytes, both included; last None: to its end. etag, size:
    what the object has to be for the run to be valid, None for whatever it is now.
    """

    path: str = ""
    first: int = 0
    last: int | None = None
    etag: str | None = None
    size: int | None = None
    data: bytes | None = None


def open_pieces(app: Handler, request: Request, wanted: Iterable[Piece], what: str) -> Content:
    """One content made of the pieces, which are fetched as they are needed, with the rights of ``request``.

    The first one is fetched at once. Raises Refusal(409) when it is not what it should be, Refusal(503) when it cannot
    be had now; for later pieces the content raises Cut while it is read.
    """
    rest = iter(wanted)
    try:
        first = next(rest, None)
        if first is None:
            return b""
        content = _open(app, request, first, what)
        second = next(rest, None)
    except Cut as trouble:
        log.warning("%s", trouble)
        raise Refusal(409) from None
    if second is None:
        return content
    return _Joined(app, request, content, second, rest, what)


class _Joined:
    """An iterable of bytes; closing it closes what is open."""

    def __init__(
        self,
        app: Handler,
        request: Request,
        content: Content,
        second: Piece,
        rest: Iterator[Piece],
        what: str,
    ) -> None:
        self._app, self._request, self._what = app, request, what
        self._content: Content = content
        self._second, self._rest = second, rest

    def __iter__(self) -> Iterator[bytes]:
        yield from pieces(self._content)
        piece: Piece | None = self._second
        while piece is not None:
            self._content = _open(self._app, self._request, piece, self._what)
            yield from pieces(self._content)
            piece = next(self._rest, None)

    def close(self) -> None:
        close = getattr(self._content, "close", None)
        if close is not None:
            close()


def _open(app: Handler, request: Request, piece: Piece, what: str) -> Content:
    if piece.data is not None:
        return piece.data[piece.first : None if piece.last is None else piece.last + 1]
    headers = {name: request.headers[name] for name in _CARRIED if name in request.headers}
    whole = piece.first == 0 and (
        piece.last is None or (piece.size is not None and piece.last == piece.size - 1)
    )
    if not whole:
        headers["range"] = f"bytes={piece.first}-{'' if piece.last is None else piece.last}"
    sub = request.sub(
        "GET", piece.path, query_string="multipart-manifest=get", headers=headers, keep_authority=True
    )
    response = ask(app, sub)
    if not response.good:
        response.close()
        said = f"{what}: {response.status} for the segment {piece.path}"
        if response.status >= 500:
            log.error("%s", said)
            raise Refusal(503)
        raise Cut(said)
    changed = piece.etag is not None and bare(response.headers.get("etag", "")) != piece.etag
    if whole and piece.size is not None and response.length != piece.size:
        changed = True
    expected = _expected(piece, response)
    if changed or (not whole and response.status != 206) or expected is None:
        response.close()
        raise Cut(f"{what}: the segment {piece.path} is not what it was")
    if isinstance(response.body, bytes | Extent):
        return response.body
    return _Counted(response, expected, piece.path)


def _expected(piece: Piece, response: Response) -> int | None:
    """How many bytes have to come, None when they are too few."""
    length = response.length
    if length is None or (piece.last is not None and length != piece.last - piece.first + 1):
        return None
    return length


class _Counted:
    """A response's body that raises Cut when it is too short."""

    def __init__(self, response: Response, expected: int, path: str) -> None:
        self._response, self._left, self._path = response, expected, path

    def __iter__(self) -> Iterator[bytes]:
        for part in pieces(self._response.body):
            self._left -= len(part)
            yield part
        if self._left:
            raise Cut(f"{self._left} bytes of {self._path} are missing")

    def close(self) -> None:
        self._response.close()
