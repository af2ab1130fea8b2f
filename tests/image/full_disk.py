"""A disk that is full, played out in a mount namespace of its own: run it under ``unshare --mount``.

Its argument is an empty folder; what it makes there is gone when the namespace is.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

from altostack.image.config import Imports
from tests.image.stand import TWO, Glance
from tests.image.web import serving

MIB = 1 << 20


def main(folder: Path) -> None:
    """Raises AssertionError when anything is answered wrongly or left behind."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "altostack-full", str(disk)], check=True)
    state = folder / "state"
    state.mkdir()
    for name in ("images", "images-second", "image-staging", "image-cache"):
        (disk / name).mkdir()
        (state / name).symlink_to(disk / name)

    def free() -> int:
        found = os.statvfs(disk)
        return found.f_bavail * found.f_frsize

    with serving() as web:
        glance = Glance(
            state, allow=web.host, stores=TWO, imports=Imports(decompress=True, convert_to="qcow2")
        )
        empty = free()

        def queued(key: str) -> None:
            assert glance.show(key)["status"] == "queued", glance.show(key)
            assert glance.left() == [], glance.left()
            assert free() == empty, (free(), empty)

        key = glance.make()["id"]
        for chunked in (False, True):  # told beforehand how much it is, and not
            for to in ("file", "stage"):
                bits = (os.urandom(MIB) for _ in range(16)) if chunked else os.urandom(16 * MIB)
                answer = glance.put(key, bits, to=to)
                text = answer.read()
                assert (answer.status, b"not enough space" in text) == (413, True), (answer.status, text)
                queued(key)
        web.files["/big"] = os.urandom(16 * MIB)
        glance.bring(key, "web-download", uri=web.url("/big"))
        assert "no space left" in glance.task(key)["message"], glance.task(key)
        queued(key)
        glance.put(
            key, os.urandom(3 * MIB), to="stage"
        ).read()  # as raw, as qcow2 and in two stores: too much
        glance.bring(key, "glance-direct", all_stores=True)
        assert "space" in glance.task(key)["message"].lower(), glance.task(key)
        queued(key)
        packed = glance.make(container_format="compressed")["id"]
        glance.put(packed, gzip.compress(bytes(2 * MIB) + os.urandom(4 * MIB)), to="stage").read()
        glance.bring(packed, "glance-direct")
        assert "no space left" in glance.task(packed)["message"], glance.task(packed)
        queued(packed)
        assert glance.put(key, os.urandom(2 * MIB)).status == 204  # there is room again
        assert len(glance.bits(key)) == 2 * MIB
        glance.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    print("as it should be")
