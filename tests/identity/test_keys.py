"""The token keys' repository and the password hashes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from altostack.identity.keys import KeyRing, prepare, rotate
from altostack.identity.password import Passwords, fast_hash


def names(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def test_the_repository_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    for _ in range(2):
        prepare(folder)
    assert names(folder) == [0, 1]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_rotation(tmp_path: Path) -> None:
    prepare(tmp_path)
    staged = (tmp_path / "0").read_bytes()
    assert rotate(tmp_path, max_active_keys=3) == 2
    assert names(tmp_path) == [0, 1, 2] and (tmp_path / "2").read_bytes() == staged
    assert rotate(tmp_path, max_active_keys=3) == 3
    assert names(tmp_path) == [0, 2, 3]
    assert rotate(tmp_path, max_active_keys=2) == 4
    assert names(tmp_path) == [0, 4]
    with pytest.raises(ValueError, match="max_active_keys"):
        rotate(tmp_path, max_active_keys=1)


def test_a_killed_rotation_is_finished_by_the_next(tmp_path: Path) -> None:
    prepare(tmp_path)
    os.rename(tmp_path / "0", tmp_path / "2")  # killed between the promotion and the new staged key
    ring = KeyRing(tmp_path)
    token = ring.seal(b"payload", time.time())
    assert rotate(tmp_path) == 3
    assert ring.open(token) == b"payload"


def test_other_processes_notice_a_rotation(tmp_path: Path) -> None:
    prepare(tmp_path)
    here, there = KeyRing(tmp_path), KeyRing(tmp_path)
    old = there.seal(b"old", time.time())
    assert here.open(old) == b"old"
    for _ in range(2):
        rotate(tmp_path, max_active_keys=3)
        new = there.seal(b"new", time.time())
        assert here.open(new) == b"new"
    assert here.open(old) is None and there.open(old) is None


@pytest.mark.parametrize("token", ["", "x", "gAAAAA", "ü", "A" * 5000, "gAAAAABk\x00"])
def test_what_no_key_sealed(tmp_path: Path, token: str) -> None:
    prepare(tmp_path)
    assert KeyRing(tmp_path).open(token) is None


def test_passwords() -> None:
    passwords = Passwords(4, remember=2)
    stored = passwords.hash("one")
    assert stored != passwords.hash("one")
    assert passwords.matches("one", stored) and passwords.matches("one", stored)
    assert not passwords.matches("two", stored)
    assert not passwords.matches("one", None)
    assert not passwords.matches("one" * 10_000, stored)
    assert not passwords.matches("one\0", stored)
    for other in "abc":
        assert passwords.matches(other, passwords.hash(other))
    assert len(passwords._right) == 2


def test_fast_hashes_are_for_random_secrets() -> None:
    passwords = Passwords(4)
    secret = "f" * 64
    stored = fast_hash(secret)
    assert stored != fast_hash(secret) and secret not in stored
    assert passwords.matches(secret, stored) and not passwords.matches(secret + "0", stored)
    assert Passwords.quick(secret, stored) and not Passwords.quick(secret, passwords.hash(secret))
    with pytest.raises(ValueError, match="slow hash"):
        fast_hash("short")


def test_a_wrong_answer_costs_the_same_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import bcrypt

    work: list[str] = []

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any) -> Any:
            work.append("slow")
            return real(*args)

        return wrapper

    monkeypatch.setattr(bcrypt, "hashpw", counted(bcrypt.hashpw))
    monkeypatch.setattr(bcrypt, "checkpw", counted(bcrypt.checkpw))
    passwords = Passwords(4)
    slow, fast = passwords.hash("right"), fast_hash("f" * 64)
    for stored in (slow, fast, None):
        work.clear()
        assert not passwords.matches("wrong", stored)
        assert work == ["slow"], stored
