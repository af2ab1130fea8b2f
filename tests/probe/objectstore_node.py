"""A storage node of the probe: ``python -m tests.probe.objectstore_node FOLDER`` runs it, with faults.

FOLDER/faults.json, looked at before each request to another node: {"refuse": ["127.0.0.1:1234", ...]} cuts this node
off from those.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from altostack.objectstore.care import lone
from tests.probe.objectstore_faults import cut_off, stop_on_signals


def main(folder: Path) -> None:
    stop = threading.Event()
    stop_on_signals(stop)
    with cut_off(folder):
        lone.serve(folder, stop=stop)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
