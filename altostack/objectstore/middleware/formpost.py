"""Uploads from web pages: a signed HTML form becomes PUTs (object storage API, form POST).

The form is posted to ``/v1/account/container[/prefix]``; each file in it becomes an object of that prefix. Signed are
path, redirect, max_file_size, max_file_count and expires, each on a line, with a key of the account or container
(`signing`). Fields count when they stand before the file.
"""

from __future__ import annotations

from html import escape
from typing import Any, Final
from urllib.parse import quote

from altostack.objectstore.http import (
    CHUNK,
    REASONS,
    Body,
    Handler,
    Place,
    Refusal,
    Request,
    Response,
    ask,
)
from altostack.objectstore.middleware import signing
from altostack.objectstore.middleware.acl import challenge
from altostack.objectstore.middleware.multipart import Multipart, Part, parameters
from altostack.objectstore.middleware.options import Wrap, store_of
from altostack.objectstore.store import Store

MAX_VALUE: Final = 4096  # bytes of a field's value; the rest is cut off
_MAX_FIELDS: Final = 256
_HEADERS: Final = ("content-type", "content-encoding")


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """allowed_digests (sha1 sha256 sha512): forms, and Tempest, still sign with HMAC-SHA1, which is not broken."""
    store = store_of(conf)
    digests = signing.allowed_digests(local.get("allowed_digests", "sha1 sha256 sha512"))
    store.facts["formpost"] = {"allowed_digests": digests}
    return lambda app: FormPost(app, store, digests)


class _Bad(Refusal):
    """A form that is no such form, in the words that clients know."""

    def __init__(self, message: str) -> None:
        super().__init__(400, f"FormPost: {message}")


class _Capped:
    """A part that may be only so long. Raises Refusal(400) once it is longer."""

    length: int | None = None

    def __init__(self, body: Body, most: int) -> None:
        self._body, self._left = body, most

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        part = self._body.read(size)
        self._left -= len(part)
        if self._left < 0:
            raise _Bad("max_file_size exceeded")
        return part


class FormPost:
    """Takes forms apart."""

    def __init__(self, app: Handler, store: Store, digests: list[str]) -> None:
        self._app, self._store, self._digests = app, store, digests

    def __call__(self, request: Request) -> Response:
        said = request.headers.get("content-type", "")
        if request.method != "POST" or request.place is None or "multipart/form-data" not in said.lower():
            return self._app(request)
        kind, words = parameters(said)
        if kind != "multipart/form-data" or not words.get("boundary"):
            return self._app(request)
        try:
            return self._take(request, words["boundary"])
        except _Bad:
            raise
        except Refusal as refusal:
            if refusal.status == 400 and not refusal.message.startswith("FormPost"):
                raise _Bad(refusal.message) from None
            raise

    def _take(self, request: Request, boundary: str) -> Response:
        place = request.place
        keys = signing.keys_of(self._store, place) if place is not None and place.container else []
        fields: dict[str, str] = {}
        count, status, message = 0, 0, ""
        answer: Response | None = None
        for part in Multipart(request.body, boundary):
            kind, words = parameters(part.headers.get("content-disposition", ""))
            if kind != "form-data" or not words.get("filename"):
                _note(fields, words.get("name"), part)
                continue
            count += 1
            if count > _number(fields, "max_file_count"):
                status, message = 400, "max file count exceeded"
                break
            self._check(request, fields, keys)
            assert place is not None  # else there were no keys
            answer = self._put(request, place, words["filename"], fields, part)
            status = answer.status
            if not answer.good:
                break
        if not status:
            status, message = 400, "no files to process"
        if answer is None and fields.get("redirect"):
            self._check(request, fields, keys)  # nobody is sent anywhere but where the key's owner wants
        return _say(fields.get("redirect", ""), status, message, answer)

    def _check(self, request: Request, fields: dict[str, str], keys: list[tuple[str, signing.Scope]]) -> None:
        if not keys:
            raise self._unauthorized(request, "Invalid Signature")
        if _number(fields, "expires") < self._store.clock.seconds():
            raise self._unauthorized(request, "Form Expired")
        text = "\n".join(
            (
                request.path,
                fields.get("redirect", ""),
                fields.get("max_file_size") or "0",
                fields.get("max_file_count") or "0",
                fields.get("expires") or "0",
            )
        )
        try:
            algorithm, digest = signing.take_apart(fields.get("signature", ""))
        except ValueError:
            raise self._unauthorized(request, "Invalid Signature") from None
        if algorithm not in self._digests or signing.matching(digest, algorithm, [text], keys) is None:
            raise self._unauthorized(request, "Invalid Signature")

    def _put(self, request: Request, place: Place, name: str, fields: dict[str, str], part: Part) -> Response:
        path = request.path
        if place.object is None and not path.endswith("/"):
            path += "/"
        headers = {"transfer-encoding": "chunked"}
        for header in ("origin", "referer", "user-agent"):
            if header in request.headers:
                headers[header] = request.headers[header]
        for header in _HEADERS:
            if said := fields.get(header) or part.headers.get(header):
                if any(ord(char) < 32 or ord(char) == 127 for char in said):
                    raise _Bad(f"{header} is no header's value")
                headers[header] = said
        for field, what in (("x_delete_at", "Unix timestamp"), ("x_delete_after", "Number of seconds")):
            if field in fields:
                _number(fields, field, f": {what} required.")
                headers[field.replace("_", "-")] = fields[field].strip()
        sub = request.sub(
            "PUT", path + name, headers=headers, body=_Capped(part, _number(fields, "max_file_size"))
        )
        sub.facts["user"] = "formpost"
        sub.authorize = signing.within(place.account, place.container)
        return ask(self._app, sub)

    def _unauthorized(self, request: Request, why: str) -> Refusal:
        return Refusal(401, f"FormPost: {why}", headers=challenge(request))


def _note(fields: dict[str, str], name: str | None, part: Part) -> None:
    value = part.read(MAX_VALUE)
    if name is None or len(fields) >= _MAX_FIELDS:
        return
    try:
        fields[name.lower()] = value.decode()
    except UnicodeDecodeError:
        raise _Bad(f"{name} is not UTF-8") from None


def _number(fields: dict[str, str], name: str, hint: str = "") -> int:
    text = fields.get(name, "").strip() or "0"
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise _Bad(f"{name} not an integer{hint}")
    return int(text)


def _say(redirect: str, status: int, message: str, answer: Response | None) -> Response:
    """What the browser is told: where to go on, or how it went."""
    headers = {}
    if answer is not None:
        headers = {name: value for name, value in answer.headers.items() if name.startswith("access-control")}
    if redirect:
        if answer is not None:
            answer.close()
        mark = "&" if "?" in redirect else "?"
        there = f"{redirect}{mark}status={status}&message={quote(message)}"
        if any(ord(char) < 32 for char in there):
            raise _Bad("redirect has a line end in it")
        text = f'<html><body><p><a href="{escape(there)}">Click to continue...</a></p></body></html>'
        headers |= {"location": there, "content-type": "text/html; charset=UTF-8"}
        return Response(303, headers, text.encode())
    line = f"{status} {REASONS.get(status, '')}"
    body = line.encode()
    if message:
        body = f"{line}\r\nFormPost: {message.title()}".encode()
    elif answer is not None and not answer.good:
        body = answer.read() or body
    headers["content-type"] = "text/plain"
    return Response(status, headers, body)
