"""The outermost filter: a transaction id for every request, and an answer for every mishap."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final
from urllib.parse import quote

from altostack.kit import context as contexts
from altostack.objectstore.http import ClientGone, Handler, Refusal, Request, Response
from altostack.objectstore.middleware.options import Wrap

log = logging.getLogger(__name__)

_EXTRA: Final = 32  # characters of a client's own id that are taken into ours


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """trans_id_suffix: ends every transaction id, to tell clusters apart."""
    suffix = local.get("trans_id_suffix", "")
    return lambda app: Catch(app, suffix)


class Catch:
    """Every answer says its transaction (X-Trans-Id, X-Openstack-Request-Id), whatever happens inside."""

    def __init__(self, app: Handler, suffix: str = "") -> None:
        self._app, self._suffix = app, suffix

    def __call__(self, request: Request) -> Response:
        if not request.trans_id:
            request.trans_id = trans_id(self._suffix, request.header("x-trans-id-extra"))
        token = contexts.set_request_id(request.trans_id)
        try:
            response = self._app(request)
        except Refusal as refusal:
            response = refusal.response()
        except ClientGone:
            response = Refusal(499).response()
        except Exception:
            log.exception("unexpected at %s %s", request.method, request.path)
            response = Response(500, {"content-type": "text/plain"}, b"An error occurred")
        finally:
            contexts.reset_request_id(token)
        headers = response.headers
        headers["x-trans-id"] = headers["x-openstack-request-id"] = request.trans_id
        return response


def trans_id(suffix: str = "", extra: str = "") -> str:
    """A fresh id: ``tx``, 21 random hex digits, the time in hex, and what cluster and client add."""
    if extra:
        suffix = f"{suffix}-{extra[:_EXTRA]}"
    return f"tx{os.urandom(11).hex()[:21]}-{int(time.time()):010x}{quote(suffix, errors='replace')}"
