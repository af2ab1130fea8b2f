"""Devices in a folder, and the ledgers on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore.config import Settings
from altostack.objectstore.ledger.ledgers import Ledgers
from altostack.objectstore.stamp import Clock, of_ns
from altostack.objectstore.storage import Row, Spot

START = 1_700_000_000


def at(second: float) -> str:
    """A timestamp so many seconds after the tests' beginning of time."""
    return of_ns(int((START + second) * 1e9))


def spot(name: str, device: str = "d1") -> Spot:
    """Where something of that name lies."""
    return Spot(device, 7, hashlib.md5(name.encode(), usedforsecurity=False).hexdigest())


def row(name: str, second: float = 1, **more: object) -> Row:
    """A line; deleted, or of an object of three bytes."""
    given: dict[str, object] = (
        {} if more.get("deleted") else {"size": 3, "content_type": "text/plain", "etag": "e"}
    )
    return Row(name=name, timestamp=at(second), **(given | more))  # type: ignore[arg-type] # fields of Row


class Time:
    """A clock for tests that starts an hour after `START` and can be put forward."""

    def __init__(self) -> None:
        self.now = (START + 3600) * 10**9

    def __call__(self) -> int:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def ledgers(tmp_path: Path, time: Time) -> Iterator[Ledgers]:
    for device in ("d1", "d2", "d3"):
        (tmp_path / "devices" / device).mkdir(parents=True)
    made = Ledgers(tmp_path / "devices", Settings(), clock=Clock(time))
    yield made
    made.close()
