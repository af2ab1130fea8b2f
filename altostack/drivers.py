"""Which driver stands behind which seam: the one place where real and simulated part.

Every import of a driver is here and late, so that a process that needs none carries none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def prefix(state: Path, host: str) -> str:
    """What names of this node's namespaces and interfaces begin with: short, and different for each cloud and node."""
    digest = hashlib.sha256(f"{state.resolve()}\n{host}".encode()).hexdigest()
    return f"al{digest[:5]}"


def of_service(name: str, state: Path) -> Mapping[str, Any]:
    """What a service's own processes need: the image service its store."""
    if name == "image":
        from altostack.image.drivers.file import FileStore

        return {"store": FileStore(state / "images")}
    return {}


def of_node(state: Path, root: Path, host: str, settings: Any) -> dict[str, Any]:
    """The drivers of node ``host`` by service name; ``root`` is its folder."""
    return _simulated(root, host, settings) if settings.cloud.simulate else _real(state, root, host, settings)


def _simulated(root: Path, host: str, settings: Any) -> dict[str, Any]:
    from altostack.compute.drivers.simulated import SimulatedDriver as Compute
    from altostack.network.drivers.simulated import SimulatedDriver as Network
    from altostack.volume.drivers.simulated import SimulatedDriver as Volume

    return {"compute": Compute(root=root), "network": Network(), "volume": Volume(root / "volumes.json")}


def _real(state: Path, root: Path, host: str, settings: Any) -> dict[str, Any]:
    from altostack.compute.drivers.libvirt import LibvirtDriver
    from altostack.compute.drivers.libvirtd import PrivateLibvirtd
    from altostack.network.drivers.linux import LinuxDriver
    from altostack.volume.drivers.local import LocalDriver

    names = prefix(state, host)
    network = LinuxDriver(prefix=names, root=root / "network")
    libvirtd = PrivateLibvirtd(root=root / "libvirt", netns=f"{names}-node", hostname=host)
    return {
        "compute": LibvirtDriver(root=root, host=libvirtd),
        "network": network,
        "volume": LocalDriver(state / "volumes"),
    }
