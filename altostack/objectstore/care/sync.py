"""Sends what changes in containers to other clusters: container synchronisation, the sending side.

A container whose owner set X-Container-Sync-To and -Key is followed by its database's numbers of changes. The copies
of the database share the work by the names' digests. A change that cannot be sent stays the next one to be sent; one
that was sent twice changes nothing, for it carries its timestamp. Shards are followed as their root says; since they
begin with what the root had, and may have sent, the other side is asked about that before it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, urlsplit

import urllib3

from altostack.objectstore import sync
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.report import Tally
from altostack.objectstore.http import Handler, Refusal, Request, ask
from altostack.objectstore.ledger import lines, shards
from altostack.objectstore.ledger.lines import Line
from altostack.objectstore.middleware import encryption
from altostack.objectstore.proxy.app import Proxy
from altostack.objectstore.proxy.backend import DATA_TIMESTAMP
from altostack.objectstore.stamp import ZERO, shown
from altostack.objectstore.storage import Info, Missing, Spot, StorageError

_MOST: Final = 200_000  # containers that are remembered
_KEPT: Final = (
    "content-type",
    "content-encoding",
    "content-disposition",
    "x-object-manifest",
    "x-delete-at",
    "x-static-large-object",
)


class Failed(Exception):
    """The other side did not take a change; the text says why."""


class Sender:
    """Keeps connections, a proxy of its own and how far each container was sent."""

    def __init__(self, care: Care, *, hosts: tuple[str, ...] = (), patience: float = 60.0) -> None:
        """hosts: those that containers may be copied to without a realm. patience: seconds for an answer."""
        self._care, self._hosts = care, hosts
        self._realms = sync.Realms(care.store.folder / sync.FILE)
        self._proxy: Handler = encryption.reader(care.store, Proxy(care.store))
        self._plain: dict[Spot, str] = {}  # what is sent nowhere -> its sum when that was seen
        self._http = urllib3.PoolManager(
            retries=False, timeout=urllib3.Timeout(connect=5.0, read=patience), maxsize=4
        )

    def run(self, device: str) -> Tally:
        """A pass over the containers of a device of this machine. Raises DeviceGone."""
        care, name = self._care, f".sync-{device}"
        with care.reports.tally("sync", device) as tally:
            if not self._hosts and not self._realms.all():
                return tally  # there is nobody to send to
            points: dict[str, tuple[str, int]] = care.reports.kept(name) or {}
            for spot in care.near.books.copies.walk(device, "container"):
                if tally.stopped:
                    break
                try:
                    known = care.near.books.known(spot, "container")
                    if known is None or self._plain.get(spot) == known.sum:
                        continue
                    info = care.local.ledgers.facts(spot)
                    root = self._root(info)
                except (Missing, StorageError) as error:
                    tally.complain(f"{device}: {error}")
                    continue
                if root is not None and _said(root, sync.SYNC_TO) and _said(root, sync.SYNC_KEY):
                    tally.count("containers")
                    self._container(tally, spot, info, root, points)
                    care.reports.keep(name, points)
                elif not _said(info, shards.ROOT):
                    if len(self._plain) >= _MOST:
                        self._plain.clear()
                    self._plain[spot] = known.sum
        return tally

    def _root(self, info: Info) -> Info | None:
        """Whose objects a container's database lists: its own, or if it is a shard, its root's. None: it is gone.

        Raises StorageError when no copy of a root answers.
        """
        account, _, container = _said(info, shards.ROOT).partition("/")
        try:
            root = self._care.store.known.container(account, container) if account else info
        except Refusal:
            raise StorageError(f"no copy of {account}/{container} answers") from None
        return root if root is not None and not root.gone else None

    def _container(
        self, tally: Tally, spot: Spot, info: Info, root: Info, points: dict[str, tuple[str, int]]
    ) -> None:
        homes = self._care.homes(info.account, info.container)
        turn = next(
            (at for at, one in enumerate(homes) if self._care.is_mine(one.device) and one.spot == spot), None
        )
        if turn is None:
            return
        try:
            target = sync.target(_said(root, sync.SYNC_TO), self._realms, self._hosts)
        except ValueError as error:
            tally.complain(f"{root.account}/{root.container}: {error}")
            return
        key, moved = _said(root, sync.SYNC_KEY), info.put if root is not info else ZERO
        id, point = points.get(spot.digest, ("", 0))
        if id != info.id:
            point = 0  # the copy was made anew and numbers its changes anew
        ring = self._care.store.rings.container
        while not tally.stopped:
            batch = self._care.near.books.copies.since(spot, "container", point)
            for line in batch.lines:
                if line[lines.POLICY] < 0:  # of a map: it is no object's
                    continue
                digest = ring.locate(info.account, info.container, line[lines.NAME])[1]
                if int(digest, 16) % len(homes) != turn:
                    continue
                try:
                    if self._send(root, line, target, key, ask_first=line[lines.TIMESTAMP] < moved):
                        tally.count("sent")
                except (Failed, urllib3.exceptions.HTTPError) as error:
                    tally.complain(f"{root.account}/{root.container}/{line[lines.NAME]}: {error}")
                    return
            point = batch.seq
            points[spot.digest] = (info.id, point)
            if not batch.lines:
                return

    def _send(self, info: Info, line: Line, target: sync.Target, key: str, *, ask_first: bool) -> bool:
        """Whether there was something to send. ask_first: it may be there. Raises Failed, urllib3's HTTPError."""
        name = line[lines.NAME]
        url = f"{target.url}/{quote(name, safe='/~')}"
        if ask_first and not line[lines.DELETED]:
            stamp = shown(max(line[lines.TIMESTAMP], line[lines.META_TIME]))
            there = self._ask("HEAD", url, stamp, {}, None, target, key)
            if there.status == 200 and there.headers.get("x-timestamp", "0") >= stamp:
                return False
        if line[lines.DELETED]:
            self._ask("DELETE", url, shown(line[lines.TIMESTAMP]), {}, None, target, key)
            return True
        path = quote(f"/v1/{info.account}/{info.container}/{name}", safe="/~")
        found = ask(self._proxy, Request("GET", path, headers={"x-newest": "true"}))
        with contextlib.closing(found):
            if found.status == 404:
                return False  # deleted meanwhile: that has a line of its own
            if not found.good:
                raise Failed(f"it cannot be read: {found.status}")
            stamp = found.headers.get(DATA_TIMESTAMP, line[lines.TIMESTAMP])
            if stamp < line[lines.TIMESTAMP]:
                raise Failed("its newest version is out of reach")
            headers = {
                name: value
                for name, value in found.headers.items()
                if name in _KEPT or name.startswith("x-object-meta-")
            }
            headers["content-length"] = str(found.length)
            headers["etag"] = found.headers["etag"].strip('"')
            body = found.body if isinstance(found.body, bytes) else _parts(found.body)
            self._ask("PUT", url, shown(max(stamp, line[lines.META_TIME])), headers, body, target, key)
            return True

    def _ask(
        self, method: str, url: str, timestamp: str, headers: dict[str, str], body: object,
        target: sync.Target, key: str,
    ) -> urllib3.BaseHTTPResponse:  # fmt: skip
        if target.realm is not None:
            headers = headers | sync.signed(method, urlsplit(url).path, timestamp, target.realm, key)
        else:
            headers = headers | {"x-timestamp": timestamp, sync.SYNC_KEY: key}
        answer = self._http.request(method, url, headers=headers, body=body)  # type: ignore[arg-type] # bytes or parts
        if answer.status // 100 != 2 and answer.status not in (404, 409):
            raise Failed(f"{method} was answered with {answer.status}")
        if answer.status == 404 and method == "PUT":
            raise Failed("the other container is not there")
        return answer


def _said(info: Info, name: str) -> str:
    return info.metadata.get(name, ("", ""))[0]


def _parts(content: object) -> Iterator[bytes]:
    yield from content  # type: ignore[misc] # an Extent or another iterable of bytes
