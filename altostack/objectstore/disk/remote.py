"""Another machine's storage node."""

from __future__ import annotations

from typing import Any

from altostack.objectstore.storage import DeviceGone


class RemoteNode:
    """A client of the node at ``host``:``port``."""

    def __init__(self, host: str, port: int, *, key: bytes) -> None:
        self.host, self.port = host, port
        self._key = key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise DeviceGone(f"the node {self.host}:{self.port} cannot be reached: not built")
