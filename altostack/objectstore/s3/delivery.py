"""Sends events that are to be delivered to addresses; `notification` says when and where they wait."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Final
from urllib.parse import quote, urlencode

from altostack.objectstore.http import Handler, Refusal, Request, Response
from altostack.objectstore.s3.call import allowed
from altostack.objectstore.s3.outward import Outward, Refused, Unreachable

log = logging.getLogger(__name__)

_TO: Final = "x-object-sysmeta-s3api-to"
_WAITING: Final = 10_000


class Notices:
    """Delivers in a thread of its own, which is there once there is something to deliver. app: the pipeline
    inside of the S3 filter. outward: which addresses are allowed."""

    def __init__(self, app: Handler, outward: Outward) -> None:
        self._app, self._outward = app, outward
        self._queue: queue.Queue[tuple[str, str, str]] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raises Refused (a ValueError) for an address that is not allowed."""
        self._outward.check(address)

    def nudge(self, account: str, container: str, name: str) -> None:
        """There is an event to deliver. When too many wait, the daemon that looks after buckets will find it."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="s3-events")
                self._thread.start()
        try:
            self._queue.put_nowait((account, container, name))
        except queue.Full:
            log.warning("events of %s/%s wait for the next round", account, container)

    def _work(self) -> None:
        while True:
            account, container, name = self._queue.get()
            try:
                self.deliver(account, container, name)
            except Exception:
                log.exception("an event could not be delivered")

    def deliver(self, account: str, container: str, name: str) -> bool:
        """Send one event; whether nothing is left to do about it."""
        path = f"/v1/{account}/{container}/{name}"
        response = self._ask("GET", path)
        if not response.good:
            response.close()
            return response.status == 404
        message, address = response.read(), response.headers.get(_TO, "")
        try:
            self._outward.post(address, message, "application/json")
        except Refused as error:  # it will never be allowed: keep nothing for it
            log.warning("an event of %s/%s is dropped: %s", account, container, error)
        except Unreachable as error:
            log.info("an event of %s/%s waits: %s", account, container, error)
            return False
        self._ask("DELETE", path).close()
        return True

    def deliver_all(self, account: str, container: str, limit: int = 1000) -> int:
        """Send what a container holds, the oldest first, until a receiver does not answer; how many were sent."""
        response = self._ask(
            "GET", f"/v1/{account}/{container}", urlencode({"format": "json", "limit": str(limit)})
        )
        sent = 0
        for entry in response.entries or []:
            if not self.deliver(account, container, entry["name"]):
                break
            sent += 1
        return sent

    def _ask(self, method: str, path: str, query: str = "") -> Response:
        request = Request(method, quote(path, safe="/~"), query_string=query)
        request.authorize = allowed
        request.facts["s3"] = True
        try:
            return self._app(request)
        except Refusal as refusal:
            return refusal.response()
