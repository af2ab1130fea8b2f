"""The part of a server's life in which it becomes another size, on the host where it is."""

from __future__ import annotations

from typing import Any

from altostack.compute import migration
from altostack.compute.neighbours import RemoteError
from altostack.compute.scheduler import needs
from altostack.compute.server_flow import ServerFlow
from altostack.compute.server_row import RESIZED
from altostack.kit.flow import Failed, Next, hop, step


def largest(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Enough for either of two needs."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {*one, *other}}


class Resize(ServerFlow):
    """resize_claim -> resize_disk -> (VERIFY_RESIZE) -> confirming or reverting."""

    def on_resize(self, asked: dict[str, Any]) -> Next:
        self.frame["flavor"] = asked["flavor"]
        self.frame["was"] = self.row.wanted.get("power", "running")
        return hop(self.resize_claim)

    def resize_claim(self) -> Next:
        """Room for both sizes, so that either way out is open."""
        row = self.row
        self._claim(largest(self._needs(row.flavor), self._needs(self.frame["flavor"])))
        row.task_state = "resize_migrating"
        row.old_flavor, row.flavor = row.flavor, self.frame["flavor"]
        row.flavor_id, row.vcpus, row.ram = row.flavor["id"], row.flavor["vcpus"], row.flavor["ram"]
        size = row.flavor["disk"] if row.image_id else 0
        if row.image_id:
            self.want(power=self.frame["was"], name="resize", size_gib=size)
        else:
            self.want(power="shutoff")
        return self.observed(self.resize_disk)

    @step(deadline=600)
    def resize_disk(self) -> Next:
        """Wait until the guest has its new size; a guest without a disk of its own only starts anew."""
        row = self.row
        if not self.settled():
            return self.pending()
        if row.wanted["power"] != self.frame["was"]:
            row.task_state = "resize_finish"
            self.want(power=self.frame["was"])
            return self.observed(self.resize_disk)
        self.stand(self.frame["was"])
        row.vm_state = RESIZED
        self.note_migration("finished")
        self.finished()
        return self.resting()

    def on_confirm(self, asked: dict[str, Any]) -> Next:
        if self.row.image_id:
            self.want(name="confirm")
        return self.observed(self.confirming)

    @step(deadline=300)
    def confirming(self) -> Next:
        """Give up the old disk and the old size's room."""
        row = self.row
        if not self.settled():
            return self.pending()
        self._claim(self._needs(row.flavor))
        row.old_flavor = None
        self.stand(row.wanted["power"])
        self.note_migration("confirmed")
        self.finished()
        return self.resting()

    def on_revert(self, asked: dict[str, Any]) -> Next:
        row = self.row
        if row.old_flavor is not None:
            row.flavor, row.old_flavor = row.old_flavor, None
            row.flavor_id, row.vcpus, row.ram = row.flavor["id"], row.flavor["vcpus"], row.flavor["ram"]
        self.frame["was"] = row.wanted.get("power", "running")
        if row.image_id:
            self.want(power=self.frame["was"], name="revert")
        else:
            self.want(power="shutoff")
        return self.observed(self.reverting)

    @step(deadline=600)
    def reverting(self) -> Next:
        """Back to the old disk and the old size."""
        row = self.row
        if not self.settled():
            return self.pending()
        if row.wanted["power"] != self.frame["was"]:
            self.want(power=self.frame["was"])
            return self.observed(self.reverting)
        self._claim(self._needs(row.flavor))
        self.stand(self.frame["was"])
        self.note_migration("reverted")
        self.finished()
        return self.resting()

    def note_migration(self, status: str) -> None:
        """The resize's record."""
        server_id = self.row.id
        self.write(lambda session: migration.move(session, server_id, status))

    def _needs(self, flavor: dict[str, Any]) -> dict[str, int]:
        return needs(flavor, local_root=self.row.image_id is not None)

    def _claim(self, resources: dict[str, int]) -> None:
        """Change what the server holds of its host. Raises Failed when there is no room."""
        row, placement = self.row, self.near.placement
        home = self.home()
        if home is None:
            raise Failed(f"host {row.host} is no more")
        held = placement.allocation(row.id)
        if held["allocations"].get(home.id, {}).get("resources") == resources:
            return
        try:
            placement.claim(
                row.id, home.id, resources, project_id=row.project_id, user_id=row.user_id,
                generation=held.get("consumer_generation"),
            )  # fmt: skip
        except RemoteError as error:
            if error.status == 409 and "concurrent" not in str(error.body):
                asked = ", ".join(f"{name} {amount}" for name, amount in sorted(resources.items()))
                raise Failed(
                    f"No valid host was found. Host has no room for {asked}: {error.message}"
                ) from error
            raise
