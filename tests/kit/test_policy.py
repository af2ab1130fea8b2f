"""Policy: oslo.policy's answers, remembered exactly as long as they hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from altostack.kit.context import Context
from altostack.kit.errors import Forbidden
from altostack.kit.policy import ADMIN, MEMBER, Policy

ALICE = Context(
    user_id="alice", project_id="p1", roles=frozenset({"member", "reader"}), token="ta", expires_at=9e9
)
ADMINA = Context(user_id="ada", project_id="p0", roles=frozenset({"admin"}), token="tb", expires_at=9e9)
RULES = {
    "change": MEMBER,
    "all": ADMIN,
    "own": "user_id:%(user_id)s",
    "either": "rule:own or rule:all",
    "never": "!",
}


def test_answers_depend_on_the_target_each_time() -> None:
    policy = Policy(RULES)
    for _ in range(2):
        assert policy.allows("change", ALICE, {"project_id": "p1"})
        assert not policy.allows("change", ALICE, {"project_id": "p2"})
        assert not policy.allows("change", ALICE, {})
        assert policy.allows("either", ALICE, {"user_id": "alice"})
        assert not policy.allows("either", ALICE, {"user_id": "bob"})
        assert policy.allows("either", ADMINA, {"user_id": "bob"})
        assert not policy.allows("never", ADMINA, {})
        assert not policy.allows("unheard of", ADMINA, {})


def test_roles_are_part_of_what_is_remembered() -> None:
    policy = Policy(RULES)
    assert policy.allows("change", ALICE, {"project_id": "p1"})
    less = Context(user_id="alice", project_id="p1", roles=frozenset({"reader"}), token="ta", expires_at=9e9)
    assert not policy.allows("change", less, {"project_id": "p1"})


def test_an_operators_file_overrides_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text('"change": "!"\n')
    policy = Policy(RULES, file)
    assert not policy.allows("change", ADMINA, {"project_id": "p1"})
    file.write_text('"change": "role:reader"\n')
    os.utime(file, (1, 1))
    assert policy.allows("change", ALICE, {"project_id": "p2"})


def test_a_refusal_names_the_rule() -> None:
    with pytest.raises(Forbidden, match="change"):
        Policy(RULES).require("change", ALICE, {"project_id": "p2"})
