"""One bench for both drivers: the simulated one in any process, libvirt with a node of its own (root, QEMU)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.compute.drivers.simulated import SimulatedDriver
from tests.compute.drivers.bench import Bench, LibvirtBench, SimulatedBench


@pytest.fixture
def simulated(tmp_path: Path) -> Bench:
    return SimulatedBench(
        driver=SimulatedDriver(root=tmp_path), folder=tmp_path, image=tmp_path / "none", simulated=True
    )


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from altostack.image.starter import build

    return build(tmp_path_factory.mktemp("starter") / "starter.qcow2").path


@pytest.fixture(scope="session")
def libvirt_node(tmp_path_factory: pytest.TempPathFactory, starter: Path) -> Iterator[LibvirtBench]:
    if os.geteuid() != 0 or shutil.which("libvirtd") is None:
        pytest.skip("needs root and libvirtd")
    pytest.importorskip("libvirt")
    netns = f"altocd-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    bench = LibvirtBench(
        driver=None,  # type: ignore[arg-type]  # made below, from the bench itself
        folder=tmp_path_factory.mktemp("node"), image=starter, simulated=False, netns=netns,
    )  # fmt: skip
    try:
        bench.driver = bench.reopened()
        bench.driver.host_info()
        yield bench
    finally:
        for guest_id in bench.driver.guests():
            bench.driver.destroy(guest_id)
        bench.driver.close()
        bench.host.stop()
        subprocess.run(["ip", "netns", "delete", netns], check=True)
        left = bench.processes(str(bench.folder))
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left


@pytest.fixture
def libvirt(libvirt_node: LibvirtBench) -> Iterator[LibvirtBench]:
    yield libvirt_node
    for guest_id in libvirt_node.driver.guests():
        libvirt_node.driver.destroy(guest_id)
    for tap in libvirt_node.taps:
        subprocess.run(["ip", "-n", libvirt_node.netns, "link", "delete", tap], check=True)
    libvirt_node.taps.clear()


@pytest.fixture(
    params=["simulated", pytest.param("libvirt", marks=[pytest.mark.real, pytest.mark.timeout(400)])]
)
def bench(request: pytest.FixtureRequest) -> Bench:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Bench)
    return found
