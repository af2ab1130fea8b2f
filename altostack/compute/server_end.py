"""The part of a server's life in which it ceases: nothing of it is left anywhere."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.compute.neighbours import RemoteError
from altostack.compute.server_build import volume_name
from altostack.compute.server_image import Snapshot
from altostack.compute.server_net import UNBOUND
from altostack.compute.server_row import Disk, Interface, Tombstone
from altostack.kit.db import utcnow
from altostack.kit.flow import Next, done, step, wait


class End(Snapshot):
    """abandon (a build that failed) and destroy (a delete)."""

    @step(deadline=600)
    def abandon(self) -> Next:
        """Give back all that a failed build took; the server stays, in error."""
        left = self._undo(self.abandon)
        if left is not None:
            return left
        row = self.row
        row.host, row.addresses, row.ips, row.volumes = None, {}, "", []
        row.wanted, row.power_state = {}, 0
        self._forget()
        return self.resting()

    def destroy(self) -> Next:
        """Remove the guest, its ports, attachments and allocations, then the row. Tried for ever."""
        if self.row.task_state != "deleting":
            self.row.task_state = "deleting"
        self.discard_image()
        left = self._undo(self.destroy)
        if left is not None:
            return left
        self._forget()
        row = self.row
        stone = {
            "id": row.id, "project_id": row.project_id, "user_id": row.user_id, "name": row.name,
            "flavor": row.flavor, "host": row.host, "launched_at": row.launched_at, "terminated_at": utcnow(),
            "created_at": row.created_at,
        }  # fmt: skip
        self.write(lambda session: session.execute(sa.insert(Tombstone).values(**stone)))
        self.finished()
        return done()

    def _forget(self) -> None:
        server_id = self.row.id

        def forget(session: Session) -> None:
            session.execute(sa.delete(Interface).where(Interface.server_id == server_id))
            session.execute(sa.delete(Disk).where(Disk.server_id == server_id))

        self.write(forget)

    def _undo(self, again: Callable[..., Next]) -> Next | None:
        """Undo what was done so far, whatever that is; None once nothing is left."""
        row = self.row
        if row.wanted and not self._guest_gone():
            if not self.home_alive():
                self.say(f"host {row.host} is down; it removes the guest when it is back", level="warning")
            elif row.wanted.get("power") == "gone":
                return self.pending()
            else:
                self.want(power="gone")
                return self.observed(again)
        self._release_ports()
        if (left := self._release_volumes()) is not None:
            return left
        self.near.placement.release(row.id)
        return None

    def _guest_gone(self) -> bool:
        """Whether the node removed the guest."""
        row, seen = self.row, self.row.seen
        asked = row.wanted.get("power") == "gone"
        return asked and seen.get("generation", -1) >= row.generation and seen.get("power") == "gone"

    def _release_ports(self) -> None:
        # Not only those of its cards: an API that was killed may have made a port and not lived to note it.
        given = {card.port_id for card in self.interfaces() if not card.ours}
        network = self.near.network
        for port in network.ports_of(self.row.id):
            if port["id"] in given:
                network.update_port(port["id"], UNBOUND)
            else:
                network.delete_port(port["id"])

    def _release_volumes(self) -> Next | None:
        disks = [disk for disk in self.disks() if disk.destination == "volume"]
        if not disks:
            return None
        volumes = self.near.volume
        held = volumes.attachments(self.row.id)
        known = {disk.attachment_id for disk in disks if disk.attachment_id}
        for attachment_id in known | {one["id"] for one in held}:
            volumes.detach(attachment_id)
        for disk in disks:
            if disk.source == "volume" and not disk.delete_on_termination:
                continue
            unfinished = self.row.launched_at is None
            if not disk.delete_on_termination and not unfinished:
                continue  # made for this server, and asked to outlive it
            found = [disk.volume_id] if disk.volume_id else []
            if disk.source != "volume" and not found:
                found = [one["id"] for one in volumes.named(volume_name(self.row.id, disk))]
            for volume_id in found:
                try:
                    volumes.delete(volume_id)
                except RemoteError as error:
                    if error.status not in (400, 409):
                        raise
                    volume = volumes.show(volume_id)
                    if volume is not None and volume["status"] in (
                        "detaching",
                        "in-use",
                        "reserved",
                        "creating",
                        "downloading",
                    ):
                        return wait(seconds=0.5)
                    self.say(f"volume {volume_id} stays: {error.message}", level="warning")
        return None
