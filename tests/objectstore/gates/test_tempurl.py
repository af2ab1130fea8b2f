"""Temporary URLs."""

from __future__ import annotations

import base64
import hmac
import time
from pathlib import Path

import pytest

from altostack.objectstore.http import Response
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

PIPELINE = "catch gatekeeper listing bulk tempurl token acl service"
LATER = int(time.time()) + 3600


def sign(
    method: str,
    path: str,
    *,
    key: str = "hush",
    expires: int | str = LATER,
    digest: str = "sha256",
    ip: str = "",
    form: str = "hex",
) -> str:
    before = f"ip={ip}\n" if ip else ""
    made = hmac.new(key.encode(), f"{before}{method}\n{expires}\n{path}".encode(), digest)
    if form == "hex":
        return made.hexdigest()
    encode = base64.urlsafe_b64encode if form == "urlsafe" else base64.b64encode
    return f"{digest}:{encode(made.digest()).decode().rstrip('=')}"


def query(method: str, path: str, **more: str) -> dict[str, str]:
    return {"temp_url_sig": sign(method, path), "temp_url_expires": str(LATER)} | more


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = peopled(tmp_path, PIPELINE)
    made.headers["x-auth-token"] = "anna"
    made.post("/v1/AUTH_p1", x_account_meta_temp_url_key="hush", x_account_meta_temp_url_key_2="hush2")
    made.put("/v1/AUTH_p1/c", x_container_meta_temp_url_key="mine")
    made.put("/v1/AUTH_p1/d")
    made.put("/v1/AUTH_p1/c/o", b"hello", x_object_meta_color="red", x_object_meta_public_taste="sweet")
    made.put("/v1/AUTH_p1/d/o", b"other")
    made.headers.clear()
    return made


O = "/v1/AUTH_p1/c/o"  # noqa: E741 - an object


def test_a_signature_opens_one_object(here: World) -> None:
    answer = here.get(O, query=query("GET", O))
    assert (answer.status, answer.read()) == (200, b"hello")
    assert answer.headers["content-disposition"] == "attachment; filename=\"o\"; filename*=UTF-8''o"
    assert answer.headers["expires"].endswith("GMT")
    assert answer.headers["x-object-meta-public-taste"] == "sweet"
    assert "x-object-meta-color" not in answer.headers
    for path in ("/v1/AUTH_p1/c/o2", "/v1/AUTH_p1/d/o", "/v1/AUTH_p1/c", "/v1/AUTH_p1", "/v1.0/AUTH_p1/c/o"):
        answer = here.get(path, query=query("GET", O))
        assert answer.status == 401 and answer.headers["www-authenticate"].startswith("Swift realm=")


@pytest.mark.parametrize("digest", ["sha256", "sha512"])
@pytest.mark.parametrize("form", ["hex", "base64", "urlsafe"])
@pytest.mark.parametrize("key", ["hush", "hush2", "mine"])
def test_keys_digests_and_forms(here: World, digest: str, form: str, key: str) -> None:
    asked = query("GET", O, temp_url_sig=sign("GET", O, key=key, digest=digest, form=form))
    assert here.get(O, query=asked).status == 200


def test_sha1_is_for_operators_to_allow(here: World, tmp_path: Path) -> None:
    asked = query("GET", O, temp_url_sig=sign("GET", O, digest="sha1"))
    assert here.get(O, query=asked).status == 401
    with_sha1 = peopled(tmp_path, PIPELINE, options={"tempurl": {"allowed_digests": "sha1 sha256"}})
    assert with_sha1.get(O, query=asked).status == 200
    assert with_sha1.store.facts["tempurl"]["allowed_digests"] == ["sha1", "sha256"]
    with pytest.raises(ValueError, match="allowed_digests"):
        peopled(tmp_path, PIPELINE, options={"tempurl": {"allowed_digests": "md5"}})


