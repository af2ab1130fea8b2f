"""Quotas that more than one resource counts into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from altostack.kit.errors import OverQuota
from altostack.kit.quota import Quotas
from tests.kit.toy import SERVICE, WIDGETS, Toy, Widget


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def test_resources_add_up(toy: Toy) -> None:
    copies = replace(WIDGETS, name="copy", quota={"copies": 1, "gigabytes": Widget.size})
    quotas = Quotas(SERVICE.metadata, {"gigabytes": 10}, (WIDGETS, copies))
    for size in (1, 2):
        toy.call("POST", "/v1/widgets", {"widget": {"size": size}}, version="1.3")
    with toy.db.begin() as session:
        assert quotas.usage(session, "1" * 32) == {"widgets": 2, "copies": 2, "gigabytes": 6}
        assert quotas.usage(session, "1" * 32, ["copies"]) == {"copies": 2}
        quotas.claim(session, "1" * 32, {"gigabytes": 4})
        with pytest.raises(OverQuota, match="6 of 10 gigabytes"):
            quotas.claim(session, "1" * 32, {"gigabytes": 5})
