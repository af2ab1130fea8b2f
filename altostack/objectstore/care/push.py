"""Brings an object's files from a device of this machine to another, as they are, by the calls of `storage.Node`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

from altostack.objectstore.care.holdings import Holding, Wants
from altostack.objectstore.disk import layout, objects, record
from altostack.objectstore.disk.device import Devices, guarded
from altostack.objectstore.files import open_unseen
from altostack.objectstore.http import CHUNK
from altostack.objectstore.storage import DeviceGone, Missing, Node, Spot, Superseded


class Damaged(DeviceGone):
    """What was to be pushed is damaged; it is set aside now."""


def push(
    devices: Devices, here: Spot, holding: Holding, node: Node, there: Spot, wants: Wants, frag: int | None
) -> None:
    """Give ``there`` what it wants of the object that lies ``here``: whole copies, or the fragment ``frag``.

    Raises Missing when it is here no longer, Damaged, DeviceGone (either side), DeviceFull.
    """
    path = devices.path(here.device)
    if wants.tombstone:
        name = _metadata(path, here, f"{holding.tombstone}.ts").get("name", "")
        with contextlib.suppress(Superseded):
            node.delete(there, holding.tombstone, name=name)
        return
    if wants.data or wants.durable:
        piece = holding.piece(frag)
        if piece is None:
            raise Missing
        with contextlib.suppress(Superseded):
            copy(devices, here, piece.timestamp, node, there, frag, durable=piece.durable)
    if wants.meta:
        with guarded(path):
            meta = objects.look(layout.object_folder(path, here)).meta
        if meta is None or meta.timestamp != holding.meta:
            raise Missing
        posted = _metadata(path, here, meta.name)
        with contextlib.suppress(Superseded, Missing):  # the content may be on its way from somebody else
            node.update(there, holding.meta, posted)


def copy(
    devices: Devices, here: Spot, timestamp: str, node: Node, there: Spot, frag: int | None, *, durable: bool
) -> None:
    """Push content with what belongs to it. Raises as `push`, and Superseded."""
    path = devices.path(here.device)
    with (
        guarded(path),
        contextlib.closing(objects.read(devices, path, here, frag=frag, timestamp=timestamp)) as held,
    ):
        metadata = dict(held.own)
        writer = node.write(there, timestamp, size=held.length, frag=frag)
        try:
            summed = hashlib.md5(usedforsecurity=False)
            for chunk in _chunks(held):
                summed.update(chunk)
                writer.write(chunk)
            if metadata.get("etag", "") not in ("", summed.hexdigest()):
                name = layout.data_name(timestamp, frag)
                objects.quarantine(
                    path, here, f"{layout.object_folder(path, here)}/{name}", "the content is not what it was"
                )
                raise Damaged(f"{here.device}: the content of {metadata.get('name', here.digest)} is damaged")
            writer.put(metadata)
            if durable:
                writer.commit()
        finally:
            writer.abort()  # nothing is left to abort after `put`


def _chunks(held: objects.Opened) -> Iterator[bytes]:
    for part in held.content():
        for at in range(0, len(part), CHUNK):
            yield part[at : at + CHUNK]


def _metadata(path: str, here: Spot, name: str) -> dict[str, str]:
    """What a file without content says. Raises Missing when it is here no longer, Damaged, DeviceGone."""
    place = f"{layout.object_folder(path, here)}/{name}"
    with guarded(path):
        try:
            descriptor = open_unseen(place)
        except FileNotFoundError:
            raise Missing from None
        try:
            return record.load(descriptor).metadata
        except record.Damaged as damage:
            objects.quarantine(path, here, place, str(damage))
            raise Damaged(f"{here.device}: {damage}") from None
        finally:
            os.close(descriptor)
