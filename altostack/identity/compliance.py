"""Security compliance: what passwords must be like, how long they last, and what guessing leads to.

Source: the identity service's security compliance guide (PCI DSS 3.1). Everything is off unless configured. Whether an
account is locked shows in nothing: the answer to a login is the same 401 after the same work.
"""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session

from altostack.identity.config import IdentitySettings, SecurityCompliance
from altostack.identity.password import Passwords
from altostack.kit.call import Call
from altostack.kit.errors import BadRequest, Unauthorized
from altostack.kit.listing import read_time
from altostack.kit.reconcile import Loop
from altostack.kit.resource import field, private
from altostack.kit.service import Runtime

if TYPE_CHECKING:
    from altostack.identity.user import User


log = logging.getLogger(__name__)


class PasswordState:
    """What is remembered of a user's password and logins."""

    password_expires_at: Mapped[datetime | None] = field(default=None)
    password_set_at: Mapped[datetime | None] = private(default=None)
    password_chosen: Mapped[bool] = private(default=False)  # by the user, not by an administrator
    old_passwords: Mapped[list[str] | None] = private(
        default=None, type_=sa.JSON(none_as_null=True)
    )  # hashes
    failed_logins: Mapped[int] = private(default=0)
    failed_at: Mapped[datetime | None] = private(default=None)
    active_at: Mapped[datetime | None] = private(default=None)


def rules_of(runtime: Runtime) -> SecurityCompliance:
    """The cloud's rules."""
    settings: IdentitySettings = runtime.settings or IdentitySettings()
    return settings.security_compliance


def now(runtime: Runtime) -> datetime:
    return datetime.fromtimestamp(runtime.clock(), UTC)


# ---- a new password


def check_form(call: Call, password: str) -> None:
    """Raises BadRequest for a password that does not match the cloud's pattern."""
    rules = rules_of(call.runtime)
    if rules.password_regex and not re.match(rules.password_regex, password):
        raise BadRequest(
            f"The password does not match the requirements: {rules.password_regex_description}.",
            field="password",
        )


def check_own_change(call: Call, user: User, passwords: Passwords, password: str) -> None:
    """What holds for users who change their own. Takes as long as several logins. Raises BadRequest."""
    if user.options.get("lock_password"):
        raise BadRequest("This user's password may only be changed by an administrator.", field="password")
    rules = rules_of(call.runtime)
    if user.password_chosen and user.password_set_at is not None:
        due = user.password_set_at + timedelta(days=rules.minimum_password_age)
        if now(call.runtime) < due:
            raise BadRequest(
                f"You cannot change your password at this time due to the minimum password age of "
                f"{rules.minimum_password_age} day(s). Please try again after {due:%Y-%m-%dT%H:%M:%SZ} or contact "
                "your administrator to reset your password.",
                field="password",
            )
    if rules.unique_last_password_count:
        kept = [*(user.old_passwords or []), user.password_hash][-rules.unique_last_password_count :]
        if any(passwords.matches(password, stored) for stored in kept):
            raise BadRequest(
                "The new password cannot be identical to a previous password. The total number which includes the "
                f"new password must be unique is {rules.unique_last_password_count}.",
                field="password",
            )


def set_password(runtime: Runtime, user: User, hashed: str | None, *, chosen: bool) -> None:
    """Put a hash in the place of the old one. ``chosen``: by the user, who need not change it at once."""
    rules, moment = rules_of(runtime), now(runtime)
    if user.password_hash is not None and rules.unique_last_password_count:
        old = [*(user.old_passwords or []), user.password_hash]
        user.old_passwords = old[-rules.unique_last_password_count :]
    else:
        user.old_passwords = None
    user.password_hash, user.password_chosen, user.password_set_at = hashed, chosen, moment
    user.failed_logins, user.failed_at = 0, None
    user.password_expires_at = None
    options = user.options or {}
    if hashed is None:
        return
    if rules.password_expires_days and not options.get("ignore_password_expiry"):
        user.password_expires_at = moment + timedelta(days=rules.password_expires_days)
    if (
        rules.change_password_upon_first_use
        and not chosen
        and not options.get("ignore_change_password_upon_first_use")
    ):
        user.password_expires_at = moment


# ---- a login


