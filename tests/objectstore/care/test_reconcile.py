"""Objects under another policy than their container's come to the right one."""

from __future__ import annotations

import os
from pathlib import Path

from altostack.objectstore.care.reconcile import Reconciler
from tests.objectstore.care.cluster import Cluster

POLICIES = {
    "standard": {"index": 0, "default": True},
    "ec": {"index": 1, "type": "erasure_coding", "data": 2, "parity": 1, "segment_size": 4096},
}


def test_objects_move_to_their_containers_policy(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, settings={"policies": POLICIES})
    assert cluster.w.put("/v1/a/e", x_storage_policy="ec").status == 201
    bodies = {"small": b"x", "large": os.urandom(50_000), "empty": b""}
    for name, body in bodies.items():  # as a proxy does that believes the container to be of another policy
        headers = {"x_backend_storage_policy_index": "0", "x_object_meta_color": "red", "content_type": "a/b"}
        assert cluster.w.put(f"/v1/a/e/{name}", body, **headers).status == 201
    cluster.w.put("/v1/a/e/right", b"right")
    at = cluster.w.head("/v1/a/e/small", x_backend_storage_policy_index="0").headers["x-timestamp"]
    reconciler = Reconciler(cluster.care)
    did = [reconciler.run(name).did for name in cluster.names]
    assert sum(one.get("moved", 0) for one in did) == 3
    assert not any(one.get("failed") for one in did)
    for name, body in bodies.items():
        got = cluster.w.get(f"/v1/a/e/{name}")
        assert got.read() == body
        assert (got.headers["x-object-meta-color"], got.headers["content-type"]) == ("red", "a/b")
        assert cluster.w.get(f"/v1/a/e/{name}", x_backend_storage_policy_index="0").status == 404
    assert cluster.w.head("/v1/a/e/small").headers["x-timestamp"] == at
    listed = cluster.w.get("/v1/a/e").entries or []
    assert [one["name"] for one in listed] == ["empty", "large", "right", "small"]
    info = cluster.care.homes("a", "e")[0]
    assert info.node.info(info.spot, "a", "e").count == 4
    for name in cluster.names:
        assert "moved" not in reconciler.run(name).did
    assert all(reconciler.run(name).did == {} for name in cluster.names)
