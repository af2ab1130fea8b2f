"""One upload on its way to several devices at once.

A lane to another machine has a thread and a short queue, so that a slow node does not hold up the others at every
piece; lanes to local devices write in the caller's thread.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

from altostack.objectstore.proxy.spread import Crew, Site, Target, settle
from altostack.objectstore.storage import DeviceGone, Exists, Metadata, StorageError, Update, Writer

log = logging.getLogger(__name__)

_AHEAD: Final = 4  # pieces that wait for a node
_PATIENCE: Final = 60.0  # seconds in which a node has to take a piece


class Lane:
    """A writer with its device. ``error``: why it takes no more."""

    def __init__(self, target: Target, writer: Writer) -> None:
        self.target, self.writer = target, writer
        self.error: StorageError | None = None
        self._pieces: queue.Queue[bytes | None] | None = None
        self._thread: threading.Thread | None = None
        if not target.local:
            self._pieces = queue.Queue(_AHEAD)
            self._thread = threading.Thread(target=self._run, daemon=True, name="lane")
            self._thread.start()

    @property
    def broken(self) -> bool:
        """Whether it takes no more."""
        return self.error is not None

    def write(self, data: bytes) -> None:
        """Hand on a piece. What goes wrong is in `error`."""
        if self.error is not None or not data:
            return
        if self._pieces is None:
            self._write(data)
            return
        try:
            self._pieces.put(data, timeout=_PATIENCE)
        except queue.Full:
            self.error = DeviceGone("the node is too slow")

    def _write(self, data: bytes) -> None:
        try:
            self.writer.write(data)
        except StorageError as error:
            log.warning("%s/%s: %s", self.target.device.host, self.target.device.device, error)
            self.error = error

    def _run(self) -> None:
        assert self._pieces is not None
        while (data := self._pieces.get()) is not None:
            if self.error is None:
                self._write(data)

    def flush(self) -> None:
        """Wait until all that was handed on has arrived. Raises what went wrong."""
        if self._thread is not None and self._pieces is not None:
            try:
                self._pieces.put(None, timeout=_PATIENCE)
            except queue.Full:
                self.error = self.error or DeviceGone("the node is too slow")
            self._thread.join(_PATIENCE)
            if self._thread.is_alive():
                self.error = self.error or DeviceGone("the node is too slow")
            self._thread = None
        if self.error is not None:
            raise self.error

    def put(self, metadata: Metadata, updates: Sequence[Update]) -> None:
        """All is written: make it last. Raises StorageError."""
        self.flush()
        self.writer.put(metadata, updates)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self.error is None:
            self.error = DeviceGone("given up")
        if self._thread is not None and self._pieces is not None:
            try:
                while True:
                    self._pieces.get_nowait()
            except queue.Empty:
                self._pieces.put(None)
            self._thread.join(_PATIENCE)
            self._thread = None
        self.writer.abort()


def open_lanes(crew: Crew, site: Site, needed: int, begin: Callable[[Target], Writer]) -> list[Lane]:
    """A lane to each primary, or to a handoff in its place; at least ``needed``.

    Raises Exists when one device says so, else as `settle`.
    """

    def one(target: Target) -> Lane:
        return Lane(target, begin(target))

    results = crew.write(site, one, needed, anew=True, late=Lane.abort)
    lanes = [result for result in results if isinstance(result, Lane)]
    try:
        for result in results:
            if isinstance(result, Exists):
                raise result
        settle(results, needed)
    except BaseException:
        for lane in lanes:
            lane.abort()
        raise
    return lanes


def close_all(
    crew: Crew, lanes: Sequence[Lane], call: Callable[[Lane], None], needed: int
) -> list[Lane | StorageError]:
    """``call`` for each lane, side by side: those for which it went well, and what went wrong.

    A lane that is late is aborted when ``call`` has ended, which changes nothing for one that has put a whole copy.
    """
    by_index = {lane.target.index: lane for lane in lanes}

    def one(target: Target) -> Lane:
        lane = by_index[target.index]
        call(lane)
        return lane

    targets = [lane.target for lane in lanes]
    return crew.run(targets, one, needed, late=lambda lane: lane.writer.abort(), apart=True)
