"""The lifecycle of a server. One flow a server; whatever is asked of it is a signal taken while it rests.

::

    schedule -> network -> [block_devices] -> [plug] -> spawn -> rest <-> power, reboot, resize, snapshot, attach, ...
        \\__________ any failure: ERROR with a fault, abandon ___/
    any step -- delete --> destroy
"""

from __future__ import annotations

from altostack.compute.server_build import BUILDING_STEPS, Build
from altostack.compute.server_devices import Devices
from altostack.compute.server_end import End
from altostack.compute.server_power import Power
from altostack.compute.server_resize import Resize
from altostack.compute.server_row import ACTIVE, ERROR, PAUSED, SHUTDOWN, STOPPED, SUSPENDED
from altostack.kit.flow import Next, hop, wait

_DEVICES = (
    "attach",
    "attaching",
    "detaching",
    "extend",
    "extending",
    "plug_in",
    "plugging",
    "pulling",
    "refresh",
)
_SNAPSHOT = ("snapshot_begin", "snapshot")


class ServerLife(Build, Power, Resize, Devices, End):
    """All parts together."""

    first = "schedule"

    def rest(self) -> Next:
        """Take the oldest thing that was asked; else see whether the guest changed by itself."""
        while self.signals:
            name = self.signals[0].name
            begin = getattr(self, f"on_{name}", None)
            asked = self.take(name)
            if begin is not None and asked is not None:
                following: Next = begin(asked)
                return following
        self._notice()
        return wait()

    def _notice(self) -> None:
        """A guest that went off by itself is a stopped server: it is not started again behind its user's back."""
        row = self.row
        if row.task_state is not None or row.seen.get("generation", -1) < row.generation:
            return
        power, wanted = row.seen.get("power"), row.wanted.get("power")
        if power in ("shutoff", "missing") and row.vm_state in (ACTIVE, PAUSED) and wanted != "shutoff":
            self.say(f"the guest went off by itself: {row.seen.get('reason') or 'no reason given'}")
            row.vm_state, row.power_state = STOPPED, SHUTDOWN
            self.want(power="shutoff")
        elif power == "running" and row.vm_state in (STOPPED, SUSPENDED) and wanted != "running":
            self.say("the guest runs although it should not; stopping it", level="warning")
            self.want(power="shutoff" if row.vm_state == STOPPED else "suspended")

    def failed(self, name: str, reason: str) -> Next:
        """What becomes of the server when step ``name`` failed: never silence, always a fault that names the step."""
        row = self.row
        if name in BUILDING_STEPS:
            row.vm_state, row.task_state = ERROR, None
            story = (
                reason if name == "schedule" else f"Build of instance {row.id} aborted: step {name}: {reason}"
            )
            self.blame(story, f"step {name}: {reason}")
            self.finished(reason)
            return hop(self.abandon)
        if name == "abandon":
            return self.resting()
        self.blame(f"step {name}: {reason}")
        self.finished(reason)
        if name in _DEVICES:
            return self.undo_device(name, reason) or self.resting()
        row.task_state = None
        if name in _SNAPSHOT:
            self.discard_image()
            self.give_up()
        elif name == "resize_claim":
            self.note_migration("error")  # nothing was changed yet
        elif name == "power" and row.seen.get("generation", -1) >= row.generation:
            self.stand_as_seen()
            self.give_up()
        else:
            row.vm_state = ERROR
            self.note_migration("error")
            self.give_up()
        return self.resting()