def accepts(runtime: Runtime, user: User, right: bool, *, whole: bool = True) -> bool:
    """Whether a login by password goes on; counts what was wrong. ``right``: the password was. ``whole``: nothing else
    is wanted; before that, what was wrong is not forgotten, or the second factor could be guessed for ever.

    Decided in one transaction on the row as it is then, so that guesses made side by side count one by one.
    """
    rules = rules_of(runtime)
    if not rules.lockout_failure_attempts or user.options.get("ignore_lockout_failure_attempts"):
        return right

    def decide(session: Session) -> bool:
        from altostack.identity.user import User

        query = sa.select(User.failed_logins, User.failed_at).where(User.id == user.id)
        found = session.execute(query.with_for_update() if runtime.db.dialect != "sqlite" else query).first()
        if found is None:
            return False
        count, last = found
        if count >= rules.lockout_failure_attempts:
            until = None if last is None else last + timedelta(seconds=rules.lockout_duration)
            if not rules.lockout_duration or until is None or now(runtime) < until:
                return False
            count = 0
        if right and not (found[0] and whole):
            return True
        change: dict[str, Any] = {"failed_logins": count + 1, "failed_at": now(runtime)}
        if right:
            change = {"failed_logins": 0, "failed_at": None}
        session.execute(sa.update(User).where(User.id == user.id).values(**change))
        return right

    return bool(runtime.db.write(decide))


def check_expiry(runtime: Runtime, user: User) -> None:
    """Raises Unauthorized when the right password has run out; only its owner learns that."""
    if user.password_expires_at is None or user.options.get("ignore_password_expiry"):
        return
    if user.password_expires_at <= now(runtime):
        raise Unauthorized(f"The password is expired and needs to be changed for user: {user.id}.")


def check_activity(runtime: Runtime, user: User) -> bool:
    """Whether the user has logged in lately enough, where that matters; remembers that it does now."""
    days = rules_of(runtime).disable_user_account_days_inactive
    if not days:
        return True
    if inactive(runtime, user):
        return False
    moment = now(runtime)
    if user.active_at is None or moment - user.active_at > timedelta(days=1):
        runtime.db.write(lambda session: _seen(session, user.id, moment))
    return True


def _seen(session: Session, user_id: str, moment: datetime) -> None:
    from altostack.identity.user import User

    session.execute(sa.update(User).where(User.id == user_id).values(active_at=moment))


def inactive(runtime: Runtime, user: User) -> bool:
    """Whether the user's last login is too long ago."""
    days = rules_of(runtime).disable_user_account_days_inactive
    if not days or user.active_at is None or user.options.get("ignore_user_inactivity"):
        return False
    return now(runtime) - user.active_at > timedelta(days=days)


def disable_inactive(runtime: Runtime) -> int:
    """Disable whoever has not logged in for too long, which ends their tokens; how many."""
    days = rules_of(runtime).disable_user_account_days_inactive
    if not days:
        return 0

    def write(session: Session) -> int:
        from altostack.identity.user import User

        long_ago = now(runtime) - timedelta(days=days)
        query = sa.select(User).where(User.enabled.is_(True), User.active_at < long_ago)
        rows = [row for row in session.execute(query).scalars() if inactive(runtime, row)]
        for row in rows:
            row.enabled = False
            row.epoch += 1
        return len(rows)

    count = runtime.db.write(write)
    if count:
        runtime.cloud["epoch"].bump()
    return count


def loops(runtime: Runtime) -> tuple[Loop, ...]:
    """Hourly: disable the inactive."""

    def body(ids: tuple[str, ...]) -> None:
        if count := disable_inactive(runtime):
            log.info("%d users who have not logged in for long are disabled", count)

    return (Loop("identity-inactive", body, interval=3600.0),)


# ---- lists by expiry

_HOW: dict[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt, "lte": operator.le, "gt": operator.gt, "gte": operator.ge, "eq": operator.eq,
    "neq": operator.ne,
}  # fmt: skip


def expires(column: Any) -> Callable[[Call, list[str]], Any]:
    """The filter ``password_expires_at=lt:2016-12-08T22:02:00Z``; every value given must hold."""

    def compare(call: Call, values: list[str]) -> Any:
        found = []
        for text in values:
            how, _, moment = text.partition(":")
            if how not in _HOW:
                how, moment = "eq", text
            try:
                found.append(_HOW[how](column, read_time(moment)))
            except ValueError:
                raise BadRequest(
                    f"Not a time, nor one after lt:, lte:, gt:, gte:, eq: or neq:: {text!r}.",
                    field="password_expires_at",
                ) from None
        return sa.and_(column.is_not(None), *found)

    return compare
