"""The identity service from within: its first contents, and its keys."""

from __future__ import annotations

import argparse
from typing import Any

from altostack.commands import CommandError
from altostack.commands.common import Teller, compose, state_of


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    first = verbs.add_parser("bootstrap", help="make what is missing of the first contents; safe to repeat")
    first.add_argument(
        "--reset-admin",
        action="store_true",
        help="give admin the password of secrets.toml again, enabled and unlocked",
    )
    keys = verbs.add_parser(
        "rotate-keys",
        help="new primary keys",
        description="New primary keys. Tokens stay good for as long as their key is kept (max_active_keys), so "
        "rotate these no more often than tokens live; stored secrets are sealed again at once.",
    )
    keys.add_argument("which", nargs="?", choices=["all", "tokens", "credentials"], default="all")


def run(arguments: argparse.Namespace) -> int:
    from altostack.identity.bootstrap import bootstrap, reset_admin, rotate_keys, rotate_vault
    from altostack.identity.vault import UnreadableSecret
    from altostack.kit.migrations import SchemaTooNew, migrate

    tell, state = Teller(), state_of(arguments)
    if not state.exists:
        raise CommandError(f"there is no cloud in {state.root}")
    composition, _ = compose(state)
    cloud: Any = composition  # working on one service is no part of what every composition can do
    runtime = cloud.runtime("identity")
    try:
        if arguments.verb == "bootstrap":
            migrate(runtime.db, runtime.service.metadata, runtime.service.migrations)
            bootstrap(runtime)
            tell("the first contents are there")
            if arguments.reset_admin:
                reset_admin(runtime)
                tell("admin has the password of secrets.toml")
            return 0
        if arguments.which in ("all", "tokens"):
            tell(f"tokens are sealed with key {rotate_keys(runtime)} from now on")
        if arguments.which in ("all", "credentials"):
            primary, count = rotate_vault(runtime)
            tell(f"{count} stored secrets are sealed with key {primary}")
    except (SchemaTooNew, UnreadableSecret, ValueError, OSError) as error:
        raise CommandError(str(error)) from None
    finally:
        runtime.db.close()
    return 0
