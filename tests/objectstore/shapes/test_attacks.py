"""What must not be possible, and what must not be a server's error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from altostack.objectstore.http import Bytes, Request, ask
from tests.objectstore.shapes.clients import LENIENT, limited
from tests.objectstore.world import World

TEXT = st.text(alphabet=st.sampled_from('abcov/%?&=;"\\, \x01\x02\U0010ffffü\udcff0019'), max_size=12)
VALUES = TEXT | st.sampled_from(
    ["c/o", "/c/o", "v/o", "c/%FF", "c/%00", "c/%F4%8F%BF%BF", "bytes=0-5", "true", "*", "v"]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "x-copy-from", "x-copy-from-account", "destination", "destination-account", "x-symlink-target",
            "x-symlink-target-account", "x-symlink-target-etag", "x-object-manifest", "x-versions-location",
            "x-history-location", "x-versions-enabled", "x-fresh-metadata", "range", "if-match", "if-none-match",
            "if-range", "etag", "content-type", "accept", "x-object-meta-a", "x-static-large-object", "x-delete-at",
        ]
    ),
    VALUES,
    max_size=4,
)  # fmt: skip
QUERIES = st.dictionaries(
    st.sampled_from(
        ["multipart-manifest", "format", "symlink", "version-id", "versions", "marker", "version_marker", "prefix",
         "delimiter", "limit", "reverse", "end_marker", "part-number", "heartbeat"]
    ),
    st.sampled_from(
        ["get", "put", "delete", "raw", "null", "", "1", "1.5", "9" * 5000, "x", "\U0010ffff", "%FF", "on"]
    ),
    max_size=3,
)  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["/c/o", "0-1", "YQ=="])
)
MANIFESTS = st.lists(
    st.dictionaries(
        st.sampled_from(["path", "etag", "size_bytes", "range", "data", "x"]), SCALARS, max_size=4
    ),
    max_size=3,
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=LENIENT,
)
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS"]),
    path=st.sampled_from(
        ["/v1/a", "/v1/a/c", "/v1/a/v", "/v1/a/c/o", "/v1/a/v/o", "/v1/a/c/slo", "/v1/a/c/dlo", "/v1/a/x/y"]
    ),
    headers=HEADERS,
    query=QUERIES,
    body=MANIFESTS | st.just([]),
)
def test_nonsense_is_the_clients_error(
    container: World, method: str, path: str, headers: dict[str, str], query: dict[str, str], body: list[Any]
) -> None:
    if container.head("/v1/a/v").status == 404:
        container.put("/v1/a/v", x_versions_enabled="true")
    for name in ("c", "v"):
        container.put(f"/v1/a/{name}/o", b"content")
    container.put("/v1/a/c/slo", b'[{"path": "/c/o"}]', query={"multipart-manifest": "put"})
    container.put("/v1/a/c/dlo", b"", x_object_manifest="c/o")
    text = json.dumps(body).encode() if body else b""
    if method in ("GET", "HEAD", "DELETE", "COPY", "OPTIONS"):
        text = b""
    request = Request(
        method, path, query_string=urlencode(query), body=Bytes(text),
        headers={"content-length": str(len(text))} | headers,
    )  # fmt: skip
    assert container.store.app is not None
    answer = ask(container.store.app, request)
    if not (path.startswith("/v1/a/c") and answer.status == 200):
        answer.read()
    answer.close()
    assert answer.status < 500


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'[{"path": "\\ud800/x"}]', b"\xff\xfe", b"[" + b"1" * 5000 + b"]"]
)
def test_manifests_that_break_parsers(container: World, text: bytes) -> None:
    assert container.put("/v1/a/c/o", text, query={"multipart-manifest": "put"}).status == 400


def files(folder: Path) -> set[Path]:
    return {
        path
        for path in (folder / "objectstore" / "devices").rglob("*")
        if path.suffix in (".data", ".ts", ".meta")
    }


def test_nobody_leaves_tombstones_of_what_never_was(container: World, tmp_path: Path) -> None:
    container.put("/v1/a/v", x_versions_enabled="true")
    container.put("/v1/a/s", x_versions_location="c")
    container.put("/v1/a/v/o", b"x")
    before = files(tmp_path)
    assert before
    for number in range(5):
        version = f"{number}.0"
        assert container.delete("/v1/a/v/o", query={"version-id": version}).status == 404
        assert container.delete(f"/v1/a/none/{number}").status == 404
        for path in (f"/v1/a/v/{number}", f"/v1/a/s/{number}", f"/v1/a/c/{number}"):
            assert limited(container, read=("v", "s", "c"))("DELETE", path).status == 403
        answer = container.delete(f"/v1/a/none/{number}", query={"multipart-manifest": "delete"})
        assert b"Number Not Found: 1" in answer.read()
    assert files(tmp_path) == before


def test_whoever_breaks_off_leaves_no_file_open(container: World) -> None:
    """Downloads of large objects that are ended by the client in their midst (OSSA-2016-004)."""
    content = bytes(1 << 20)
    for number in range(3):
        container.put(f"/v1/a/segments/{number}", content)
    body = json.dumps([{"path": f"/segments/{number}"} for number in range(3)]).encode()
    container.put("/v1/a/c/slo", body, query={"multipart-manifest": "put"})
    container.put("/v1/a/c/dlo", b"", x_object_manifest="segments/")
    container.get("/v1/a/c/slo").read()
    before = len(os.listdir("/proc/self/fd"))
    for name in ("slo", "dlo"):
        for said in ({}, {"range": "bytes=100-2000000"}, {"range": "bytes=0-5,1000000-2500000"}):
            for reads in (0, 1, 3):
                answer = container.get(f"/v1/a/c/{name}", **said)
                parts = iter(answer.body)  # type: ignore[arg-type] # not bytes here
                for _ in range(reads):
                    next(parts)
                getattr(parts, "close", lambda: None)()
                answer.close()
    assert len(os.listdir("/proc/self/fd")) == before
