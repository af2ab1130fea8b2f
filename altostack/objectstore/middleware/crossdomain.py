"""/crossdomain.xml, for clients that still ask for it."""

from __future__ import annotations

from typing import Any, Final

from altostack.objectstore.http import Handler, Request, Response
from altostack.objectstore.middleware.options import Wrap, store_of

_ALL: Final = '<allow-access-from domain="*" secure="false" />'


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """cross_domain_policy: the elements of the document (access from everywhere)."""
    store_of(conf).facts["crossdomain"] = {}
    text = (
        '<?xml version="1.0"?>\n<!DOCTYPE cross-domain-policy SYSTEM '
        '"http://www.adobe.com/xml/dtds/cross-domain-policy.dtd" >\n<cross-domain-policy>\n'
        f"{local.get('cross_domain_policy', _ALL)}\n</cross-domain-policy>"
    )

    def wrap(app: Handler) -> Handler:
        def answer(request: Request) -> Response:
            if request.target == "/crossdomain.xml" and request.method == "GET":
                return Response(200, {"content-type": "application/xml"}, text.encode())
            return app(request)

        return answer

    return wrap
