"""Property protections: which roles may create, read, update and delete which free properties of images.

Declared by the setting ``protections``; what no pattern matches is free, and an administrator is not bound.
"""

from __future__ import annotations

import re
from typing import Any

from altostack.kit.call import Call
from altostack.kit.errors import Forbidden


def allowed(call: Call, name: str, what: str) -> bool:
    """Whether the caller may do ``what`` (create, read, update, delete) to the property."""
    rules = call.runtime.settings.protections
    if not rules or call.context.is_admin:
        return True
    for rule in rules:
        if re.search(rule.pattern, name):
            roles = getattr(rule, what)
            return "@" in roles or bool(call.context.roles & set(roles))
    return True


def require(call: Call, name: str, what: str) -> None:
    """Raises Forbidden unless `allowed`."""
    if not allowed(call, name, what):
        raise Forbidden(f"You may not {what} the property '{name}': it is protected.", field=name)


def readable(call: Call, properties: dict[str, str], shown: dict[str, Any]) -> dict[str, Any]:
    """The image's JSON object without the properties that the caller may not read."""
    if not call.runtime.settings.protections:
        return shown
    hidden = {name for name in properties if not allowed(call, name, "read")}
    return {name: value for name, value in shown.items() if name not in hidden}
