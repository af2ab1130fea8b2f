"""The file store: an image is there whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from altostack.image.drivers.base import NoBits, StoreError, StoreFull
from altostack.image.drivers.file import FileStore

MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "images")


def left(store: FileStore, tmp_path: Path) -> list[str]:
    """Every file in the store's folder."""
    folder = tmp_path / "images"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_was_put_is_got(store: FileStore) -> None:
    image = str(uuid4())
    content = os.urandom(3 * MIB + 17)
    assert store.put(image, [content[:MIB], b"", content[MIB:]]) == store.size(image) == len(content)
    assert b"".join(store.get(image)) == content
    assert b"".join(store.get(image, MIB - 1, 5)) == content[MIB - 1 : MIB + 4]
    assert b"".join(store.get(image, len(content) - 3, 100)) == content[-3:]
    assert store.list() == [image]
    for _ in range(2):
        store.delete(image)
    with pytest.raises(NoBits):
        store.get(image)


def test_a_stream_that_breaks_leaves_nothing(store: FileStore, tmp_path: Path) -> None:
    def broken(error: Exception) -> Iterator[bytes]:
        yield bytes(MIB)
        raise error

    with pytest.raises(ConnectionResetError):
        store.put(str(uuid4()), broken(ConnectionResetError()))
    assert left(store, tmp_path) == []


def test_a_full_disk_is_said_and_leaves_nothing(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 2 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreFull, match="no space left"):
        store.put(str(uuid4()), (bytes(MIB) for _ in range(5)))
    assert left(store, tmp_path) == []


def test_memory_does_not_grow_with_the_image(store: FileStore) -> None:
    image = str(uuid4())
    tracemalloc.start()
    store.put(image, (bytes(65536) for _ in range(1024)))
    for _ in store.get(image):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MIB


KILLED = """
import itertools, pathlib, sys
from altostack.image.drivers.file import FileStore
def forever():
    for number in itertools.count():
        if number == 8:
            print("half", flush=True)
        yield bytes(65536)
FileStore(pathlib.Path(sys.argv[1])).put(sys.argv[2], forever())
"""


def test_a_killed_upload_is_never_seen_and_can_be_repeated(store: FileStore, tmp_path: Path) -> None:
    image = str(uuid4())
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "images"), image], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.kill()
    child.communicate()
    (half,) = left(store, tmp_path)
    assert half.startswith(f"parts/{image}.")
    assert store.list() == []
    assert store.path(image) is None
    with pytest.raises(NoBits):
        store.get(image)
    store.put(image, [b"whole"])
    assert store.tidy(3600) == 0
    os.utime(tmp_path / "images" / half, (1, 1))
    assert store.tidy(3600) == 1
    assert left(store, tmp_path) == [image]
    assert b"".join(store.get(image)) == b"whole"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../../etc/passwd",
        "a",
        "2cf2cf36-5f71-49bd-8b64-0e5972074708.part",
        "2cf2cf36-5f71-49bd-8b64-0e5972074708\n",
    ],
)
def test_only_a_uuid_is_a_name(store: FileStore, name: str) -> None:
    with pytest.raises(StoreError, match="is not an image id"):
        store.put(name, [b"x"])
    with pytest.raises(StoreError, match="is not an image id"):
        store.get(name)