@pytest.mark.parametrize(
    ("signed", "asked", "status"),
    [
        ("GET", "HEAD", 200),
        ("PUT", "HEAD", 200),
        ("POST", "HEAD", 200),
        ("DELETE", "HEAD", 401),
        ("HEAD", "GET", 401),
        ("PUT", "GET", 401),
        ("GET", "PUT", 401),
        ("GET", "DELETE", 401),
        ("PUT", "PUT", 201),
        ("POST", "POST", 202),
        ("DELETE", "DELETE", 204),
        ("COPY", "COPY", 401),
        ("OPTIONS", "GET", 401),
    ],
)
def test_methods(here: World, signed: str, asked: str, status: int) -> None:
    assert here.ask(asked, O, query=query(signed, O)).status == status


@pytest.mark.parametrize(
    "expires",
    [
        "7",
        "0",
        "-1",
        "",
        "tomorrow",
        "9" * 30,
        "\uff11\uff17",
        "2020-01-01T00:00:00Z",
        "2020-13-01T00:00:00Z",
    ],
)
def test_the_end_of_it(here: World, expires: str) -> None:
    asked = query("GET", O, temp_url_sig=sign("GET", O, expires=expires), temp_url_expires=expires)
    assert here.get(O, query=asked).status == 401


def test_expiry_as_a_date(here: World) -> None:
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(LATER))
    assert here.get(O, query=query("GET", O, temp_url_expires=text)).status == 200
    assert here.get(O, query={"temp_url_sig": sign("GET", O)}).status == 401
    assert here.get(O, query={"temp_url_expires": str(LATER)}).status == 401


def test_prefixes(here: World) -> None:
    here.put("/v1/AUTH_p1/c/docs/a", b"a", x_auth_token="anna")
    asked = query("GET", "prefix:/v1/AUTH_p1/c/docs/", temp_url_prefix="docs/")
    assert here.get("/v1/AUTH_p1/c/docs/a", query=asked).read() == b"a"
    assert here.get(O, query=asked).status == 401
    assert here.get("/v1/AUTH_p1/d/docs/a", query=asked).status == 401
    # A longer or shorter prefix than was signed, and a name that is signed where a prefix is asked for.
    assert here.get("/v1/AUTH_p1/c/docs/a", query=asked | {"temp_url_prefix": "docs"}).status == 401
    assert here.get("/v1/AUTH_p1/c/docs/a", query=asked | {"temp_url_prefix": ""}).status == 401
    assert here.get(O, query=query("GET", O, temp_url_prefix="o")).status == 401
    whole = query("GET", "prefix:/v1/AUTH_p1/c/", temp_url_prefix="")
    assert here.get(O, query=whole).status == 200
    assert here.get("/v1/AUTH_p1/c", query=whole).status == 401  # a listing is none of its business


def test_addresses(here: World) -> None:
    for addresses, good in (
        ("10.0.0.0/8", True),
        ("10.1.2.3", True),
        ("10.9.0.0/16", False),
        ("nonsense", False),
    ):
        asked = query("GET", O, temp_url_sig=sign("GET", O, ip=addresses), temp_url_ip_range=addresses)
        for remote in ("10.1.2.3", "::ffff:10.1.2.3"):
            assert here.get(O, query=asked, remote=remote).status == (200 if good else 401)
    asked = query("GET", O, temp_url_sig=sign("GET", O, ip="10.0.0.0/8"))
    assert here.get(O, query=asked, remote="10.1.2.3").status == 401  # the range was left out of the query
    asked = query("GET", O, temp_url_ip_range="10.0.0.0/8")
    assert here.get(O, query=asked, remote="10.1.2.3").status == 401  # and put in


