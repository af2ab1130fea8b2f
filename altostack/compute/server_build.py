"""The part of a server's life in which it comes to be: a host, ports, volumes, a running guest."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from altostack.compute import server_net
from altostack.compute.neighbours import RemoteError
from altostack.compute.scheduler import needs, place
from altostack.compute.server_flow import ServerFlow
from altostack.compute.server_row import Disk, Interface
from altostack.kit.db import utcnow
from altostack.kit.flow import Failed, Next, hop, later, step, wait

_POLL = 3.0  # seconds between questions whether a port is wired
# Steps whose failure means that the server never came to be.
BUILDING_STEPS = ("schedule", "network", "block_devices", "plug", "spawn")


def volume_name(server_id: str, disk: Disk) -> str:
    """The name of a volume that is made for a server: how it is found again after a crash."""
    return f"{server_id}-{disk.position}"


def connector(host: str | None, device: str | None) -> dict[str, Any]:
    """Where a volume is to be connected to, and the name it is to have there."""
    return {"host": host, "platform": "x86_64", "os_type": "linux", "multipath": False, "mountpoint": device}


class Build(ServerFlow):
    """schedule -> network -> block_devices -> plug -> spawn."""

    def schedule(self) -> Next:
        """Find a host and claim room there."""
        row = self.row
        root = not any(disk.boot_index == 0 and disk.destination == "volume" for disk in self.disks())
        chosen = place(self.runtime, self.near.placement, row, needs(row.flavor, local_root=root))
        row.host, row.az = chosen.host.host, chosen.zone
        row.task_state = "networking"
        return hop(self.network)

    def network(self) -> Next:
        """See that every network card has a port, bound to the host."""
        row, cards = self.row, self.interfaces()
        if cards:
            with self.final():
                self._ports(cards)
            row.addresses, row.ips = server_net.addresses(cards)
        if any(disk.destination == "volume" for disk in self.disks()):
            row.task_state = "block_device_mapping"
            return hop(self.block_devices)
        return self._wired(cards)

    def _ports(self, cards: list[Interface]) -> None:
        """Bind the given ports and make the missing ones: a card's id makes its port's address, so none twice."""
        row, network = self.row, self.near.network
        found: dict[str, dict[str, Any]] = {}
        missing: list[Interface] = []
        for card in cards:
            if card.ours:
                missing.append(card)
            elif card.port_id:
                found[card.id] = network.update_port(card.port_id, server_net.binding(row))
        if missing:
            try:
                made = network.create_ports([server_net.wish(row, card) for card in missing])
            except RemoteError as error:
                if error.status != 409:
                    raise
                made = self._made_before(missing)
            found |= {card.id: port for card, port in zip(missing, made, strict=True)}
        for card in cards:
            port = found[card.id]
            card.port_id, card.network_id = port["id"], port["network_id"]
            card.info = server_net.describe(port, card.info.get("network", {}), card.info)
            if port.get("status") == "ACTIVE":
                card.state = "plugged"
            self.put(
                Interface,
                card.id,
                port_id=card.port_id,
                network_id=card.network_id,
                info=card.info,
                state=card.state,
            )

    def _made_before(self, cards: list[Interface]) -> list[dict[str, Any]]:
        """The ports of an earlier run of this step that could not note them; what it did not make is made now."""
        network = self.near.network
        there = {port["mac_address"]: port for port in network.ports_of(self.row.id)}
        found = []
        for card in cards:
            port = there.get(server_net.mac(card))
            # Somebody else's port may have that address by chance: then any other will do.
            found.append(port or network.create_ports([server_net.wish(self.row, card, own_mac=False)])[0])
        return found

    def _wired(self, cards: list[Interface]) -> Next:
        """On with the guest when all cards are plugged, else when the network service says so."""
        if all(card.state == "plugged" for card in cards):
            return self._launch()
        self.frame["poll_at"] = self.runtime.clock() + _POLL
        return later(self.plug, seconds=_POLL)

    def block_devices(self) -> Next:
        """See that every volume exists and is connected to the host."""
        row, volumes = self.row, self.near.volume
        held: list[dict[str, Any]] | None = None
        for disk in self.disks():
            if disk.destination != "volume" or disk.connection:
                continue
            if disk.volume_id is None:
                made = volumes.named(volume_name(row.id, disk))
                if not made:
                    if (told := self.take("refused")) is not None:
                        raise Failed(str(told["reason"]))
                    return wait(seconds=0.5)  # the request that makes it is still on its way
                disk.volume_id = made[0]["id"]
                self.put(Disk, disk.id, volume_id=disk.volume_id)
            volume = volumes.show(disk.volume_id)
            status = volume["status"] if volume else "gone"
            if (
                status in ("creating", "downloading", "reserved", "attaching", "detaching")
                and not disk.attachment_id
            ):
                if status in ("creating", "downloading", "detaching"):
                    return wait(seconds=0.3)
            elif status not in ("available", "in-use"):
                raise Failed(f"volume {disk.volume_id} is {status}")
            if held is None:
                held = volumes.attachments(row.id)
            mine = next((one for one in held if one["volume_id"] == disk.volume_id), None)
            if mine is None:
                with self.final():
                    mine = volumes.attach(disk.volume_id, row.id, connector(row.host, disk.device), "rw")
            info = mine.get("connection_info") or {}
            if not info:
                return wait(seconds=0.3)
            self.put(
                Disk, disk.id, attachment_id=mine["id"], connection=info, state="attaching",
                multiattach=bool(volume and volume.get("multiattach")),
            )  # fmt: skip
        row.volumes = [
            {"id": disk.volume_id, "delete_on_termination": disk.delete_on_termination}
            for disk in self.disks() if disk.destination == "volume"
        ]  # fmt: skip
        return self._wired(self.interfaces())

    @step(deadline=300)
    def plug(self) -> Next:
        """Wait until every port is wired on the host, so that the guest finds its network when it starts.

        The network service tells of it; should that get lost, it is asked from time to time.
        """
        waiting = [card for card in self.interfaces() if card.state != "plugged"]
        if not waiting:
            return self._launch()
        now = self.runtime.clock()
        left = float(self.frame.get("poll_at", 0.0)) - now
        if left > 0:
            return wait(seconds=left)
        ports = {port["id"]: port for port in self.near.network.ports_of(self.row.id)}
        for card in waiting:
            port = ports.get(card.port_id or "")
            if port is None:
                raise Failed(f"port {card.port_id} was deleted meanwhile")
            if port.get("binding:vif_type") == "binding_failed":
                raise Failed(f"port {card.port_id} cannot be bound on host {self.row.host}")
            if port["status"] == "ACTIVE":
                card.state = "plugged"
                self.put(Interface, card.id, state="plugged")
        if all(card.state == "plugged" for card in waiting):
            return self._launch()
        self.frame["poll_at"] = now + _POLL
        return wait(seconds=_POLL)

    def _launch(self) -> Next:
        self.row.task_state = "spawning"
        self.frame.pop("poll_at", None)
        self.want(power="running")
        return self.observed(self.spawn)

    @step(deadline=900)
    def spawn(self) -> Next:
        """Wait until the node runs the guest."""
        row = self.row
        if not self.settled():
            return self.pending()
        if row.seen.get("power") != "running":
            raise Failed(f"host {row.host} reports the guest as {row.seen.get('power')}")
        if row.volumes:
            self._attached()
        mine = Interface.server_id == row.id
        self.write(lambda session: session.execute(sa.update(Interface).where(mine).values(state="attached")))
        row.launched_at = row.launched_at or utcnow()
        self.stand("running")
        self.finished()
        self.say("the guest runs")
        return self.resting()

    def _attached(self) -> None:
        """The guest has its volumes: they are in use from now on."""
        for disk in self.disks():
            if disk.destination == "volume" and disk.attachment_id and disk.state != "attached":
                self.near.volume.complete(disk.attachment_id)
                device = self.row.seen.get("volumes", {}).get(disk.volume_id) or disk.device
                self.put(Disk, disk.id, state="attached", device=device)
