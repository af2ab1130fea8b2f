"""The command that runs the tests, and the launcher in front of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from altostack.commands import CommandError
from altostack.commands import test as command

ROOT = Path(__file__).parents[2]


def test_each_tier_has_its_command_lines() -> None:
    fast = command.commands("fast")
    assert [line[2] for line in fast] == ["ruff", "ruff", "mypy", "pytest"]
    assert command.commands("real", ["-k", "x"]) == [
        [sys.executable, "-m", "pytest", "--tier", "real", "-k", "x"]
    ]
    assert [line[2] for line in command.commands("bench")] == sorted(
        f"tests.bench.{path.stem}"
        for path in (ROOT / "tests" / "bench").glob("*.py")
        if "__main__" in path.read_text()
    )


def test_every_line_is_run_and_the_first_failure_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    codes = {"a": 0, "b": 3, "c": 1, "d": 0}
    monkeypatch.setattr(command, "commands", lambda tier, more: [[name] for name in codes])

    def call(line: list[str]) -> int:
        ran.append(line[0])
        return codes[line[0]]

    monkeypatch.setattr(command, "_call", call)
    assert command.run(type("Arguments", (), {"tier": "fast", "more": []})()) == 3
    assert ran == list(codes)


def test_without_a_source_tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    with pytest.raises(CommandError, match="source tree"):
        command.run(type("Arguments", (), {"tier": "fast", "more": []})())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree whose environment is there and only reports what it was called with."""
    tree = tmp_path / "a tree"
    (tree / "altostack" / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "alto", tree)
    shutil.copy(ROOT / "altostack" / "deploy" / "packages.txt", tree / "altostack" / "deploy")
    (tree / "requirements.lock").write_text("x==1\n")
    (tree / "pyproject.toml").write_text("")
    binaries = tree / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("altostack", "python", "pip"):
        (binaries / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (binaries / name).chmod(0o755)
    (tree / ".venv" / ".altostack").write_text(f"{tree}\nx==1\n")
    return tree


def launch(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(tree / "alto"), *words], capture_output=True, text=True, check=False, cwd="/")


def test_the_launcher_hands_over(tree: Path) -> None:
    done = launch(tree, "status", "--state", "a b")
    assert (done.returncode, done.stdout, done.stderr) == (0, "altostack status --state a b\n", "")
    link = tree.parent / "link"
    link.symlink_to(tree / "alto")
    assert (
        subprocess.run([str(link), "x"], capture_output=True, text=True, check=True).stdout == "altostack x\n"
    )


def test_the_launcher_is_quick_when_nothing_is_missing(tree: Path) -> None:
    launch(tree)
    before = time.monotonic()
    for _ in range(5):
        launch(tree, "up", "--simulate")
    assert (time.monotonic() - before) / 5 < 0.5  # hundredths of a second on a quiet machine


def test_the_launcher_brings_the_environment_up_to_date_once(tree: Path) -> None:
    (tree / "requirements.lock").write_text("x==2\ny==1\n")
    done = launch(tree, "status")
    assert "2 pinned versions" in done.stderr
    assert "--no-deps" in done.stdout
    assert "--no-build-isolation -e" in done.stdout
    assert done.stdout.endswith("altostack status\n")
    assert launch(tree, "status").stdout == "altostack status\n"


def test_the_launcher_starts_again_after_a_failed_installation(tree: Path) -> None:
    (tree / "requirements.lock").write_text("x==2\n")
    (tree / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 7\n")
    done = launch(tree, "status")
    assert done.returncode == 7
    assert "altostack status" not in done.stdout
    (tree / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 0\n")
    assert launch(tree, "status").stdout == "altostack status\n"


def test_the_launcher_asks_for_debian_packages_only_where_they_are_used(tree: Path) -> None:
    """With a stand-in for Debian's tools that knows one package less than is needed."""
    tools = tree / "tools"
    tools.mkdir()
    (tools / "id").write_text("#!/bin/sh\necho 0\n")
    (tools / "dpkg-query").write_text(
        '#!/bin/sh\nshift 2\nfor p; do [ $p = nftables ] || echo "installed $p:amd64"; done\nexit 1\n'
    )
    (tools / "apt-get").write_text('#!/bin/sh\necho apt-get "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}

    def shown(*words: str) -> str:
        return subprocess.run(
            [str(tree / "alto"), *words], capture_output=True, text=True, check=True, env=environ
        ).stderr

    assert "apt-get install -y -q --no-install-recommends nftables\n" in shown("up")
    assert "apt-get" in shown("test", "real")
    for words in (["up", "--simulate"], ["status"], ["test"], ["down"]):
        assert shown(*words) == ""
