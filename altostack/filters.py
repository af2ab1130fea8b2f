"""The factories that paste.ini names. Paste Deployment hands each the configuration; we add the objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from altostack.kit.auth import AuthFilter, RequestIdFilter, TokenCache

App = Callable[..., Iterable[bytes]]
_OBJECTS = "altostack"


def request_id(conf: dict[str, Any], **local: str) -> Callable[[App], App]:
    """Request ids in and out (`RequestIdFilter`)."""
    return RequestIdFilter


def auth(conf: dict[str, Any], **local: str) -> Callable[[App], App]:
    """Tokens and node credentials (`AuthFilter`)."""
    tokens: TokenCache = conf[_OBJECTS]["tokens"]
    return lambda app: AuthFilter(app, tokens, conf[_OBJECTS]["node_key"])


def service(conf: dict[str, Any], **local: str) -> App:
    """The service itself, at the pipeline's end."""
    app: App = conf[_OBJECTS]["app"]
    return app


def pipeline(path: Path, name: str, **objects: Any) -> App:
    """The WSGI application of the pipeline for service ``name`` in the paste file ``path``.

    Raises LookupError (Paste's own) when the file names something that is not there.
    """
    from paste.deploy.loadwsgi import APP, loadcontext

    section = f"[pipeline:{name}]"
    context = loadcontext(APP, f"config:{path}", name=name if section in path.read_text() else "main")
    for part in (context, *context.filter_contexts, context.app_context):
        part.global_conf[_OBJECTS] = objects
    app: App = context.create()
    return app
