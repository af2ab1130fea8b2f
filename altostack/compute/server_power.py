"""The part of a server's life that is about power: start, stop, reboot, pause, suspend and their opposites."""

from __future__ import annotations

from typing import Any

from altostack.compute.server_flow import ServerFlow
from altostack.kit.flow import Next, step


class Power(ServerFlow):
    """Each signal asks the node for a level of power; `power` waits until it is so."""

    def on_start(self, asked: dict[str, Any]) -> Next:
        return self._level("running")

    def on_stop(self, asked: dict[str, Any]) -> Next:
        return self._level("shutoff")

    def on_pause(self, asked: dict[str, Any]) -> Next:
        return self._level("paused")

    def on_unpause(self, asked: dict[str, Any]) -> Next:
        return self._level("running")

    def on_suspend(self, asked: dict[str, Any]) -> Next:
        return self._level("suspended")

    def on_resume(self, asked: dict[str, Any]) -> Next:
        return self._level("running")

    def on_reboot(self, asked: dict[str, Any]) -> Next:
        self.row.task_state = "reboot_started_hard" if asked["hard"] else "reboot_started"
        return self._level("running", name="reboot", hard=asked["hard"])

    def on_rebuild(self, asked: dict[str, Any]) -> Next:
        """A fresh root disk, of the old image or another; ports and volumes stay."""
        row = self.row
        row.image_id, row.image = asked["image_id"], asked["image"]
        row.task_state = "rebuild_spawning"
        self.frame["was"] = asked["was"]
        return self._level("shutoff" if asked["was"] == "stopped" else "running", name="rebuild")

    def _level(self, power: str, **verb: Any) -> Next:
        self.want(power=power, **verb)
        return self.observed(self.power)

    @step(deadline=600)
    def power(self) -> Next:
        """Wait until the node brought the guest to the level that is wanted."""
        row = self.row
        if not self.settled():
            return self.pending()
        self.stand(row.wanted["power"])
        row.fault = None
        self.finished()
        return self.resting()
