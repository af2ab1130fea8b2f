"""Stores for the tests of large objects, versions, links, copies and encryption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.objectstore.world import World, world

PIPELINE = "catch gatekeeper listing copy slo dlo versions symlink service"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[World]:
    """A store with all the filters that change objects, without encryption."""
    made = world(tmp_path, pipeline=PIPELINE)
    yield made
    made.close()


@pytest.fixture
def container(store: World) -> World:
    """The same with the containers ``c`` and ``segments``."""
    for name in ("c", "segments"):
        assert store.put(f"/v1/a/{name}").status == 201
    return store
