"""Puts the object store of one process together: rings, devices, proxy and pipeline.

`open_store` is what `altostack.app`, storage nodes and tests call; they differ in what they hand in.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from altostack import filters
from altostack.kit.auth import Epoch, TokenCache
from altostack.kit.clients import Client
from altostack.kit.policy import Policy
from altostack.objectstore.accesslog import AccessLog
from altostack.objectstore.config import Settings
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.disk.remote import RemoteNode
from altostack.objectstore.httpd.server import Server
from altostack.objectstore.proxy.app import Proxy
from altostack.objectstore.proxy.known import KnownInfo
from altostack.objectstore.ring.rings import FileRings
from altostack.objectstore.stamp import Clock
from altostack.objectstore.storage import Node
from altostack.objectstore.store import Store

PASTE = Path(filters.__file__).with_name("paste.ini")
_FIRST_POWER = 10  # of a store that begins on one device; it can be raised while the store runs


def rings_folder(folder: Path) -> Path:
    """Where the ring files of a cloud lie."""
    return folder / "objectstore" / "rings"


def devices_folder(folder: Path, settings: Settings) -> Path:
    """Where this machine's devices are mounted."""
    return Path(settings.devices) if settings.devices else folder / "objectstore" / "devices"


def prepare(folder: Path, settings: Settings) -> None:
    """Rings of one device and one copy where there are none yet. Idempotent."""
    from altostack.objectstore.ring.builder import Builder  # with numpy, which only who builds rings needs

    rings = rings_folder(folder)
    rings.mkdir(parents=True, exist_ok=True)
    names = ["account", "container"]
    for policy in settings.storage_policies():
        if (
            policy.erasure is None
        ):  # fragments on one device would be no protection: such a ring is made by hand
            names.append("object" if policy.index == 0 else f"object-{policy.index}")
    missing = [name for name in names if not (rings / f"{name}.ring").exists()]
    for name in missing:
        builder = Builder.create(
            rings / f"{name}.builder", part_power=_FIRST_POWER, replicas=1.0, min_part_hours=1.0
        )
        builder.add(
            region=1,
            zone=1,
            host=settings.node_host or "127.0.0.1",
            port=settings.node_port,
            device="d1",
            weight=100.0,
        )
        builder.rebalance()
        builder.save()
    if missing:
        (devices_folder(folder, settings) / "d1").mkdir(parents=True, exist_ok=True)


def open_store(
    folder: Path,
    settings: Settings,
    *,
    key: bytes,
    url: str = "",
    region: str = "",
    tokens: TokenCache | None = None,
    rules: Policy | None = None,
    clients: Mapping[str, Client] | None = None,
    clock: Clock | None = None,
    pipeline: bool = True,
) -> Store:
    """The store whose rings lie in ``folder``, with its pipeline. Raises ValueError for wrong settings.

    pipeline: False for whoever answers no clients: a storage node, a command.
    """
    clock = clock or Clock()
    policies = settings.storage_policies()
    rings = FileRings(rings_folder(folder), policies)

    def remote(host: str, port: int) -> Node:
        return RemoteNode(host, port, key=key)

    local = LocalNode(devices_folder(folder, settings), settings, policies, clock=clock)
    store = Store(
        folder=folder,
        settings=settings,
        policies=policies,
        rings=rings,
        local=local,
        remote=remote,
        key=key,
        clock=clock,
        epoch=Epoch(folder / "run" / "objectstore-epoch"),
        url=url,
        region=region,
        tokens=tokens,
        rules=rules,
        clients=dict(clients or {}),
    )
    local.rings = rings  # they say when partitions are being doubled
    local.neighbours = store.node_at  # where it delivers what it has for containers on other nodes
    store.known = KnownInfo(store)
    if not pipeline:
        return store
    paste = folder / "paste.ini"
    source = paste if paste.exists() else PASTE
    store.app = filters.pipeline(source, "objectstore", app=Proxy(store), store=store)  # type: ignore[assignment] # Paste makes handlers here, not WSGI applications
    return store


def serve_store(
    store: Store,
    listeners: Mapping[str, socket.socket],
    *,
    stop: threading.Event,
    ready: Callable[[], None],
    care: bool,
) -> None:
    """Serve clients on the listener "clients" and, where there is one, other nodes on "nodes", until ``stop`` is set.

    care: look after this machine's devices too; one process of a machine does.
    """
    from altostack.objectstore.care import recon, upkeep
    from altostack.objectstore.care.loops import loops
    from altostack.objectstore.disk import server as nodes

    if isinstance(store.local, LocalNode):
        store.local.devices.recover()
    servers = []
    accesses = AccessLog(store.folder / "log" / "objectstore-access.log")
    if "clients" in listeners:
        if store.app is None:
            raise RuntimeError("the pipeline is not made yet")
        servers.append(Server(store.app, listeners["clients"], threads=store.settings.threads, done=accesses))
    if "nodes" in listeners:
        if not isinstance(store.local, LocalNode):
            raise RuntimeError("there are no devices to serve")
        inside = nodes.handler(store.local, key=store.key, more=upkeep.calls(store))
        inside = recon.handler(inside, store)
        servers.append(Server(inside, listeners["nodes"], threads=store.settings.threads))
    running = loops(store, stopping=stop) if care else ()
    for server in servers:
        server.start()
    for loop in running:
        loop.start(None)
    ready()
    stop.wait()
    for seconds in (0.0, 2.0):  # all are told before one is waited for
        for loop in running:
            loop.stop(seconds)
    for server in servers:
        server.stop()
    accesses.close()
