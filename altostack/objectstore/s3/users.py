"""Access keys that the paste file names: the S3 filter's own, and tempauth's users ("account:user", key)."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from altostack.kit.context import Context
from altostack.objectstore.middleware.tempauth import users_of
from altostack.objectstore.s3.keys import FileKeys, Secret


def file_keys(conf: Mapping[str, Any], local: Mapping[str, str], prefix: str) -> FileKeys:
    """The keys in the filter's options ``local`` and in the paste file's [filter:tempauth].

    prefix: of accounts (AUTH_). Raises ValueError for an option that cannot be understood, without its secret.
    """
    found: dict[str, Secret] = {}
    for user in users_of(_tempauth(conf), prefix):
        who = _who(user.name, user.name.partition(":")[2], user.account.removeprefix(prefix))
        groups = frozenset(user.groups)
        found[user.name] = Secret(user.key, who, user.account, user.account in groups, groups)
    for name, value in local.items():
        if not name.startswith("key_"):
            continue
        access, parts = name.removeprefix("key_"), value.split()
        if len(parts) not in (2, 3) or not access:
            raise ValueError(f"[filter:s3] {name}: SECRET ACCOUNT [USER] is expected")
        account = parts[1] if parts[1].startswith(prefix) else prefix + parts[1]
        user_name = parts[2] if len(parts) == 3 else access
        who = _who(user_name, user_name, account.removeprefix(prefix))
        found[access] = Secret(parts[0], who, account)
    return FileKeys(found)


def _who(user_id: str, name: str, project: str) -> Context:
    return Context(user_id=user_id, user_name=name, project_id=project, project_name=project)


def _tempauth(conf: Mapping[str, Any]) -> dict[str, str]:
    """The options of [filter:tempauth], {} where there is no paste file."""
    path = conf.get("__file__")
    if not path or not Path(path).is_file():
        return {}
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of users have capitals
    parser.read(path, encoding="utf-8")
    return dict(parser.items("filter:tempauth")) if parser.has_section("filter:tempauth") else {}
