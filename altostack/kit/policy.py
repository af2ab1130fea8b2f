"""Policy: who may do what, in oslo.policy's language, so that operators' files work.

Defaults come from the declarations; a policy file (YAML or JSON, oslo.policy's own format) overrides them by name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oslo_config import cfg
from oslo_policy import opts, policy

from altostack.kit.context import Context
from altostack.kit.errors import Forbidden

# The personas (identity's default roles; each implies the ones below it).
PUBLIC = "@public"  # no token needed; never reaches oslo.policy
NODE = "@node"  # a node's agent, for that node's own rows; never reaches oslo.policy
ANY = "@"  # whoever has a valid token
NONE = "!"
ADMIN = "role:admin"
SERVICE = "role:admin or role:service"
_OWN = "project_id:%(project_id)s"
READER = f"role:admin or role:service or (role:reader and {_OWN})"
MEMBER = f"role:admin or (role:member and {_OWN})"
MANAGER = f"role:admin or (role:manager and {_OWN})"
# For rows that belong to nobody (flavors, types): any reader of any project.
READER_ANY = "role:admin or role:service or role:reader"


class Policy:
    """One service's rules.

    ``rules`` maps policy name -> default check string; ``file`` is the operator's override or None.
    """

    def __init__(self, rules: Mapping[str, str], file: Path | None = None) -> None:
        conf = cfg.ConfigOpts()
        conf([], project="altostack", default_config_files=[], default_config_dirs=[])
        opts._register(conf)
        self._enforcer = policy.Enforcer(conf, policy_file=str(file) if file else "none")
        self._enforcer.suppress_default_change_warnings = True
        self._enforcer.suppress_deprecation_warnings = True
        for name, check in rules.items():
            self._enforcer.register_default(policy.RuleDefault(name, check))
        self._lock = threading.Lock()
        self._enforcer.load_rules()
        # With a file, each check looks whether it changed; without one there is nothing to look at.
        self._enforcer.use_conf = file is not None
        self.rules = dict(rules)

    def allows(self, name: str, context: Context, target: Mapping[str, Any]) -> bool:
        """Whether ``context`` may do ``name`` to ``target`` (a loaded row's attributes). An unknown name: no."""
        return bool(self._enforcer.enforce(name, dict(target), context.credentials()))

    def require(self, name: str, context: Context, target: Mapping[str, Any]) -> None:
        """Raises Forbidden, naming the rule, unless `allows`."""
        if not self.allows(name, context, target):
            raise Forbidden(f"Policy doesn't allow {name} to be performed.", detail={"rule": name})
