"""Run what others say that correct is: Tempest and its plugins, against a simulated cloud of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

from altostack.commands import CommandError
from altostack.commands.test import ROOT

SUITES = {
    "identity": "Tempest's identity tests and the role-based access tests of keystone-tempest-plugin",
    "image": "Tempest's image tests and the role-based access tests of glance-tempest-plugin",
    "compute": "Tempest's compute tests",
    "network": "Tempest's network tests",
    "volume": "Tempest's volume tests",
    "objectstore": "Tempest's object storage tests",
    "placement": "the placement service's own API tests and those of osc-placement's commands",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(f"{name:<11} {text}" for name, text in SUITES.items())
    parser.add_argument("suite", choices=SUITES, help="what to run")
    parser.add_argument(
        "--regex", metavar="TEXT", help="only tests whose names match this regular expression"
    )
    parser.add_argument(
        "--concurrency", type=_positive, default=2, metavar="N", help="processes (default: 2)"
    )
    parser.add_argument("--failures", action="store_true", help="print failures only, not the skips")
    parser.add_argument("--keep", action="store_true", help="leave the cloud and the suite's logs for a look")
    parser.add_argument("--json", metavar="FILE", help="write every result to this file too")


def run(arguments: argparse.Namespace) -> int:
    """0 when something passed and nothing failed."""
    if not (ROOT / "tests" / "conformance").is_dir():
        raise CommandError(f"the runner is in the source tree, and {ROOT} is none")
    return subprocess.run(command(arguments), cwd=ROOT, check=False).returncode


def command(arguments: argparse.Namespace) -> list[str]:
    """The runner's command line."""
    words = [sys.executable, "-m", "tests.conformance", arguments.suite]
    words += ["--concurrency", str(arguments.concurrency)]
    if arguments.regex:
        words += ["--regex", arguments.regex]
    if arguments.json:
        from pathlib import Path

        words += ["--json", str(Path(arguments.json).absolute())]
    return words + [f"--{name}" for name in ("failures", "keep") if getattr(arguments, name)]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
