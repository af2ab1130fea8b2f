"""A loop knows whether it runs by itself."""

from __future__ import annotations

from altostack.kit.bus import MemoryBus
from altostack.kit.reconcile import Loop


def test_started() -> None:
    bus = MemoryBus()
    loop = Loop("one", lambda ids: None, interval=60.0)
    loop.once()
    assert not loop.started
    loop.start(bus)
    assert loop.started
    loop.stop()
    bus.close()
