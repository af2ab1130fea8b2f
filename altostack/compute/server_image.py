"""The part of a server's life in which an image is made of its disk."""

from __future__ import annotations

from typing import Any

from altostack.compute.server_flow import ServerFlow
from altostack.kit.flow import Failed, Next, hop, step, wait


class Snapshot(ServerFlow):
    """snapshot: the node writes the disk into a file and uploads it into an image that the request made."""

    def on_snapshot(self, asked: dict[str, Any]) -> Next:
        self.frame["image"] = asked["image_id"]
        return hop(self.snapshot_begin)

    def snapshot_begin(self) -> Next:
        """Let the node fill the image."""
        image = self.near.image.show(self.frame["image"])
        if image is None:
            raise Failed(f"image {self.frame['image']} was deleted meanwhile")
        with self.final():
            self.near.image.uploader(self.frame["image"], self.row.host or "")
        self.row.task_state = "image_uploading"
        self.want(name="snapshot", image_id=self.frame["image"])
        return self.observed(self.snapshot)

    @step(deadline=3600)
    def snapshot(self) -> Next:
        """Wait until the image has its bits."""
        if self.row.seen.get("generation", -1) < self.row.generation:
            return self.pending()
        image = self.near.image.show(self.frame["image"])
        if image is None or image["status"] in ("killed", "deleted"):
            raise Failed(f"image {self.frame['image']} was deleted meanwhile")
        if image["status"] != "active":
            self.settled()  # unless the node says what went wrong, the bits are still being judged
            return wait(seconds=0.5)
        self.frame.pop("image")
        self.row.task_state = None
        self.finished()
        return self.resting()

    def discard_image(self) -> None:
        """Remove an image that will never have its bits."""
        image_id = self.frame.get("image")
        image = self.near.image.show(image_id) if image_id else None
        if image is not None and image["status"] in ("queued", "saving"):
            self.near.image.delete(image["id"])
        self.frame.pop("image", None)
