"""Which driver stands behind which seam: the one place where real and simulated part.

Every import of a driver is here and late, so that a process that needs none carries none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from altostack.kit.clients import Client

_GRACE_SECONDS = 5.0  # in which a guest may end by itself when its node is taken down


def prefix(state: Path, host: str) -> str:
    """What names of this node's namespaces and interfaces begin with: short, and different for each cloud and node."""
    digest = hashlib.sha256(f"{state.resolve()}\n{host}".encode()).hexdigest()
    return f"al{digest[:5]}"


def of_service(
    name: str, state: Path, settings: Any, objects: Callable[[str], tuple[Client, Callable[[], str]]]
) -> Mapping[str, Any]:
    """What a service's own processes need: the image service its stores.

    objects: service name -> (a client of the object store with that service's authority, the path of its account).
    """
    if name == "image":
        from altostack.image.stores import Objects, open_stores

        client, account = objects(name)
        return {"stores": open_stores(state, settings.image, Objects(client=client, account=account))}
    return {}


def of_node(state: Path, root: Path, host: str, settings: Any) -> dict[str, Any]:
    """The drivers of node ``host`` by service name; ``root`` is its folder.

    "metadata" is the door through which the network driver asks the network agent whose a request is.
    """
    return _simulated(root, host) if settings.cloud.simulate else _real(state, root, host)


def _simulated(root: Path, host: str) -> dict[str, Any]:
    from altostack.compute.drivers.simulated import SimulatedDriver as Compute
    from altostack.network.drivers.simulated import SimulatedDriver as Network
    from altostack.volume.drivers.simulated import SimulatedDriver as Volume

    return {
        "compute": Compute(root=root, hostname=host),
        "network": Network(),
        "volume": Volume(folder=root / "volumes"),
    }


def _real(state: Path, root: Path, host: str) -> dict[str, Any]:
    from altostack.compute.drivers.libvirt import LibvirtDriver
    from altostack.network.drivers.linux import LinuxDriver
    from altostack.network.metadata import MetadataDoor
    from altostack.volume.drivers.local import LocalDriver

    door = MetadataDoor()
    network = LinuxDriver(prefix=prefix(state, host), state=root / "network", resolver=door)
    network.open()  # the hypervisor lives in the node's namespace
    return {
        "compute": LibvirtDriver(root=root, host=_libvirtd(state, root, host)),
        "network": network,
        "volume": LocalDriver(state / "volumes"),
        "metadata": door,
    }


def _libvirtd(state: Path, root: Path, host: str) -> Any:
    from altostack.compute.drivers.libvirtd import PrivateLibvirtd

    return PrivateLibvirtd(root=root / "libvirt", netns=f"{prefix(state, host)}-node", hostname=host)


def teardown(state: Path, root: Path, host: str, settings: Any) -> None:
    """Stop the node's guests and daemons and remove its namespaces; what is on disk stays. Idempotent."""
    if settings.cloud.simulate:
        return
    daemon = _libvirtd(state, root, host)
    if daemon.pid() is not None:
        from altostack.compute.drivers.libvirt import LibvirtDriver

        compute = LibvirtDriver(root=root, host=daemon)
        guests = list(compute.guests())
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda guest: compute.stop(guest, timeout_s=_GRACE_SECONDS), guests))
        compute.close()
        daemon.stop()
    from altostack.network.drivers.linux import LinuxDriver
    from altostack.network.metadata import MetadataDoor

    network = LinuxDriver(prefix=prefix(state, host), state=root / "network", resolver=MetadataDoor())
    try:
        network.teardown()
    finally:
        network.close()
