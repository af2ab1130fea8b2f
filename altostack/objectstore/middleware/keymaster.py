"""Where encryption gets its keys from.

A key belongs to a path and a root secret. Secrets have ids, so that another one can become the active one while data
that was written before stays readable. They are the operator's, in the paste file or in a file of their own
(`RootSecrets`), or a key manager's (`ManagedSecrets`): then a process fetches each once, when it is first needed, and
writes it nowhere.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

from altostack.objectstore.middleware.barbican import Barbican, KeyManagerError
from altostack.objectstore.seats import standing

log = logging.getLogger(__name__)
PATIENCE: Final = 5.0
"""Seconds after a key manager's failure in which it is not asked again."""
_OPTION: Final = "encryption_root_secret"
_ACTIVE: Final = "active_root_secret_id"
_FILE: Final = "keymaster_config_path"
_KEPT: Final = "key_id"  # a secret's name in the key manager
_ACCESS: Final = {  # options of `Barbican`: whether they have to be there
    "auth_endpoint": True, "username": True, "password": True, "project_name": True, "user_domain_name": False,
    "project_domain_name": False, "barbican_endpoint": False, "barbican_region_name": False, "cafile": False,
}  # fmt: skip
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
        """The key of ``/account/container[/object]``. Raises UnknownSecret, KeyManagerError."""
        ...


class RootSecrets:
    """Keys made of root secrets: HMAC-SHA256 of the path (RFC 2104)."""

    def __init__(self, secrets: Mapping[str | None, bytes], active: str | None) -> None:
        """Raises ValueError: a secret is too short, or there is none that is active."""
        for name, secret in secrets.items():
            if len(secret) < _SHORTEST:
                raise ValueError(
                    f"{_option(_OPTION, name)} has to be the base64 form of at least {_SHORTEST} bytes"
                )
        self._secrets, self.active = dict(secrets), active
        self.ids = _ids(secrets, active)
        self.key = lru_cache(maxsize=4096)(self._key)

    def _key(self, path: str, secret: str | None) -> bytes:
        held = self._secrets.get(secret)
        if held is None:
            raise UnknownSecret(secret)
        return _derived(held, path)

    def __repr__(self) -> str:
        return f"RootSecrets(ids={self.ids!r})"


class ManagedSecrets:
    """The same with secrets that ``fetch`` gets by their names in a key manager; once each, when first needed."""

    def __init__(
        self, names: Mapping[str | None, str], active: str | None, fetch: Callable[[str], bytes]
    ) -> None:
        """fetch: raises KeyManagerError. Raises ValueError when no secret is active."""
        self._names, self.active, self._fetch = dict(names), active, fetch
        self.ids = _ids(names, active)
        self.key = lru_cache(maxsize=4096)(self._key)
        self._held: dict[str | None, bytes] = {}
        self._failed: dict[str | None, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def _key(self, path: str, secret: str | None) -> bytes:
        return _derived(self._held.get(secret) or self._fetched(secret), path)

    def _fetched(self, secret: str | None) -> bytes:
        name = self._names.get(secret)
        if name is None:
            raise UnknownSecret(secret)
        with standing(), self._lock:
            if secret in self._held:
                return self._held[secret]
            until, trouble = self._failed.get(secret, (0.0, ""))
            if time.monotonic() < until:
                raise KeyManagerError(trouble)
            try:
                found = self._fetch(name)
                if len(found) < _SHORTEST:
                    raise KeyManagerError(f"the secret {name} has less than {_SHORTEST} bytes")
            except KeyManagerError as error:
                self._failed[secret] = (time.monotonic() + PATIENCE, str(error))
                log.error("no encryption keys: %s", error)
                raise
            self._held[secret] = found
            return found

    def __repr__(self) -> str:
        return f"ManagedSecrets(ids={self.ids!r})"


def key_master(options: Mapping[str, str], folder: Path) -> KeyMaster | None:
    """What a filter's options name; None when they name no secret.

    keymaster: "file", the default, or "barbican". active_root_secret_id: the secret that new data is written with; the
    one without an id by default. keymaster_config_path: a file that has the options instead, in its section [keymaster]
    or [kms_keymaster]; relative to ``folder``.

    "file" has encryption_root_secret and encryption_root_secret_<id>: base64 of at least 32 bytes each. "barbican" has
    key_id and key_id_<id>: the secrets' ids there; and what is needed to get them: auth_endpoint (of the identity
    service, with its version), username, password, project_name, user_domain_name, project_domain_name (both
    "Default"), barbican_endpoint or barbican_region_name to choose from the catalog, cafile. Raises ValueError.
    """
    kind = options.get("keymaster", "file")
    if kind == "file":
        given = _given(options, folder, "keymaster", (_OPTION,))
        secrets = {name: _decode(name, value) for name, value in _of(given, _OPTION).items()}
        if secrets:
            return RootSecrets(secrets, given.get(_ACTIVE) or None)
    elif kind == "barbican":
        given = _given(options, folder, "kms_keymaster", (_KEPT, *_ACCESS))
        if names := _of(given, _KEPT):
            return ManagedSecrets(names, given.get(_ACTIVE) or None, _barbican(given).fetch)
        raise ValueError(f"keymaster = barbican needs {_KEPT}")
    else:
        raise ValueError(f"keymaster = {kind}: it can be file or barbican")
    if options.get(_FILE):
        raise ValueError(f"{_FILE} = {options[_FILE]} names no secret")
    return None


def _given(
    options: Mapping[str, str], folder: Path, section: str, beginnings: tuple[str, ...]
) -> Mapping[str, str]:
    """The options that begin so, from the filter's own or from the file that they name. Raises ValueError."""
    given = {name: value for name, value in options.items() if name.startswith((*beginnings, _ACTIVE))}
    path = options.get(_FILE)
    if not path:
        return given
    if given:
        raise ValueError(f"{_FILE} is set, but there are other options: {', '.join(sorted(given))}")
    parser = configparser.RawConfigParser()
    try:
        with (folder / path).open(encoding="utf-8") as file:
            parser.read_file(file)
        return dict(parser[section])
    except (OSError, configparser.Error, KeyError) as error:
        raise ValueError(f"{_FILE} = {path} cannot be used: {type(error).__name__}") from None


def _of(given: Mapping[str, str], option: str) -> dict[str | None, str]:
    """What is given for a secret without an id, and for those that have one."""
    found: dict[str | None, str] = {}
    for name, value in given.items():
        if name == option:
            found[None] = value
        elif name.startswith(f"{option}_"):
            found[name[len(option) + 1 :]] = value
    return found


def _barbican(given: Mapping[str, str]) -> Barbican:
    missing = [name for name, needed in _ACCESS.items() if needed and not given.get(name)]
    if missing:
        raise ValueError(f"keymaster = barbican needs {', '.join(missing)}")
    return Barbican(**{name: given[name] for name in _ACCESS if given.get(name)})


def _ids(secrets: Mapping[str | None, object], active: str | None) -> tuple[str | None, ...]:
    """Raises ValueError when the active one is not among them."""
    if active not in secrets:
        raise ValueError(f"{_ACTIVE} = {active or ''}: there is no secret of that id")
    return tuple(sorted(secrets, key=lambda name: name or ""))


def _derived(secret: bytes, path: str) -> bytes:
    return hmac.digest(secret, path.encode("utf-8", "surrogateescape"), hashlib.sha256)


def _option(option: str, name: str | None) -> str:
    return option if name is None else f"{option}_{name}"


def _decode(name: str | None, value: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(
            f"{_option(_OPTION, name)} has to be the base64 form of at least {_SHORTEST} bytes"
        ) from None
