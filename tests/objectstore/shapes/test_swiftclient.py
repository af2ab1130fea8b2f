"""What python-swiftclient does with large objects, versions, links and copies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import swiftclient
from swiftclient.service import SwiftCopyObject, SwiftError, SwiftService, SwiftUploadObject

from tests.objectstore.shapes.conftest import PIPELINE
from tests.objectstore.world import World, world

CONTENT = bytes(range(256)) * 300


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[World, swiftclient.Connection, SwiftService]]:
    store = world(tmp_path, pipeline=PIPELINE)
    url = f"{store.serve()}/v1/a"
    connection = swiftclient.Connection(preauthurl=url, preauthtoken="t", retries=0)
    # The service does not begin without an auth_url; with both others it never asks it.
    options = {
        "auth_version": "1.0", "os_storage_url": url, "os_auth_token": "t", "auth": f"{url}/auth", "user": "u",
        "key": "k", "retries": 0,
    }  # fmt: skip
    with SwiftService(options) as service:
        yield store, connection, service
    connection.close()
    store.close()


@pytest.mark.parametrize("slo", [True, False])
def test_segmented_uploads(
    served: tuple[World, swiftclient.Connection, SwiftService], tmp_path: Path, slo: bool
) -> None:
    _, connection, service = served
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    options = {"segment_size": "20000", "use_slo": slo}
    for _ in range(2):  # the second time nothing has changed, or the old segments go
        done = list(service.upload("c", [SwiftUploadObject(str(file), object_name="big")], options))
        assert all(one["success"] for one in done), done
    headers, body = connection.get_object("c", "big")
    assert body == CONTENT
    assert ("x-static-large-object" in headers) == slo
    assert ("x-object-manifest" in headers) == (not slo)
    assert len(connection.get_container("c_segments")[1]) == 4
    out = tmp_path / "out"
    done = list(service.download("c", ["big"], {"out_file": str(out)}))
    assert all(one["success"] for one in done), done
    assert out.read_bytes() == CONTENT
    done = list(service.delete("c", ["big"]))
    assert all(one["success"] for one in done), done
    assert connection.get_container("c_segments")[1] == []


def test_versions(served: tuple[World, swiftclient.Connection, SwiftService], tmp_path: Path) -> None:
    _, connection, service = served
    connection.put_container("v", headers={"X-Versions-Enabled": "true"})
    for content in (b"one", b"two"):
        connection.put_object("v", "o", content)
    connection.delete_object("v", "o")
    (page,) = list(service.list("v", {"versions": True}))
    assert page["success"]
    found = page["listing"]
    assert [one["is_latest"] for one in found] == [True, False, False]
    oldest = found[-1]["version_id"]
    assert connection.get_object("v", "o", query_string=f"version-id={oldest}")[1] == b"one"
    done = list(service.delete("v", ["o"], {"version_id": oldest}))
    assert all(one["success"] for one in done), done
    assert len(connection.get_container("v", query_string="versions")[1]) == 2
    done = list(service.delete("v", options={"versions": True}))
    assert all(one["success"] for one in done), done
    with pytest.raises(swiftclient.ClientException):
        connection.head_container("v")


def test_links_and_copies(served: tuple[World, swiftclient.Connection, SwiftService]) -> None:
    _, connection, service = served
    connection.put_container("c")
    connection.put_object("c", "o", b"content", headers={"X-Object-Meta-A": "b"})
    connection.put_object("c", "link", b"", headers={"X-Symlink-Target": "c/o"})
    assert connection.get_object("c", "link")[1] == b"content"
    done = list(service.copy("c", [SwiftCopyObject("o", {"destination": "/d/copy"})], {"meta": ["c:d"]}))
    assert all(one["success"] for one in done), done
    headers, body = connection.get_object("d", "copy")
    assert (body, headers["x-object-meta-a"], headers["x-object-meta-c"]) == (b"content", "b", "d")
    with pytest.raises((swiftclient.ClientException, SwiftError)):
        connection.copy_object("c", "none", "/d/x")
