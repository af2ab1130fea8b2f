"""Symbolic links: an object without content that names another object (object storage API, symlinks).

Links are followed on GET and HEAD; ``?symlink=get`` looks at the link itself. A static link also fixes its target's
ETag. The listed ETag of a link tells of its target: ``symlink_target``, ``symlink_target_account``,
``symlink_target_etag``, ``symlink_target_bytes``.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, unquote

from altostack.objectstore.http import Handler, Refusal, Request, Response, ask
from altostack.objectstore.middleware.options import Wrap, number, store_of
from altostack.objectstore.middleware.shape import (
    EMPTY_ETAG,
    LISTED_ETAG,
    SLO_ETAG,
    SLO_SIZE,
    WHOLE_IF,
    account_name,
    again,
    also,
    bare,
    parameters,
    true,
    two_parts,
    with_parameters,
)

TARGET: Final = "x-symlink-target"
TARGET_ACCOUNT: Final = "x-symlink-target-account"
TARGET_ETAG: Final = "x-symlink-target-etag"
TARGET_BYTES: Final = "x-symlink-target-bytes"
_SYS: Final = "x-object-sysmeta-symlink-"
SYS_TARGET: Final = _SYS + "target"
SYS_ACCOUNT: Final = _SYS + "target-account"
SYS_ETAG: Final = _SYS + "target-etag"
SYS_BYTES: Final = _SYS + "target-bytes"
EXTEND: Final = "x-object-sysmeta-symloop-extend"  # the link does not count as one of those in a row
TRUSTED: Final = (
    "x-object-sysmeta-allow-reserved-names"  # what made the link answers for access to the target
)
OWN: Final = "x-backend-own-location"  # of an answer: where the object's own content lies, by a trusted link
_SHOWN: Final = (
    (SYS_TARGET, TARGET),
    (SYS_ACCOUNT, TARGET_ACCOUNT),
    (SYS_ETAG, TARGET_ETAG),
    (SYS_BYTES, TARGET_BYTES),
)
_POSTED: Final = (
    "The requested POST was applied to a symlink. POST directly to the target to apply requested metadata."
)
_MAX_EXTENDED: Final = 16  # links that do not count, in a row: more is a loop


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """symloop_max (2): links that are followed in a row."""
    store = store_of(conf)
    most = number("symloop_max", local.get("symloop_max", "2")) or 2
    store.facts["symlink"] = {"symloop_max": most, "static_links": True}
    return lambda app: Symlinks(app, most)


class Symlinks:
    """The filter."""

    def __init__(self, app: Handler, most: int = 2) -> None:
        self._app, self._most = app, most

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None or place.container is None:
            return self._app(request)
        method = request.method
        if place.object is None:
            return self._list(request) if method == "GET" else self._app(request)
        if method in ("GET", "HEAD"):
            if request.query_string and request.query.get("symlink") == "get":
                return _as_link(self._app(request))
            request.headers[WHOLE_IF] = also(request.headers.get(WHOLE_IF), SYS_TARGET)
            response = self._app(request)
            if SYS_TARGET not in response.headers:
                return response
            return self._follow(request, response)
        if method == "PUT" and TARGET in request.headers:
            return self._put(request)
        if method == "POST":
            return self._post(request)
        return self._app(request)

    # ---- GET and HEAD

    def _follow(self, request: Request, response: Response, *, soft: bool = True) -> Response:
        """What the link leads to. ``soft``: links that fix no ETag are followed too. Raises Refusal(409)."""
        wanted: str | None = None
        location = own = ""
        version = _version_of(request)
        account = request.place.account if request.place else ""
        counted = free = 0
        while (target := response.headers.get(SYS_TARGET)) is not None:
            fixed = response.headers.get(SYS_ETAG)
            if not fixed and not soft:
                break
            soft = True
            headers = response.headers
            response.close()
            found = fixed or bare(headers.get("etag", ""))
            if wanted and wanted != found:
                raise _mismatch("X-Symlink-Target-Etag headers do not match", location)
            if true(headers.get(EXTEND)):
                free += 1
            else:
                counted += 1
            if counted > self._most or free > _MAX_EXTENDED:
                raise Refusal(409, f"Too many levels of symbolic links, maximum allowed is {self._most}")
            account = unquote(headers.get(SYS_ACCOUNT, "")) or account
            location = f"/{version}/{quote(account)}/{target}"
            sub = again(request, path=unquote(location), query="", body=b"")
            if true(headers.get(TRUSTED)):
                sub.authorize = None
                own = own or (location if counted == 0 else "")
            response = ask(self._app, sub)
            wanted = fixed
        if wanted and response.status != 404:
            final = bare(response.headers.get("etag", ""))
            if final and final != wanted:
                response.close()
                raise _mismatch(
                    f"Object Etag {final!r} does not match X-Symlink-Target-Etag header {wanted!r}", location
                )
        if location:
            response.headers["content-location"] = location
        if own:
            response.headers[OWN] = own
        return response

    # ---- PUT and POST

    def _put(self, request: Request) -> Response:
        length = request.body.length
        if length or (length is None and request.body.read(1)):
            raise Refusal(400, "Symlink requests require a zero byte body")
        headers = dict(request.headers)
        place = request.place
        assert place is not None
        given = headers.pop(TARGET)
        if unquote(given).startswith("/"):
            raise Refusal(412, "X-Symlink-Target header must be of the form <container name>/<object name>")
        container, name = two_parts(given, "X-Symlink-Target")
        target = headers[SYS_TARGET] = quote(f"{container}/{name}")
        account = place.account
        if said := headers.pop(TARGET_ACCOUNT, ""):
            account = account_name(said)
            headers[SYS_ACCOUNT] = quote(account)
        if (account, container, name) == (place.account, place.container, place.object):
            raise Refusal(400, "Symlink cannot target itself")
        etag = bare(headers.pop(TARGET_ETAG, ""))
        headers.pop(TARGET_BYTES, None)
        if etag:
            if any(sign in etag for sign in ';"\\'):
                raise Refusal(400, "Bad X-Symlink-Target-Etag format")
            self._fix(request, headers, f"/{place.version}/{account}/{container}/{name}", etag)
        elif not headers.get("content-type"):
            headers["content-type"] = "application/symlink"
        listed, found = parameters(headers.get(LISTED_ETAG, EMPTY_ETAG))
        found["symlink_target"] = target
        for header, key in (
            (SYS_ACCOUNT, "symlink_target_account"),
            (SYS_ETAG, "symlink_target_etag"),
            (SYS_BYTES, "symlink_target_bytes"),
        ):
            if header in headers:
                found[key] = headers[header]
        headers[LISTED_ETAG] = with_parameters(listed, found)
        return self._app(again(request, headers=headers, body=b""))

    def _fix(self, request: Request, headers: dict[str, str], path: str, etag: str) -> None:
        """Make sure that the target is there and has the ETag, and note what the link tells of it."""
        sub = request.sub("HEAD", path, keep_authority=True)
        response = ask(self._app, sub)
        if response.headers.get(SYS_ETAG):
            response = self._follow(sub, response, soft=False)
        location = response.headers.get("content-location", quote(path))
        if response.status == 404:
            raise _mismatch("X-Symlink-Target does not exist", location)
        if not response.good:
            raise Refusal(response.status)
        found = response.headers
        if bare(found.get("etag", "")) != etag:
            raise _mismatch(
                f"Object Etag {bare(found.get('etag', ''))!r} does not match X-Symlink-Target-Etag header {etag!r}",
                location,
            )
        if SLO_ETAG in found and LISTED_ETAG not in headers:
            large = {"slo_etag": found[SLO_ETAG], "slo_size": found.get(SLO_SIZE, "0")}
            headers[LISTED_ETAG] = with_parameters(EMPTY_ETAG, large)
        headers[SYS_ETAG] = etag
        headers[SYS_BYTES] = found.get(SLO_SIZE) or found.get("content-length", "0")
        if not headers.get("content-type"):
            headers["content-type"] = found.get("content-type", "application/octet-stream")

    def _post(self, request: Request) -> Response:
        """The link itself gets the metadata; whoever meant the target is told where it is."""
        if TARGET in request.headers:
            raise Refusal(400, "A PUT request is required to set a symlink target")
        response = self._app(request)
        target = response.headers.get(SYS_TARGET)
        if target is None or not response.good:
            return response
        headers = {name: value for name, value in response.headers.items() if name.startswith(_SYSMETA)}
        account = response.headers.get(SYS_ACCOUNT) or quote(request.place.account if request.place else "")
        headers["location"] = f"/{_version_of(request)}/{account}/{target}"
        if fixed := response.headers.get(SYS_ETAG):
            headers[TARGET_ETAG] = fixed
        raise Refusal(307, _POSTED, headers=headers)

    # ---- listings

    def _list(self, request: Request) -> Response:
        response = self._app(request)
        place = request.place
        assert place is not None
        for entry in response.entries or ():
            listed = entry.get("hash")
            if not listed or "symlink_target=" not in listed:
                continue
            etag, found = parameters(listed)
            target = found.pop("symlink_target", "")
            account = found.pop("symlink_target_account", "") or quote(place.account)
            fixed, size = found.pop("symlink_target_etag", ""), found.pop("symlink_target_bytes", "")
            if fixed:
                entry["symlink_etag"] = fixed
            if size.isdecimal():
                entry["symlink_bytes"] = int(size)
            entry["symlink_path"] = f"/{place.version}/{account}/{target}"
            entry["hash"] = with_parameters(etag, found)
        return response


_SYSMETA: Final = "x-object-sysmeta-"


def _version_of(request: Request) -> str:
    return request.place.version if request.place is not None else "v1"


def _as_link(response: Response) -> Response:
    headers = response.headers
    if SYS_TARGET in headers:
        for ours, shown in _SHOWN:
            if ours in headers:
                headers[shown] = headers.pop(ours)
    return response


def _mismatch(message: str, location: str) -> Refusal:
    return Refusal(409, message, headers={"content-type": "text/plain", "content-location": location})
