"""Settings of the placement service."""

from __future__ import annotations

from altostack.kit.config import Settings


class PlacementSettings(Settings, frozen=True, kw_only=True):
    """[placement]. randomize_candidates: answer a limited query with any candidates, not always the same first ones.

    max_candidates: how many combinations over provider trees and groups are made at most for one query.
    """

    randomize_candidates: bool = True
    max_candidates: int = 10_000
