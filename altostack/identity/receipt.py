"""Several factors: which methods a user must prove together, and receipts for those proved so far.

A receipt is sealed with the token keys, says who proved what, and is good for nothing but adding further methods.
Source: Identity API v3, "Authentication with multi-factor" (user options ``multi_factor_auth_*``).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from altostack.identity.claims import METHODS
from altostack.identity.domain import Domain
from altostack.identity.factors import ENABLED, RULES
from altostack.identity.keeper import Keeper
from altostack.identity.token import moment
from altostack.identity.user import User

HEADER = "Openstack-Auth-Receipt"
_MARK = b"receipt:"  # no token's payload begins so
_LONGEST = 2048


class Receipt(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """What is sealed. ``worth``: the sum of the user's and the domain's counters, as in tokens."""

    user_id: str
    methods: list[str]
    issued: int
    expires: int
    worth: int


class Insufficient(Exception):
    """What was proved is right, and not enough: carries the answer's body and header."""

    def __init__(self, body: dict[str, Any], key: str) -> None:
        super().__init__("multi-factor authentication required")
        self.body, self.key = body, key


def wanted(user: User) -> list[list[str]]:
    """The rules that count for the user: lists of methods of which one list must be proved whole.

    A rule with a method that this service does not know counts for nothing, as the API has it.
    """
    if not user.options.get(ENABLED):
        return []
    return [rule for rule in user.options.get(RULES, []) if set(rule) <= set(METHODS)]


def enough(user: User, methods: Collection[str]) -> bool:
    """Whether the methods meet one of the user's rules."""
    rules = wanted(user)
    return not rules or any(set(rule) <= set(methods) for rule in rules)


def issue(keeper: Keeper, user: User, domain: Domain, methods: Collection[str], now: float) -> Insufficient:
    """A receipt for ``methods``."""
    made = Receipt(
        user_id=user.id,
        methods=sorted(set(methods)),
        issued=int(now),
        expires=int(now) + keeper.settings.receipt_expiration,
        worth=user.epoch + domain.epoch,
    )
    body = {
        "receipt": {
            "methods": made.methods,
            "user": {"id": user.id, "name": user.name, "domain": {"id": domain.id, "name": domain.name}},
            "issued_at": moment(made.issued),
            "expires_at": moment(made.expires),
        },
        "required_auth_methods": wanted(user),
    }
    return Insufficient(body, keeper.keys.seal(_MARK + msgspec.msgpack.encode(made), now))


def redeem(keeper: Keeper, key: str, user: User, domain: Domain, now: float) -> list[str] | None:
    """The methods of a receipt that is this user's and still good, else None."""
    raw = keeper.keys.open(key) if len(key) <= _LONGEST else None
    if raw is None or not raw.startswith(_MARK):
        return None
    found = msgspec.msgpack.decode(raw[len(_MARK) :], type=Receipt)
    right = found.user_id == user.id and found.worth == user.epoch + domain.epoch and found.expires > now
    return found.methods if right else None
