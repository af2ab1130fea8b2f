"""A proxy of the probe: ``python -m tests.probe.objectstore_proxy FOLDER PORT SKEW``; it has no devices.

SKEW: seconds that its clock is ahead. Faults as for nodes.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from altostack.objectstore import compose
from altostack.objectstore.care import key, lone
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.stamp import Clock
from tests.probe.objectstore_faults import cut_off, stop_on_signals


def main(folder: Path, port: int, skew: float) -> None:
    stop = threading.Event()
    stop_on_signals(stop)
    clock = Clock(lambda: time.time_ns() + int(skew * 1e9))
    with cut_off(folder):
        settings = lone.load_settings(folder)
        store = compose.open_store(folder, settings, key=key.cluster_key(folder), clock=clock)
        assert store.app is not None
        server = Server(store.app, listen("127.0.0.1", port), threads=16).start()
        stop.wait()
        server.stop(1.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
