"""Archives and lists of names."""

from __future__ import annotations

import io
import json
import socket
import tarfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from altostack.objectstore.http import ClientGone, Response
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

PIPELINE = "catch gatekeeper listing bulk token acl service"


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = peopled(tmp_path, PIPELINE)
    made.headers["x-auth-token"] = "anna"
    return made


def archive(*files: tuple[str, bytes], kind: str = "", pax: dict[str, str] | None = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(mode=f"w:{kind}", fileobj=made, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.pax_headers = dict(pax or {})
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def extract(here: World, path: str, body: bytes, kind: str = "tar", **headers: str) -> dict[str, Any]:
    answer = here.put(path, body, query={"extract-archive": kind}, accept="application/json", **headers)
    assert answer.status == 200
    told: dict[str, Any] = json.loads(answer.read())
    return told


def delete(here: World, *lines: str, **headers: str) -> dict[str, Any]:
    answer = here.post(
        "/v1/AUTH_p1", "\n".join(lines).encode("utf-8", "surrogateescape"), query={"bulk-delete": ""},
        accept="application/json", content_type="text/plain", **headers,
    )  # fmt: skip
    assert answer.status == 200
    told: dict[str, Any] = json.loads(answer.read())
    return told


@pytest.mark.parametrize("kind", ["", "gz", "bz2"])
def test_an_archive_becomes_objects(here: World, kind: str) -> None:
    body = archive(
        ("./c/a", b"one"), ("/c/b/c", b"two" * 100_000), ("d/é", b"three"), ("top", b"ignored"), kind=kind
    )
    told = extract(here, "/v1/AUTH_p1", body, f"tar.{kind}" if kind else "tar")
    assert told == {
        "Response Status": "201 Created", "Response Body": "", "Number Files Created": 3, "Errors": [],
    }  # fmt: skip
    assert here.get("/v1/AUTH_p1/c/a").read() == b"one"
    assert here.get("/v1/AUTH_p1/c/b/c").read() == b"two" * 100_000
    assert here.get("/v1/AUTH_p1/d/é").read() == b"three"


def test_below_a_path_and_with_metadata(here: World) -> None:
    here.put("/v1/AUTH_p1/c")
    pax = {
        "SCHILY.xattr.user.mime_type": "a/b",
        "LIBARCHIVE.xattr.user.meta.Lunch": "burger",
        "SCHILY.xattr.user.stuff": "whee",
    }
    told = extract(here, "/v1/AUTH_p1/c/sub/", archive(("x", b"1"), pax=pax), x_object_meta_all="yes")
    assert told["Number Files Created"] == 1
    seen = here.head("/v1/AUTH_p1/c/sub/x").headers
    assert (seen["content-type"], seen["x-object-meta-lunch"], seen["x-object-meta-all"]) == (
        "a/b",
        "burger",
        "yes",
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"nonsense" * 200, "Invalid Tar File: "),
        (b"", "Invalid Tar File: "),
        (archive(), "Invalid Tar File: No Valid Files"),
        (archive(("top", b"")), "Invalid Tar File: No Valid Files"),
    ],
)
def test_what_is_no_archive(here: World, body: bytes, words: str) -> None:
    told = extract(here, "/v1/AUTH_p1", body)
    assert told["Response Status"] == "400 Bad Request"
    assert told["Response Body"].startswith(words)
    assert here.get("/v1/AUTH_p1").status == 204


