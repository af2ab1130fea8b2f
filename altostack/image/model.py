"""The image service's tables."""

from __future__ import annotations

from altostack.kit import db, flow, quota
from altostack.kit.db import Row


class ImageRow(Row):
    """Every row of this service."""

    __abstract__ = True
    metadata = db.metadata()


flow.tables(ImageRow.metadata)
quota.tables(ImageRow.metadata)
