"""Databases: engines, sessions and retries; SQLite, PostgreSQL and MariaDB through one code path.

A service owns one database (SQLite file, PostgreSQL schema's database, MariaDB database) and nobody joins across.
Write transactions start as writers (SQLite: BEGIN IMMEDIATE), are short, and are retried as a whole when the
database says that they collided, so whoever passes a function to `Database.write` lets it run again.
"""

from __future__ import annotations

import enum
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from altostack.kit.turn import Turn

log = logging.getLogger(__name__)
T = TypeVar("T")

_WRITE = "altostack_write"
_BUSY_MS = 30_000
_RETRIES = 8
# SQLSTATE / errno of collisions: serialization failure, deadlock, lock wait timeout, record changed.
_COLLISIONS = {"40001", "40P01", "55P03", 1213, 1205, 1020}

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime with microseconds, stored without its zone."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects.mysql import DATETIME

            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def utcnow() -> datetime:
    """The time, aware and in UTC."""
    return datetime.now(UTC)


class Row(DeclarativeBase):
    """The base of every service's rows. A service derives one abstract class with its own MetaData."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        str: sa.String(255),
        enum.Enum: sa.Enum(
            enum.Enum,
            native_enum=False,
            create_constraint=False,
            length=32,
            values_callable=lambda kind: [member.value for member in kind],
        ),
        int: sa.Integer(),
        float: sa.Double(),
        bool: sa.Boolean(),
        datetime: UtcDateTime(),
        dict[str, Any]: sa.JSON(),
        dict[str, str]: sa.JSON(),
        list[str]: sa.JSON(),
        list[dict[str, Any]]: sa.JSON(),
        list[Any]: sa.JSON(),
    }


def metadata() -> sa.MetaData:
    """A MetaData for one service, with predictable constraint names (Alembic needs them)."""
    return sa.MetaData(naming_convention=NAMING)


def collided(error: BaseException) -> bool:
    """True when the database gave up on a transaction that may simply be run again."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original: Any = error.orig
    if getattr(original, "sqlstate", None) in _COLLISIONS:
        return True
    args = getattr(original, "args", ())
    if args and args[0] in _COLLISIONS:
        return True
    return "database is locked" in str(original) or "database table is locked" in str(original)


class _OpenWrites(threading.local):
    """The databases in which this thread holds a write transaction."""

    def __init__(self) -> None:
        self.names: list[str] = []


_open_writes = _OpenWrites()


def writing() -> bool:
    """Whether this thread holds a write transaction. Nobody may wait for a neighbour then: the neighbour, or whoever
    it waits for, may need this very lock."""
    return bool(_open_writes.names)


