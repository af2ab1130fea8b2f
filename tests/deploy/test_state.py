from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # PyYAML brings no types

from altostack.deploy.state import Lock, Secrets, State, StateError, find, write, write_clients
from altostack.inprocess import InProcessCloud
from altostack.kit.secret import Secret
from altostack.starter import register


class Killer:
    """An audit hook that kills its process before the call after `count` calls that change files."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, event: str, _: object) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.chmod", "os.remove"):
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in root.rglob("*")}


def test_create_is_idempotent(tmp_path: Path) -> None:
    state = State(root=tmp_path / "a" / "cloud")
    assert not state.exists
    first = state.create()
    shape = modes(state.root)
    assert shape["secrets.toml"] == 0o600
    assert shape["keys"] == shape["db"] == shape["log"] == 0o700
    assert state.create() == first == state.read_secrets()
    assert modes(state.root) == shape
    assert len({s.reveal() for s in (first.node_key, first.metadata_secret, first.admin_password)}) == 3


def test_create_resumes_after_a_kill_at_any_point(tmp_path: Path) -> None:
    """Let a child die before its nth call of the functions that change the folder, for every n."""
    final: Secrets | None = None
    for kill_at in range(200):
        pid = os.fork()
        if pid == 0:
            sys.addaudithook(Killer(kill_at))
            State(root=tmp_path / "cloud").create()
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            break
    else:
        pytest.fail("never came to the end")
    assert kill_at > 10
    final = State(root=tmp_path / "cloud").create()
    assert final == State(root=tmp_path / "cloud").read_secrets()


def test_new_kinds_of_secrets_are_added(tmp_path: Path) -> None:
    state = State(root=tmp_path)
    state.create()
    lines = state.secrets.read_text().splitlines()
    kept = [line for line in lines if "metadata" not in line]
    state.secrets.write_text("\n".join(kept) + "\n")
    with pytest.raises(StateError, match="metadata_secret"):
        state.read_secrets()
    state.create()
    assert all(line in state.secrets.read_text() for line in kept)
    assert "metadata_secret" in state.secrets.read_text()


def test_secrets_that_cannot_be_read_are_not_overwritten(tmp_path: Path) -> None:
    state = State(root=tmp_path)
    state.secrets.write_text("not toml at all")
    with pytest.raises(StateError, match=r"secrets\.toml"):
        state.create()
    assert state.secrets.read_text() == "not toml at all"


def test_no_cloud_here(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"no cloud in .*altostack up"):
        State(root=tmp_path).read_secrets()


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="--state or ALTOSTACK_STATE"):
        State(root=tmp_path / "file" / "x").create()


def test_find(tmp_path: Path) -> None:
    assert find("/x/y", {"ALTOSTACK_STATE": "/z"}).root == Path("/x/y")
    assert find(None, {"ALTOSTACK_STATE": "/z"}).root == Path("/z")
    expected = "/var/lib/altostack" if os.geteuid() == 0 else "/h/altostack"
    assert find(None, {"XDG_DATA_HOME": "/h"}).root == Path(expected)
    assert find("relative").root.is_absolute()


def test_the_id_follows_the_real_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    one, two = State(root=tmp_path / "real"), State(root=tmp_path / "link")
    assert one.id == two.id
    assert len(one.id) == 6
    assert State(root=tmp_path / "other").id != one.id


def test_the_lock_keeps_others_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    state = State(root=tmp_path)
    read, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        with state.lock():
            if os.fork() == 0:  # a child of the holder that outlives it holds nothing
                os.write(write_end, b"!")
                time.sleep(2)
                os._exit(0)
            time.sleep(30)
    os.read(read, 1)
    with pytest.raises(StateError, match=f"process {pid} is changing"), state.lock():
        pass
    assert Lock(tmp_path / ".lock").holder() == pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with state.lock():
        assert Lock(tmp_path / "none").holder() == 0


def test_write_replaces_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write(path, "one", mode=0o600)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "two")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_clients_files(tmp_path: Path) -> None:
    state = State(root=tmp_path)
    passwords = {"admin": Secret("a'b\"c$d"), "demo": Secret("e")}
    write_clients(
        state,
        auth_url="http://127.0.0.1:8774/identity/v3",
        region="RegionOne",
        passwords=passwords,
        clouds={"altostack-admin": "admin", "altostack": "demo"},
    )
    clouds = yaml.safe_load(state.clouds_yaml.read_text())["clouds"]
    assert clouds["altostack-admin"]["auth"]["password"] == "a'b\"c$d"
    assert clouds["altostack"]["auth"]["project_name"] == "demo"
    shown = subprocess.run(
        ["sh", "-c", '. "$1" && echo "$OS_USERNAME $OS_PASSWORD $OS_AUTH_URL"', "sh", str(state.openrc)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "demo e http://127.0.0.1:8774/identity/v3\n"
    assert state.openrc.stat().st_mode & 0o777 == state.clouds_yaml.stat().st_mode & 0o777 == 0o600


def test_a_purge_takes_all_that_services_make(tmp_path: Path) -> None:
    root = tmp_path / "cloud"
    cloud = InProcessCloud(root, settings={"image": {"stores": {"files": {}, "slow": {}}}})
    register(cloud.cloud, lambda line: None)
    cloud.stop()
    assert {path.name for path in root.iterdir()} <= {path.name for path in State(root=root).contents()}
    assert (root / "images-slow").exists()
