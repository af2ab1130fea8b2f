"""Write the migration that a changed declaration needs."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from altostack.commands import CommandError


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(title="what", metavar="WHAT", dest="what", required=True)
    revision = what.add_parser("revision", help="write a service's next migration from what its rows declare")
    revision.add_argument("service", help="identity, image, ...")
    revision.add_argument("message", help='what changes, such as "add colour to servers"')


def run(arguments: argparse.Namespace) -> int:
    from altostack.app import SERVICES, load_services
    from altostack.kit.db import Database
    from altostack.kit.migrations import climb, head, revise

    if arguments.service not in SERVICES:
        raise CommandError(f"there is no service {arguments.service!r}; there are {', '.join(SERVICES)}")
    service = load_services((arguments.service,))[arguments.service]
    assert service.migrations is not None
    with tempfile.TemporaryDirectory(prefix="altostack-") as folder:
        db = Database(f"sqlite:///{folder}/scratch.sqlite", name=service.name)
        try:
            db.create()
            climb(db, service.migrations, head(service.migrations))
            path = revise(db, service.metadata, service.migrations, arguments.message)
        finally:
            db.close()
    if _is_empty(path):
        path.unlink()
        raise CommandError(f"{service.name}'s migrations make what its rows declare already")
    print(path)
    return 0


def _is_empty(path: Path) -> bool:
    return "op." not in path.read_text().partition("def upgrade")[2]
