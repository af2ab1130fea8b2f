"""The cache of validated tokens."""

from __future__ import annotations

from pathlib import Path

import msgspec

from altostack.kit.auth import Epoch, TokenCache
from altostack.kit.context import Context
from tests.kit.toy import PEOPLE


def test_a_token_is_asked_about_once_an_epoch_and_never_outlives_itself(tmp_path: Path) -> None:
    asked: list[str] = []
    now = [100.0]
    bearer = msgspec.structs.replace(PEOPLE["member"], expires_at=200.0)

    def validate(token: str) -> Context | None:
        asked.append(token)
        return bearer if token == "good" else None

    epoch = Epoch(tmp_path / "epoch")
    cache = TokenCache(validate, epoch, clock=lambda: now[0])
    assert cache.get("good") == cache.get("good") == bearer and asked == ["good"]
    assert cache.get("bad") is None
    epoch.bump()
    assert cache.get("good") == bearer and asked == ["good", "bad", "good"]
    now[0] = 200.0
    assert cache.get("good") is None
    epoch.bump()
    assert cache.get("good") is None  # also where the validator still knows it
