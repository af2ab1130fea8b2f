"""/healthcheck for load balancers, and /info (`info`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from altostack.objectstore.http import Handler, Request, Response
from altostack.objectstore.middleware.info import About
from altostack.objectstore.middleware.options import Wrap, flag, store_of, words

_PLAIN: Final = {"content-type": "text/plain"}


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """disable_path: while this file exists, /healthcheck says 503, so that a balancer takes the machine out.

    expose_info (yes), admin_key, disallowed_sections: see `info.About`.
    """
    about = About(
        store_of(conf),
        expose=flag(local.get("expose_info", "yes")),
        admin_key=local.get("admin_key", ""),
        hidden=tuple(words(local.get("disallowed_sections", "swift.valid_api_versions"))),
    )
    disabled = Path(local["disable_path"]) if local.get("disable_path") else None
    return lambda app: Health(app, about, disabled)


class Health:
    """Answers /healthcheck and /info, hands on the rest."""

    def __init__(self, app: Handler, about: About, disabled: Path | None = None) -> None:
        self._app, self._about, self._disabled = app, about, disabled

    def __call__(self, request: Request) -> Response:
        if request.target == "/healthcheck":
            if self._disabled is not None and self._disabled.exists():
                return Response(503, dict(_PLAIN), b"DISABLED BY FILE")
            return Response(200, dict(_PLAIN), b"OK")
        if request.target == "/info":
            return self._about(request)
        return self._app(request)
