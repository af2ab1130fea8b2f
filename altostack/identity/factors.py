"""The user options by which several authentication methods are required together."""

from __future__ import annotations

from typing import Any

from altostack.kit.errors import BadRequest

ENABLED, RULES = "multi_factor_auth_enabled", "multi_factor_auth_rules"


def check_rules(value: Any) -> list[list[str]]:
    """The value of the option. Raises BadRequest."""
    right = isinstance(value, list) and all(
        isinstance(rule, list) and rule and all(isinstance(name, str) and name for name in rule)
        for rule in value
    )
    if not right or any(len(set(rule)) != len(rule) for rule in value) or len(value) > 100:
        raise BadRequest(
            f"Invalid input for field/attribute {RULES}. Expected a list of lists of method names, each once.",
            field=f"options.{RULES}",
        )
    return list(value)
