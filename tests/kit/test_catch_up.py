"""A loop that nobody started runs when it is asked to catch up, and only if a nudge is waiting."""

from __future__ import annotations

import pytest

from altostack.kit.reconcile import Loop


def test_catch_up_runs_what_was_asked_for_and_nothing_else() -> None:
    ran: list[tuple[str, ...]] = []
    loop = Loop("l", ran.append, interval=60.0)
    assert loop.catch_up()  # a new loop has seen nothing yet
    assert not loop.catch_up()
    loop.nudge(("a",))
    loop.nudge(("a",))
    assert loop.catch_up()
    loop.nudge(("a",))
    loop.nudge()
    assert loop.catch_up()
    assert not loop.catch_up()
    assert ran == [(), ("a",), ()]


def test_what_failed_is_looked_at_as_a_whole() -> None:
    ran: list[tuple[str, ...]] = []

    def body(ids: tuple[str, ...]) -> None:
        ran.append(ids)
        if ids:
            raise RuntimeError("away")

    loop = Loop("l", body, interval=60.0)
    loop.catch_up()
    loop.nudge(("a",))
    with pytest.raises(RuntimeError):
        loop.catch_up()
    assert loop.catch_up()
    assert ran == [(), ("a",), ()]
