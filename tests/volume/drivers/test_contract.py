"""What every volume driver keeps to; run for each of them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from altostack.volume.drivers.base import (
    DriverError,
    Existing,
    FromImage,
    FromSnapshot,
    FromVolume,
    SnapshotNotFound,
    SourceUnusable,
    VolumeDriver,
    VolumeNotFound,
)
from altostack.volume.drivers.local import LocalDriver
from altostack.volume.drivers.simulated import SimulatedDriver

Open = Callable[[], VolumeDriver]


@pytest.fixture(params=["local", "simulated"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the driver anew on one folder, as a restarted process does."""
    folder = tmp_path / "state"
    if request.param == "local":
        return lambda: LocalDriver(folder)
    return lambda: SimulatedDriver(folder=folder, capacity_gib=100)


@pytest.fixture
def driver(opened: Open) -> VolumeDriver:
    return opened()


def existing(volumes: set[str] = frozenset(), snapshots: set[str] = frozenset()) -> Existing:  # type: ignore[assignment]  # empty defaults
    return Existing(volumes=frozenset(volumes), snapshots=frozenset(snapshots))


def test_each_verb_twice_is_as_once(driver: VolumeDriver) -> None:
    for _ in range(2):
        driver.ensure("v1", gib=1)
    for _ in range(2):
        driver.snapshot("s1", volume_id="v1")
    assert driver.list() == existing({"v1"}, {"s1"})
    assert driver.stats().provisioned_gib == 2
    assert driver.connection("v1") == driver.connection("v1")
    for _ in range(2):
        driver.terminate("v1")
        driver.remove_snapshot("s1")
    assert driver.list() == existing({"v1"})
    for _ in range(2):
        driver.remove("v1")
    assert driver.list() == existing()
    assert driver.stats().provisioned_gib == 0


def test_it_is_all_there_after_a_restart(opened: Open) -> None:
    first = opened()
    first.ensure("v1", gib=3)
    first.snapshot("s1", volume_id="v1")
    again = opened()
    assert again.list() == existing({"v1"}, {"s1"})
    assert again.stats().provisioned_gib == 6
    assert again.connection("v1") == first.connection("v1")


def test_growing(driver: VolumeDriver) -> None:
    driver.ensure("v1", gib=1)
    for _ in range(2):
        driver.extend("v1", gib=3)
    assert driver.stats().provisioned_gib == 3
    driver.extend("v1", gib=2)
    assert driver.stats().provisioned_gib == 3, "a volume never shrinks"
    driver.ensure("v1", gib=4)
    assert driver.stats().provisioned_gib == 4


def test_volumes_and_snapshots_live_on_without_their_source(driver: VolumeDriver) -> None:
    driver.ensure("v1", gib=1)
    driver.snapshot("s1", volume_id="v1")
    driver.ensure("v2", gib=2, source=FromSnapshot(snapshot_id="s1"))
    driver.ensure("v3", gib=1, source=FromVolume(volume_id="v1"))
    driver.remove("v1")
    driver.remove_snapshot("s1")
    assert driver.list() == existing({"v2", "v3"})
    driver.snapshot("s2", volume_id="v2")
    assert driver.list() == existing({"v2", "v3"}, {"s2"})


def test_a_source_larger_than_the_volume_is_refused(driver: VolumeDriver) -> None:
    driver.ensure("v1", gib=2)
    driver.snapshot("s1", volume_id="v1")
    for source in (FromVolume(volume_id="v1"), FromSnapshot(snapshot_id="s1")):
        with pytest.raises(SourceUnusable, match=r"2 GiB.* 1 GiB"):
            driver.ensure("v2", gib=1, source=source)
    assert driver.list() == existing({"v1"}, {"s1"})


def test_what_is_not_there_is_named(driver: VolumeDriver, tmp_path: Path) -> None:
    with pytest.raises(VolumeNotFound, match="nothing"):
        driver.extend("nothing", gib=1)
    with pytest.raises(VolumeNotFound, match="nothing"):
        driver.connection("nothing")
    with pytest.raises(VolumeNotFound, match="nothing"):
        driver.snapshot("s1", volume_id="nothing")
    with pytest.raises(VolumeNotFound, match="nothing"):
        driver.copy_to_image("nothing", tmp_path / "out", format="raw")
    with pytest.raises(VolumeNotFound, match="nothing"):
        driver.ensure("v1", gib=1, source=FromVolume(volume_id="nothing"))
    with pytest.raises(SnapshotNotFound, match="nothing"):
        driver.ensure("v1", gib=1, source=FromSnapshot(snapshot_id="nothing"))
    with pytest.raises(SourceUnusable, match="nothing"):
        driver.ensure("v1", gib=1, source=FromImage(path=tmp_path / "nothing", format="raw"))
    driver.terminate("nothing")
    assert driver.list() == existing()


def test_the_connection_says_what_a_host_needs(driver: VolumeDriver) -> None:
    driver.ensure("v1", gib=1)
    connection = driver.connection("v1", mode="ro")
    assert connection["driver_volume_type"] == "local"
    data = connection["data"]
    assert Path(data["path"]).is_absolute()
    assert Path(data["path"]).exists()
    assert (data["format"], data["access_mode"]) == ("raw", "ro")


@pytest.mark.parametrize("name", ["", ".", "..", "../v1", "a/b", "/etc/passwd", ".hidden", "v1\n"])
def test_an_id_cannot_leave_the_folder(driver: VolumeDriver, name: str) -> None:
    for call in (
        lambda: driver.ensure(name, gib=1),
        lambda: driver.remove(name),
        lambda: driver.extend(name, gib=2),
        lambda: driver.connection(name),
        lambda: driver.terminate(name),
        lambda: driver.snapshot(name, volume_id="v1"),
        lambda: driver.remove_snapshot(name),
    ):
        with pytest.raises(DriverError, match="is not an id"):
            call()


def test_the_same_call_from_many_threads(driver: VolumeDriver) -> None:
    """A lease that ran out while its holder lived on: two workers do the same step."""
    driver.ensure("v1", gib=1)

    def step(number: int) -> None:
        driver.ensure("v2", gib=1, source=FromVolume(volume_id="v1"))
        driver.snapshot("s1", volume_id="v1")

    failures: list[BaseException] = []
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(step, number) for number in range(4)]:
            if error := done.exception():
                failures.append(error)
    assert all(isinstance(error, DriverError) for error in failures), failures
    step(0)
    assert driver.list() == existing({"v1", "v2"}, {"s1"})
    assert driver.stats().provisioned_gib == 3
