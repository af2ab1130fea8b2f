"""Identity (Keystone API v3): who may do what, where, and the tokens that say so."""

from __future__ import annotations

from pathlib import Path

from altostack.identity import compliance, rules
from altostack.identity.access_rule import ACCESS_RULES
from altostack.identity.application_credential import CREDENTIALS
from altostack.identity.assignment import GRANT_ROUTES
from altostack.identity.audit import audited_login
from altostack.identity.auth import AUTH_ROUTES, TOKEN_RULES, loops
from altostack.identity.bootstrap import bootstrap
from altostack.identity.catalog import ENDPOINTS, REGION_ROUTES, REGIONS, SERVICES
from altostack.identity.config import IdentitySettings
from altostack.identity.credential import CREDENTIALS as STORED_CREDENTIALS
from altostack.identity.dialect import DIALECT
from altostack.identity.domain import DOMAINS
from altostack.identity.domain_config import CONFIG_ROUTES
from altostack.identity.domain_project import PROJECT_ROUTES
from altostack.identity.ec2 import EC2_ROUTES
from altostack.identity.endpoint_filter import ENDPOINT_GROUPS, FILTER_ROUTES
from altostack.identity.group import GROUP_ROUTES, GROUPS
from altostack.identity.limit import LIMIT_ROUTES, LIMITS, REGISTERED_LIMITS
from altostack.identity.mirror import loops as directory_loops
from altostack.identity.model import IdentityRow
from altostack.identity.oauth1 import CONSUMERS, OAUTH1_ROUTES
from altostack.identity.oauth2 import OAUTH2_ROUTES
from altostack.identity.policy import POLICIES, POLICY_ROUTES
from altostack.identity.project import TAG_ROUTES
from altostack.identity.revocation import REVOCATION_ROUTES
from altostack.identity.role import DOMAIN_ROLE_RULES, ROLE_ROUTES, ROLES
from altostack.identity.role_assignments import ASSIGNMENT_ROUTES, TREE_RULES
from altostack.identity.trust import TRUST_ROUTES, TRUST_RULES, TRUSTS
from altostack.identity.user import USER_ROUTES, USERS
from altostack.identity.versions import VERSION_ROUTES
from altostack.kit.service import Service

SERVICE = Service(
    name="identity",
    type="identity",
    title="Identity",
    prefix="/identity",
    root="/v3",
    endpoint="/identity/v3",
    dialect=DIALECT,
    metadata=IdentityRow.metadata,
    resources=(
        DOMAINS, USERS, GROUPS, ROLES, REGIONS, SERVICES, ENDPOINTS, CREDENTIALS, ACCESS_RULES,
        STORED_CREDENTIALS, TRUSTS, CONSUMERS,
        ENDPOINT_GROUPS, POLICIES, REGISTERED_LIMITS, LIMITS,
    ),
    routes=(
        *VERSION_ROUTES, *PROJECT_ROUTES, *map(audited_login, AUTH_ROUTES), *USER_ROUTES, *GROUP_ROUTES,
        *ROLE_ROUTES, *TAG_ROUTES, *GRANT_ROUTES, *ASSIGNMENT_ROUTES, *REGION_ROUTES, *FILTER_ROUTES,
        *POLICY_ROUTES, *LIMIT_ROUTES, *CONFIG_ROUTES,
        *EC2_ROUTES, *TRUST_ROUTES, *OAUTH1_ROUTES, *OAUTH2_ROUTES, *REVOCATION_ROUTES,
    ),
    settings=IdentitySettings,
    rules=rules.BASE | DOMAIN_ROLE_RULES | TREE_RULES | TOKEN_RULES | TRUST_RULES,
    bootstrap=bootstrap,
    loops=lambda runtime: (*loops(runtime), *compliance.loops(runtime), *directory_loops(runtime)),
    migrations=Path(__file__).with_name("migrations"),
)  # fmt: skip
