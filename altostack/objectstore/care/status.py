"""How a cluster's nodes are, side by side: `survey`."""

from __future__ import annotations

import random
import time

import msgspec

from altostack.objectstore.care import rings
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.health import NodeStatus, known_rings, node_status
from altostack.objectstore.storage import Missing, RingView, Spot, StorageError


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A node in a survey. skew: seconds that its clock is ahead of ours; status: None when it does not answer."""

    host: str
    port: int
    status: NodeStatus | None
    skew: float = 0.0
    why: str = ""


class Dispersion(msgspec.Struct, frozen=True, kw_only=True):
    """Of a sample of partitions of a ring: copies that should be reachable, and devices that were."""

    ring: str
    partitions: int
    copies: int
    reachable: int

    @property
    def share(self) -> float:
        return self.reachable / self.copies if self.copies else 1.0


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster. differing: rings of which not all nodes have the same version."""

    nodes: list[Line]
    dispersion: list[Dispersion]
    differing: list[str]

    @property
    def trouble(self) -> list[str]:
        """What an operator has to look at, in words."""
        found = [
            f"{one.host}:{one.port} does not answer: {one.why}" for one in self.nodes if one.status is None
        ]
        for one in self.nodes:
            where = f"{one.host}:{one.port}"
            if abs(one.skew) > 2.0:
                found.append(f"the clock of {where} is {one.skew:+.1f} s off")
            for device in one.status.devices if one.status is not None else ():
                if device.why:
                    found.append(f"{where}/{device.device}: {device.why}")
                if device.quarantined:
                    found.append(f"{where}/{device.device}: {device.quarantined} damaged files are set aside")
        found += [f"the nodes do not have the same {name} ring" for name in self.differing]
        return found


def survey(care: Care, *, sample: int = 64) -> Survey:
    """Ask every node of the rings. ``sample``: partitions of each ring whose devices are tried."""
    lines = [Line(host=care.store.settings.node_host or "127.0.0.1", port=care.store.settings.node_port,
                  status=node_status(care.store))]  # fmt: skip
    mounted: dict[tuple[str, int], set[str]] = {}
    for device in rings.nodes(care):
        began = time.time()
        try:
            status = care.peer(device).status()
            skew = status.now - (began + time.time()) / 2
            lines.append(Line(host=device.host, port=device.port, status=status, skew=skew))
        except StorageError as error:
            lines.append(Line(host=device.host, port=device.port, status=None, why=str(error)))
    for line in lines:
        devices = line.status.devices if line.status is not None else []
        mounted[line.host, line.port] = {one.device for one in devices if one.mounted and not one.why}
    versions: dict[str, set[int]] = {}
    for line in lines:
        if line.status is not None:
            for name, held in line.status.rings.items():
                versions.setdefault(name, set()).add(held.version)
    return Survey(
        nodes=lines,
        dispersion=[
            _dispersion(name, ring, mounted, sample) for name, ring in known_rings(care.store).items()
        ],
        differing=sorted(name for name, found in versions.items() if len(found) > 1),
    )


def _dispersion(
    name: str, ring: RingView, mounted: dict[tuple[str, int], set[str]], sample: int
) -> Dispersion:
    parts = random.sample(range(ring.parts), min(sample, ring.parts))
    copies = reachable = 0
    for part in parts:
        for device in ring.nodes(part):
            copies += 1
            reachable += device.device in mounted.get((device.host, device.port), ())
    return Dispersion(ring=name, partitions=len(parts), copies=copies, reachable=reachable)


class Copies(msgspec.Struct, frozen=True, kw_only=True):
    """Where an object's copies or fragments are. found: device -> timestamp, "" for none there."""

    path: str
    found: dict[str, str]


def copies_of(care: Care, account: str, container: str, object: str, policy: int) -> Copies:
    """Look for an object on each of its devices. Raises LookupError for a policy without a ring."""
    found = {}
    for home in care.homes(account, container, object, policy):
        where = f"{home.device.host}:{home.device.port}/{home.device.device}"
        try:
            stored = home.node.read(Spot(home.spot.device, home.spot.part, home.spot.digest, policy))
            found[where] = stored.timestamp
            stored.close()
        except Missing as missing:
            found[where] = f"deleted {missing.timestamp}" if missing.timestamp else ""
        except StorageError as error:
            found[where] = str(error)
    return Copies(path=f"/{account}/{container}/{object}", found=found)
