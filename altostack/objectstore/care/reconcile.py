"""Brings objects to their container's policy: those that were written while its copies disagreed about it.

Two clients that make a container with different policies while parts of the cluster do not see each other both
succeed; the copies agree on one policy later (`ledger.replicate.decide`), and objects that went to the other one are
out of sight. They are written anew with the right policy, with the time of their own, and then removed where they were.
The container's first device does it.
"""

from __future__ import annotations

import contextlib
from typing import Final
from urllib.parse import quote

from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.deliver import after
from altostack.objectstore.care.report import Tally
from altostack.objectstore.care.shard import Containers
from altostack.objectstore.http import Bytes, Handler, Request, Response, Stream, ask
from altostack.objectstore.ledger import lines
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.proxy.app import Proxy
from altostack.objectstore.proxy.backend import DATA_TIMESTAMP, POLICY, TIMESTAMP
from altostack.objectstore.storage import Info, Missing, Spot, StorageError

_NOT_KEPT: Final = frozenset(
    {"content-length", "etag", "last-modified", "date", "accept-ranges", "x-timestamp"}
)


class Reconciler:
    """Keeps a proxy of its own, and what it saw to be in order."""

    def __init__(self, care: Care) -> None:
        self._care = care
        self._proxy: Handler = Proxy(care.store)
        self._resting: dict[Spot, str] = {}

    def run(self, device: str) -> Tally:
        """A pass over the containers of a device of this machine. Raises DeviceGone."""
        care = self._care
        with care.reports.tally("reconcile", device) as tally:
            for spot in care.near.books.copies.walk(device, "container"):
                if tally.stopped:
                    break
                try:
                    known = care.near.books.known(spot, "container")
                    if known is None or self._resting.get(spot) == known.sum:
                        continue
                    tally.count("containers")
                    if self._container(tally, spot):
                        if len(self._resting) > 200_000:
                            self._resting.clear()
                        self._resting[spot] = known.sum
                except Missing:
                    continue
                except StorageError as error:
                    tally.complain(f"{device}: {error}")
        return tally

    def _container(self, tally: Tally, spot: Spot) -> bool:
        """Whether everything is where it belongs, or is none of our business."""
        care = self._care
        misplaced = care.near.books.copies.misplaced(spot)
        if not misplaced:
            return True
        info = care.local.ledgers.facts(spot)
        if info.container is None or info.policy is None or info.account.startswith("."):
            return True  # what lies in shards is listed by the root
        first = next(iter(care.homes(info.account, info.container)), None)
        if first is None or not care.is_mine(first.device) or first.spot != spot:
            return True
        for line in misplaced:
            if tally.stopped:
                return False
            if self._object(tally, info, line):
                tally.count("moved")
        return False

    def _object(self, tally: Tally, info: Info, line: Line) -> bool:
        account, container, name = info.account, str(info.container), line[lines.NAME]
        path = quote(f"/v1/{account}/{container}/{name}", safe="/~")
        old, stamp = line[lines.POLICY], line[lines.TIMESTAMP]
        found = self._ask("GET", path, old, {"x-newest": "true", "x-backend-open-expired": "true"})
        with contextlib.closing(found):
            if found.good:
                stamp = max(stamp, found.headers.get(DATA_TIMESTAMP, stamp))
                if not self._write(tally, path, info.policy or 0, stamp, found):
                    return False
            elif found.status != 404:
                tally.complain(f"{path} cannot be read: {found.status}")
                return False
            elif found.headers.get(TIMESTAMP, "") < stamp:
                tally.complain(f"{path} is listed, and cannot be found")
                return False
        gone = self._ask("DELETE", path, old, {"x-timestamp": after(stamp)})
        if gone.status not in (204, 404, 409):
            tally.complain(f"{path} cannot be removed where it was: {gone.status}")
            return False
        back = lines.to_row((*line[:5], True, *line[6:]))
        Containers(self._care).record(account, container, [back])
        return True

    def _write(self, tally: Tally, path: str, policy: int, stamp: str, found: Response) -> bool:
        headers = {
            name: value
            for name, value in found.headers.items()
            if name not in _NOT_KEPT and not name.startswith("x-backend-")
        }
        body = found.body if isinstance(found.body, bytes) else None
        answer = ask(
            self._proxy,
            Request(
                "PUT",
                path,
                headers=headers
                | {"x-timestamp": stamp, POLICY: str(policy), "content-length": str(found.length)},
                body=Stream(found.body, found.length) if body is None else Bytes(body),  # type: ignore[arg-type] # no bytes
            ),
        )
        if answer.status not in (201, 202):
            tally.complain(f"{path} cannot be written with policy {policy}: {answer.status}")
            return False
        return True

    def _ask(self, method: str, path: str, policy: int, headers: dict[str, str]) -> Response:
        return ask(self._proxy, Request(method, path, headers={**headers, POLICY: str(policy)}))
