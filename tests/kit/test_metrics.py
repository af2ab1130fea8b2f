from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from altostack.kit.metrics import Metrics, read


def numbers(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


class Worker:
    """One process's metrics."""

    def __init__(self, process: str, folder: Path) -> None:
        self.metrics = Metrics(process, folder)
        registry = self.metrics.registry
        self.requests = Counter("http_requests", "Requests.", ["status"], registry=registry)
        self.seconds = Histogram("http_seconds", "Time.", buckets=(0.1, 1), registry=registry)
        self.busy = Gauge("busy", "Threads at work.", registry=registry)
        self.metrics.start()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


def test_processes_add_up(folder: Path) -> None:
    one, two = Worker("api-1", folder), Worker("api-2", folder)
    for worker in (one, two):
        worker.requests.labels("200").inc(3)
        worker.seconds.observe(0.05)
        worker.busy.set(2)
        worker.metrics.flush()
    two.requests.labels("404").inc()
    found = numbers(two.metrics.render())
    assert found["http_requests_total", (("status", "200"),)] == 6
    assert found["http_requests_total", (("status", "404"),)] == 1
    assert found["http_seconds_bucket", (("le", "0.1"),)] == 2
    assert found["http_seconds_count", ()] == 2
    assert found["busy", ()] == 4
    one.metrics.close()
    two.metrics.close()


def test_a_restart_makes_no_dent(folder: Path) -> None:
    one = Worker("api-1", folder)
    one.requests.labels("200").inc(3)
    one.requests.labels("500").inc(1)
    one.seconds.observe(5)
    one.metrics.close()
    again = Worker("api-1", folder)
    again.requests.labels("200").inc()
    found = numbers(again.metrics.render())
    assert found["http_requests_total", (("status", "200"),)] == 4
    assert found["http_requests_total", (("status", "500"),)] == 1
    assert found["http_seconds_sum", ()] == 5
    again.metrics.close()


def test_gauges_of_the_dead_vanish_and_their_counters_stay(folder: Path) -> None:
    pid = os.fork()
    if pid == 0:
        worker = Worker("api-1", folder)
        worker.requests.labels("200").inc(7)
        worker.busy.set(9)
        worker.metrics.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    two = Worker("api-2", folder)
    found = numbers(two.metrics.render())
    assert found["busy", ()] == 0
    assert found["http_requests_total", (("status", "200"),)] == 7
    two.metrics.close()


def test_two_clouds_in_one_process(tmp_path: Path) -> None:
    one, two = Worker("api-1", tmp_path / "a"), Worker("api-1", tmp_path / "b")
    one.requests.labels("200").inc()
    assert ("http_requests_total", (("status", "200"),)) not in numbers(two.metrics.render())
    one.metrics.close()
    two.metrics.close()


def test_the_app(folder: Path) -> None:
    worker = Worker("api-1", folder)
    worker.requests.labels("200").inc()
    seen: list[str] = []
    body = b"".join(worker.metrics.app()({"REQUEST_METHOD": "GET"}, lambda status, _: seen.append(status)))
    assert numbers(body)["http_requests_total", (("status", "200"),)] == 1
    list(worker.metrics.app()({"REQUEST_METHOD": "POST"}, lambda status, _: seen.append(status)))
    assert seen == ["200 OK", "405 Method Not Allowed"]
    worker.metrics.close()


def test_a_broken_file_is_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir()
    (folder / "api-9.metrics").write_bytes(b"\x81")
    worker = Worker("api-1", folder)
    assert b"busy" in worker.metrics.render()
    assert "api-9.metrics" in caplog.text
    worker.metrics.close()


def test_numbers_that_are_damaged_are_none(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    for content in (b"", b"\xc1", b"\xa2\xe5\x01", b"\x81\xa1\xff\x01"):  # the last two: a text that is none
        path.write_bytes(content)
        assert read(path) is None
