"""Uploads from web pages."""

from __future__ import annotations

import hmac
import time
from pathlib import Path

import pytest

from altostack.objectstore.http import Bytes, Refusal, Response, Stream
from altostack.objectstore.middleware.multipart import Multipart, parameters
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

BASE = "/v1/AUTH_p1/c/up_"
LATER = str(int(time.time()) + 600)


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = peopled(tmp_path, "catch gatekeeper listing formpost token acl service")
    made.headers["x-auth-token"] = "anna"
    made.post("/v1/AUTH_p1", x_account_meta_temp_url_key="hush")
    made.put("/v1/AUTH_p1/c", x_container_meta_temp_url_key_2="mine")
    made.headers.clear()
    return made


def form(
    *files: tuple[str, bytes],
    path: str = BASE,
    key: str = "hush",
    digest: str = "sha256",
    boundary: str = "----x",
    types: dict[str, str] | None = None,
    **fields: str,
) -> bytes:
    told = {"max_file_size": "100", "max_file_count": "3", "expires": LATER} | fields
    if "signature" not in told:
        text = "\n".join(
            (path, told.get("redirect", ""), told["max_file_size"], told["max_file_count"], told["expires"])
        )
        told["signature"] = hmac.new(key.encode(), text.encode(), digest).hexdigest()
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in told.items()
    ]
    for number, (name, content) in enumerate(files):
        kind = (types or {}).get(name, "text/plain")
        head = f'Content-Disposition: form-data; name="f{number}"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
        parts.append(head.encode() + content)
    line = f"--{boundary}\r\n".encode()
    return b"".join(line + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def post(here: World, body: bytes, path: str = BASE, boundary: str = "----x", **headers: str) -> Response:
    return here.post(
        path, body, content_type=f"multipart/form-data; boundary={boundary}", user_agent="browser", **headers
    )


def read(here: World, path: str) -> bytes | int:
    answer = here.get(path, x_auth_token="anna")
    return answer.read() if answer.status == 200 else answer.status


def test_files_become_objects(here: World) -> None:
    answer = post(here, form(("a.txt", b"first"), ("b", b"\r\n--second\r\n"), types={"b": "image/png"}))
    assert (answer.status, answer.read()) == (201, b"201 Created")
    assert read(here, BASE + "a.txt") == b"first"
    assert read(here, BASE + "b") == b"\r\n--second\r\n"
    assert here.head(BASE + "b", x_auth_token="anna").headers["content-type"] == "image/png"


@pytest.mark.parametrize(("key", "digest"), [("hush", "sha512"), ("mine", "sha256"), ("mine", "sha1")])
def test_keys_and_digests(here: World, key: str, digest: str) -> None:
    assert post(here, form(("a", b"x"), key=key, digest=digest)).status == 201


def test_digests_are_for_operators_to_allow(tmp_path: Path, here: World) -> None:
    strict = peopled(
        tmp_path, "formpost token acl service", options={"formpost": {"allowed_digests": "sha512"}}
    )
    assert post(strict, form(("a", b"x"), digest="sha1")).status == 401
    assert post(strict, form(("a", b"x"), digest="sha512")).status == 201
    assert strict.store.facts["formpost"] == {"allowed_digests": ["sha512"]}


def test_the_container_itself(here: World) -> None:
    for path in ("/v1/AUTH_p1/c", "/v1/AUTH_p1/c/"):
        assert post(here, form(("a", b"x"), path=path), path=path).status == 201
        assert read(here, "/v1/AUTH_p1/c/a") == b"x"


def test_going_on(here: World) -> None:
    answer = post(here, form(("a", b"x"), redirect='http://there/?q="1'))
    assert answer.status == 303
    assert answer.headers["location"] == 'http://there/?q="1&status=201&message='
    assert b'href="http://there/?q=&quot;1&amp;status=201' in answer.read()
    answer = post(here, form(redirect="http://there"))
    assert answer.headers["location"] == "http://there?status=400&message=no%20files%20to%20process"


def test_nobody_is_sent_where_the_owner_did_not_say(here: World) -> None:
    answer = post(here, form(redirect="http://evil", key="guess"))
    assert answer.status == 401 and "location" not in answer.headers


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"expires": "7"}, 401, b"FormPost: Form Expired"),
        ({"expires": "soon"}, 400, b"FormPost: expires not an integer"),
        ({"key": "guess"}, 401, b"FormPost: Invalid Signature"),
        ({"signature": "00"}, 401, b"FormPost: Invalid Signature"),
        ({"signature": "sha256:%%"}, 401, b"FormPost: Invalid Signature"),
        ({"path": "/v1/AUTH_p1/c/other"}, 401, b"FormPost: Invalid Signature"),
        ({"max_file_size": "4"}, 400, b"FormPost: max_file_size exceeded"),
        ({"max_file_size": "many"}, 400, b"FormPost: max_file_size not an integer"),
        ({"max_file_count": "0"}, 400, b"400 Bad Request\r\nFormPost: Max File Count Exceeded"),
        ({"x_delete_at": "soon"}, 400, b"FormPost: x_delete_at not an integer"),
        ({"x_delete_after": "-1"}, 400, b"FormPost: x_delete_after not an integer"),
    ],
)
def test_what_is_wrong_with_a_form(here: World, fields: dict[str, str], status: int, words: bytes) -> None:
    answer = post(here, form(("a", b"hello"), **fields))
    assert answer.status == status and answer.read().startswith(words)
    assert read(here, BASE + "a") == 404