def test_an_archive_that_breaks_off(here: World) -> None:
    body = archive(("c/whole", b"x"), ("c/half", b"y" * 100_000))
    told = extract(here, "/v1/AUTH_p1", body[:50_000])
    assert told["Response Status"] == "400 Bad Request" and told["Number Files Created"] == 1
    assert here.get("/v1/AUTH_p1/c").read() == b"whole\n"
    packed = archive(("c/z", bytes(range(256)) * 4000), kind="gz")
    told = extract(here, "/v1/AUTH_p1", packed[: len(packed) // 2], "tar.gz")
    assert told["Response Status"] == "400 Bad Request"
    assert here.get("/v1/AUTH_p1/c").read() == b"whole\n"
    assert here.put("/v1/AUTH_p1", query={"extract-archive": "zip"}).status == 400


def test_everything_in_an_archive_is_asked_about(here: World) -> None:
    told = extract(here, "/v1/AUTH_p2", archive(("c/a", b"1")))
    assert (told["Response Status"], told["Number Files Created"]) == ("400 Bad Request", 0)
    assert told["Errors"] == [["/v1/AUTH_p2/c", "403 Forbidden"], ["c/a", "403 Forbidden"]]
    told = extract(here, "/v1/AUTH_p1", archive(("c/a", b"1")), x_auth_token="nobody")
    assert told["Response Status"] == "401 Unauthorized"
    told = extract(here, "/v1/AUTH_p1", archive(("c/../../x", b"1"), ("../AUTH_p2/c/x", b"2")))
    assert told["Number Files Created"] == 2  # names, and nothing but names: in this account
    assert here.get("/v1/AUTH_p1/c/../../x").read() == b"1"
    assert here.get("/v1/AUTH_p1/../AUTH_p2/c/x").read() == b"2"


def test_limits_of_extraction(tmp_path: Path) -> None:
    here = peopled(tmp_path, PIPELINE, settings={"max_object_size": 10}, options={
        "bulk": {"max_containers_per_extraction": "1", "max_failed_extractions": "2"}})  # fmt: skip
    here.headers["x-auth-token"] = "anna"
    told = extract(here, "/v1/AUTH_p1", archive(("c/a", b"1"), ("d/a", b"1")))
    assert told["Response Body"] == "More than 1 containers to create from tar."
    told = extract(here, "/v1/AUTH_p1", archive(*((f"c/{n}", b"x" * 11) for n in range(5))))
    assert told["Errors"] == [
        ["c/0", "413 Request Entity Too Large"],
        ["c/1", "413 Request Entity Too Large"],
    ]
    with pytest.raises(ValueError, match="max_deletes_per_request"):
        peopled(tmp_path, PIPELINE, options={"bulk": {"max_deletes_per_request": "many"}})


def test_names_are_deleted(here: World) -> None:
    for container in ("c", "d", "e"):
        here.put(f"/v1/AUTH_p1/{container}")
    for name in ("c/a", "c/b c", "c/é/x", "d/a"):
        here.put(f"/v1/AUTH_p1/{name}", b"x")
    told = delete(here, "/c", "/c/a", "c/b%20c", "", "/c/%C3%A9/x", "/c/none", "e")
    assert told == {
        "Response Status": "200 OK", "Response Body": "", "Number Deleted": 5, "Number Not Found": 1, "Errors": [],
    }  # fmt: skip
    assert here.get("/v1/AUTH_p1").read() == b"d\n"
    told = delete(here, "d", "/f/%00", "%FF/x")
    assert told["Response Status"] == "400 Bad Request"
    assert told["Errors"] == [["/f/%00", "412 Precondition Failed"], ["%FF/x", "412 Precondition Failed"],
                              ["d", "409 Conflict"]]  # fmt: skip


def test_deleting_asks_about_everything(here: World) -> None:
    here.put("/v1/AUTH_p1/c")
    here.put("/v1/AUTH_p1/c/a", b"x")
    told = delete(here, "c/a", x_auth_token="rita")
    assert told["Errors"] == [["c/a", "403 Forbidden"]]
    told = delete(here, "c/a", x_auth_token="nobody")
    assert told["Errors"] == [["c/a", "401 Unauthorized"]]
    told = delete(here, "../AUTH_p2/c/a")  # a name of this account
    assert told["Number Not Found"] == 1
    assert here.get("/v1/AUTH_p1/c/a").read() == b"x"


def test_limits_of_deletion(tmp_path: Path) -> None:
    limits = {"max_deletes_per_request": "3", "max_failed_deletes": "2", "delete_concurrency": "1"}
    here = peopled(tmp_path, PIPELINE, options={"bulk": limits})
    told = delete(here, "a/1", "a/2", "a/3", "a/4", x_auth_token="anna")
    assert told["Response Status"] == "413 Request Entity Too Large"
    assert told["Response Body"] == "Maximum Bulk Deletes: 3 per request"
    assert delete(here, "a/1", "a/2", "a/3")["Response Body"] == "Max delete failures exceeded"
    assert delete(here, "x" * 9000)["Response Body"] == "Invalid File Name"
    assert delete(here, "")["Response Body"] == "Invalid bulk delete."


def test_forms_of_the_report(here: World) -> None:
    def ask(accept: str, **more: str) -> Response:
        return here.post("/v1/AUTH_p1", b"c/a&b\n", query={"bulk-delete": "yes"}, accept=accept, **more)

    text = ask("text/plain").read()
    assert b"Number Deleted: 0\nNumber Not Found: 1\n" in text and b"Errors:\n" in text
    tree = ElementTree.fromstring(ask("application/xml").read())
    assert tree.tag == "delete" and tree.findtext("number_not_found") == "1"
    assert b"406 Not Acceptable" in ask("image/png").read()
    assert b"406 Not Acceptable" in ask("text/plain", content_type="application/json").read()
    assert here.ask("GET", "/v1/AUTH_p1", query={"bulk-delete": ""}).status == 204


def test_a_client_that_leaves(here: World) -> None:
    class Leaving:
        length: int | None = 100_000

        def __init__(self) -> None:
            self.rest = [archive(("c/a", b"x" * 50_000))[:20_000]]

        def read(self, size: int = -1) -> bytes:
            if self.rest:
                return self.rest.pop()
            raise ClientGone("gone")

    answer = here.put("/v1/AUTH_p1", Leaving(), query={"extract-archive": "tar"})
    assert answer.status == 499
    assert here.get("/v1/AUTH_p1/c").read() == b""


def test_a_long_answer_shows_signs_of_life_while_the_archive_still_comes(tmp_path: Path) -> None:
    here = peopled(tmp_path, PIPELINE, options={"bulk": {"yield_frequency": "0"}})
    url = here.serve()
    host, _, port = url.removeprefix("http://").partition(":")
    body = archive(*((f"c/{number}", b"x" * 10_000) for number in range(60)))
    try:
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                f"PUT /v1/AUTH_p1?extract-archive=tar HTTP/1.1\r\nHost: x\r\nX-Auth-Token: anna\r\n"
                f"Accept: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )

            def send() -> None:
                for at in range(0, len(body), 64 << 10):
                    client.sendall(body[at : at + (64 << 10)])
                    time.sleep(0.01)

            sender = threading.Thread(target=send)
            sender.start()
            got = b""
            while part := client.recv(64 << 10):
                got += part
            sender.join()
    finally:
        here.close()
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") and b"Transfer-Encoding: chunked" in head
    assert b'"Number Files Created":60' in rest and rest.endswith(b"0\r\n\r\n")
    assert b"1\r\n \r\n" in rest
