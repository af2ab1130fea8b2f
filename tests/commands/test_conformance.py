"""The command that asks others what correct is: what it runs, and how it sums up."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytest

from altostack.commands import conformance as command
from tests.conformance import report
from tests.conformance.suites import OFF, SUITES


def _line(name: str, status: str, text: str = "") -> dict[str, Any]:
    return {"id": name, "status": status, "text": text, "seconds": 0.5}


def test_the_command_and_the_runner_know_the_same_suites() -> None:
    assert list(command.SUITES) == list(SUITES)


def test_the_command_line_of_the_runner() -> None:
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    asked = parser.parse_args(
        ["image", "--regex", "a|b", "--failures", "--json", "out.json", "--concurrency", "1"]
    )
    words = command.command(asked)
    assert words[:4] == [sys.executable, "-m", "tests.conformance", "image"]
    assert words[words.index("--regex") + 1] == "a|b"
    assert words[words.index("--concurrency") + 1] == "1"
    assert words[words.index("--json") + 1].startswith("/")
    assert "--failures" in words
    assert "--keep" not in words
    with pytest.raises(SystemExit):
        parser.parse_args(["image", "--concurrency", "0"])
    with pytest.raises(SystemExit):
        parser.parse_args(["nonsense"])


def test_a_class_that_is_skipped_or_broken_counts_for_each_of_its_tests() -> None:
    wanted = ["a.One.x[id-1]", "a.One.y[id-2]", "a.Two.x[id-3]", "a.Three.x", "a.Three.y"]
    told = [
        _line("setUpClass (a.One)", "skip", "no such extension"),
        _line("setUpClass (a.Two)", "fail", "Traceback\nValueError: broken"),
        _line("a.Three.x", "success"),
    ]
    found = report.gather(wanted, told)
    assert [(one.id, one.status) for one in found] == [
        ("a.One.x", "skipped"),
        ("a.One.y", "skipped"),
        ("a.Two.x", "failed"),
        ("a.Three.x", "passed"),
        ("a.Three.y", "failed"),
    ]
    assert found[0].reason == "no such extension"
    assert found[2].reason == "ValueError: broken"
    assert found[4].reason == "it did not run"


def test_a_class_that_fails_after_its_tests_is_told_of() -> None:
    found = report.gather(
        ["a.One.x"], [_line("a.One.x", "success"), _line("tearDownClass (a.One)", "fail", "KeyError: 'x'")]
    )
    assert report.sums(found) == {"passed": 1, "failed": 1, "skipped": 0}


def test_the_end_of_a_test_that_never_finished() -> None:
    (found,) = report.gather(["a.One.x"], [_line("a.One.x", "inprogress")])
    assert (found.status, found.reason) == ("failed", "it ended as 'inprogress'")


def test_what_is_printed() -> None:
    found = report.gather(
        ["a.x", "a.y", "a.z", "a.w"],
        [
            _line("a.x", "success"),
            _line("a.y", "fail", "E: wrong"),
            _line("a.z", "skip", "why"),
            _line("a.w", "skip", "why"),
        ],
    )
    whole = report.lines(found, failures_only=False)
    assert whole == ["FAILED   a.y", "         E: wrong", "SKIPPED     2  why", "1 passed 1 failed 2 skipped"]
    assert report.lines(found, failures_only=True) == [*whole[:2], whole[-1]]
    made = report.document("image", found, 2.34)
    assert (made["suite"], made["passed"], made["failed"], made["skipped"]) == ("image", 1, 1, 2)
    assert made["tests"][1]["reason"] == "E: wrong"


def test_every_switch_that_stays_off_says_why() -> None:
    assert all(len(reason) > 10 for reason in OFF.values())