def test_too_many_files(here: World) -> None:
    answer = post(here, form(("a", b"1"), ("b", b"2"), max_file_count="1"))
    assert answer.status == 400 and b"Max File Count Exceeded" in answer.read()
    assert (read(here, BASE + "a"), read(here, BASE + "b")) == (b"1", 404)


def test_what_is_no_form(here: World) -> None:
    assert post(here, b"nonsense").read() == b"FormPost: invalid starting boundary"
    whole = form(("a", b"hello"))
    for cut in (len(whole) - 30, len(whole) // 2, 60):
        assert post(here, whole[:cut]).status == 400
        assert read(here, BASE + "a") == 404
    assert here.post(BASE, whole, content_type="text/plain").status == 401  # no form: a POST like any other
    assert post(here, whole, path="/v1/AUTH_p1").status == 401
    assert post(here, whole, path="/elsewhere").status == 412  # a form of S3, if anything


def test_times_and_encodings(here: World) -> None:
    answer = post(
        here, form(("a", b"x"), x_delete_after="100", **{"content-encoding": "gzip", "content-type": "a/b"})
    )
    assert answer.status == 201
    seen = here.head(BASE + "a", x_auth_token="anna").headers
    assert (seen["content-encoding"], seen["content-type"]) == ("gzip", "a/b")
    assert int(seen["x-delete-at"]) > time.time()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_parts_whatever_the_pieces_they_come_in(step: int) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    body += b"--b\r\n\r\nx\r\n--\r\n--b\r\nA: 1\r\n\r\n\r\n--b--"
    stream = Stream([body[at : at + step] for at in range(0, len(body), step)])
    parts = [(part.headers, part.read()) for part in Multipart(stream, "b")]
    assert parts == [
        ({"content-disposition": 'form-data; name="a"'}, b""), ({}, b"x\r\n--"), ({"a": "1"}, b""),
    ]  # fmt: skip


def test_unread_parts_are_passed_over() -> None:
    body = b"--b\r\n\r\n" + b"x" * 300_000 + b"\r\n--b\r\n\r\nlast\r\n--b--"
    parts = list(Multipart(Bytes(body), "b"))
    assert len(parts) == 2


@pytest.mark.parametrize(
    "body", [b"", b"--b", b"--b\r\nno colon\r\n\r\nx\r\n--b--", b"--b\r\n" + b"a: b\r\n" * 9999]
)
def test_broken_parts(body: bytes) -> None:
    with pytest.raises(Refusal):
        list(Multipart(Bytes(body), "b"))


def test_parameters() -> None:
    assert parameters('Form-Data; name="a;b"; FileName="c\\"d"; x=y ') == (
        "form-data", {"name": "a;b", "filename": 'c"d', "x": "y"},
    )  # fmt: skip
