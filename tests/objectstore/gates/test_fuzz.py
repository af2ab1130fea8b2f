"""Requests made of odd pieces, through the whole pipeline as it is shipped: each gets an answer, and none a 5xx.

`python -m tests.objectstore.gates.test_fuzz SEED COUNT` makes more of them.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest

from altostack.objectstore.http import Bytes, Refusal, Request, Stream
from tests.objectstore.gates.scene import peopled
from tests.objectstore.gates.test_attacks import SHIPPED
from tests.objectstore.world import World

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "COPY", "OPTIONS", "PATCH", "REPORT")
PATHS = (
    "/v1/AUTH_p1", "/v1/AUTH_p1/c", "/v1/AUTH_p1/c/", "/v1/AUTH_p1/c/o", "/v1/AUTH_p1/c/o/", "/v1/AUTH_p1/none",
    "/v1/AUTH_p1/c/é", "/v1", "/", "//", "/v1//c", "/v1/AUTH_p1//o", "/info", "/healthcheck", "/crossdomain.xml",
    "/auth/v1.0", "/auth/", "/v1/AUTH_p2/c", "/v1.0/AUTH_p1/c/o", "/bucket", "/bucket/key", "/v1/SERVICE_p1/c/o",
)  # fmt: skip
HEADERS = (
    "accept", "content-type", "content-length", "transfer-encoding", "x-container-read", "x-container-write",
    "x-account-access-control", "origin", "access-control-request-method", "referer", "x-container-sync-to",
    "x-container-sync-auth", "x-container-sync-key", "x-timestamp", "x-copy-from", "destination", "x-delete-at",
    "x-delete-after", "range", "if-match", "if-none-match", "if-modified-since", "x-object-manifest", "x-web-mode",
    "x-service-token", "authorization", "host", "x-account-quota-bytes", "x-container-meta-quota-bytes",
    "x-container-meta-quota-count", "x-storage-policy", "x-trans-id-extra", "x-symlink-target",
    "x-versions-enabled", "etag", "x-object-meta-a", "x-backend-x", "x-container-meta-web-error", "x-auth-user",
    "x-auth-key", "x-auth-token",
)  # fmt: skip
PARAMETERS = (
    "format", "limit", "marker", "prefix", "delimiter", "path", "reverse", "end_marker", "temp_url_sig",
    "temp_url_expires", "temp_url_prefix", "temp_url_ip_range", "filename", "inline", "multipart-manifest",
    "extract-archive", "bulk-delete", "symlink", "version-id", "versions", "swiftinfo_sig", "X-Amz-Signature",
    "uploads", "acl",
)  # fmt: skip
VALUES = (
    "", "0", "-1", "1", "9" * 30, "é", "\udcff", "a,b", ":", "%", "%00", "../", "*", "*/*", "text/plain;q=",
    "application/json", "{}", "[", '{"admin":[1]}', ".r:", ".r:*", "true", "x" * 300, "\t", "'\"<", "sha256:",
    "1700000000", "2020-01-01T00:00:00Z", "//realm/c/a/c", "bytes=0-", "bytes=-", 'W/"x"', "tar", "tar.gz",
    "multipart/form-data; boundary=b", "multipart/form-data; boundary=", "AWS a:b", "AWS4-HMAC-SHA256 x",
    "Bearer anna", "anna", "AUTH_tk.", "c/o", "/c/o", "a b c", "AUTH_p1", "put", "get",
)  # fmt: skip
BODIES = (
    b"", b"x", b"c/o\nc", b"--b\r\n\r\nx\r\n--b--", b"--b", b"[]", b"{", b"\x1f\x8b\x08\0", b"\0" * 1024, b"<x/>",
    b"\xff\xfe",
)  # fmt: skip


def odd(chance: random.Random) -> Request:
    headers = {chance.choice(HEADERS): chance.choice(VALUES) for _ in range(chance.randrange(6))}
    if chance.random() < 0.6:
        headers["x-auth-token"] = chance.choice(("anna", "bert", "rita", "root"))
    body = chance.choice(BODIES)
    if chance.random() < 0.8:
        headers["content-length"] = str(len(body))
    pairs = [
        f"{chance.choice(PARAMETERS)}={quote(chance.choice(VALUES), errors='surrogateescape')}"
        if chance.random() < 0.8
        else chance.choice(("%", "%ff", "&", "=", "", "a=%ff"))
        for _ in range(chance.randrange(4))
    ]
    return Request(
        chance.choice(METHODS), quote(chance.choice(PATHS)), query_string="&".join(pairs), headers=headers,
        body=Bytes(body) if chance.random() < 0.8 else Stream([body]), remote="1.2.3.4",
    )  # fmt: skip


def scene(folder: Path) -> World:
    here = peopled(
        folder, SHIPPED.removeprefix("catch "), options={"tempauth": {"user_one_boss": "key .admin"}}
    )
    here.post("/v1/AUTH_p1", x_auth_token="anna", x_account_meta_temp_url_key="hush")
    here.put(
        "/v1/AUTH_p1/c", x_auth_token="anna", x_container_read=".r:*,.rlistings", x_container_meta_web_index="i",
        x_container_meta_web_listings="1", x_container_meta_access_control_allow_origin="*",
    )  # fmt: skip
    here.put("/v1/AUTH_p1/c/o", b"x", x_auth_token="anna")
    return here


def run(here: World, seed: int, count: int) -> None:
    """Without the filter `catch`: what is no answer and no Refusal ends the run, and shows where it came from."""
    chance = random.Random(seed)
    app = here.store.app
    assert app is not None
    for number in range(count):
        asked = odd(chance)
        try:
            answer = app(asked)
        except Refusal as refusal:
            answer = refusal.response()
        if answer.entries is None:
            answer.read()
        assert answer.status < 500 or answer.status == 501, (
            seed,
            number,
            answer.status,
            asked.method,
            asked.path,
        )


@pytest.mark.parametrize("seed", range(4))
def test_every_request_gets_an_answer(tmp_path: Path, seed: int) -> None:
    run(scene(tmp_path), seed, 400)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        run(scene(Path(made)), int(sys.argv[1]), int(sys.argv[2]))
