"""Fixtures of the compute service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compute.stand import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """One node."""
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[World]:
    """Three nodes."""
    world = World(tmp_path, hosts=3)
    yield world
    world.close()
