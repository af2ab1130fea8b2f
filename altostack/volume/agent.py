"""A storage node's agent: fetch what is wanted, make the driver converge, say what was seen.

Work on one volume or snapshot is done by one thread at a time; different ones are worked on at once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from altostack.kit.clients import RemoteError
from altostack.kit.reconcile import Loop
from altostack.kit.service import Node, Runtime
from altostack.volume.drivers.base import (
    BackendFull,
    DriverError,
    FromImage,
    FromSnapshot,
    FromVolume,
    SnapshotNotFound,
    Source,
    SourceUnusable,
    VolumeBusy,
    VolumeDriver,
    VolumeNotFound,
)
from altostack.volume.node import settings

log = logging.getLogger(__name__)
_HOPELESS = (SourceUnusable, VolumeNotFound, SnapshotNotFound, VolumeBusy, BackendFull)
_CHUNK = 1 << 20
_FULL = 60.0  # seconds between looks at everything


class Agent:
    """One node's. ``workers`` 0 does the work in the thread that looks (simulated drivers, tests)."""

    def __init__(self, runtime: Runtime, node: Node, *, workers: int) -> None:
        self._runtime, self._node = runtime, node
        self._driver: VolumeDriver = node.drivers[runtime.service.name]
        self._client, self._images = runtime.clients[runtime.service.name], runtime.clients["image"]
        self._base = f"/internal/nodes/{node.host}"
        self._work = node.root / "volume-work"
        shutil.rmtree(self._work, ignore_errors=True)  # copies that a killed agent was busy with
        self._jobs: queue.SimpleQueue[tuple[str, Callable[[], None]]] | None = None
        if workers:
            self._jobs = queue.SimpleQueue()
            for number in range(workers):  # daemons: a long copy must not keep a stopping process
                name = f"volume-{node.host}-{number}"
                threading.Thread(target=self._labour, name=name, daemon=True).start()
        self._busy: set[str] = set()
        self._again: set[str] = set()
        self._lock = threading.Lock()
        self.loop = Loop(
            f"volume-agent-{node.host}", self.look, interval=_FULL, topics=(f"volume.node.{node.host}",)
        )
        self.heart = Loop(
            f"volume-heart-{node.host}", lambda ids: self.beat(), interval=settings(runtime).heartbeat
        )

    # ---- looking

    def beat(self) -> None:
        """Say that the node is there, and its capacity."""
        self._tell(capacity=self._capacity())

    def look(self, ids: tuple[str, ...]) -> None:
        """Work on what is wanted of these ids, or of everything; then remove what nobody owns."""
        if not ids:
            self.beat()
        query = {"id": list(ids)} if ids else None
        wanted = self._client.call("GET", f"{self._base}/desired", query=query, node=self._node.token)
        for one in wanted["volumes"]:
            if one["gone"] or not one["settled"]:
                self._submit(one["id"], lambda one=one: self._volume(one))  # type: ignore[misc]  # bound now
        for one in wanted["snapshots"]:
            if one["gone"] or not one["settled"]:
                self._submit(one["id"], lambda one=one: self._snapshot(one))  # type: ignore[misc]  # bound now
        if not ids:
            self._sweep()

    def _capacity(self) -> dict[str, float]:
        stats = self._driver.stats()
        return {
            "total_gib": stats.total_gib, "free_gib": stats.free_gib, "provisioned_gib": stats.provisioned_gib
        }  # fmt: skip

    def _sweep(self) -> None:
        """What no row owns goes. Only the service knows every row, also those of other nodes."""
        there = self._driver.list()
        present = {"volumes": sorted(there.volumes), "snapshots": sorted(there.snapshots)}
        if not there.volumes and not there.snapshots:
            return
        orphans = self._tell(present=present)["orphans"]
        for key in orphans["volumes"]:
            log.warning("volume %s has no row any more: removed", key)
            self._submit(key, lambda key=key: self._driver.remove(key))  # type: ignore[misc]  # bound now
        for key in orphans["snapshots"]:
            log.warning("snapshot %s has no row any more: removed", key)
            self._submit(key, lambda key=key: self._driver.remove_snapshot(key))  # type: ignore[misc]  # bound now

    def _tell(self, **observed: Any) -> Any:
        return self._client.call("POST", f"{self._base}/observed", observed, node=self._node.token)

    # ---- working

    def _submit(self, key: str, job: Callable[[], None]) -> None:
        """Do ``job``, unless something is being done to ``key``: then look at it again when that is over."""
        with self._lock:
            if key in self._busy:
                self._again.add(key)
                return
            self._busy.add(key)
        if self._jobs is None:
            self._do(key, job)
        else:
            self._jobs.put((key, job))

    def _labour(self) -> None:
        assert self._jobs is not None
        while True:
            self._do(*self._jobs.get())

    def _do(self, key: str, job: Callable[[], None]) -> None:
        try:
            job()
        except RemoteError as error:  # whoever waits for this rings again
            log.warning("volume agent: %s: %s", key, error)
        except Exception:
            log.exception("volume agent: %s", key)
        finally:
            with self._lock:
                self._busy.discard(key)
                again = key in self._again
                self._again.discard(key)
            if again:
                self.loop.nudge((key,))

    def _volume(self, one: dict[str, Any]) -> None:
        key, generation = one["id"], one["generation"]
        if one["gone"]:
            self._driver.remove(key)
            self._tell(volumes=[{"id": key, "gone": True}])
            return
        seen: dict[str, Any] = {"id": key, "generation": generation}
        try:
            _patiently(lambda: self._ensure(key, one))
            seen |= {"gib": one["gib"], "connection": self._driver.connection(key)}
            if one["upload"]:
                _patiently(lambda: self._upload(key, one["upload"]))
                seen["uploaded"] = one["upload"]["image"]
        except DriverError as error:
            seen["error"] = str(error)
        self._tell(volumes=[seen])

    def _ensure(self, key: str, one: dict[str, Any]) -> None:
        with self._source(key, one["source"]) as source:
            self._driver.ensure(key, gib=one["gib"], source=source)

    def _snapshot(self, one: dict[str, Any]) -> None:
        key = one["id"]
        if one["gone"]:
            self._driver.remove_snapshot(key)
            self._tell(snapshots=[{"id": key, "gone": True}])
            return
        seen: dict[str, Any] = {"id": key}
        try:
            _patiently(lambda: self._driver.snapshot(key, volume_id=one["volume_id"]))
            seen["there"] = True
        except DriverError as error:
            seen["error"] = str(error)
        self._tell(snapshots=[seen])

    # ---- images

    @contextlib.contextmanager
    def _source(self, key: str, source: dict[str, str]) -> Iterator[Source | None]:
        match source.get("kind"):
            case "volume":
                yield FromVolume(volume_id=source["id"])
            case "snapshot":
                yield FromSnapshot(snapshot_id=source["id"])
            case "image" if key in self._driver.list().volumes:
                yield None  # it is there and only grows
            case "image":
                with self._file(f"{key}.image") as path:
                    self._download(source["id"], path)
                    yield FromImage(path=path, format=source["format"])
            case _:
                yield None

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        self._work.mkdir(parents=True, exist_ok=True)
        path = self._work / name
        path.unlink(missing_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _download(self, image_id: str, path: Path) -> None:
        answer = self._images.send("GET", self._bits(image_id), node=self._node.token)
        if answer.status != 200:
            text = answer.read()[:300].decode(errors="replace")
            if 400 <= answer.status < 500:
                raise SourceUnusable(f"image {image_id}: the image service answered {answer.status}: {text}")
            raise RemoteError("image", answer.status, text)
        size = 0
        with path.open("wb") as file:
            for chunk in answer.chunks:
                file.write(chunk)
                size += len(chunk)
        length = answer.headers.get("content-length")
        if length is not None and int(length) != size:
            raise RemoteError("image", 0, f"image {image_id}: {size} of {length} bytes came")

    def _upload(self, key: str, upload: dict[str, str]) -> None:
        with self._file(f"{key}.upload") as path:
            self._driver.copy_to_image(key, path, format=upload["format"])
            with path.open("rb") as file:
                answer = self._images.send(
                    "PUT", self._bits(upload["image"]), _chunks(file), node=self._node.token,
                    headers={"Content-Type": "application/octet-stream"},
                )  # fmt: skip
            text = answer.read()[:300].decode(errors="replace")
        if 400 <= answer.status < 500 and answer.status != 409:  # 409: an earlier try of ours is not over yet
            raise SourceUnusable(f"the image service answered {answer.status}: {text}")
        if answer.status >= 300:
            raise RemoteError("image", answer.status, text)

    def _bits(self, image_id: str) -> str:
        return f"{self._base}/images/{image_id}/file"


def _patiently(work: Callable[[], None]) -> None:
    """Do ``work``, a few times where trying again may help. Raises DriverError."""
    for pause in (0.2, 0.8, None):
        try:
            return work()
        except _HOPELESS:
            raise
        except DriverError:
            if pause is None:
                raise
            time.sleep(pause)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def agents(runtime: Runtime, node: Node) -> tuple[Loop, ...]:
    """The loops of a storage node; none where it has no driver for volumes."""
    if runtime.service.name not in node.drivers:
        return ()
    workers = 0 if runtime.cloud.get("simulate") else settings(runtime).agent_workers
    agent = Agent(runtime, node, workers=workers)
    return (agent.loop, agent.heart)
