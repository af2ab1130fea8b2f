"""A short run of the fuzzing that ``python -m tests.registry.fuzz`` does at length."""

from __future__ import annotations

from tests.registry.conftest import Registry
from tests.registry.fuzz import fuzz


def test_no_request_breaks_a_service(registry: Registry) -> None:
    outcome = fuzz(registry, count=1500, seed=7)
    assert not outcome.wrong, "\n".join(
        f"{status} for {sent}: {raw!r}" for sent, status, raw in outcome.wrong[:5]
    )
    answered = sum(n for status, n in outcome.statuses.items() if status < 300)
    assert answered > 100, f"the requests are too bad to get anywhere: {outcome.statuses}"
