"""What a node brings: its drivers, real or simulated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def drivers(state: Path, root: Path, host: str, settings: Any) -> Mapping[str, Any]:
    """The drivers of node ``host`` by service name. ``root`` is its folder."""
    if settings.cloud.simulate:
        return {}
    return {}
