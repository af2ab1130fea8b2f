"""Time-based one-time passwords: six digits, SHA-1, steps of 30 seconds. Source: RFC 6238 (and RFC 4226)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.identity.credential import TOTP, Credential, seed_of
from altostack.identity.keeper import Keeper

STEP = 30
DIGITS = 6


def code(seed: str, step: int) -> str:
    """The code of a base 32 seed at a time step. Raises ValueError for what is no seed."""
    digest = hmac.new(seed_of(seed), step.to_bytes(8, "big"), hashlib.sha1).digest()
    at = digest[-1] & 15
    number = int.from_bytes(digest[at : at + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def find(
    session: Session, keeper: Keeper, user_id: str, passcode: str, now: float
) -> Callable[[Session], bool] | None:
    """How to use up ``passcode`` if it is one of the user's now, else None.

    The result marks the time step in a transaction and says whether it was the first to: a code is good once.
    """
    query = sa.select(Credential).where(Credential.user_id == user_id, Credential.type == TOTP)
    newest = int(now) // STEP
    found: tuple[str, int] | None = None
    for row in session.execute(query).scalars():
        seed = keeper.vault.open(row.sealed)
        for step in range(newest - keeper.settings.totp_included_previous_windows, newest + 1):
            same = hmac.compare_digest(code(seed, step).encode(), passcode.encode("utf-8", "surrogatepass"))
            if same and step > row.used and found is None:
                found = (row.id, step)
    if found is None:
        return None
    key, step = found

    def use(session: Session) -> bool:
        change = sa.update(Credential).where(Credential.id == key, Credential.used < step).values(used=step)
        return bool(session.execute(change).rowcount == 1)  # type: ignore[attr-defined]  # CursorResult

    return use
