"""Metrics in Prometheus' text format, summed over the processes of one cloud.

Each process has a registry of its own (so two clouds fit into one process) and writes its numbers to
`<folder>/<process>.metrics` every few seconds; whoever is asked adds the files up. Counters go on where a
process of the same name left off, so a restarted worker makes no dent; gauges of dead processes vanish.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from altostack.kit.proc import alive, start_time

LOG = logging.getLogger(__name__)

INTERVAL: Final = 5.0
"""Seconds between two writes of a process's numbers: how old a scraped number may be."""

Key = tuple[str, tuple[tuple[str, str], ...]]


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float

    @property
    def key(self) -> Key:
        return self.name, tuple(sorted(self.labels.items()))


class Family(msgspec.Struct, frozen=True, array_like=True):
    name: str
    documentation: str
    type: str
    samples: list[Sample]

    @property
    def adds_up(self) -> bool:
        """Whether the numbers count events of the past, which a dead process's still do."""
        return self.type in ("counter", "histogram", "summary")


class Snapshot(msgspec.Struct, frozen=True):
    process: str
    pid: int
    started: int
    families: list[Family]


class Metrics:
    """The numbers of one process. Declare with `Counter(..., registry=metrics.registry)` and its kin."""

    def __init__(self, process: str = "main", folder: Path | None = None) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._process = process
        self._path = None if folder is None else folder / f"{process}.metrics"
        self._base: dict[Key, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take up the numbers of the predecessor of this name and write ours from now on (after the fork)."""
        if self._path is None or self._thread is not None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if (former := read(self._path)) is not None:
            self._base = {
                sample.key: sample.value
                for family in former.families
                if family.adds_up
                for sample in family.samples
                if not sample.name.endswith("_created")
            }
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write once more and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self.flush()

    def flush(self) -> None:
        """Write the numbers now. A full disk is logged, not raised: metrics are no reason to fail."""
        if self._path is None:
            return
        with self._lock:
            scratch = self._path.with_suffix(".new")
            try:
                scratch.write_bytes(msgspec.msgpack.encode(self.snapshot()))
                scratch.replace(self._path)
            except OSError as error:
                LOG.warning("cannot write metrics: %s", error)

    def snapshot(self) -> Snapshot:
        """The numbers as they are, with what former processes of this name counted."""
        families: list[Family] = []
        base = dict(self._base)
        for metric in self.registry.collect():
            samples = []
            for each in metric.samples:
                if each.name.endswith("_created"):
                    continue
                sample = Sample(each.name, dict(each.labels), each.value)
                samples.append(Sample(sample.name, sample.labels, sample.value + base.pop(sample.key, 0.0)))
            families.append(Family(metric.name, metric.documentation, metric.type, samples))
        # What the predecessor counted under labels that have not come up in this process yet.
        for (name, labels), value in base.items():
            for family in families:
                if family.adds_up and name.startswith(family.name):
                    family.samples.append(Sample(name, dict(labels), value))
                    break
        return Snapshot(self._process, os.getpid(), start_time(os.getpid()), families)

    def render(self) -> bytes:
        """Prometheus' text for the whole cloud: this process as it is now, the others as they last wrote."""
        snapshots = [self.snapshot()]
        if self._path is not None:
            for path in sorted(self._path.parent.glob("*.metrics")):
                if path != self._path and (other := read(path)) is not None:
                    snapshots.append(other)
        registry = CollectorRegistry()
        registry.register(_Sum(snapshots))
        return generate_latest(registry)

    def app(self) -> Callable[[Mapping[str, Any], Callable[..., Any]], Iterable[bytes]]:
        """A WSGI application that answers every GET with `render()`."""

        def metrics(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
                start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
                return [b""]
            body = self.render()
            start_response(
                "200 OK", [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(body)))]
            )
            return [body]

        return metrics

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self.flush()
            except Exception:
                LOG.exception("metrics were not written")


def read(path: Path) -> Snapshot | None:
    """A process's last numbers; None if there are none or they cannot be read."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        LOG.warning("cannot read %s: %s", path, error)
        return None


class _Sum(Collector):
    """All processes' families with equal samples added."""

    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Family] = {}
        totals: dict[str, dict[Key, float]] = {}
        for snapshot in self._snapshots:
            living = alive(snapshot.pid, snapshot.started)
            for family in snapshot.families:
                if not living and not family.adds_up:
                    continue
                families.setdefault(family.name, family)
                sums = totals.setdefault(family.name, {})
                for sample in family.samples:
                    sums[sample.key] = sums.get(sample.key, 0.0) + sample.value
        for name, family in families.items():
            metric = Metric(family.name, family.documentation, family.type)
            for (sample_name, labels), value in sorted(totals[name].items(), key=_order):
                metric.add_sample(sample_name, dict(labels), value)
            yield metric


def _order(item: tuple[Key, float]) -> tuple[list[tuple[str, str]], str, float]:
    """Samples of one label set together, a histogram's buckets by their bound."""
    (name, labels), _ = item
    bound = next((float(value) for key, value in labels if key == "le"), math.inf)
    return [pair for pair in labels if pair[0] != "le"], name, bound
