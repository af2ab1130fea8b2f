"""Who may do what: the identity service's own policy names and check strings, so that operators' files work.

Source: the identity service's policy reference (secure RBAC: admin, and readers and managers of a scope).
"""

from __future__ import annotations

ADMIN = "rule:admin_required"
SYSTEM_READER = f"{ADMIN} or (role:reader and system_scope:all)"
OWNER = f"({SYSTEM_READER} or rule:owner) and domain_id:None"
# What a domain's token is no good for, whatever its roles (upstream: scope types "system" and "project").
CLOUD_ADMIN = f"({ADMIN}) and domain_id:None"
CLOUD_READER = f"({SYSTEM_READER}) and domain_id:None"
ADMIN_OR_OWNER = "rule:admin_or_owner"
ANYBODY = "@"

BASE = {
    "admin_required": "role:admin or is_admin:1",
    "service_role": "role:service",
    "service_or_admin": "rule:admin_required or rule:service_role",
    "owner": "user_id:%(user_id)s",
    "admin_or_owner": "rule:admin_required or rule:owner",
    "token_subject": "user_id:%(target.token.user_id)s",
    "admin_or_token_subject": "rule:admin_required or rule:token_subject",
    "service_admin_or_token_subject": "rule:service_or_admin or rule:token_subject",
    "domain_managed_target_role": " or ".join(
        f"'{role}':%(target.role.name)s" for role in ("manager", "member", "reader")
    ),
}


def _in_domain(role: str, *where: str) -> str:
    """``role`` in the domain that every one of ``where`` names."""
    return "(" + " and ".join([f"role:{role}", *(f"domain_id:%({name})s" for name in where)]) + ")"


def reader(where: str) -> str:
    """Admin, system readers, and readers of the domain that ``where`` names."""
    return f"{SYSTEM_READER} or {_in_domain('reader', where)}"


def manager(where: str) -> str:
    """Admin, and managers of the domain that ``where`` names."""
    return f"{ADMIN} or {_in_domain('manager', where)}"


