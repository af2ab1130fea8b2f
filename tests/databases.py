"""Which database a test's services use: SQLite files, or in the tier "databases" a private server's."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from altostack.kit.db import Database

VARIABLE = "ALTOSTACK_TEST_DATABASE"


def url_for(folder: Path, name: str) -> str:
    """The SQLAlchemy URL of the database for service ``name``; on a server it may hold an earlier test's tables."""
    template = os.environ.get(VARIABLE)
    return template.format(service=name) if template else f"sqlite:///{folder}/{name}.sqlite"


def make_empty(db: Database, metadata: sa.MetaData) -> None:
    """Give the database exactly the schema of ``metadata``, without rows: emptying is far cheaper than making."""
    db.create()
    with db.begin() as session:
        connection = session.connection()
        if set(sa.inspect(connection).get_table_names()) == set(metadata.tables):
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        else:
            metadata.drop_all(connection)
            metadata.create_all(connection)
