"""The part of a server's life in which volumes and network cards come and go."""

from __future__ import annotations

from typing import Any

from altostack.compute import server_net
from altostack.compute.neighbours import RemoteError
from altostack.compute.server_build import connector
from altostack.compute.server_flow import ServerFlow
from altostack.compute.server_row import Disk, Interface
from altostack.kit.flow import Failed, Next, hop, step, wait


class Devices(ServerFlow):
    """attach -> attaching, detach -> detaching, plug_in -> plugging, pull_out -> pulling; one device at a time."""

    # ---- volumes

    def on_attach(self, asked: dict[str, Any]) -> Next:
        self.frame["device"] = asked["disk"]
        return hop(self.attach)

    def attach(self) -> Next:
        """Connect the volume to the host and ask the node to plug it in."""
        row, disk = self.row, self.disk(self.frame["device"])
        if disk is None or disk.volume_id is None:
            return self.resting()
        mine = next(
            (a for a in self.near.volume.attachments(row.id) if a["volume_id"] == disk.volume_id), None
        )
        if mine is None:
            with self.final():
                mine = self.near.volume.attach(disk.volume_id, row.id, connector(row.host, disk.device), "rw")
        info = mine.get("connection_info") or {}
        if not info:
            return wait(seconds=0.3)
        self.put(Disk, disk.id, attachment_id=mine["id"], connection=info, state="attaching")
        self.want()
        return self.observed(self.attaching)

    @step(deadline=300)
    def attaching(self) -> Next:
        """Wait until the guest has the volume; from then on it is in use."""
        row, disk = self.row, self.disk(self.frame["device"])
        if disk is None:
            return self.resting()
        if not self.settled():
            return self.pending()
        device = row.seen.get("volumes", {}).get(disk.volume_id)
        if device is None:
            raise Failed(f"host {row.host} did not plug in volume {disk.volume_id}")
        self.near.volume.complete(disk.attachment_id or "")
        self.put(Disk, disk.id, state="attached", device=device)
        row.volumes = [
            *(one for one in row.volumes if one["id"] != disk.volume_id),
            {"id": disk.volume_id, "delete_on_termination": disk.delete_on_termination},
        ]
        self.finished()
        return self.resting()

    def on_detach(self, asked: dict[str, Any]) -> Next:
        self.frame["device"] = asked["disk"]
        self.put(Disk, asked["disk"], state="leaving")
        self.want()
        return self.observed(self.detaching)

    @step(deadline=300)
    def detaching(self) -> Next:
        """Wait until the guest let go of the volume, then disconnect it from the host."""
        row, disk = self.row, self.disk(self.frame["device"])
        if disk is None:
            return self.resting()
        if not self.settled():
            return self.pending()
        if disk.volume_id in row.seen.get("volumes", {}):
            raise Failed(f"the guest does not let go of volume {disk.volume_id}")
        if disk.attachment_id:
            self.near.volume.detach(disk.attachment_id)
        row.volumes = [one for one in row.volumes if one["id"] != disk.volume_id]
        self.drop(Disk, disk.id)
        self.finished(self.frame.pop("error", None))
        return self.resting()

    def on_extend(self, asked: dict[str, Any]) -> Next:
        self.frame["device"] = asked["volume_id"]
        return hop(self.extend)

    def extend(self) -> Next:
        """The volume service made an attached volume larger: tell the node how large."""
        volume = self.near.volume.show(self.frame["device"])
        if volume is None:
            return self.resting()
        self.want(name="extend", volume_id=volume["id"], size_gib=volume["size"])
        return self.observed(self.extending)

    @step(deadline=300)
    def extending(self) -> Next:
        """Wait until the guest sees the volume's new size."""
        if not self.settled():
            return self.pending()
        self.finished()
        return self.resting()

    # ---- network cards

    def on_plug(self, asked: dict[str, Any]) -> Next:
        self.frame["device"] = asked["interface"]
        return hop(self.plug_in)

    @step(deadline=300)
    def plug_in(self) -> Next:
        """Wait until the port is wired on the host, then ask the node to plug in the card."""
        row, card = self.row, self.interface(self.frame["device"])
        if card is None:
            return self.resting()
        port = self.near.network.port(card.port_id or "")
        if port is None:
            raise Failed(f"port {card.port_id} was deleted meanwhile")
        if port.get("binding:host_id") != row.host or port["device_id"] != row.id:
            with self.final():
                port = self.near.network.update_port(port["id"], server_net.binding(row))
        if port["status"] != "ACTIVE":
            return wait(seconds=1.0)
        info = server_net.describe(port, card.info.get("network", {}), card.info)
        self.put(Interface, card.id, state="plugged", info=info)
        self.want()
        return self.observed(self.plugging)

    @step(deadline=300)
    def plugging(self) -> Next:
        """Wait until the guest has the card."""
        row, card = self.row, self.interface(self.frame["device"])
        if card is None:
            return self.resting()
        if not self.settled():
            return self.pending()
        if card.port_id not in row.seen.get("ports", ()):
            raise Failed(f"host {row.host} did not plug in port {card.port_id}")
        self.put(Interface, card.id, state="attached")
        row.addresses, row.ips = server_net.addresses(self.interfaces())
        self.finished()
        return self.resting()

    def on_unplug(self, asked: dict[str, Any]) -> Next:
        self.frame["device"] = asked["interface"]
        self.put(Interface, asked["interface"], state="leaving")
        self.want()
        return self.observed(self.pulling)

    @step(deadline=300)
    def pulling(self) -> Next:
        """Wait until the guest let go of the card, then give up its port."""
        row, card = self.row, self.interface(self.frame["device"])
        if card is None:
            return self.resting()
        if not self.settled():
            return self.pending()
        if card.port_id in row.seen.get("ports", ()):
            raise Failed(f"the guest does not let go of port {card.port_id}")
        self._give_up_port(card)
        row.addresses, row.ips = server_net.addresses([one for one in self.interfaces() if one.id != card.id])
        self.drop(Interface, card.id)
        self.finished(self.frame.pop("error", None))
        return self.resting()

    def _give_up_port(self, card: Interface) -> None:
        if card.port_id is None:
            return
        if card.ours:
            self.near.network.delete_port(card.port_id)
            return
        try:
            self.near.network.update_port(card.port_id, server_net.UNBOUND)
        except RemoteError as error:
            if error.status != 404:  # its owner deleted it: there is nothing to give up
                raise

    def on_refresh(self, asked: dict[str, Any]) -> Next:
        return hop(self.refresh)

    def refresh(self) -> Next:
        """The network service says that addresses changed: copy them anew."""
        row, cards = self.row, self.interfaces()
        ports = {port["id"]: port for port in self.near.network.ports_of(row.id)}
        floating: dict[str, list[str]] = {}
        if ports:
            for one in self.near.network.floating(port_id=sorted(ports)):
                floating.setdefault(one["port_id"], []).append(one["floating_ip_address"])
        for card in cards:
            port = ports.get(card.port_id or "")
            if port is None:
                continue
            info = server_net.describe(port, card.info.get("network", {}), card.info)
            info["floating_ips"] = sorted(floating.get(card.port_id or "", []))
            if info != card.info:
                card.info = info
                self.put(Interface, card.id, info=info)
        row.addresses, row.ips = server_net.addresses(cards)
        return self.resting()

    # ---- what did not work

    def undo_device(self, name: str, reason: str) -> Next | None:
        """After a failed attach the device is taken away again; after a failed detach it stays."""
        device = self.frame.get("device", "")
        if name in ("attach", "attaching"):
            self.frame["error"] = reason
            self.put(Disk, device, state="leaving")
            self.want()
            return self.observed(self.detaching)
        if name in ("plug_in", "plugging"):
            self.frame["error"] = reason
            self.put(Interface, device, state="leaving")
            self.want()
            return self.observed(self.pulling)
        if name in ("detaching", "pulling"):
            kind = Disk if name == "detaching" else Interface
            self.put(kind, device, state="attached")
            self.give_up()
        return None
