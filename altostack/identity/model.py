"""The rows' common ground: one MetaData, the JSON of what clients add, and the counter that ends tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy.orm import Mapped, validates

from altostack.kit import db, flow, quota
from altostack.kit.db import Row
from altostack.kit.resource import private


class IdentityRow(Row):
    """``noun`` is the row's name in policy rules: ``target.<noun>.domain_id``."""

    __abstract__ = True
    metadata = db.metadata()
    noun: ClassVar[str] = ""


flow.tables(IdentityRow.metadata)
quota.tables(IdentityRow.metadata)


class Extra:
    """Keys that the schema does not know (``email``, ``description`` of a user, ...): kept and shown again."""

    extra: Mapped[dict[str, Any]] = private(default={})


class Worth:
    """A counter in every token: when it moves, the tokens issued before it are worth nothing.

    ``ended_at``: when it last moved, for those who ask for revocation events.
    """

    epoch: Mapped[int] = private(default=0)
    ended_at: Mapped[datetime | None] = private(default=None)

    @validates("epoch")
    def _moved(self, key: str, value: int) -> int:
        self.ended_at = db.utcnow()
        return value
