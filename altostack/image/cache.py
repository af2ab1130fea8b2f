"""The cache: copies of images whose bits lie elsewhere (`Stores.slow`), filled ahead of time or by the first who asks.

Source: Image Service API v2, cache management. The rows say what is queued and cached; the bits are in the store
``cache``. Losing either is losing time alone: what the store lacks is not cached, whatever a row says.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.image.drivers.base import ImageStore, NoBits, StoreError
from altostack.image.fetch import FetchFailed, Refused
from altostack.image.image import IMAGES, Image, Status
from altostack.image.inspect import Inspection, UnsafeImage
from altostack.image.model import ImageRow
from altostack.image.stores import ended, stores_of
from altostack.kit import api
from altostack.kit.call import Call, Reply
from altostack.kit.db import utcnow
from altostack.kit.errors import BadRequest
from altostack.kit.policy import ADMIN
from altostack.kit.reconcile import Loop
from altostack.kit.resource import field, private
from altostack.kit.route import Route
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
BELL = "image.cache"


class Cached(ImageRow):
    """An image that is in the cache, or (size null) is to be."""

    __tablename__ = "image_cache"
    image_id: Mapped[str] = field(max_length=64, primary_key=True)
    size: Mapped[int | None] = private(default=None, type_=sa.BigInteger())
    hits: Mapped[int] = private(default=0)
    queued_at: Mapped[float] = private(default=lambda: utcnow().timestamp())
    accessed_at: Mapped[float] = private(default=lambda: utcnow().timestamp())
    modified_at: Mapped[float] = private(default=lambda: utcnow().timestamp())


class Source:
    """What is needed to read an image, apart from its row."""

    def __init__(self, image: Image) -> None:
        self.key = image.id
        self.locations = list(image.locations)
        self.hash = (image.os_hash_algo, image.os_hash_value) if image.os_hash_value else None
        self.format = image.disk_format if image.container_format in ("bare", None) else None


def read(runtime: Runtime, source: Source, part: tuple[int, int] | None = None) -> Iterator[bytes]:
    """The image's bits, whole or (offset, length); from the cache where they are slow. Raises what the stores raise."""
    stores = stores_of(runtime)
    offset, length = part or (0, None)
    if not stores.slow(source.locations):
        return stores.read(source.key, source.locations, offset, length)
    try:
        found = stores.cache.get(source.key, offset, length)
    except NoBits:
        found = stores.read(source.key, source.locations, offset, length)
        return found if part else _judged(source, found)
    hit = sa.update(Cached).where(Cached.image_id == source.key)
    hit = hit.values(hits=Cached.hits + 1, accessed_at=runtime.clock())
    runtime.db.write(lambda session: session.execute(hit))
    return found


def _judged(source: Source, stream: Iterator[bytes]) -> Iterator[bytes]:
    """Bits from elsewhere, inspected and hashed as they pass; the last are held back until all are judged."""
    inspection = Inspection(source.format) if source.format else None
    digest = hashlib.new(source.hash[0] or "sha512") if source.hash else None
    last = b""
    with ended(stream):
        for chunk in inspection.watch(stream) if inspection else stream:
            if digest is not None:
                digest.update(chunk)
            if last:
                yield last
            last = chunk
    if inspection is not None:
        inspection.finish()
    if digest is not None and source.hash and digest.hexdigest() != source.hash[1]:
        raise UnsafeImage("the bits are not those that the image's hash was made of")
    if last:
        yield last


# ---- filling it


def fill(runtime: Runtime, ids: tuple[str, ...]) -> None:
    """Fetch what is queued; drop what cannot be fetched, saying so in the log."""
    with runtime.db.read() as session:
        wanted = session.execute(sa.select(Cached.image_id).where(Cached.size.is_(None))).scalars().all()
    for key in wanted:
        with runtime.db.read() as session:
            image = session.get(Image, key)
        source = Source(image) if image is not None and image.status == Status.ACTIVE else None
        size = None if source is None else _fetch(runtime, source)
        row = Cached.image_id == key
        query: Any = sa.delete(Cached).where(row)
        if size is not None:
            query = sa.update(Cached).where(row).values(size=size, modified_at=runtime.clock())
        if not runtime.db.write(lambda session, query=query: session.execute(query).rowcount):  # type: ignore[misc]  # the loop's own query
            stores_of(runtime).cache.delete(key)  # it was taken off the list meanwhile


def _fetch(runtime: Runtime, source: Source) -> int | None:
    stores = stores_of(runtime)
    try:
        stream = stores.read(source.key, source.locations)
        with ended(stream):
            return stores.cache.put(source.key, _judged(source, stream))
    except (StoreError, FetchFailed, Refused, UnsafeImage) as trouble:
        log.warning("image %s was not cached: %s", source.key, trouble)
        return None


