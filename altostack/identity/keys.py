"""The keys that seal tokens: a folder of Fernet keys, rotated without invalidating a token.

The files are numbers. The highest is the primary: it seals. 0 is staged: it becomes the next primary, and every
process already knows it then. Those between once were primary and still open what they sealed. Source: the identity
service's token key repository, whose layout this is, so that a repository of its can be used as it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_Signature = tuple[tuple[str, int, int], ...]
_STAGED = 0


def prepare(folder: Path) -> None:
    """Make the repository with a staged and a primary key; what is there already stays. Idempotent."""
    with locked(folder):
        numbers = _numbers(folder)
        if _STAGED not in numbers:
            _write(folder, _STAGED)
        if not [number for number in numbers if number != _STAGED]:
            _write(folder, 1)


def rotate(folder: Path, *, max_active_keys: int = 3) -> int:
    """The staged key becomes the primary, a new one is staged, the oldest beyond ``max_active_keys`` go.

    Returns the primary's number. May be killed anywhere and run again. Raises ValueError for fewer than two keys.
    """
    if max_active_keys < 2:
        raise ValueError("a primary and a staged key are the least: max_active_keys must be 2 or more")
    prepare(folder)
    with locked(folder):
        primary = max(_numbers(folder)) + 1
        os.rename(folder / str(_STAGED), folder / str(primary))
        _write(folder, _STAGED)
        old = sorted(number for number in _numbers(folder) if number not in (_STAGED, primary))
        for number in old[: max(0, len(old) - (max_active_keys - 2))]:
            (folder / str(number)).unlink()
    return primary


def _numbers(folder: Path) -> list[int]:
    return [int(name) for name in os.listdir(folder) if name.isascii() and name.isdigit()]


def _write(folder: Path, number: int) -> None:
    write_whole(folder / str(number), Fernet.generate_key())


def write_whole(path: Path, content: bytes) -> None:
    """A key's file, whole or not at all, readable by its owner alone."""
    draft = path.with_name(f".new-{path.name}-{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time changes a repository."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class KeyRing:
    """The repository as a process uses it; a rotation elsewhere is noticed at the next use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: tuple[int, _Signature, MultiFernet] | None = None

    def seal(self, payload: bytes, now: float) -> str:
        """An opaque token for ``payload``, sealed with the primary key."""
        return self._keys().encrypt_at_time(payload, int(now)).decode().rstrip("=")

    def open(self, token: str) -> bytes | None:
        """The payload, or None for what none of the keys sealed."""
        try:
            raw = token.encode("ascii")
        except UnicodeEncodeError:
            return None
        raw += b"=" * (-len(raw) % 4)
        keys = self._keys()
        try:
            return keys.decrypt(raw)
        except InvalidToken:
            # The folder's time may stand still over two quick changes; its listing does not lie.
            fresh = self._keys(force=True)
            if fresh is keys:
                return None
        try:
            return fresh.decrypt(raw)
        except InvalidToken:
            return None

    def _keys(self, *, force: bool = False) -> MultiFernet:
        changed = os.stat(self._folder).st_mtime_ns
        loaded = self._loaded
        if loaded is not None and not force and loaded[0] == changed:
            return loaded[2]
        signature = self._signature()
        if loaded is not None and loaded[1] == signature:
            self._loaded = (changed, signature, loaded[2])
            return loaded[2]
        for attempt in range(5):
            try:
                made = self._read(signature)
            except FileNotFoundError:
                if attempt == 4:
                    raise
                signature = self._signature()  # a rotation renamed a key between the listing and the reading
            else:
                break
        self._loaded = (changed, signature, made)
        return made

    def _read(self, signature: _Signature) -> MultiFernet:
        numbers = sorted((int(name) for name, _, _ in signature), reverse=True)
        if not numbers or numbers[0] == _STAGED:
            raise FileNotFoundError(f"there is no primary token key in {self._folder}")
        return MultiFernet([Fernet((self._folder / str(number)).read_bytes().strip()) for number in numbers])

    def _signature(self) -> _Signature:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.isascii() and entry.name.isdigit():
                    status = entry.stat()
                    found.append((entry.name, status.st_mtime_ns, status.st_ino))
        return tuple(sorted(found))
