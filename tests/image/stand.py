"""The image service alone, with settings of a test's own, and the words that tests say often."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from altostack.image import SERVICE
from altostack.image.config import Fetch, Settings, Store
from altostack.image.dialect import PATCH_MEDIA
from altostack.image.stores import Stores, open_stores
from altostack.kit.clients import Client, Response, ServiceToken, WsgiTransport
from altostack.kit.flow import Engine
from tests.lone import Lone

TWO = {"files": Store(), "second": Store(weight=5), "web": Store(type="http", weight=-1)}


class Glance(Lone):
    """The service; `run` runs every task that is due. ``allow``: hosts that may be fetched from."""

    def __init__(self, folder: Path, *, allow: str = "", **settings: Any) -> None:
        chosen = Settings(fetch=Fetch(allowed_hosts=(allow,) if allow else (), timeout=5.0), **settings)
        self.stores: Stores = open_stores(folder, chosen)
        super().__init__(
            SERVICE, folder, drivers={"stores": self.stores}, settings=chosen, cloud={"region": "RegionOne"}
        )
        own = ServiceToken(lambda: ("admin", 9e12))
        self.runtime.clients = {"image": Client("image", WsgiTransport(self.app), own)}
        self.engine = Engine(self.runtime)

    def run(self) -> None:
        self.engine.drain()

    def make(self, who: str = "member", **fields: Any) -> dict[str, Any]:
        """A new image, raw and bare unless said otherwise."""
        body = {"name": "one", "disk_format": "raw", "container_format": "bare", **fields}
        return dict(self.call("POST", "/v2/images", body, who=who))

    def put(
        self,
        key: str,
        bits: bytes | Iterable[bytes],
        *,
        to: str = "file",
        who: str = "member",
        **headers: str,
    ) -> Response:
        """Upload, or stage."""
        sent = {
            "Content-Type": "application/octet-stream",
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        return self.client.send("PUT", f"/v2/images/{key}/{to}", bits, token=who, headers=sent)

    def show(self, key: str, who: str = "member") -> dict[str, Any]:
        return dict(self.call("GET", f"/v2/images/{key}", who=who))

    def bits(self, key: str, who: str = "member") -> bytes:
        answer = self.client.send("GET", f"/v2/images/{key}/file", token=who)
        assert answer.status == 200, answer.read()
        return answer.read()

    def patch(
        self, key: str, *operations: dict[str, Any], who: str = "member", media: str = PATCH_MEDIA
    ) -> tuple[int, Any]:
        raw = msgspec.json.encode(operations)
        answer = self.client.send(
            "PATCH", f"/v2/images/{key}", raw, token=who, headers={"Content-Type": media}
        )
        return answer.status, msgspec.json.decode(answer.read())

    def bring(self, key: str, method: str, *, who: str = "member", run: bool = True, **more: Any) -> None:
        """Import; words that belong to the method go into it."""
        about = {k: more.pop(k) for k in ("uri", "glance_image_id", "glance_region") if k in more}
        self.call("POST", f"/v2/images/{key}/import", {"method": {"name": method, **about}, **more}, who=who)
        if run:
            self.run()

    def task(self, key: str) -> dict[str, Any]:
        """The image's newest task."""
        return dict(self.call("GET", f"/v2/images/{key}/tasks")["tasks"][0])

    def left(self) -> list[str]:
        """Every file in any store, in staging and in the cache."""
        folders = [self.stores.staging, self.stores.cache, *self.stores.kept.values()]
        return sorted(str(one) for store in folders for one in store._folder.rglob("*") if one.is_file())  # type: ignore[attr-defined]  # file stores
