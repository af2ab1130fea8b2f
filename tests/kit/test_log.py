from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.kit import context, log
from altostack.kit.secret import Secret

LOG = logging.getLogger("altostack.compute.scheduler")


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Path]:
    handle = log.setup("api-1", tmp_path, secrets=[Secret("tulip-garden")])
    yield tmp_path / "api-1.log"
    handle.close()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_tells_the_request(logs: Path) -> None:
    token = context.set_request_id("req-1")
    with log.about(project_id="p", user_id="u", global_request_id="req-0"):
        LOG.info("picked %s", "host-1", extra={"server_id": "s", "weights": [1, 2]})
    context.reset_request_id(token)
    LOG.info("outside")
    one, two = lines(logs)
    assert one["message"] == "picked host-1"
    assert one["time"].endswith("Z")  # type: ignore[attr-defined]  # a str in JSON
    assert {key: one[key] for key in ("level", "logger", "process", "server_id", "weights")} == {
        "level": "info",
        "logger": "altostack.compute.scheduler",
        "process": "api-1",
        "server_id": "s",
        "weights": "[1, 2]",
    }
    assert (one["request_id"], one["global_request_id"], one["project_id"], one["user_id"]) == (
        "req-1",
        "req-0",
        "p",
        "u",
    )
    assert not {"request_id", "project_id"} & two.keys()
    assert logs.stat().st_mode & 0o777 == 0o600


def test_exceptions_are_in_the_line(logs: Path) -> None:
    try:
        raise ValueError("password=abc")
    except ValueError:
        LOG.exception("broken")
    (line,) = lines(logs)
    assert "ValueError: password=***" in str(line["exception"])


@pytest.mark.parametrize(
    "text",
    [
        "the key is tulip-garden",
        '{"auth": {"password": "tulip"}}',
        "connect to postgresql://me:tulip@localhost/db",
        "X-Auth-Token: tulip",
        "Authorization: Bearer tulip",
        "adminPass='tulip'",
        "metadata_secret=tulip&x=1",
        "token gAAAAABtulip" + "x" * 60,
    ],
)
def test_secrets_are_masked(logs: Path, text: str) -> None:
    LOG.warning(text, extra={"detail": text})
    assert "tulip" not in logs.read_text()
    assert "***" in logs.read_text()


def test_harmless_words_stay(logs: Path) -> None:
    LOG.info("the password is wrong; secret group kept; http://host:8080/x")
    assert lines(logs)[0]["message"] == "the password is wrong; secret group kept; http://host:8080/x"


def test_levels(logs: Path) -> None:
    logging.getLogger("kombu.connection").info("chatter")
    LOG.debug("detail")
    assert lines(logs) == []


def test_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "ROTATE_BYTES", 500)
    handle = log.setup("work", tmp_path)
    for number in range(40):
        LOG.info("line %s", number)
    handle.close()
    assert len(list(tmp_path.glob("work.log*"))) == 1 + log.ROTATE_KEEP


def test_for_people() -> None:
    stream = io.StringIO()
    handle = log.setup("x", terminal=stream)
    token = context.set_request_id("req-7")
    LOG.warning("no host left", extra={"server_id": "s"})
    context.reset_request_id(token)
    handle.close()
    assert "WARNING compute.scheduler [req-7] no host left server_id=s" in stream.getvalue()


def test_a_wrong_level_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        log.setup("x", tmp_path, level="loud")
