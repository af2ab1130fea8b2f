"""The stores by name, and where an image's bits are: its locations.

A location is ``{"url": ..., "metadata": {"store": name, ...}}``. Bits that the service keeps itself are at
``file://<store>/<image id>`` or ``objectstore://<store>/<image id>``: a name, never a path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from altostack.image import fetch
from altostack.image.config import Settings, Store
from altostack.image.drivers.base import ImageStore, NoBits
from altostack.image.drivers.file import FileStore
from altostack.image.drivers.objectstore import ObjectStore
from altostack.kit.clients import Client
from altostack.kit.service import Runtime

Location = dict[str, Any]


@contextmanager
def ended(stream: Any) -> Iterator[None]:
    """Close the stream when done with it: an exception's traceback would hold it, and the file's room, for longer."""
    try:
        yield
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Where bits are kept: ``kept`` holds the stores that can be written to, by name."""

    settings: Settings
    kept: Mapping[str, ImageStore]
    staging: ImageStore
    cache: ImageStore

    @property
    def names(self) -> tuple[str, ...]:
        """Every store."""
        return tuple(self.settings.stores)

    @property
    def default(self) -> str:
        """The store that an upload goes to."""
        return self.settings.default_store

    def spec(self, name: str) -> Store:
        """How a store is set."""
        return self.settings.stores[name]

    @property
    def web(self) -> str | None:
        """The store of what lies elsewhere, if there is one."""
        return next((name for name, spec in self.settings.stores.items() if spec.type == "http"), None)

    def own(self, name: str, image_id: str) -> Location:
        """The location of an image in a store that is kept here."""
        return {"url": f"{self.spec(name).type}://{name}/{image_id}", "metadata": {"store": name}}

    def kept_in(self, locations: list[Location]) -> list[str]:
        """The names of the stores among ``locations`` whose bits the service keeps itself."""
        return [name for one in locations if (name := one["metadata"].get("store")) in self.kept]

    def in_order(self, locations: list[Location]) -> list[Location]:
        """By weight, the heaviest first; those of equal weight stay as they stand."""
        return sorted(locations, key=lambda one: -self._weight(one))

    def _weight(self, location: Location) -> int:
        spec = self.settings.stores.get(location["metadata"].get("store", ""))
        return 0 if spec is None else spec.weight

    def slow(self, locations: list[Location]) -> bool:
        """Whether the bits lie elsewhere, so that a copy in the cache is worth having."""
        return bool(locations) and not self.kept_in(locations)

    def read(
        self, image_id: str, locations: list[Location], offset: int = 0, length: int | None = None
    ) -> Iterator[bytes]:
        """The bits from the first location that has them. Raises NoBits, fetch.Refused or fetch.FetchFailed."""
        trouble: Exception = NoBits(f"image {image_id} is in no store")
        kept = [one for one in locations if one["metadata"].get("store") in self.kept]
        for location in [*self.in_order(kept), *(one for one in self.in_order(locations) if one not in kept)]:
            name = location["metadata"].get("store")
            try:
                if name in self.kept:
                    return self.kept[name].get(image_id, offset, length)
                return fetch.fetch(location["url"], self.settings.fetch, offset=offset, length=length).chunks
            except (NoBits, fetch.Refused, fetch.FetchFailed) as error:
                trouble = error
        raise trouble

    def delete(self, image_id: str, locations: list[Location]) -> None:
        """Forget the bits everywhere: in the stores, in staging and in the cache."""
        for name in self.kept_in(locations):
            self.kept[name].delete(image_id)
        self.staging.delete(image_id)
        self.cache.delete(image_id)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The object store, for those image stores that rest on it; ``account``: the path of ours there."""

    client: Client
    account: Callable[[], str]


def open_stores(folder: Path, settings: Settings, objects: Objects | None = None) -> Stores:
    """The stores that the settings name, below the cloud's ``folder``. Raises ValueError for wrong settings."""
    default = settings.stores.get(settings.default_store)
    if default is None or default.type == "http":
        raise ValueError(
            f"[image] default_store {settings.default_store!r} is no store that can be written to"
        )
    kept: dict[str, ImageStore] = {}
    for name, spec in settings.stores.items():
        if spec.type == "file":
            usual = "images" if name == settings.default_store else f"images-{name}"
            kept[name] = FileStore(Path(spec.path) if spec.path else folder / usual)
        elif spec.type == "objectstore":
            if objects is None:
                raise ValueError(f"[image.stores.{name}] there is no object store here")
            kept[name] = ObjectStore(
                objects.client, objects.account, container=spec.container, segment_size=spec.segment_size
            )
    return Stores(
        settings=settings,
        kept=kept,
        staging=FileStore(folder / "image-staging"),
        cache=FileStore(folder / "image-cache"),
    )


def stores_of(runtime: Runtime) -> Stores:
    """Where this cloud keeps image bits."""
    found: Stores = runtime.drivers["stores"]
    return found
