"""Users: who may ask for a token."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped

from altostack.identity import rules
from altostack.identity.audit import created, deleted, note, updated
from altostack.identity.common import (
    WORD,
    bump,
    capped,
    domain_of,
    free,
    in_scope,
    options,
    same,
    self_link,
)  # fmt: skip
from altostack.identity.compliance import (
    PasswordState,
    accepts,
    check_form,
    check_own_change,
    expires,
    now,
    set_password,
)  # fmt: skip
from altostack.identity.config import IdentitySettings
from altostack.identity.dialect import inexact
from altostack.identity.domain import DOMAINS, Domain
from altostack.identity.domain_config import list_limit, settings_of, writable
from altostack.identity.factors import ENABLED, RULES, check_rules
from altostack.identity.keeper import keeper
from altostack.identity.model import Extra, IdentityRow, Worth
from altostack.kit.api import add, load
from altostack.kit.call import Call
from altostack.kit.errors import Forbidden, Unauthorized
from altostack.kit.policy import PUBLIC
from altostack.kit.resource import Computed, Resource, field, key, private, struct
from altostack.kit.route import Route

_OPTIONS = (
    "ignore_change_password_upon_first_use", "ignore_password_expiry", "ignore_lockout_failure_attempts",
    "lock_password", "ignore_user_inactivity",
)  # fmt: skip


class User(PasswordState, Extra, Worth, IdentityRow):
    __tablename__ = "users"
    __table_args__ = (
        sa.UniqueConstraint("domain_id", "name"),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], ondelete="CASCADE"),
    )
    noun = "user"
    id: Mapped[str] = key()
    domain_id: Mapped[str] = field(create=True, filter=True, sort=True, max_length=64)
    name: Mapped[str] = field(
        required=True, update=True, filter=True, sort=True, ge=1, max_length=255, pattern=WORD
    )
    default_project_id: Mapped[str | None] = field(
        create=True, update=True, filter=True, max_length=64, show=False
    )
    enabled: Mapped[bool] = field(create=True, update=True, filter=True, sort=True, default=True)
    options: Mapped[dict[str, Any]] = field(create=True, update=True, default={})
    password_hash: Mapped[str | None] = private()


@created
def create(call: Call, fields: dict[str, Any]) -> User:
    domain_of(call, fields, "identity:create_user")
    password = _hash(call, fields.pop("password", None))
    fields["name"] = fields["name"].strip()
    fields["options"] = _options({}, fields.get("options", {}))
    row = User(**fields)
    if password is not None:
        set_password(call.runtime, row, password, chosen=False)
    call.require("identity:create_user", row)
    load(call, DOMAINS, row.domain_id)
    writable(call, row.domain_id)
    _name_free(call, row.domain_id, row.name)
    made: User = add(call, USERS, row)
    return made


@updated
def update(call: Call, row: User, fields: dict[str, Any]) -> None:
    same(call, id=row.id, domain_id=row.domain_id)
    writable(call, row.domain_id)
    if "password" in fields:
        password = fields.pop("password")
        if password is not None and "hash" not in call.memo:
            # Hashing takes long: let other writers have the database meanwhile, then look at the row again.
            call.session.rollback()
            _hash(call, password)
            load(call, USERS, row.id, "update")
        if "options" in fields:
            row.options = _options(row.options, fields.pop("options"))
        set_password(call.runtime, row, _hash(call, password), chosen=False)
        row.epoch += 1
    if "options" in fields:
        fields["options"] = _options(row.options, fields["options"])
    if "name" in fields:
        fields["name"] = fields["name"].strip()
        _name_free(call, row.domain_id, fields["name"], but=row.id)
    if row.enabled and fields.get("enabled") is False:
        row.epoch += 1
    elif fields.get("enabled") and not row.enabled:
        row.active_at = now(call.runtime)
    for attr, value in fields.items():
        setattr(row, attr, value)
    bump(call)


@deleted
def delete(call: Call, row: User) -> None:
    writable(call, row.domain_id)
    call.session.delete(row)
    bump(call)


def _name_free(call: Call, domain_id: str, name: str, but: str | None = None) -> None:
    free(
        call, User, User.domain_id == domain_id, User.name == name, kind="user", name=name,
        where=f" at domain ID {domain_id}", but=but,
    )  # fmt: skip


def _hash(call: Call, password: str | None) -> str | None:
    """The password's hash, made once a request. Raises Forbidden for one that is too long."""
    if password is None:
        return None
    settings = call.runtime.settings or IdentitySettings()
    if len(password) > settings.max_password_length:
        raise Forbidden(
            f"The password length must be less than or equal to {settings.max_password_length}.",
            field="password",
        )
    check_form(call, password)
    if "hash" not in call.memo:
        call.memo["hash"] = keeper(call.runtime).passwords.hash(password)
    return str(call.memo["hash"])


