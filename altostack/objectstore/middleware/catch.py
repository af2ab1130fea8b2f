"""The outermost filter: a transaction id for every request, an answer for every mishap, a line for the access log.

`log_access` writes the line once the answer has been sent; the server calls it (``Server(done=...)``), since only the
server knows how many bytes went out.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any, Final
from urllib.parse import quote

from altostack.kit import context as contexts
from altostack.objectstore.http import ClientGone, Handler, Refusal, Request, Response
from altostack.objectstore.middleware.options import Wrap

log = logging.getLogger(__name__)
access = logging.getLogger("altostack.objectstore.access")

_EXTRA: Final = 32  # characters of a client's own id that are taken into ours
# Parameters of queries that are as good as a password while they last.
_SECRETS: Final = re.compile(
    r"((?:^|&)(?:temp_url_sig|swiftinfo_sig|signature|x-amz-signature|x-amz-security-token|x-amz-credential"
    r"|awsaccesskeyid|token|x-auth-token|x-storage-token|password|key)=)[^&]*",
    re.IGNORECASE,
)


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


def masked(query: str) -> str:
    """A query string without the secrets in it."""
    return _SECRETS.sub(r"\1***", query) if query else query


def log_access(request: Request, response: Response, sent: int, seconds: float) -> None:
    """One line for one answered request. ``sent``: bytes of the body that went out."""
    if not access.isEnabledFor(logging.INFO):
        return
    who = request.context
    path = f"{request.target}?{masked(request.query_string)}" if request.query_string else request.target
    access.info(
        "%s %s %s",
        request.method,
        path,
        response.status,
        extra={
            "status": response.status,
            "bytes_sent": sent,
            "bytes_in": request.body.length,
            "seconds": round(seconds, 6),
            "client": request.header("x-forwarded-for") or request.remote,
            "remote": request.remote,
            "user": request.facts.get("user") or (who.user_id if who else None),
            "project": who.project_id if who else None,
            "agent": request.header("user-agent") or None,
            "trans_id": request.trans_id,
        },
    )
