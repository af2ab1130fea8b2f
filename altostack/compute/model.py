"""The compute service's rows share this base and its tables."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped

from altostack.kit import db, flow, quota
from altostack.kit.db import Row, utcnow
from altostack.kit.resource import field


class ComputeRow(Row):
    """What every row of the compute service derives from."""

    __abstract__ = True
    metadata = db.metadata()


class Stamped:
    """When a row was made and last changed; not shown, but a sort key."""

    created_at: Mapped[datetime] = field(show=False, sort=True, default=utcnow)
    updated_at: Mapped[datetime | None] = field(show=False, sort=True, default=None, onupdate=utcnow)


flow.tables(ComputeRow.metadata)
quota.tables(ComputeRow.metadata)