def _options(before: dict[str, Any], sent: Any) -> dict[str, Any]:
    plain = {name: value for name, value in sent.items() if name != RULES} if isinstance(sent, dict) else sent
    kept = options(
        "user", (*_OPTIONS, ENABLED), {name: before[name] for name in before if name != RULES}, plain
    )
    rules = sent[RULES] if RULES in sent else before.get(RULES)
    return kept if rules is None else kept | {RULES: check_rules(rules)}


def read_directory(call: Call) -> None:
    """Before the users or groups of a domain are listed, its directory is read, where it has one; and its limit."""
    domain_id = call.arg("domain_id") or call.context.domain_id
    if call.route.op == "list" and domain_id in settings_of(call.runtime):
        from altostack.identity.mirror import refresh

        refresh(call.runtime, domain_id)
    capped(call, list_limit(call, domain_id))


USERS = Resource(
    row=User,
    name="user",
    policy=rules.USERS,
    parent=read_directory,
    narrow=in_scope(User.domain_id),
    create=create,
    update=update,
    delete=delete,
    inputs={"password": str | None},
    update_inputs={"password": str | None},
    extra="extra",
    computed={
        "default_project_id": Computed(get=lambda call, row: row.default_project_id or msgspec.UNSET),
        "links": self_link("/users"),
    },
    filters=inexact(name=User.name) | {"password_expires_at": expires(User.password_expires_at)},
    default_sort=(("name", False),),
    doc="Who may ask for a token.",
)


# ---- one's own password, and ending all of one's tokens

_CHANGE = struct(
    "PasswordChange",
    [
        (
            "user",
            struct("PasswordChangeUser", [("original_password", str, True), ("password", str, True)]),
            True,
        )
    ],
    open=True,
)


def change_password(call: Call) -> None:
    """Needs no token: knowing the old password is the proof. The answer to a wrong one tells nothing more."""
    body = call.body.user
    with call.runtime.db.read() as session:
        found = session.execute(
            sa.select(User, Domain).join(Domain).where(User.id == call.params["user_id"])
        ).first()
    passwords = keeper(call.runtime).passwords
    right = passwords.matches(body.original_password, found[0].password_hash if found else None)
    if found is not None and "accepted" not in call.memo:
        call.memo["accepted"] = accepts(call.runtime, found[0], right)
    if found is None or not call.memo["accepted"] or not (found[0].enabled and found[1].enabled):
        raise Unauthorized("The request you have made requires authentication.")
    writable(call, found[0].domain_id)
    check_own_change(call, found[0], passwords, body.password)
    hashed = _hash(call, body.password)
    row = call.session.get(User, found[0].id)
    if row is None or row.password_hash != found[0].password_hash:
        raise Unauthorized("The request you have made requires authentication.")
    set_password(call.runtime, row, hashed, chosen=True)
    note(call, "updated", "user", row.id)
    row.epoch += 1
    bump(call)


def revoke_tokens(call: Call) -> None:
    """Every token that the user holds is worth nothing from now on."""
    row = load(call, USERS, rule=call.route.policy)
    row.epoch += 1
    bump(call)


USER_ROUTES = (
    Route(
        method="POST", path="/users/{user_id}/password", handler=change_password, policy=PUBLIC, body=_CHANGE,
        status=204,
    ),
    Route(
        method="DELETE", path="/users/{user_id}/tokens", handler=revoke_tokens, guard=False, status=204,
        policy="identity:revoke_tokens_for_user", check=rules.ADMIN_OR_OWNER,
    ),
)  # fmt: skip
