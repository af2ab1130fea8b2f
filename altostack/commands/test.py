"""Run the project's tests, by tier."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from altostack.commands import CommandError

ROOT = Path(__file__).parents[2]
SOURCES = ("altostack", "tests")

TIERS = {
    "fast": "style, types, and every test that needs neither root nor a server of its own",
    "real": "the data plane and guests on QEMU (root)",
    "databases": "PostgreSQL, MariaDB, RabbitMQ and slapd, started by the tests",
    "probe": "real processes killed at random moments",
    "bench": "benchmarks; they print figures and assert nothing",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"{name:<10} {text}" for name, text in TIERS.items())
    parser.add_argument("tier", nargs="?", choices=TIERS, default="fast", help="what to run (default: fast)")
    parser.add_argument("more", nargs="*", metavar="ARG", help="after --: further arguments for pytest")


def run(arguments: argparse.Namespace) -> int:
    """The first exit code that is not 0; everything is run all the same."""
    if not (ROOT / "tests").is_dir():
        raise CommandError(f"the tests are in the source tree, and {ROOT} is none")
    codes = [_call(command) for command in commands(arguments.tier, arguments.more)]
    return next((code for code in codes if code), 0)


def commands(tier: str, more: Sequence[str] = ()) -> list[list[str]]:
    """The command lines of a tier, in their order."""
    python = [sys.executable, "-m"]
    if tier == "bench":
        scripts = sorted((ROOT / "tests" / "bench").glob("*.py"))
        names = [script.stem for script in scripts if '__name__ == "__main__"' in script.read_text()]
        return [[*python, f"tests.bench.{name}"] for name in names]
    tests = [*python, "pytest", "--tier", tier, *more]
    if tier != "fast":
        return [tests]
    return [
        [*python, "ruff", "check", *SOURCES],
        [*python, "ruff", "format", "--check", *SOURCES],
        [*python, "mypy"],
        [*tests, "-n", str(min(4, os.cpu_count() or 1))],
    ]


def _call(command: Sequence[str]) -> int:
    print("$", " ".join(command[1:] if command[0] == sys.executable else command), flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode
