"""Schema migrations: one Alembic ladder a service, files ``NNNN_what.py`` with revision ``NNNN``.

A new database is made whole from the declarations and stamped; a test proves that climbing the ladder gives the
same schema. An older one climbs. Alembic is imported only when there is something to climb.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from altostack.kit.db import Database

_FILE = re.compile(r"^(\d{4})_\w+\.py$")


class SchemaTooNew(Exception):
    """The database was written by a newer Altostack than this one."""


def head(folder: Path) -> str:
    """The newest revision in ``folder``. Raises LookupError when there is none."""
    found = sorted(m.group(1) for path in folder.iterdir() if (m := _FILE.match(path.name)))
    if not found:
        raise LookupError(f"no migrations in {folder}")
    return found[-1]


def migrate(db: Database, metadata: sa.MetaData, folder: Path) -> None:
    """Make the database, if missing, and bring its schema to the newest revision. Idempotent; safe to be killed."""
    db.create()
    newest = head(folder)
    with db.engine.connect() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        current = None
        if "alembic_version" in tables:
            current = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if current == newest:
        return
    if current is None and not tables & set(metadata.tables):
        with db.begin() as session:
            connection = session.connection()
            metadata.create_all(connection)
            connection.execute(
                sa.text(
                    "CREATE TABLE IF NOT EXISTS alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
                )
            )
            connection.execute(sa.text("DELETE FROM alembic_version"))
            connection.execute(
                sa.text("INSERT INTO alembic_version (version_num) VALUES (:v)"), {"v": newest}
            )
        return
    if current is not None and current > newest:
        raise SchemaTooNew(f"{db.name}: its schema is at {current}, this version knows {newest} at most")
    if current is None:
        # Killed half-way where DDL has no transactions (MariaDB): nothing was promised yet, so finish the making.
        with db.begin() as session:
            metadata.create_all(session.connection())
        climb(db, folder, newest, stamp=True)
        return
    climb(db, folder, newest)


def climb(db: Database, folder: Path, target: str, *, stamp: bool = False) -> None:
    """Run the ladder up to ``target``, or only record that it is there."""
    _with_alembic(
        db,
        folder,
        lambda script, revision: (
            script._stamp_revs(target, revision) if stamp else script._upgrade_revs(target, revision)
        ),
    )


def revise(db: Database, metadata: sa.MetaData, folder: Path, message: str) -> Path:
    """Write the next migration file: the difference between ``db`` (at the newest revision) and the declarations."""
    from alembic.autogenerate import produce_migrations, render_python_code
    from alembic.migration import MigrationContext

    numbers = [int(m.group(1)) for p in folder.iterdir() if (m := _FILE.match(p.name))]
    last = max(numbers, default=0)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        script = produce_migrations(context, metadata)
        assert script.upgrade_ops is not None
        assert script.downgrade_ops is not None
        options: dict[str, Any] = {"imports": {"from altostack.kit import db"}, "render_item": _render}
        up, down = (
            re.sub(r"\n? *# ###.*", "", render_python_code(ops, **options)).strip() or "pass"
            for ops in (script.upgrade_ops, script.downgrade_ops)
        )
    name = re.sub(r"\W+", "_", message.lower()).strip("_")
    path = folder / f"{last + 1:04}_{name}.py"
    before = f'"{last:04}"' if last else "None"
    path.write_text(
        f'"""{message}"""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\nfrom altostack.kit import db\n\n'
        f'revision = "{last + 1:04}"\ndown_revision = {before}\n\n\n'
        f"def upgrade() -> None:\n    {up}\n\n\ndef downgrade() -> None:\n    {down}\n"
    )
    return path


def _render(kind: str, item: Any, context: Any) -> Any:
    if kind == "type" and type(item).__module__ == "altostack.kit.db":
        return f"db.{type(item).__name__}()"
    if kind == "type" and isinstance(item, sa.Enum):
        return f"sa.String({item.length})"
    return False


def _with_alembic(db: Database, folder: Path, steps: Callable[[Any, Any], Any]) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(folder))
    config.set_main_option("version_locations", str(folder))
    config.set_main_option("path_separator", "newline")
    script = ScriptDirectory.from_config(config)
    with db.engine.connect() as connection:
        environment = EnvironmentContext(config, script)
        environment.configure(
            connection=connection, fn=lambda revision, context: steps(script, revision), render_as_batch=True,
            compare_type=True, transactional_ddl=db.dialect != "mysql",
        )  # fmt: skip
        with environment.begin_transaction():
            environment.run_migrations()
        connection.commit()
