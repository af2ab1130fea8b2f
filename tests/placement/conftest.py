from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.placement import SERVICE
from altostack.placement.config import PlacementSettings
from tests.lone import Lone


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Lone]:
    lone = Lone(SERVICE, tmp_path, settings=PlacementSettings(randomize_candidates=False))
    SERVICE.bootstrap(lone.runtime)  # type: ignore[misc]  # it has one
    yield lone
    lone.close()
