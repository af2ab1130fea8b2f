"""A string that does not show itself."""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

MASK: Final = "***"


class Secret:
    """A password, key or token. Printing, formatting and logging show a mask; `reveal()` gives the value.

    It is not a `str` on purpose: joining, slicing or encoding it by accident fails instead of leaking.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; call it at the last moment."""
        return self._value

    def matches(self, other: str | Secret) -> bool:
        """Compare in a time that does not depend on where the two differ."""
        theirs = other._value if isinstance(other, Secret) else other
        return hmac.compare_digest(self._value.encode(), theirs.encode())

    def __eq__(self, other: object) -> bool:
        return self.matches(other) if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: it would lie readable wherever the pickle goes")