class Database:
    """One service's database.

    ``url`` is a SQLAlchemy URL. Methods raise SQLAlchemy's own errors; `write` retries collisions.
    """

    def __init__(self, url: str, *, name: str, pool: int = 8, durable: bool = False) -> None:
        self.url = make_url(url)
        self.name = name
        self._durable = durable
        self._turn = Turn(Path(f"{self.url.database}-turn"))
        self.engine = self._engine(self.url, pool)
        self._writer = self.engine.execution_options(**{_WRITE: True})
        if self.dialect != "sqlite":
            event.listen(self._writer, "begin", self._began)
        event.listen(self._writer, "commit", self._ended)
        event.listen(self._writer, "rollback", self._ended)

    @property
    def dialect(self) -> str:
        """ "sqlite", "postgresql" or "mysql" (which MariaDB answers to)."""
        return self.engine.dialect.name

    def _engine(self, url: URL, pool: int) -> Engine:
        if url.get_backend_name() == "sqlite":
            in_memory = url.database in (None, "", ":memory:")
            if in_memory:
                raise ValueError("an in-memory SQLite database cannot be shared by threads; give a file")
            engine = sa.create_engine(
                url, pool_size=pool, max_overflow=pool * 4, pool_timeout=60, json_deserializer=msgspec.json.decode
            )  # fmt: skip
            event.listen(engine, "connect", self._tune_sqlite)
            event.listen(engine, "begin", self._begin_sqlite)
            return engine
        return sa.create_engine(
            url, pool_size=pool, max_overflow=pool * 2, pool_timeout=60, pool_pre_ping=True,
            isolation_level="READ COMMITTED", json_deserializer=msgspec.json.decode,
        )  # fmt: skip

    def _began(self, connection: sa.Connection) -> None:
        if connection.get_execution_options().get(_WRITE):
            if self.name in _open_writes.names:
                raise RuntimeError(f"{self.name}: this thread would wait for its own write transaction")
            _open_writes.names.append(self.name)

    def _ended(self, connection: sa.Connection) -> None:
        if connection.get_execution_options().get(_WRITE) and self.name in _open_writes.names:
            _open_writes.names.remove(self.name)
            if self.dialect == "sqlite":
                self._turn.release()

    def _begin_sqlite(self, connection: sa.Connection) -> None:
        # The driver is asked itself: this is done for every transaction, and it needs nothing of SQLAlchemy.
        driver: Any = connection.connection.driver_connection
        if not connection.get_execution_options().get(_WRITE):
            driver.execute("BEGIN")
            return
        self._began(connection)
        if not self._turn.acquire(_BUSY_MS / 1000):
            _open_writes.names.remove(self.name)
            raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, TimeoutError("database is locked"))
        try:
            driver.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._ended(connection)
            if isinstance(error, sqlite3.Error):
                raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, error) from error
            raise

    def _tune_sqlite(self, connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are ours: see _begin_sqlite
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA cache_size=-1000")
        cursor.close()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading. Nothing is committed."""
        with Session(self.engine, expire_on_commit=False, autoflush=False) as session:
            yield session

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A session in one write transaction, committed at the end, not retried."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def write(self, work: Callable[[Session], T]) -> T:
        """Run ``work`` in one write transaction and commit; on a collision, run it again from its start."""
        return retry(lambda: self._once(work))

    def _once(self, work: Callable[[Session], T]) -> T:
        with self.begin() as session:
            return work(session)

    def session(self, *, write: bool) -> Session:
        """A bare session; the caller commits or closes."""
        if write:
            return Session(self._writer, expire_on_commit=False)
        return Session(self.engine, expire_on_commit=False, autoflush=False)

    def create(self) -> None:
        """Make the database itself when it is missing (a folder, or CREATE DATABASE on a server)."""
        if self.dialect == "sqlite":
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
            return
        name = str(self.url.database)
        admin = self.url._replace(database="postgres" if self.dialect == "postgresql" else None)
        server = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
        try:
            with server.connect() as connection:
                quoted = connection.dialect.identifier_preparer.quote(name)
                if self.dialect == "postgresql":
                    known = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")
                    if connection.execute(known, {"name": name}).first() is None:
                        connection.execute(sa.text(f"CREATE DATABASE {quoted}"))
                else:
                    # Binary collation: names differ when their bytes differ, as on the other two.
                    connection.execute(
                        sa.text(
                            f"CREATE DATABASE IF NOT EXISTS {quoted} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
                        )
                    )
        finally:
            server.dispose()

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    def forget(self) -> None:
        """After a fork, in the child: leave the parent's connections, and its turns, to the parent."""
        self._turn.forget()
        self.engine.dispose(close=False)


def retry(work: Callable[[], T]) -> T:
    """Call ``work`` until it does not collide, a bounded number of times, with growing random pauses."""
    for attempt in range(_RETRIES):
        try:
            return work()
        except DBAPIError as error:
            if not collided(error) or attempt == _RETRIES - 1:
                raise
            log.debug("transaction collided, attempt %d: %s", attempt + 1, error.orig)
            time.sleep(random.uniform(0.001, 0.01) * 2**attempt)
    raise AssertionError("unreachable")
