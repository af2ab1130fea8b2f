"""Access keys that the paste file names: the S3 filter's own, and tempauth's users ("account:user", key)."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from altostack.kit.context import Context
from altostack.objectstore.s3.keys import FileKeys, Secret


def file_keys(conf: Mapping[str, Any], local: Mapping[str, str], prefix: str) -> FileKeys:
    """The keys in the filter's options ``local`` and in the paste file's [filter:tempauth].

    prefix: of accounts (AUTH_). Raises ValueError for an option that cannot be understood.
    """
    found: dict[str, Secret] = {}
    for name, value in local.items():
        if name.startswith("key_"):
            access = name[4:]
            parts = value.split()
            if len(parts) not in (2, 3):
                raise ValueError(f"[filter:s3] {name}: SECRET ACCOUNT [USER] is expected")
            found[access] = _secret(parts[0], parts[1], parts[2] if len(parts) == 3 else access, prefix, True)
    for name, value in _tempauth(conf).items():
        if name.startswith(("user_", "user64_")) and (named := _names(name)) is not None:
            account, user = named
            key, *groups = value.split() or [""]
            groups = [group for group in groups if "://" not in group]  # a storage URL may come last
            owner = ".admin" in groups or ".reseller_admin" in groups
            if key:
                found[f"{account}:{user}"] = _secret(key, account, user, prefix, owner)
    return FileKeys(found)


def _names(option: str) -> tuple[str, str] | None:
    import base64
    import binascii

    kind, _, rest = option.partition("_")
    account, mark, user = rest.rpartition("_") if kind == "user64" else rest.partition("_")
    if not mark:
        return None
    if kind == "user64":
        try:
            plain = [base64.b64decode(part + "=" * (-len(part) % 4)).decode() for part in (account, user)]
        except (binascii.Error, ValueError):
            return None
        return plain[0], plain[1]
    return account, user


def _secret(secret: str, account: str, user: str, prefix: str, owner: bool) -> Secret:
    account = unquote(account)
    project = account.removeprefix(prefix)
    who = Context(user_id=f"{project}:{user}", user_name=user, project_id=project, project_name=project)
    return Secret(secret, who, prefix + project, owner)


def _tempauth(conf: Mapping[str, Any]) -> dict[str, str]:
    """The options of [filter:tempauth], {} where there is no paste file."""
    path = conf.get("__file__")
    if not path or not Path(path).is_file():
        return {}
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # names of users have capitals
    parser.read(path, encoding="utf-8")
    if not parser.has_section("filter:tempauth"):
        return {}
    return dict(parser.items("filter:tempauth"))