def loop(runtime: Runtime) -> Loop:
    """Fills the cache when asked to."""
    return Loop("image-cache", lambda ids: fill(runtime, ids), interval=300.0, topics=(BELL,))


# ---- the routes


def show(call: Call) -> dict[str, Any]:
    """GET /v2/cache: what is cached, and what is queued."""
    rows = call.session.execute(sa.select(Cached).order_by(Cached.queued_at)).scalars().all()
    cached = [
        {
            "image_id": row.image_id, "hits": row.hits, "last_accessed": row.accessed_at,
            "last_modified": row.modified_at, "size": row.size,
        }
        for row in rows if row.size is not None
    ]  # fmt: skip
    return {"cached_images": cached, "queued_images": [row.image_id for row in rows if row.size is None]}


def queue(call: Call) -> Reply:
    """PUT /v2/cache/{image}: fetch it ahead of time."""
    image: Image = api.load(call, IMAGES)
    if image.status != Status.ACTIVE:
        raise BadRequest("Only images with the status active can be cached.", field="image_id")
    if call.session.get(Cached, image.id) is None:
        call.session.add(Cached(image_id=image.id))
        key, bus = image.id, call.runtime.bus
        call.after(lambda: bus.ring(BELL, key))
    return Reply(status=202)


def remove(call: Call) -> None:
    """DELETE /v2/cache/{image}: out of the cache, and off the list."""
    key = call.params["image_id"]
    row = call.session.get(Cached, key) if len(key) <= 64 else None
    if row is None:
        api.load(call, IMAGES, key)  # to be in neither is no error for an image that is there
        return
    call.session.delete(row)
    _forget(call, [key])


def clear(call: Call) -> None:
    """DELETE /v2/cache: all of it, or with X-Image-Cache-Clear-Target one half."""
    target = (call.header("X-Image-Cache-Clear-Target") or "").lower()
    if target not in ("", "cache", "queue"):
        raise BadRequest(
            "X-Image-Cache-Clear-Target must be cache, queue or nothing.", field="x-image-cache-clear-target"
        )
    query = sa.select(Cached)
    if target:
        query = query.where(Cached.size.is_not(None) if target == "cache" else Cached.size.is_(None))
    rows = call.session.execute(query).scalars().all()
    for row in rows:
        call.session.delete(row)
    _forget(call, [row.image_id for row in rows])


def prune(call: Call) -> dict[str, int]:
    """POST /v2/cache/prune: those longest unused go until the cache is small enough."""
    query = sa.select(Cached).where(Cached.size.is_not(None)).order_by(Cached.accessed_at)
    rows = call.session.execute(query).scalars().all()
    total = sum(row.size or 0 for row in rows)
    gone = []
    for row in rows:
        if total <= call.runtime.settings.cache.max_bytes:
            break
        total -= row.size or 0
        gone.append(row)
        call.session.delete(row)
    _forget(call, [row.image_id for row in gone])
    return {"total_files_pruned": len(gone), "total_bytes_pruned": sum(row.size or 0 for row in gone)}


def clean(call: Call) -> Reply:
    """POST /v2/cache/clean: rows without bits and bits without rows."""
    cache = stores_of(call.runtime).cache
    there = set(cache.list())
    rows = call.session.execute(sa.select(Cached).where(Cached.size.is_not(None))).scalars().all()
    for row in rows:
        if row.image_id not in there:
            call.session.delete(row)
    known = set(call.session.execute(sa.select(Cached.image_id)).scalars())
    _forget(call, sorted(there - known))
    call.after(lambda: _tidy(cache))
    return Reply(status=200)


def _tidy(cache: ImageStore) -> None:
    cache.tidy(3600.0)


def nodes(call: Call) -> list[str]:
    """GET /v2/cache/nodes/{image}: where it is cached. The cache is one for all processes of the service."""
    image: Image = api.load(call, IMAGES)
    row = call.session.get(Cached, image.id)
    return [call.runtime.url] if row is not None and row.size is not None else []


def _forget(call: Call, keys: list[str]) -> None:
    cache = stores_of(call.runtime).cache

    def work() -> None:
        for key in keys:
            cache.delete(key)

    call.after(work)


def _route(method: str, path: str, handler: Any, policy: str, status: int = 200) -> Route:
    return Route(method=method, path=path, handler=handler, policy=policy, check=ADMIN, status=status)


ROUTES = (
    _route("GET", "/cache", show, "cache_list"),
    _route("DELETE", "/cache", clear, "cache_delete", 204),
    _route("POST", "/cache/clean", clean, "cache_clean"),
    _route("POST", "/cache/prune", prune, "cache_prune"),
    _route("PUT", "/cache/{image_id}", queue, "cache_image", 202),
    _route("DELETE", "/cache/{image_id}", remove, "cache_delete", 204),
    _route("GET", "/cache/nodes/{image_id}", nodes, "list_cached_nodes"),
)
