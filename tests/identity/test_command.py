"""`altostack identity`: the service's first contents and keys, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altostack import cli
from altostack.commands import identity as command
from altostack.deploy.state import State
from altostack.identity.config import SecurityCompliance
from tests.identity.conftest import Keystone, by_password


class Composition:
    """The test's own service in the place of a cloud."""

    def __init__(self, keystone: Keystone) -> None:
        self._keystone = keystone

    def runtime(self, service: str) -> Any:
        assert service == "identity"
        return self._keystone.runtime


@pytest.fixture
def state(tmp_path: Path, keystone: Keystone, monkeypatch: pytest.MonkeyPatch) -> State:
    made = State(root=tmp_path / "cloud")
    made.create()
    monkeypatch.setattr(command, "compose", lambda state: (Composition(keystone), None))
    monkeypatch.setattr(keystone.runtime.db, "close", lambda: None)
    return made


def run(state: State, *words: str) -> int:
    return cli.main(["identity", "--state", str(state.root), *words])


def test_new_keys(state: State, keystone: Keystone, capsys: pytest.CaptureFixture[str]) -> None:
    _, token = keystone.member("u", keystone.project("p"))
    domain = keystone.domain("d")["id"]
    config = {"config": {"identity": {"driver": "ldap"}, "ldap": {"password": "hidden"}}}
    keystone.call("PUT", f"/domains/{domain}/config", config)
    sealed = keystone.contents()["domain_options"]
    assert run(state, "rotate-keys") == 0
    told = capsys.readouterr().out
    assert "key 2 from now on" in told and "1 stored secrets" in told
    assert keystone.alive(token) and keystone.contents()["domain_options"] != sealed
    # The oldest keys are gone after a few, and the secrets are still readable.
    for _ in range(3):
        assert run(state, "rotate-keys", "credentials") == 0
    assert run(state, "rotate-keys", "tokens") == 0
    assert not (keystone.state / "keys" / "credentials" / "1").exists()
    from altostack.identity.domain_config import settings_of

    keystone.cloud.cloud.epoch.bump()
    found = settings_of(keystone.runtime)[domain].directory
    assert found is not None and found.password == "hidden"


def test_keys_are_not_rotated_while_a_secret_cannot_be_read(
    state: State, keystone: Keystone, capsys: pytest.CaptureFixture[str]
) -> None:
    domain = keystone.domain("d")["id"]
    config = {"config": {"identity": {"driver": "ldap"}, "ldap": {"password": "hidden"}}}
    keystone.call("PUT", f"/domains/{domain}/config", config)
    folder = keystone.state / "keys" / "credentials"
    for path in folder.iterdir():
        path.write_bytes((keystone.state / "keys" / path.name).read_bytes())
    before = sorted(path.name for path in folder.iterdir())
    assert run(state, "rotate-keys", "credentials") == 1
    assert "not in the credential key repository" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_bootstrap(state: State, keystone: Keystone, capsys: pytest.CaptureFixture[str]) -> None:
    before = keystone.contents()
    assert run(state, "bootstrap") == 0
    assert keystone.contents() == before
    keystone.configure(security_compliance=SecurityCompliance(lockout_failure_attempts=1, lockout_duration=0))
    admin, password = keystone.body(keystone.admin)["user"]["id"], keystone.cloud.passwords["admin"]
    keystone.call("PATCH", f"/users/{admin}", {"user": {"password": "forgotten"}})
    assert keystone.login(by_password(admin, password)).status == 401
    assert keystone.login(by_password(admin, "forgotten")).status == 401  # locked by now
    assert run(state, "bootstrap", "--reset-admin") == 0
    assert keystone.login(by_password(admin, password)).status == 201
    assert password not in capsys.readouterr().out


def test_no_cloud_no_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["identity", "--state", str(tmp_path / "none"), "bootstrap"]) == 1
    assert "no cloud" in capsys.readouterr().err