USERS = {
    "list": reader("target.domain_id"),
    "show": f"{SYSTEM_READER} or (role:reader and token.domain.id:%(target.user.domain_id)s)"
    " or user_id:%(target.user.id)s",
    "create": f"{ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)",
    "update": f"{ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)",
    "delete": f"{ADMIN} or (role:manager and token.domain.id:%(target.user.domain_id)s)",
}
GROUPS = {
    "list": reader("target.group.domain_id"),
    "show": reader("target.group.domain_id"),
    "create": manager("target.group.domain_id"),
    "update": manager("target.group.domain_id"),
    "delete": manager("target.group.domain_id"),
}
_IN_PROJECT = "domain_id:%(target.project.domain_id)s and not None:%(target.project.domain_id)s"
PROJECT_READER = f"{SYSTEM_READER} or (role:reader and {_IN_PROJECT}) or project_id:%(target.project.id)s"
PROJECT_MANAGER = f"{ADMIN} or (role:manager and {_IN_PROJECT})"
PROJECTS = {
    "list": reader("target.domain_id"),
    "show": PROJECT_READER,
    "create": PROJECT_MANAGER,
    "update": PROJECT_MANAGER,
    "delete": PROJECT_MANAGER,
}
DOMAINS = {
    "list": reader("target.domain.id"),
    "show": f"{SYSTEM_READER} or token.domain.id:%(target.domain.id)s"
    " or token.project.domain.id:%(target.domain.id)s",
    "create": CLOUD_ADMIN,
    "update": CLOUD_ADMIN,
    "delete": CLOUD_ADMIN,
}
ROLES = {
    "list": f"{SYSTEM_READER} or (role:manager and not domain_id:None)",
    "create": CLOUD_ADMIN,
    "update": CLOUD_ADMIN,
    "delete": CLOUD_ADMIN,
}
SHOW_ROLE = f"{SYSTEM_READER} or (role:manager and rule:domain_managed_target_role)"
CATALOG = {
    "list": CLOUD_READER,
    "show": CLOUD_READER,
    "create": CLOUD_ADMIN,
    "update": CLOUD_ADMIN,
    "delete": CLOUD_ADMIN,
}
REGIONS = {
    "list": ANYBODY,
    "show": ANYBODY,
    "create": CLOUD_ADMIN,
    "update": CLOUD_ADMIN,
    "delete": CLOUD_ADMIN,
}
REGISTERED_LIMITS = {"list": ANYBODY, "show": ANYBODY, "update": CLOUD_ADMIN, "delete": CLOUD_ADMIN}
LIMITS = {"list": ANYBODY, "update": CLOUD_ADMIN, "delete": CLOUD_ADMIN}
SHOW_LIMIT = (
    f"{SYSTEM_READER} or domain_id:%(target.limit.domain.id)s or domain_id:%(target.limit.project.domain_id)s"
    " or (project_id:%(target.limit.project_id)s and not None:%(target.limit.project_id)s)"
)
CREDENTIALS = {
    "list": OWNER,
    "show": OWNER,
    "create": "user_id:%(user_id)s",
    "delete": f"({ADMIN_OR_OWNER}) and domain_id:None",
}
_CREDENTIAL_OWNER = "user_id:%(target.credential.user_id)s"
STORED_CREDENTIALS = {
    "list": f"{SYSTEM_READER} or {_CREDENTIAL_OWNER}",
    "show": f"{SYSTEM_READER} or {_CREDENTIAL_OWNER}",
    "create": f"{ADMIN} or {_CREDENTIAL_OWNER}",
    "update": f"{ADMIN} or {_CREDENTIAL_OWNER}",
    "delete": f"{ADMIN} or {_CREDENTIAL_OWNER}",
}
EC2_LIST = f"({SYSTEM_READER} or rule:owner) and domain_id:None"
EC2_SHOW = f"({SYSTEM_READER} or {_CREDENTIAL_OWNER}) and domain_id:None"
EC2_CHANGE = f"({ADMIN} or (role:member and {_CREDENTIAL_OWNER})) and domain_id:None"
_TRUSTOR = "user_id:%(target.trust.trustor_user_id)s"
_TRUSTEE = "user_id:%(target.trust.trustee_user_id)s"
SHOW_TRUST = f"({SYSTEM_READER} or {_TRUSTOR} or {_TRUSTEE}) and domain_id:None"
TRUSTS = {
    "show": SHOW_TRUST,
    "create": f"{_TRUSTOR} and domain_id:None and not system_scope:all",
    "delete": f"({ADMIN} or {_TRUSTOR}) and domain_id:None",
}
LIST_TRUSTS = f"({SYSTEM_READER}) and domain_id:None"
TRUSTS_FOR_TRUSTOR = f"({SYSTEM_READER} or {_TRUSTOR}) and domain_id:None"
TRUSTS_FOR_TRUSTEE = f"({SYSTEM_READER} or {_TRUSTEE}) and domain_id:None"
CONSUMERS = {
    "list": CLOUD_READER,
    "show": CLOUD_READER,
    "create": CLOUD_ADMIN,
    "update": CLOUD_ADMIN,
    "delete": CLOUD_ADMIN,
}
# Upstream: scope type "project" alone.
PROJECT_ADMIN = f"({ADMIN}) and domain_id:None and not system_scope:all"
REVOCATIONS = "rule:service_or_admin and domain_id:None"
EC2_VALIDATE = "rule:service_or_admin"
_SELF = "user_id:%(target.user.id)s"
ACCESS_RULES = {
    "list": f"((role:reader and system_scope:all) or {_SELF}) and domain_id:None",
    "show": f"((role:reader and system_scope:all) or {_SELF}) and domain_id:None",
    "delete": f"((role:admin and system_scope:all) or {_SELF}) and domain_id:None",
}

LIST_GROUPS_FOR_USER = f"{reader('target.user.domain_id')} or user_id:%(user_id)s"
LIST_USER_PROJECTS = f"{reader('target.user.domain_id')} or {_SELF}"
GROUP_READER = f"{SYSTEM_READER} or {_in_domain('reader', 'target.group.domain_id', 'target.user.domain_id')}"
GROUP_MANAGER = f"{ADMIN} or {_in_domain('manager', 'target.group.domain_id', 'target.user.domain_id')}"

_PAIRS = [
    (f"target.{actor}.domain_id", target)
    for actor in ("user", "group")
    for target in ("target.project.domain_id", "target.domain.id")
]
_OWN_ROLE = "(domain_id:%(target.role.domain_id)s or None:%(target.role.domain_id)s)"


def _both(role: str) -> str:
    """``role`` in the domain of both the actor and the target of a grant."""
    return "(" + " or ".join(_in_domain(role, *pair) for pair in _PAIRS) + ")"


CHECK_GRANT = f"{SYSTEM_READER} or ({_both('reader')} and {_OWN_ROLE})"
LIST_GRANTS = f"{SYSTEM_READER} or {_both('reader')}"
CHANGE_GRANT = (
    f"{ADMIN} or ({_both('admin')} and {_OWN_ROLE})"
    f" or ({_both('manager')} and rule:domain_managed_target_role)"
)
LIST_ASSIGNMENTS = (
    f"{SYSTEM_READER} or (role:reader and domain_id:%(target.domain_id)s and not None:%(target.domain_id)s)"
)
VALIDATE_TOKEN = f"{SYSTEM_READER} or rule:service_role or rule:token_subject"
CHECK_TOKEN = f"{SYSTEM_READER} or rule:token_subject"
REVOKE_TOKEN = f"{ADMIN} or rule:token_subject"
