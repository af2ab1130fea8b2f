"""Containers as web sites: index pages, error pages and listings (object storage API, static web sites).

For anonymous requests, those by a temporary URL, and those that say ``X-Web-Mode: true``. The container's metadata
rules: Web-Index, Web-Error (a suffix: ``404error.html``), Web-Listings, Web-Listings-Css, Web-Listings-Label and
Web-Directory-Type, each after ``X-Container-Meta-``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware import page
from altostack.objectstore.middleware.listing import GENERATOR
from altostack.objectstore.middleware.options import Wrap, flag, store_of
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store

_META: Final = "x-container-meta-web-"
_HTML: Final = "text/html; charset=UTF-8"


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """url_base: scheme and host for redirects; without it they name the path alone."""
    store = store_of(conf)
    store.facts["staticweb"] = {}
    parts = urlsplit(local.get("url_base", ""))
    base = f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return lambda app: StaticWeb(app, store, base)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """What the container's owner says."""

    index: str
    error: str
    listings: str
    css: str
    label: str
    directory: str
    acl: str

    @classmethod
    def of(cls, info: Info | None) -> Site:
        def said(name: str) -> str:
            return info.metadata.get(name, ("", ""))[0].strip() if info is not None else ""

        return cls(
            index=said(f"{_META}index"),
            error=said(f"{_META}error"),
            listings=said(f"{_META}listings"),
            css=said(f"{_META}listings-css"),
            label=said(f"{_META}listings-label"),
            directory=said(f"{_META}directory-type") or "application/directory",
            acl=said("x-container-read"),
        )

    @property
    def is_one(self) -> bool:
        """Whether there is anything to show but objects."""
        return bool(self.listings or self.index)


class StaticWeb:
    """Answers what browsers ask for."""

    def __init__(self, app: Handler, store: Store, base: str = "") -> None:
        self._app, self._store, self._base = app, store, base

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None or place.container is None or request.method not in ("GET", "HEAD"):
            return self._app(request)
        if request.authorize is None:  # of our own
            return self._app(request)
        web = flag(request.header("x-web-mode"))
        if request.context is not None and not web:
            return self._app(request)
        if place.object is not None:
            return self._object(request, place)
        response = self._container(request, place, web)
        if response is None:
            return self._app(request)
        response.headers[GENERATOR] = "staticweb"
        return response

    # ---- containers

    def _container(self, request: Request, place: Place, web: bool) -> Response | None:
        """None when the container is no web site."""
        site = self._site(place)
        if not site.is_one and not site.error and not web:
            return None
        try:
            assert request.authorize is not None
            request.authorize(request, site.acl)
        except Refusal as refusal:
            return self._error(request, place, site, refusal.response())
        if not site.is_one:
            if web:
                return Refusal(404).response()
            return None
        if not request.path.endswith("/"):
            return self._with_slash(request)
        if not site.index:
            return self._listing(request, place, site, "")
        response = self._fetch(request, request.path + site.index)
        if response.status == 404:
            response.close()
            return self._listing(request, place, site, "")
        if response.status >= 400:
            return self._error(request, place, site, response)
        return response

    # ---- objects

    def _object(self, request: Request, place: Place) -> Response:
        response = ask(self._app, request)
        site = self._site(place)
        if response.status < 400:
            length = response.headers.get("content-length") or str(response.length or 0)
            marker = response.headers.get("content-type") == site.directory and int(length) <= 1
            if not marker:
                return response
        elif response.status != 404:
            return response
        if not site.is_one:
            return response
        response.close()
        slash = request.path.endswith("/")
        if site.index:
            found = self._fetch(request, f"{request.path}{'' if slash else '/'}{site.index}")
            if found.status < 400:
                if slash:
                    return found
                found.close()
                return self._with_slash(request)
            found.close()
            if found.status != 404:
                return self._error(request, place, site, found)
        if slash:
            return self._listing(request, place, site, str(place.object))
        below = self._entries(request, place, f"{place.object}/", limit="1")
        if isinstance(below, list) and below:
            return self._with_slash(request)
        return self._error(request, place, site, Refusal(404).response())

    # ---- parts

    def _site(self, place: Place) -> Site:
        return Site.of(self._store.known.container(place.account, str(place.container)))

    def _fetch(self, request: Request, path: str) -> Response:
        """What the same request for another path is answered."""
        sub = request.sub(
            request.method,
            path,
            query_string=request.query_string,
            headers=request.headers,
            keep_authority=True,
        )
        return ask(self._app, sub)

    def _entries(
        self, request: Request, place: Place, prefix: str, **more: str
    ) -> list[dict[str, Any]] | Response:
        """What lies below ``prefix``, or why that cannot be told."""
        query = {"delimiter": "/"} | more
        if prefix:
            query["prefix"] = prefix
        headers = {"referer": request.headers["referer"]} if "referer" in request.headers else {}
        sub = request.sub(
            "GET", f"/{place.version}/{place.account}/{place.container}", query_string=urlencode(query),
            headers=headers, keep_authority=True,
        )  # fmt: skip
        response = ask(self._app, sub)
        return response.entries or [] if response.good else response

    def _listing(self, request: Request, place: Place, site: Site, prefix: str) -> Response:
        label = request.path
        if site.label:
            label = "/".join((site.label, *request.path.split("/")[4:]))
        css = _css(site.css, prefix)
        headers = {"content-type": _HTML}
        if not flag(site.listings):
            return self._error(
                request, place, site, Response(404, headers, page.disabled(label, css, site.index))
            )
        entries = self._entries(request, place, prefix)
        if isinstance(entries, Response):
            return self._error(request, place, site, entries)
        if prefix and not entries:
            return self._error(request, place, site, Refusal(404).response())
        query, above = "", ""
        if request.facts.get("user") == "tempurl":
            given = request.query
            above = given.get("temp_url_prefix", "")
            if "temp_url_prefix" in given:
                kept = ("temp_url_prefix", "temp_url_expires", "temp_url_sig", "temp_url_ip_range", "inline")
                query = "?" + urlencode({name: given[name] for name in kept if name in given})
        body = page.listing(
            label, entries, prefix=prefix, css=css, query=query, parent=len(prefix) > len(above)
        )
        return Response(200, headers | {GENERATOR: "staticweb"}, body)

    def _error(self, request: Request, place: Place, site: Site, response: Response) -> Response:
        """The owner's page for an error, with the error's status; the error itself when there is none."""
        if not site.error:
            return response
        path = f"/{place.version}/{place.account}/{place.container}/{response.status}{site.error}"
        headers = {"referer": request.headers["referer"]} if "referer" in request.headers else {}
        found = ask(self._app, request.sub("GET", path, headers=headers, keep_authority=True))
        if not found.good:
            found.close()
            return response
        response.close()
        found.status = response.status
        return found

    def _with_slash(self, request: Request) -> Response:
        there = quote(request.path, safe="/~") + "/"
        if there.startswith("//"):  # a browser would take what follows for a host
            raise Refusal(404)
        query = f"?{request.query_string}" if request.facts.get("user") == "tempurl" else ""
        return Response(
            301, {"location": f"{self._base}{there}{query}", "content-type": _HTML},
            b"<html><h1>Moved Permanently</h1></html>",
        )  # fmt: skip


def _css(css: str, prefix: str) -> str:
    """Where the style sheet is, seen from below ``prefix``."""
    if css.startswith(("/", "http://", "https://")):
        return quote(css, safe=":/")
    return "../" * prefix.count("/") + quote(css) if css else ""
