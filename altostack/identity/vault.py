"""Secrets that must be read again: encrypted in the database, under keys of their own beside the token keys.

The folder ``credentials`` in the cloud's key folder is a repository like that of the tokens (see `keys`): staged,
primary, older. Losing it loses every secret in it, so it is backed up with the database.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from altostack.identity import keys
from altostack.identity.keys import KeyRing
from altostack.kit.db import Database

FOLDER = "credentials"


class UnreadableSecret(Exception):
    """None of the keys at hand sealed what the database holds."""


class Vault:
    """Seals with the primary key and opens with any."""

    def __init__(self, folder: Path) -> None:
        self._keys = KeyRing(folder)

    def seal(self, text: str) -> str:
        """``text``, encrypted and authenticated."""
        return self._keys.seal(text.encode("utf-8", "surrogatepass"), time.time())

    def open(self, sealed: str) -> str:
        """What was sealed. Raises UnreadableSecret."""
        raw = self._keys.open(sealed)
        if raw is None:
            raise UnreadableSecret(
                "a secret was sealed with a key that is not in the credential key repository"
            )
        return raw.decode("utf-8", "surrogatepass")


def rotate(folder: Path, db: Database, columns: tuple[Any, ...]) -> tuple[int, int]:
    """A new primary key, and everything in ``columns`` (mapped attributes) sealed again with it.

    Returns (the primary's number, values sealed again). May be killed anywhere and run again: before the oldest key
    goes, nothing is left that needs it. Raises UnreadableSecret, having changed no key.
    """
    keys.prepare(folder)
    _reseal(folder, db, columns)
    primary = keys.rotate(folder, max_active_keys=3)
    return primary, _reseal(folder, db, columns)


def _reseal(folder: Path, db: Database, columns: tuple[Any, ...]) -> int:
    vault, count = Vault(folder), 0
    for column in columns:
        row = column.class_
        with db.read() as session:
            found = session.execute(sa.select(row.id, column).where(column.is_not(None))).all()
        for key, sealed in found:
            fresh = vault.seal(vault.open(sealed))
            # Whoever changed the value meanwhile sealed it with the primary key already.
            change = sa.update(row).where(row.id == key, column == sealed).values({column.key: fresh})
            _run(db, change)
            count += 1
    return count


def _run(db: Database, change: sa.Update) -> None:
    db.write(lambda session: session.execute(change))
