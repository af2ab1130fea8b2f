"""Simulated volumes: capacity, delays and faults."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from altostack.volume.drivers.base import BackendFull, DriverError, VolumeBusy
from altostack.volume.drivers.simulated import SimulatedDriver


def test_capacity(tmp_path: Path) -> None:
    driver = SimulatedDriver(folder=tmp_path, capacity_gib=5, thin=False)
    driver.ensure("v1", gib=3)
    with pytest.raises(BackendFull, match="3 GiB wanted, 2 GiB of 5 left"):
        driver.snapshot("s1", volume_id="v1")
    with pytest.raises(BackendFull):
        driver.extend("v1", gib=6)
    driver.extend("v1", gib=5)
    assert driver.stats().free_gib == 0
    thin = SimulatedDriver(folder=tmp_path, capacity_gib=5)
    thin.ensure("v2", gib=100)
    assert thin.stats().provisioned_gib == 105


def test_faults_and_delays(tmp_path: Path) -> None:
    driver = SimulatedDriver(folder=tmp_path)
    driver.faults.fail_next("ensure", times=2)
    driver.faults.fail_next("snapshot", error=VolumeBusy("in use"))
    for _ in range(2):
        with pytest.raises(DriverError, match="simulated fault of ensure"):
            driver.ensure("v1", gib=1)
    assert not driver.list().volumes
    driver.ensure("v1", gib=1)
    with pytest.raises(VolumeBusy):
        driver.snapshot("s1", volume_id="v1")
    driver.faults.delays["remove"] = 0.05
    started = time.monotonic()
    driver.remove("v1")
    assert time.monotonic() - started >= 0.05
