"""What clusters that keep containers in step agree on: realms, their keys, and the signature of a request.

A realm is a set of clusters whose operators share a key. The file is that of Swift, so that its clusters take part:

    [DEFAULT]
    mtime_check_interval = 300

    [realm1]
    key = the secret of the realm
    key2 = another one, while the first is being replaced
    cluster_west = https://west.example.com/v1/

Each change is signed with the realm's key and the key of the container (X-Container-Sync-Key), which its owner has set
at both ends. (Swift administrator's guide, container to container synchronisation.)
"""

from __future__ import annotations

import configparser
import hashlib
import hmac
import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

AUTH: Final = "x-container-sync-auth"
SYNC_KEY: Final = "x-container-sync-key"
SYNC_TO: Final = "x-container-sync-to"
FILE: Final = "container-sync-realms.conf"
_INTERVAL: Final = 300.0


@dataclass(frozen=True, slots=True)
class Realm:
    """name: upper case. key, key2: "" for none. clusters: name in upper case -> URL up to the account."""

    name: str
    key: str = field(default="", repr=False)
    key2: str = field(default="", repr=False)
    clusters: dict[str, str] = field(default_factory=dict)


class Realms:
    """The realms in a file, read anew when it changes. No file: no realms. What cannot be read is logged."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._next, self._stamp, self._interval = float("-inf"), (0, 0), _INTERVAL
        self._realms: dict[str, Realm] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Realm]:
        """Every realm."""
        self._refresh()
        return list(self._realms.values())

    def get(self, name: str) -> Realm | None:
        """By name, in any case."""
        self._refresh()
        return self._realms.get(name.upper())

    def _refresh(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        with self._lock:
            self._next = now + self._interval
            try:
                found = self._path.stat()
            except FileNotFoundError:
                self._realms, self._stamp = {}, (0, 0)
                return
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            try:
                self._realms, self._interval = _parse(self._path)
            except (OSError, ValueError, configparser.Error) as error:
                log.error("the realms of container sync cannot be read: %s", error)
                return
            self._stamp, self._next = stamp, now + self._interval


def _parse(path: Path) -> tuple[dict[str, Realm], float]:
    parser = configparser.ConfigParser(interpolation=None)
    with path.open(encoding="utf-8") as file:
        parser.read_file(file)
    interval = float(parser.defaults().get("mtime_check_interval", _INTERVAL))
    realms = {}
    for section in parser.sections():
        words = dict(parser.items(section))
        clusters = {
            name[8:].upper(): value.rstrip("/")
            for name, value in words.items()
            if name.startswith("cluster_")
        }
        name = section.upper()
        realms[name] = Realm(name, words.get("key", ""), words.get("key2", ""), clusters)
    return realms, interval


def signature(method: str, path: str, timestamp: str, nonce: str, realm_key: str, user_key: str) -> str:
    """The hex HMAC-SHA1 of a request. ``path``: quoted, from /v1 on; ``timestamp``: as X-Timestamp says it."""
    text = "\n".join((method, path, timestamp, nonce, user_key))
    return hmac.new(realm_key.encode(), text.encode(), hashlib.sha1).hexdigest()


def signed(method: str, path: str, timestamp: str, realm: Realm, user_key: str) -> dict[str, str]:
    """The headers with which a change is sent to another cluster."""
    nonce = uuid.uuid4().hex
    proof = signature(method, path, timestamp, nonce, realm.key, user_key)
    return {"x-timestamp": timestamp, AUTH: f"{realm.name} {nonce} {proof}"}


def is_signed(header: str, method: str, path: str, timestamp: str, realms: Realms, user_key: str) -> bool:
    """Whether X-Container-Sync-Auth proves knowledge of both keys."""
    parts = header.split()
    realm = realms.get(parts[0]) if len(parts) == 3 else None
    if realm is None or not realm.key or not user_key:
        return False
    good = False
    for key in (realm.key, realm.key2):
        if key:
            wanted = signature(method, path, timestamp, parts[1], key, user_key)
            good |= hmac.compare_digest(wanted.encode(), parts[2].encode())
    return good


@dataclass(frozen=True, slots=True)
class Target:
    """Where a container is copied to. url: of the other container; realm: None when the host is trusted by name."""

    url: str
    realm: Realm | None


def target(value: str, realms: Realms, hosts: tuple[str, ...] = ()) -> Target:
    """What X-Container-Sync-To says: ``//realm/cluster/account/container``, or a URL of one of ``hosts``.

    Raises ValueError that tells what is wrong with it.
    """
    text = value.strip().rstrip("/")
    if text.startswith("//"):
        parts = text[2:].split("/")
        if len(parts) != 4 or not all(parts):
            raise ValueError(f"Invalid X-Container-Sync-To format {value!r}")
        realm = realms.get(parts[0])
        if realm is None or not realm.key:
            raise ValueError(f"No realm key for {parts[0]!r}")
        endpoint = realm.clusters.get(parts[1].upper())
        if endpoint is None:
            raise ValueError(f"No cluster endpoint for {parts[0]!r} {parts[1]!r}")
        return Target(f"{endpoint}/{parts[2]}/{parts[3]}", realm)
    try:
        url = urlsplit(text)
        host = url.hostname
    except ValueError:
        raise ValueError(f"Invalid X-Container-Sync-To format {value!r}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(
            f'Invalid scheme {url.scheme!r} in X-Container-Sync-To, must be "//", "http", or "https".'
        )
    if not url.path:
        raise ValueError("Path required in X-Container-Sync-To")
    if url.query or url.fragment or url.username is not None:
        raise ValueError("Params, queries, and fragments not allowed in X-Container-Sync-To")
    if host not in hosts:
        raise ValueError(f"Invalid host {host!r} in X-Container-Sync-To")
    return Target(text, None)