@pytest.mark.parametrize(
    ("more", "disposition"),
    [
        (
            {"filename": 'a "b".txt'},
            "attachment; filename=\"a %22b%22.txt\"; filename*=UTF-8''a%20%22b%22.txt",
        ),
        ({"filename": "a\r\nb"}, "attachment; filename=\"a%0D%0Ab\"; filename*=UTF-8''a%0D%0Ab"),
        ({"inline": ""}, "inline"),
        ({"inline": "", "filename": "é"}, "inline; filename=\"%C3%A9\"; filename*=UTF-8''%C3%A9"),
    ],
)
def test_names_of_downloads(here: World, more: dict[str, str], disposition: str) -> None:
    assert here.get(O, query=query("GET", O, **more)).headers["content-disposition"] == disposition


def test_an_objects_own_disposition(here: World) -> None:
    here.post(O, x_auth_token="anna", content_disposition="attachment; filename=x")
    assert here.get(O, query=query("GET", O)).headers["content-disposition"] == "attachment; filename=x"


@pytest.mark.parametrize(
    "name", ["x_object_manifest", "x_symlink_target", "x_copy_from", "x_symlink_target_account"]
)
def test_an_upload_may_point_nowhere(here: World, name: str) -> None:
    assert here.put(O, query=query("PUT", O), **{name: "d/o"}).status == 400
    assert here.get(O, query=query("GET", O)).read() == b"hello"


def test_what_else_the_query_says_counts_for_nothing(here: World) -> None:
    answer = here.put(O, b"[]", query=query("PUT", O, **{"multipart-manifest": "put", "extract-archive": ""}))
    assert answer.status == 400  # bulk, outside of tempurl: no such archive format
    assert here.put(O, b"new", query=query("PUT", O, **{"multipart-manifest": "put"})).status == 201
    assert here.get(O, query=query("GET", O)).read() == b"new"


def test_a_container_key_stays_in_its_container(here: World) -> None:
    path = "/v1/AUTH_p1/d/o"
    assert here.get(path, query=query("GET", path, temp_url_sig=sign("GET", path, key="mine"))).status == 401
    assert here.get(path, query=query("GET", path)).status == 200


def test_no_keys_no_urls(here: World) -> None:
    path = "/v1/AUTH_p2/c/o"
    assert here.get(path, query=query("GET", path, temp_url_sig=sign("GET", path, key=""))).status == 401


def test_another_clock(tmp_path: Path) -> None:
    moment = [1_000_000_000 * 10**9]
    made = peopled(tmp_path, PIPELINE, nanoseconds=lambda: moment[0])
    made.post("/v1/AUTH_p1", x_account_meta_temp_url_key="hush", x_auth_token="anna")
    made.put("/v1/AUTH_p1/c", x_auth_token="anna")
    made.put(O, b"hello", x_auth_token="anna")
    asked = query("GET", O, temp_url_sig=sign("GET", O, expires=1_000_000_060), temp_url_expires="1000000060")
    assert made.get(O, query=asked).status == 200
    moment[0] += 61 * 10**9
    assert made.get(O, query=asked).status == 401


def test_archives_do_not_slip_through(here: World) -> None:
    answer: Response = here.put(
        O, b"", query=query("PUT", O, **{"extract-archive": "tar"}), accept="text/plain"
    )
    assert b"Number Files Created: 0" in answer.read()


def test_headers_that_are_not_for_strangers(tmp_path: Path) -> None:
    options = {"incoming_remove_headers": "x-object-meta-*", "incoming_allow_headers": "x-object-meta-ok*"}
    made = peopled(tmp_path, PIPELINE, options={"tempurl": options | {"outgoing_remove_headers": "x-trans*"}})
    made.headers["x-auth-token"] = "anna"
    made.post("/v1/AUTH_p1", x_account_meta_temp_url_key="hush")
    made.put("/v1/AUTH_p1/c")
    made.headers.clear()
    assert made.put(O, b"x", query=query("PUT", O), x_object_meta_a="1", x_object_meta_okay="2").status == 201
    seen = made.get(O, x_auth_token="anna").headers
    assert seen["x-object-meta-okay"] == "2" and "x-object-meta-a" not in seen
