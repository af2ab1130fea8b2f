"""[identity] in altostack.toml."""

from __future__ import annotations

from typing import Literal

from altostack.kit.config import Settings


class SecurityCompliance(Settings, frozen=True, kw_only=True):
    """[identity.security_compliance]: rules for people's passwords. 0 and "" switch a rule off.

    lockout_failure_attempts: wrong passwords in a row after which the account is locked, for lockout_duration seconds
    (0: until the password is reset). password_expires_days: how long a password lasts. unique_last_password_count:
    how many of a user's latest passwords the next one must differ from. minimum_password_age: days for which a user
    keeps a password of its own choice. password_regex: what every password must match;
    password_regex_description: the same in words. change_password_upon_first_use: a password that an administrator
    set is good for nothing but changing it. disable_user_account_days_inactive: days without a login after which a
    user may not log in any more, until enabled again.
    """

    lockout_failure_attempts: int = 0
    lockout_duration: int = 1800
    password_expires_days: int = 0
    unique_last_password_count: int = 0
    minimum_password_age: int = 0
    password_regex: str = ""
    password_regex_description: str = ""
    change_password_upon_first_use: bool = False
    disable_user_account_days_inactive: int = 0


class IdentitySettings(Settings, frozen=True, kw_only=True):
    """What an operator may choose.

    password_rounds: bcrypt's cost, as a power of two (OWASP: at least 10). max_password_length: characters.
    token_expiration: seconds a token lives. allow_expired_window: seconds for which a service may still validate an
    expired token (``?allow_expired=1``). allow_rescope_scoped_token: whether a scoped token may be exchanged for one
    of another scope. max_active_keys: token keys kept in the repository. max_project_depth: levels below a domain.
    limit_model: how limits of projects and domains go together, "flat" or "strict_two_level"; the latter keeps
    projects at one level below their domain. token_provider: "fernet" or "jws" (tokens that others can read and check
    with a public key; longer). credential_auth_ttl: seconds by which the time of a signed EC2 request may be off.
    max_redelegation_count: how often a trust may be handed on. totp_included_previous_windows: earlier 30 second steps
    whose TOTP codes are still good. receipt_expiration: seconds for which one may add further authentication methods.
    list_limit: rows in a list at most, which then says "truncated" (0: 1000); a domain may have its own for its users
    and groups. oauth1_request_token_duration, oauth1_access_token_duration: seconds; 0: for ever.
    """

    password_rounds: int = 12
    max_password_length: int = 4096
    token_expiration: int = 3600
    allow_expired_window: int = 172_800
    allow_rescope_scoped_token: bool = True
    max_active_keys: int = 3
    max_project_depth: int = 5
    limit_model: Literal["flat", "strict_two_level"] = "flat"
    token_provider: Literal["fernet", "jws"] = "fernet"
    credential_auth_ttl: int = 900
    max_redelegation_count: int = 3
    totp_included_previous_windows: int = 1
    receipt_expiration: int = 300
    oauth1_request_token_duration: int = 28_800
    oauth1_access_token_duration: int = 86_400
    list_limit: int = 0
    security_compliance: SecurityCompliance = SecurityCompliance()
