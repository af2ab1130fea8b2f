"""Cleaning up after processes that died: uploads nobody continues, and bits that no image owns."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from altostack.image.image import Image, Status
from altostack.image.stores import stores_of
from altostack.image.tasks import Task, TaskStatus
from altostack.kit.flow import process_alive
from altostack.kit.service import Runtime

log = logging.getLogger(__name__)
_IDLE = 3600.0  # seconds without a byte after which a half-made file has no writer


def sweep(runtime: Runtime) -> int:
    """Give up uploads whose process died, and remove bits that no image owns. How many of both."""
    stores = stores_of(runtime)
    found = 0
    busy = (Status.SAVING, Status.UPLOADING)
    with runtime.db.read() as session:
        claimed = session.execute(
            sa.select(Image.id, Image.uploader).where(Image.status.in_(busy), Image.uploader.is_not(None))
        ).all()
    for key, owner in claimed:
        if not process_alive((owner or "").partition("/")[0]):
            log.warning("image %s: the upload's process is gone; the image is queued again", key)
            for store in (*stores.kept.values(), stores.staging):
                store.delete(key)
            query = sa.update(Image).where(Image.id == key, Image.uploader == owner, Image.status.in_(busy))
            runtime.db.write(
                lambda session, query=query: session.execute(  # type: ignore[misc]  # the loop's own query
                    query.values(status=Status.QUEUED, uploader=None)
                )
            )
            found += 1
    for name, store in stores.kept.items():
        on_disk = store.list()
        for key in on_disk:
            if not _named(runtime, key, name):
                store.delete(key)
                found += 1
    for store in (stores.staging, stores.cache):
        on_disk = store.list()
        with runtime.db.read() as session:  # after the look at the disk: what was made since is not judged
            known = set(session.execute(sa.select(Image.id)).scalars())
        for key in set(on_disk) - known:
            store.delete(key)
            found += 1
    found += sum(store.tidy(_IDLE) for store in (*stores.kept.values(), stores.staging, stores.cache))
    return found + _forget_tasks(runtime)


def _named(runtime: Runtime, key: str, store: str) -> bool:
    """Whether an image says that its bits are in the store, or is being worked on and may be about to say so."""
    with runtime.db.read() as session:
        image = session.get(Image, key)
    if image is None:
        return False
    busy = image.uploader is not None or image.task_id is not None
    return busy or any(one["metadata"].get("store") == store for one in image.locations)


def _forget_tasks(runtime: Runtime) -> int:
    """Remove tasks that ended long ago."""
    before = datetime.fromtimestamp(runtime.clock(), UTC) - timedelta(hours=runtime.settings.task_hours)
    over = (TaskStatus.SUCCESS, TaskStatus.FAILURE)
    old = sa.delete(Task).where(Task.status.in_(over), Task.updated_at < before)
    return int(runtime.db.write(lambda session: session.execute(old).rowcount))  # type: ignore[attr-defined]  # CursorResult
