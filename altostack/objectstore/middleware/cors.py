"""Web pages of other origins: cross-origin resource sharing (Fetch standard), as each container's owner allows it.

X-Container-Meta-Access-Control-Allow-Origin (origins with blanks between them, or ``*``), -Max-Age and -Expose-Headers.
"""

from __future__ import annotations

from typing import Any, Final

from altostack.objectstore.http import Handler, Place, Refusal, Request, Response
from altostack.objectstore.middleware.options import Wrap, flag, store_of, words
from altostack.objectstore.store import Store

_METHODS: Final = "HEAD, GET, PUT, POST, COPY, OPTIONS, DELETE"
_EXPOSED: Final = frozenset(
    {
        "cache-control", "content-language", "content-type", "expires", "last-modified", "pragma", "etag",
        "x-timestamp", "x-trans-id", "x-openstack-request-id",
    }
)  # fmt: skip
_META: Final = "x-container-meta-access-control-"


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """cors_allow_origin: origins that are allowed everywhere, besides what containers say (none).

    cors_expose_headers: headers that scripts may read, besides the usual ones. strict_cors_mode (yes): no leaves it to
    the browser: an answer then tells whichever origin asks that it is allowed.
    """
    store = store_of(conf)
    strict = flag(local.get("strict_cors_mode", "yes"))
    store.facts.setdefault("swift", {})["strict_cors_mode"] = strict
    return lambda app: Cors(
        app,
        store,
        origins=frozenset(words(local.get("cors_allow_origin", ""))),
        exposed=frozenset(words(local.get("cors_expose_headers", "").lower())),
        strict=strict,
    )


class Cors:
    """Answers preflights and marks answers that pages may see."""

    def __init__(
        self,
        app: Handler,
        store: Store,
        *,
        origins: frozenset[str] = frozenset(),
        exposed: frozenset[str] = frozenset(),
        strict: bool = True,
    ) -> None:
        self._app, self._store = app, store
        self._origins, self._exposed, self._strict = origins, exposed, strict

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None:
            return self._app(request)
        origin = request.headers.get("origin")
        if request.method == "OPTIONS":
            return self._preflight(request, place, origin)
        if not origin or place.container is None:
            return self._app(request)
        said = self._said(place)
        allowed = self._allows(said, origin)
        if self._strict and not allowed:
            return self._app(request)
        try:
            response = self._app(request)
        except Refusal as refusal:
            response = refusal.response()
        headers = response.headers
        if "access-control-expose-headers" not in headers:
            shown = {name for name in headers if name.startswith(("x-container-meta-", "x-object-meta-"))}
            shown |= (
                _EXPOSED
                | self._exposed
                | set(said.get("expose-headers", "").lower().replace(",", " ").split())
            )
            headers["access-control-expose-headers"] = ", ".join(sorted(shown))
        if "access-control-allow-origin" not in headers:
            self._admit(headers, said, origin)
        return response

    def _preflight(self, request: Request, place: Place, origin: str | None) -> Response:
        allow = _METHODS if place.object is not None else _METHODS.replace("COPY, ", "")
        headers = {"allow": allow}
        if not origin or place.container is None:
            return Response(200, headers)
        said = self._said(place)
        asked = request.header("access-control-request-method")
        if not self._allows(said, origin) or asked not in allow.split(", "):
            return Response(401, headers)
        self._admit(headers, said, origin)
        if age := said.get("max-age"):
            headers["access-control-max-age"] = age
        headers["access-control-allow-methods"] = allow
        if wanted := words(request.header("access-control-request-headers")):
            headers["access-control-allow-headers"] = ", ".join(dict.fromkeys(wanted))
            _vary(headers, "Access-Control-Request-Headers")
        return Response(200, headers)

    def _said(self, place: Place) -> dict[str, str]:
        """What the container's owner says: "allow-origin", "max-age", "expose-headers"."""
        held = self._store.known.container(place.account, str(place.container))
        if held is None:
            return {}
        return {
            name[len(_META) :]: value.strip()
            for name, (value, _) in held.metadata.items()
            if name.startswith(_META) and value.strip()
        }

    def _allows(self, said: dict[str, str], origin: str) -> bool:
        allowed = self._origins | set(said.get("allow-origin", "").split())
        return origin in allowed or "*" in allowed

    def _admit(self, headers: dict[str, str], said: dict[str, str], origin: str) -> None:
        if said.get("allow-origin") == "*":
            headers["access-control-allow-origin"] = "*"
        else:
            headers["access-control-allow-origin"] = origin
            _vary(headers, "Origin")


def _vary(headers: dict[str, str], name: str) -> None:
    held = headers.get("vary")
    headers["vary"] = f"{held}, {name}" if held else name
