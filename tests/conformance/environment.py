"""The virtual environments in which the suites live: made once, below the user's cache, and used again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

VERSIONS = Path(__file__).with_name("versions.txt")


def cache() -> Path:
    """Where environments are kept (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "altostack" / "conformance"


def environment(packages: Sequence[str], tell: Callable[[str], None], *, versions: Path = VERSIONS) -> Path:
    """The folder of an environment that holds these packages at the versions of a constraints file.

    Raises CalledProcessError when it cannot be made; what was made until then is made anew the next time.
    """
    home, made_of = _home(packages, versions)
    stamp = home / "complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second run waits for the first
        if not stamp.exists():
            tell(f"making the environment {home} of {', '.join(packages)}")
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, "--constraint", str(versions), *packages], check=True)
            stamp.write_text(made_of)
    return home


def made(packages: Sequence[str]) -> Path | None:
    """The folder of that environment if it is complete, else None: nothing is made."""
    home, _ = _home(packages, VERSIONS)
    return home if (home / "complete").exists() else None


def _home(packages: Sequence[str], versions: Path) -> tuple[Path, str]:
    """Where an environment is kept, and all that it is made of."""
    made_of = f"{sys.version}\n{' '.join(sorted(packages))}\n{versions.read_text()}"
    return cache() / hashlib.sha256(made_of.encode()).hexdigest()[:16], made_of
