"""The image service beside the real identity service: unified limits, and imports from its own region."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.inprocess import InProcessCloud
from altostack.kit.clients import RemoteError

pytestmark = pytest.mark.everywhere


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[InProcessCloud]:
    made = InProcessCloud(tmp_path, services=("identity", "image"), hosts=())
    yield made
    made.stop()


def test_unified_limits(cloud: InProcessCloud) -> None:
    identity, image = cloud.client("identity"), cloud.client("image")
    admin, demo = cloud.token("admin"), cloud.token("demo")
    service = identity.call("GET", "/v3/services?type=image", token=admin)["services"][0]["id"]
    limit = {"service_id": service, "resource_name": "image_count_total", "default_limit": 1}
    identity.call("POST", "/v3/registered_limits", {"registered_limits": [limit]}, token=admin)
    image.call("POST", "/v2/images", {}, token=demo)
    with pytest.raises(RemoteError, match="image_count_total") as found:
        image.call("POST", "/v2/images", {}, token=demo)
    assert found.value.status == 413
    usage = image.call("GET", "/v2/info/usage", token=demo)["usage"]
    assert usage["image_count_total"] == {"usage": 1, "limit": 1}
    project = identity.call("GET", "/v3/projects?name=demo", token=admin)["projects"][0]["id"]
    own = {
        "service_id": service,
        "resource_name": "image_count_total",
        "resource_limit": 2,
        "project_id": project,
    }
    identity.call("POST", "/v3/limits", {"limits": [own]}, token=admin)
    cloud.cloud.runtimes["image"].memo.clear()  # instead of waiting for what is remembered to grow old
    image.call("POST", "/v2/images", {}, token=demo)
    with pytest.raises(RemoteError, match="2 of 2"):
        image.call("POST", "/v2/images", {}, token=demo)


def test_an_import_from_its_own_region(cloud: InProcessCloud) -> None:
    image, demo = cloud.client("image"), cloud.token("demo")
    body = {"disk_format": "raw", "container_format": "bare"}
    source, key = (image.call("POST", "/v2/images", body, token=demo)["id"] for _ in range(2))
    headers = {"Content-Type": "application/octet-stream"}
    image.send("PUT", f"/v2/images/{source}/file", b"bits", token=demo, headers=headers).read()
    method = {"name": "glance-download", "glance_image_id": source, "glance_region": "RegionOne"}
    image.call("POST", f"/v2/images/{key}/import", {"method": method}, token=demo)
    cloud.settle()
    assert image.call("GET", f"/v2/images/{key}", token=demo)["status"] == "active"
    assert image.send("GET", f"/v2/images/{key}/file", token=demo).read() == b"bits"
    method["glance_region"] = "elsewhere"
    other = image.call("POST", "/v2/images", body, token=demo)["id"]
    image.call("POST", f"/v2/images/{other}/import", {"method": method}, token=demo)
    cloud.settle()
    task = image.call("GET", f"/v2/images/{other}/tasks", token=demo)["tasks"][0]
    assert (task["status"], "elsewhere" in task["message"]) == ("failure", True)
