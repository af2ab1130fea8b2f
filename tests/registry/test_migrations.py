"""Climbing the ladder of migrations gives exactly the schema that the declarations describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from altostack.app import SERVICES, load_services
from altostack.kit.db import Database
from altostack.kit.migrations import climb, head, migrate


@pytest.mark.parametrize("name", SERVICES)
def test_the_ladder_leads_to_the_declarations(name: str, tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    service = load_services((name,))[name]
    assert service.migrations is not None
    db = Database(f"sqlite:///{tmp_path}/climbed.sqlite", name=name)
    climb(db, service.migrations, head(service.migrations))
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, service.metadata) == []
    db.close()


@pytest.mark.parametrize("name", SERVICES)
def test_migrate_is_idempotent(name: str, tmp_path: Path) -> None:
    service = load_services((name,))[name]
    assert service.migrations is not None
    db = Database(f"sqlite:///{tmp_path}/made.sqlite", name=name)
    for _ in range(3):
        migrate(db, service.metadata, service.migrations)
    db.close()
