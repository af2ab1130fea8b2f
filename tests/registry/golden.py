"""Committed expectations. ALTOSTACK_GOLDEN=write renews them; look at the difference before you commit it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def compare(path: Path, found: Any) -> None:
    """Hold ``found`` against the file."""
    if os.environ.get("ALTOSTACK_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert path.exists(), f"{path} is missing: renew it with ALTOSTACK_GOLDEN=write"
    expected = json.loads(path.read_text())
    if found != expected:
        wrong = "\n".join(list(_differences("", expected, found))[:40])
        raise AssertionError(
            f"{path.name} differs (renew with ALTOSTACK_GOLDEN=write if it is meant):\n{wrong}"
        )


def _differences(at: str, expected: Any, found: Any) -> Any:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if expected.get(key) != found.get(key):
                yield from _differences(f"{at}/{key}", expected.get(key), found.get(key))
    else:
        yield f"{at}: expected {json.dumps(expected)[:200]}, found {json.dumps(found)[:200]}"
