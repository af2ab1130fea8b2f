from __future__ import annotations

import logging
import pickle

import pytest

from altostack.kit.secret import Secret


def test_no_way_of_printing_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hunter2")
    logging.getLogger("x").warning("password is %s %r", secret, secret)
    shown = f"{secret} {secret!r} {secret!s} {secret:>9} {[secret]} {caplog.text}"
    assert "hunter2" not in shown
    assert "***" in shown
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        "".join(["a", secret])  # type: ignore[list-item]  # that it fails is the point


def test_value_and_comparison() -> None:
    secret = Secret("hünter2")
    assert secret.reveal() == "hünter2"
    assert secret.matches("hünter2")
    assert not secret.matches(Secret("hunter2"))
    assert secret == Secret("hünter2")
    assert len({secret, Secret("hünter2")}) == 1
    assert secret != "hünter2"
    assert not Secret("")
