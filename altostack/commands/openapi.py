"""Write the services' OpenAPI documents."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("docs/openapi"), help="where to write <service>.json"
    )


def run(arguments: argparse.Namespace) -> int:
    from altostack.app import load_services
    from altostack.kit.openapi import document

    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, service in load_services().items():
        path = arguments.folder / f"{name}.json"
        path.write_text(json.dumps(document(service), indent=1, sort_keys=True) + "\n")
        print(path)
    return 0
