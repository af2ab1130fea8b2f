"""Images in the object store: there whole or not at all, in segments of a size of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from altostack.image.drivers.base import NoBits, StoreError
from altostack.image.drivers.objectstore import ObjectStore
from altostack.inprocess import running
from altostack.kit.clients import Client, HttpTransport
from tests.objectstore.world import World, world

MIB = 1 << 20
ACCOUNT = "/v1/AUTH_images"


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[World]:
    made = world(tmp_path, pipeline="catch gatekeeper listing slo service")
    yield made
    made.close()


@pytest.fixture
def store(objects: World) -> ObjectStore:
    client = Client("objectstore", HttpTransport(objects.serve()))
    return ObjectStore(client, lambda: ACCOUNT, segment_size=MIB)


def left(objects: World) -> list[str]:
    """The names of all objects of the account."""
    found = []
    for container in ("images", "images-segments"):
        answer = objects.get(f"{ACCOUNT}/{container}")
        found += answer.read().decode().split() if answer.status == 200 else []
    return found


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17])
def test_what_was_put_is_got(store: ObjectStore, size: int) -> None:
    image = str(uuid4())
    content = os.urandom(size)
    assert store.put(image, [content[:MIB], b"", content[MIB:]]) == store.size(image) == size
    assert b"".join(store.get(image)) == content
    for start, length in ((0, 1), (MIB - 1, 5), (max(0, size - 3), 100), (size, 1), (0, 0)):
        assert b"".join(store.get(image, start, length)) == content[start : start + length]
    assert store.list() == [image]
    for _ in range(2):
        store.delete(image)
    with pytest.raises(NoBits):
        store.get(image)
    with pytest.raises(NoBits):
        store.size(image)


def test_deleting_leaves_nothing(store: ObjectStore, objects: World) -> None:
    image, other = str(uuid4()), str(uuid4())
    store.put(image, [bytes(3 * MIB)])
    store.put(other, [b"x"])
    store.delete(image)
    assert {name.partition("/")[0] for name in left(objects)} == {other}


def test_a_stream_that_breaks_leaves_nothing(store: ObjectStore, objects: World) -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(2 * MIB + 5)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(str(uuid4()), broken())
    assert left(objects) == []


def test_what_a_dead_upload_left_goes_when_it_is_old(store: ObjectStore, objects: World) -> None:
    whole, cut = str(uuid4()), str(uuid4())
    store.put(whole, [bytes(MIB + 1)])
    objects.put(f"{ACCOUNT}/images-segments/{cut}/ab/00000000", b"half")
    assert store.tidy(3600) == 0
    assert store.tidy(-1) == 1
    assert b"".join(store.get(whole)) == bytes(MIB + 1)
    assert not [name for name in left(objects) if name.startswith(cut)]


@pytest.mark.parametrize("name", ["", "..", "../x", "a", "2cf2cf36-5f71-49bd-8b64-0e5972074708\n"])
def test_only_a_uuid_is_a_name(store: ObjectStore, name: str) -> None:
    with pytest.raises(StoreError, match="is not an image id"):
        store.put(name, [b"x"])


def test_no_object_store_is_said() -> None:
    store = ObjectStore(Client("objectstore", HttpTransport("http://127.0.0.1:1")), lambda: ACCOUNT)
    with pytest.raises(StoreError, match="objectstore"):
        store.put(str(uuid4()), [b"x"])


def test_the_image_service_keeps_images_there(tmp_path: Path) -> None:
    settings = {"image": {"stores": {"objects": {"type": "objectstore"}}, "default_store": "objects"}}
    with running(tmp_path, settings=settings, services=("identity", "image", "objectstore")) as cloud:
        cloud.serve()
        images, token = cloud.client("image"), cloud.token("demo")
        body = {"name": "i", "disk_format": "raw", "container_format": "bare"}
        image = images.call("POST", "/v2/images", body, token=token)["id"]
        content = os.urandom(MIB)
        kind = {"Content-Type": "application/octet-stream"}
        sent = images.send("PUT", f"/v2/images/{image}/file", content, token=token, headers=kind)
        assert (sent.status, sent.read()) == (204, b"")
        assert images.call("GET", f"/v2/images/{image}", token=token)["stores"] == "objects"
        assert images.send("GET", f"/v2/images/{image}/file", token=token).read() == content
        assert images.send("DELETE", f"/v2/images/{image}", token=token).status == 204
        cloud.settle()
        assert images.send("GET", f"/v2/images/{image}/file", token=token).status == 404
