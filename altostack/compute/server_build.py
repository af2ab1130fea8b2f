"""The part of a server's life in which it comes to be: a host, ports, volumes, a running guest."""

from __future__ import annotations

from typing import Any

from altostack.compute import server_net
from altostack.compute.scheduler import needs, place
from altostack.compute.server_flow import ServerFlow
from altostack.compute.server_row import Disk, Interface
from altostack.kit.db import utcnow
from altostack.kit.flow import Failed, Next, hop, step, wait

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
        row, network = self.row, self.near.network
        there = {port["id"]: port for port in network.ports_of(row.id)}
        given = {card.port_id for card in cards if card.port_id}
        # Ports that an earlier run of this step made and could not note.
        spare = [port for port in there.values() if port["id"] not in given]
        found: dict[str, dict[str, Any]] = {}
        missing: list[Interface] = []
        for card in cards:
            if card.port_id:
                port = there.get(card.port_id)
                if port is None or port.get("binding:host_id") != row.host:
                    port = network.update_port(card.port_id, server_net.binding(row))
                found[card.id] = port
                continue
            match = next((port for port in spare if port["network_id"] == card.network_id), None)
            if match is None:
                missing.append(card)
            else:
                spare.remove(match)
                found[card.id] = match
        if missing:
            made = network.create_ports([server_net.wish(row, card) for card in missing])
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

    def _wired(self, cards: list[Interface]) -> Next:
        """On with the guest when all cards are plugged, else wait for that."""
        if all(card.state == "plugged" for card in cards):
            return self._launch()
        return hop(self.plug)

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
        """Wait until every port is wired on the host, so that the guest finds its network when it starts."""
        cards = self.interfaces()
        waiting = [card for card in cards if card.state != "plugged"]
        if waiting:
            status = {port["id"]: port for port in self.near.network.ports_of(self.row.id)}
            for card in waiting:
                port = status.get(card.port_id or "")
                if port is None:
                    raise Failed(f"port {card.port_id} was deleted meanwhile")
                if port.get("binding:vif_type") == "binding_failed":
                    raise Failed(f"port {card.port_id} cannot be bound on host {self.row.host}")
                if port["status"] == "ACTIVE":
                    card.state = "plugged"
                    self.put(Interface, card.id, state="plugged")
        if any(card.state != "plugged" for card in cards):
            tries = self.frame["tries"] = self.frame.get("tries", 0) + 1
            return wait(seconds=min(0.1 * 1.5**tries, 3.0))
        return self._launch()

    def _launch(self) -> Next:
        self.row.task_state = "spawning"
        self.frame.pop("tries", None)
        self.want(power="running")
        return hop(self.spawn)

    @step(deadline=900)
    def spawn(self) -> Next:
        """Wait until the node runs the guest."""
        row = self.row
        if not self.settled():
            return self.pending()
        if row.seen.get("power") != "running":
            raise Failed(f"host {row.host} reports the guest as {row.seen.get('power')}")
        for card in self.interfaces():
            self.put(Interface, card.id, state="attached")
        for disk in self.disks():
            if disk.destination == "volume" and disk.attachment_id and disk.state != "attached":
                self.near.volume.complete(disk.attachment_id)
                device = row.seen.get("volumes", {}).get(disk.volume_id) or disk.device
                self.put(Disk, disk.id, state="attached", device=device)
        row.launched_at = row.launched_at or utcnow()
        self.stand("running")
        self.finished()
        self.say("the guest runs")
        return hop(self.rest)
