"""One bench for both drivers: the simulated one in any process, libvirt with a node of its own (root, QEMU)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.compute.drivers.simulated import SimulatedDriver
from altostack.image.starter import build
from tests.compute.drivers.bench import Bench, LibvirtBench, SimulatedBench


@pytest.fixture
def simulated(tmp_path: Path) -> Bench:
    return SimulatedBench(
        driver=SimulatedDriver(root=tmp_path), folder=tmp_path, image=tmp_path / "none", simulated=True
    )


@pytest.fixture(scope="session")
def libvirt_node() -> Iterator[LibvirtBench]:
    if os.geteuid() != 0 or shutil.which("libvirtd") is None:
        pytest.skip("needs root and libvirtd")
    pytest.importorskip("libvirt")
    # Not under pytest's own folder: nobody but its owner may pass through that, and QEMU runs as another user.
    folder = Path(tempfile.mkdtemp(prefix="altocd-"))
    folder.chmod(0o711)
    image = build(folder / "starter.qcow2").path
    netns = f"altocd-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    bench = LibvirtBench(
        driver=None,  # type: ignore[arg-type]  # made below, from the bench itself
        folder=folder, image=image, simulated=False, netns=netns,
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
        shutil.rmtree(folder)
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
