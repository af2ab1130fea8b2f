"""Who may import whom, how long a file may be, and what the repository may not say."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "altostack"
SERVICES = ("identity", "image", "placement", "network", "volume", "compute")
HARD_LIMIT = 800


def modules() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every altostack module that a file names in an import, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            if node.module == "altostack":
                found |= {f"altostack.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("altostack")}


def room(name: str) -> str:
    """``altostack.volume.drivers.base`` -> ``volume``."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_the_kit_knows_no_service() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        if PACKAGE / "kit" in path.parents
        for name in imports(path)
        if name != "altostack" and room(name) != "kit"
    ]
    assert not wrong


@pytest.mark.parametrize("service", SERVICES)
def test_services_import_no_neighbour(service: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        if PACKAGE / service in path.parents
        for name in imports(path)
        if name != "altostack" and room(name) not in (service, "kit")
    ]
    assert not wrong


def test_the_object_store_imports_no_service() -> None:
    """It shares the kit, and is put together where everything is."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        if PACKAGE / "objectstore" in path.parents
        for name in imports(path)
        if name not in ("altostack", "altostack.filters") and room(name) not in ("objectstore", "kit")
    ]
    assert not wrong


def test_drivers_stand_alone() -> None:
    """A driver talks to no database and no API of ours: it imports its own room's drivers and nothing of the control
    plane. One that keeps things in the object store is a client of it as anybody else is."""
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules()
        if path.parent.name == "drivers" and path.parent.parent.name in SERVICES
        for name in imports(path)
        if name != "altostack" and not name.startswith(f"altostack.{path.parent.parent.name}.drivers")
        and name not in ("altostack.kit.proc", "altostack.kit.secret")
        and (name, path.name) != ("altostack.kit.clients", "objectstore.py")
    ]  # fmt: skip
    assert not wrong


def test_no_file_is_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {n}"
        for path in modules()
        if (n := len(path.read_text().splitlines())) > HARD_LIMIT
    ]
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lists = re.findall(r"(?:dependencies|libvirt|dev) = \[\n(.*?)\n\]", text, re.DOTALL)
    lines = [line for block in lists for line in block.splitlines() if line.strip().startswith('"')]
    bare = [line for line in lines if "#" not in line]
    assert len(lines) > 10
    assert not bare


def test_the_repository_speaks_of_altostack_alone() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    places = re.compile(
        "/wo" + r"rk/|/ro" + r"ot/\.pyenv|sub" + "agent|helper ses" + "sion|/tmp/al" + r"to\b"
    )
    wrong = []
    for name in listed:
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".sh", ".ini", ".cfg", ".yaml", ".lock", ".txt", "")
            and path.is_file()
        ):
            text = path.read_text(errors="replace")
            wrong += [f"{name}: {line.strip()[:80]}" for line in text.splitlines() if places.search(line)]
    assert not wrong
