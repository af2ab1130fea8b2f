"""A world with several devices and its daemons: what tests of the daemons start from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from altostack.objectstore import compose
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.objects import replicate
from altostack.objectstore.care.settings import CareSettings
from altostack.objectstore.disk import layout
from altostack.objectstore.storage import Missing
from tests.objectstore.world import World, world

FAST = CareSettings(audit_files=0, audit_bytes=0, audit_zero_files=0, audit_databases=0)


class Cluster:
    """Devices d1, d2, ... of one node; ``w``: the world that uses them."""

    def __init__(
        self, folder: Path, *, devices: int = 4, replicas: float = 3.0, care: CareSettings = FAST, **more: Any
    ) -> None:
        self.folder = folder
        self.w: World = world(folder, devices=devices, replicas=replicas, **more)
        self.care = Care(store=self.w.store, settings=care)

    @property
    def names(self) -> list[str]:
        return self.care.devices()

    def path(self, device: str) -> Path:
        return compose.devices_folder(self.folder, self.w.store.settings) / device

    def files(self, device: str, policy: int = 0) -> list[str]:
        """Names of an object's files with the digest: of every object on a device."""
        top = Path(layout.parts_folder(str(self.path(device)), policy))
        return sorted(f"{path.parent.name}/{path.name}" for path in top.glob("*/*/*/*.*"))

    def every(self, policy: int = 0) -> dict[str, list[str]]:
        """device -> `files`."""
        return {name: self.files(name, policy) for name in self.names}

    def home(self, path: str, policy: int = 0) -> list[str]:
        """The devices that are to hold an object."""
        account, container, name = path.split("/", 4)[2:]
        return [home.spot.device for home in self.care.homes(account, container, name, policy)]

    def digest(self, path: str, policy: int = 0) -> str:
        """What an object's folder is called."""
        account, container, name = path.split("/", 4)[2:]
        return self.care.homes(account, container, name, policy)[0].spot.digest

    def renew_rings(self) -> None:
        """Look at the ring files now, not in two seconds."""
        for one in vars(self.w.store.rings).values():
            for ring in one.values() if isinstance(one, dict) else (one,):
                if hasattr(ring, "_until"):
                    ring._until = 0.0

    def folder_of(self, device: str, path: str, policy: int = 0) -> Path:
        """Where an object's files lie on a device."""
        account, container, name = path.split("/", 4)[2:]
        spot = self.care.homes(account, container, name, policy)[0].spot
        return Path(layout.object_folder(str(self.path(device)), spot))

    def holds(self, device: str, path: str, policy: int = 0) -> bool:
        """Whether a device's own copy can be read."""
        account, container, name = path.split("/", 4)[2:]
        for home in self.care.homes(account, container, name, policy):
            if home.spot.device == device:
                try:
                    home.node.read(home.spot).close()
                except Missing:
                    return False
                return True
        return False

    def empty(self, device: str) -> None:
        """As if it were a new disk."""
        shutil.rmtree(self.path(device))
        self.path(device).mkdir()

    def take_away(self, device: str) -> Path:
        """Unmount it; `bring_back` mounts what it was then."""
        aside = self.path(device).with_name(f".{device}")
        self.path(device).rename(aside)
        return aside

    def bring_back(self, device: str) -> None:
        if self.path(device).exists():
            shutil.rmtree(self.path(device))
        self.path(device).with_name(f".{device}").rename(self.path(device))

    def replicate(self, rounds: int = 2) -> dict[str, int]:
        """Passes of the replicator over every device; what they did in all."""
        did: dict[str, int] = {}
        for _ in range(rounds):
            for name in self.names:
                for what, number in replicate(self.care, name).did.items():
                    did[what] = did.get(what, 0) + number
        return did
