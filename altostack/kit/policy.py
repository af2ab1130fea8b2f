"""Policy: who may do what, in oslo.policy's language, so that operators' files work.

Defaults come from the declarations; a policy file (YAML or JSON, oslo.policy's own format) overrides them by name.
"""

from __future__ import annotations

import re
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


_TARGET_KEY = re.compile(r"%\(([^)]+)\)s")
_RULE = re.compile(r"rule:([^\s()]+)")
_REMEMBERED = 20_000


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
        self._enforcer.load_rules()
        self._enforcer.use_conf = False  # we look for changes of the file ourselves, and far cheaper
        self.rules = dict(rules)
        self._file = file
        self._stamp = self._changed()
        self._lock = threading.Lock()
        self._needs: dict[str, tuple[str, ...] | None] = {}
        self._known: dict[tuple[Any, ...], bool] = {}

    def allows(self, name: str, context: Context, target: Mapping[str, Any]) -> bool:
        """Whether ``context`` may do ``name`` to ``target`` (a loaded row's attributes). An unknown name: no.

        A rule's answer depends on the credentials and on those keys of the target that it names as ``%(key)s``, so
        it is remembered under just these. Rules that ask another server (``http:``) are asked every time.
        """
        if self._file is not None and self._stamp != (stamp := self._changed()):
            with self._lock:
                self._enforcer.load_rules(force_reload=True)
                self._enforcer.use_conf = False
                self._needs, self._known, self._stamp = {}, {}, stamp
        needs = self._needs.get(name)
        if needs is None and name not in self._needs:
            needs = self._needs[name] = self._target_keys(name)
        if needs is None or not context.token:
            return self._ask(name, context, target)
        key = (
            name,
            context.token,
            context.project_id,
            context.roles,
            *(str(target.get(word)) for word in needs),
        )
        answer = self._known.get(key)
        if answer is None:
            if len(self._known) > _REMEMBERED:
                self._known = {}
            answer = self._known[key] = self._ask(name, context, target)
        return answer

    def _ask(self, name: str, context: Context, target: Mapping[str, Any]) -> bool:
        return bool(self._enforcer.enforce(name, dict(target), context.credentials()))

    def _changed(self) -> float:
        try:
            return self._file.stat().st_mtime if self._file else 0.0
        except OSError:
            return 0.0

    def _target_keys(self, name: str) -> tuple[str, ...] | None:
        """The target keys that the rule and the rules it refers to name; None when it may not be remembered."""
        seen, waiting, keys = set(), [name], set()
        while waiting:
            rule = waiting.pop()
            if rule in seen or rule not in self._enforcer.rules:
                continue
            seen.add(rule)
            text = str(self._enforcer.rules[rule])
            if "http:" in text or "https:" in text:
                return None
            keys.update(_TARGET_KEY.findall(text))
            waiting += _RULE.findall(text)
        return tuple(sorted(keys))

    def require(self, name: str, context: Context, target: Mapping[str, Any]) -> None:
        """Raises Forbidden, naming the rule, unless `allows`."""
        if not self.allows(name, context, target):
            raise Forbidden(f"Policy doesn't allow {name} to be performed.", detail={"rule": name})
