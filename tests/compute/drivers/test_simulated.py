"""What only the simulated driver can do: fail on demand, hang, remember, and be cheap."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from altostack.compute.drivers.base import (
    DeviceBusy,
    GuestEvent,
    HypervisorError,
    HypervisorUnavailable,
    Power,
)
from altostack.compute.drivers.faults import Faults
from altostack.compute.drivers.simulated import Capacity, SimulatedDriver
from tests.compute.drivers.bench import Bench


def test_faults_on_demand(simulated: Bench) -> None:
    driver = simulated.driver
    assert isinstance(driver, SimulatedDriver)
    spec = simulated.spec()
    driver.prepare_disk(spec)
    driver.faults.fail_next("start", times=2)
    driver.faults.fail_next("stop", error=DeviceBusy("not now"))
    for _ in range(2):
        with pytest.raises(HypervisorError, match="start"):
            driver.start(spec)
    driver.start(spec)
    with pytest.raises(DeviceBusy, match="not now"):
        driver.stop(spec.id)
    assert driver.guest(spec.id).power is Power.RUNNING


def test_faults_by_chance_follow_the_seed() -> None:
    def outcomes(seed: int) -> list[bool]:
        driver = SimulatedDriver(faults=Faults(seed=seed))
        driver.faults.fail_sometimes("guests", 0.5)
        found = []
        for _ in range(64):
            try:
                driver.guests()
                found.append(True)
            except HypervisorError:
                found.append(False)
        return found

    assert outcomes(1) == outcomes(1)
    assert outcomes(1) != outcomes(2)
    assert 10 < sum(outcomes(1)) < 54


def test_a_verb_hangs_until_released(simulated: Bench) -> None:
    driver = simulated.driver
    assert isinstance(driver, SimulatedDriver)
    spec = simulated.started()
    release = driver.faults.hang("stop")
    thread = threading.Thread(target=driver.stop, args=(spec.id,))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert driver.guest(spec.id).power is Power.RUNNING
    release()
    thread.join(5)
    assert driver.guest(spec.id).power is Power.SHUTOFF
    driver.stop(spec.id)


def test_delays(simulated: Bench) -> None:
    driver = simulated.driver
    assert isinstance(driver, SimulatedDriver)
    driver.faults.delays["guests"] = 0.05
    began = time.monotonic()
    driver.guests()
    assert time.monotonic() - began >= 0.05


def test_a_guest_ends_by_itself(simulated: Bench) -> None:
    driver = simulated.driver
    assert isinstance(driver, SimulatedDriver)
    heard: list[tuple[str | None, GuestEvent]] = []
    driver.events(lambda guest_id, event: heard.append((guest_id, event)))
    one, two = simulated.started(), simulated.started()
    driver.power_off_from_inside(one.id)
    driver.crash_from_inside(two.id)
    assert heard[-2:] == [(one.id, GuestEvent.STOPPED), (two.id, GuestEvent.CRASHED)]
    assert driver.guest(one.id).reason == "powered off"
    assert driver.guest(two.id).reason == "crashed"


def test_it_says_that_it_is_simulated(simulated: Bench) -> None:
    spec = simulated.started(name="{name} 100%")
    assert "simulated" in simulated.driver.console_log(spec.id)
    assert "{name} 100%" in simulated.driver.console_log(spec.id)
    assert simulated.driver.host_info().virt_type == "simulated"


def test_closed_is_closed(simulated: Bench) -> None:
    simulated.driver.close()
    with pytest.raises(HypervisorUnavailable):
        simulated.driver.guests()


def test_capacity_is_settable() -> None:
    info = SimulatedDriver(capacity=Capacity(vcpus=3, memory_mib=4, disk_gib=5), hostname="h").host_info()
    assert (info.vcpus, info.memory_mib, info.disk_gib, info.hostname) == (3, 4, 5, "h")


def test_forgetful_without_a_folder(simulated: Bench) -> None:
    driver, spec = SimulatedDriver(), simulated.spec()
    driver.prepare_disk(spec)
    driver.start(spec)
    assert driver.guest(spec.id).power is Power.RUNNING
    assert SimulatedDriver().guests() == {}


def test_a_snapshot_is_a_sound_disk(simulated: Bench, tmp_path: Path) -> None:
    spec = simulated.started()
    out = tmp_path / "snapshot.qcow2"
    simulated.driver.snapshot(spec.id, out)
    try:
        check = subprocess.run(
            ["qemu-img", "check", "-f", "qcow2", out], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("qemu-img is not installed")
    assert check.returncode == 0, check.stderr
    assert "No errors" in check.stdout
