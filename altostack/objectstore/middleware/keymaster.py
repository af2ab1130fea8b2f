"""Where encryption gets its keys from.

A key belongs to a path and a root secret. Secrets have ids, so that another one can become the active one while data
that was written before stays readable. Built is `RootSecrets`: secrets that the operator keeps in the paste file or in
a file of their own. Key managers that are reached over the network (Barbican, KMIP) are not built; they would be
further classes with the methods of `KeyMaster`.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

_OPTION: Final = "encryption_root_secret"
_ACTIVE: Final = "active_root_secret_id"
_FILE: Final = "keymaster_config_path"
_SHORTEST: Final = 32  # bytes


class UnknownSecret(LookupError):
    """There is no root secret of that id. ``id``: which one; never the secret itself."""

    def __init__(self, id: str | None) -> None:
        self.id = id
        super().__init__(f"there is no root secret with the id {id!r}")


class KeyMaster(Protocol):
    """Gives keys of 32 bytes."""

    @property
    def active(self) -> str | None:
        """The id of the secret for what is written now; None is the secret without an id."""
        ...

    @property
    def ids(self) -> tuple[str | None, ...]:
        """Of all secrets."""
        ...

    def key(self, path: str, secret: str | None) -> bytes:
        """The key of ``/account/container[/object]``. Raises UnknownSecret."""
        ...


class RootSecrets:
    """Keys made of root secrets: HMAC-SHA256 of the path (RFC 2104)."""

    def __init__(self, secrets: Mapping[str | None, bytes], active: str | None) -> None:
        """Raises ValueError: a secret is too short, or there is none that is active."""
        for name, secret in secrets.items():
            if len(secret) < _SHORTEST:
                raise ValueError(f"{_option(name)} has to be the base64 form of at least {_SHORTEST} bytes")
        if active not in secrets:
            raise ValueError(f"{_ACTIVE} = {active or ''}: there is no secret of that id")
        self._secrets, self.active = dict(secrets), active
        self.ids: tuple[str | None, ...] = tuple(sorted(secrets, key=lambda name: name or ""))
        self.key = lru_cache(maxsize=4096)(self._key)

    def _key(self, path: str, secret: str | None) -> bytes:
        held = self._secrets.get(secret)
        if held is None:
            raise UnknownSecret(secret)
        return hmac.digest(held, path.encode("utf-8", "surrogateescape"), hashlib.sha256)

    def __repr__(self) -> str:
        return f"RootSecrets(ids={self.ids!r})"


def key_master(options: Mapping[str, str], folder: Path) -> RootSecrets | None:
    """What a filter's options name; None when they name no secret.

    encryption_root_secret and encryption_root_secret_<id>: base64 of at least 32 bytes each. active_root_secret_id:
    which of them new data is written with; the one without an id by default. keymaster_config_path: a file with these
    options in its section [keymaster] instead; relative to ``folder``. Raises ValueError.
    """
    given = {name: value for name, value in options.items() if name.startswith(_OPTION) or name == _ACTIVE}
    if path := options.get(_FILE):
        if given:
            raise ValueError(f"{_FILE} is set, but there are other options: {', '.join(sorted(given))}")
        parser = configparser.RawConfigParser()
        try:
            with (folder / path).open(encoding="utf-8") as file:
                parser.read_file(file)
            given = dict(parser["keymaster"])
        except (OSError, configparser.Error, KeyError) as error:
            raise ValueError(f"{_FILE} = {path} cannot be used: {type(error).__name__}") from None
    secrets: dict[str | None, bytes] = {}
    for name, value in given.items():
        if name == _OPTION:
            secrets[None] = _decode(name, value)
        elif name.startswith(f"{_OPTION}_"):
            secrets[name[len(_OPTION) + 1 :]] = _decode(name, value)
    if not secrets:
        if options.get(_FILE):
            raise ValueError(f"{_FILE} = {options[_FILE]} names no secret")
        return None
    return RootSecrets(secrets, given.get(_ACTIVE) or None)


def _option(name: str | None) -> str:
    return _OPTION if name is None else f"{_OPTION}_{name}"


def _decode(name: str, value: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} has to be the base64 form of at least {_SHORTEST} bytes") from None
