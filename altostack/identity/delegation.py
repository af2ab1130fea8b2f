"""Tokens that stand for less than their user: what they must not do, so that no delegation makes itself larger."""

from __future__ import annotations

from altostack.kit.context import Context
from altostack.kit.errors import Forbidden

# What proves the user itself. Whatever else a token was got by is a delegation, also a method made later.
PRIMARY = frozenset({"password", "totp", "token"})


def by_delegation(methods: tuple[str, ...] | list[str]) -> bool:
    """Whether some method is not the user's own proof. Of no method at all nothing good is known."""
    return not methods or not PRIMARY.issuperset(methods)


def delegated(context: Context) -> bool:
    """Whether the bearer's token is narrower than its user: by its method or by a trust."""
    return context.trust_id is not None or by_delegation(context.methods)


def refuse_delegated(context: Context, what: str) -> None:
    """Raises Forbidden for a delegated token. ``what``: "manage trusts", ..."""
    if delegated(context):
        raise Forbidden(f"A token issued by delegation cannot {what}.")
