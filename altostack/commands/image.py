"""Make the starter image."""

from __future__ import annotations

import argparse
from pathlib import Path

from altostack.commands import CommandError
from altostack.commands.common import Teller, state_of


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("verb", choices=["build"])
    parser.add_argument(
        "--out", type=Path, help="the file to write (default: starter.qcow2 in the cloud's folder)"
    )
    parser.add_argument("--uefi", action="store_true", help="bootable by UEFI firmware too")


def run(arguments: argparse.Namespace) -> int:
    from altostack.image import starter

    tell = Teller()
    out = arguments.out or state_of(arguments).root / "starter.qcow2"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        made = starter.build(out, progress=tell, uefi=arguments.uefi)
    except starter.BuildError as error:
        raise CommandError(str(error)) from None
    tell(f"{made.path}: {made.size / 2**20:.1f} MiB, sha512 {made.sha512[:16]}...")
    return 0
