"""The MD5 of an upload, beside the upload: the sum of one piece is made while the next one comes in."""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import Final

_BESIDE: Final = 4 << 20  # bytes from which on a thread is worth its while
_AHEAD: Final = 4  # pieces that wait for their sum


class Sum:
    """MD5 of what is handed in. Has to be closed."""

    __slots__ = ("_pieces", "_size", "_sum", "_thread")

    def __init__(self) -> None:
        self._sum = hashlib.md5(usedforsecurity=False)
        self._size = 0
        self._pieces: queue.Queue[bytes | None] | None = None
        self._thread: threading.Thread | None = None

    def update(self, data: bytes) -> None:
        """The next piece."""
        self._size += len(data)
        if self._pieces is not None:
            self._pieces.put(data)
            return
        self._sum.update(data)
        if self._size >= _BESIDE:
            self._pieces = queue.Queue(_AHEAD)
            self._thread = threading.Thread(
                target=self._run, args=(self._pieces,), daemon=True, name="object-sum"
            )
            self._thread.start()

    def _run(self, pieces: queue.Queue[bytes | None]) -> None:
        while (data := pieces.get()) is not None:
            self._sum.update(data)

    def hexdigest(self) -> str:
        """The sum of all. Nothing may be handed in afterwards."""
        self.close()
        return self._sum.hexdigest()

    def close(self) -> None:
        """End the thread. May be called again."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pieces is not None:
            self._pieces.put(None)
            thread.join()
