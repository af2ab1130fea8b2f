"""[identity] in altostack.toml."""

from __future__ import annotations

from typing import Literal

from altostack.kit.config import Settings


class IdentitySettings(Settings, frozen=True, kw_only=True):
    """What an operator may choose.

    password_rounds: bcrypt's cost, as a power of two (OWASP: at least 10). max_password_length: characters.
    token_expiration: seconds a token lives. allow_expired_window: seconds for which a service may still validate an
    expired token (``?allow_expired=1``). allow_rescope_scoped_token: whether a scoped token may be exchanged for one
    of another scope. max_active_keys: token keys kept in the repository. max_project_depth: levels below a domain.
    limit_model: how limits of projects and domains go together, "flat" or "strict_two_level"; the latter keeps
    projects at one level below their domain.
    """

    password_rounds: int = 12
    max_password_length: int = 4096
    token_expiration: int = 3600
    allow_expired_window: int = 172_800
    allow_rescope_scoped_token: bool = True
    max_active_keys: int = 3
    max_project_depth: int = 5
    limit_model: Literal["flat", "strict_two_level"] = "flat"
