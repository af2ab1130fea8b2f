"""The network service by itself, and nodes for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.cloud import Net


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """The network service with its external network and no nodes."""
    found = Net(tmp_path)
    yield found
    found.close()
