"""CORS and static web sites."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from pathlib import Path

import pytest

from altostack.objectstore.http import Response
from altostack.objectstore.middleware import page
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

PIPELINE = "catch gatekeeper listing tempurl token acl cors staticweb service"
C = "/v1/AUTH_p1/c"


@pytest.fixture
def here(tmp_path: Path) -> World:
    return made(tmp_path)


def made(folder: Path, **options: dict[str, str]) -> World:
    world = peopled(folder, PIPELINE, options=options)
    world.put(C, x_auth_token="anna")
    world.put(f"{C}/o", b"hello", x_auth_token="anna", x_object_meta_color="red")
    return world


def allow(here: World, origins: str, **more: str) -> None:
    here.post(
        C,
        x_auth_token="anna",
        x_container_read=".r:*",
        x_container_meta_access_control_allow_origin=origins,
        **more,
    )


def preflight(here: World, origin: str, method: str = "GET", path: str = f"{C}/o", **more: str) -> Response:
    return here.ask("OPTIONS", path, origin=origin, access_control_request_method=method, **more)


def test_preflight(here: World) -> None:
    allow(here, "http://one http://two:8080", x_container_meta_access_control_max_age="60")
    answer = preflight(here, "http://one", "PUT", access_control_request_headers="x-a, X-B,x-a")
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "http://one"
    assert answer.headers["access-control-max-age"] == "60"
    assert answer.headers["access-control-allow-methods"] == "HEAD, GET, PUT, POST, COPY, OPTIONS, DELETE"
    assert answer.headers["access-control-allow-headers"] == "x-a, X-B"
    assert answer.headers["vary"] == "Origin, Access-Control-Request-Headers"
    assert preflight(here, "http://two:8080").status == 200
    for origin, method in (
        ("http://two", "GET"),
        ("http://one.evil", "GET"),
        ("null", "GET"),
        ("http://one", "BREW"),
    ):
        answer = preflight(here, origin, method)
        assert answer.status == 401 and "access-control-allow-origin" not in answer.headers
    assert preflight(here, "http://one", path="/v1/AUTH_p1/none").status == 401
    assert preflight(here, "http://one", path="/v1/AUTH_p1").headers["allow"].startswith("HEAD, GET")
    assert here.ask("OPTIONS", f"{C}/o").headers["allow"].startswith("HEAD, GET")


def test_answers_that_pages_may_see(here: World) -> None:
    allow(here, "*", x_container_meta_access_control_expose_headers="X-Own x-more")
    answer = here.get(f"{C}/o", origin="http://any")
    assert answer.headers["access-control-allow-origin"] == "*"
    shown = answer.headers["access-control-expose-headers"].split(", ")
    assert {"etag", "x-trans-id", "x-object-meta-color", "x-own", "x-more"} <= set(shown)
    allow(here, "http://one")
    answer = here.get(f"{C}/o", origin="http://one")
    assert (answer.headers["access-control-allow-origin"], answer.headers["vary"]) == ("http://one", "Origin")
    for origin in ("http://two", ""):
        assert "access-control-allow-origin" not in here.get(f"{C}/o", origin=origin).headers
    refused = here.put(f"{C}/o", b"x", origin="http://one")
    assert refused.status == 401 and refused.headers["access-control-allow-origin"] == "http://one"


def test_what_operators_allow(tmp_path: Path) -> None:
    here = made(tmp_path, cors={"cors_allow_origin": "http://ours", "cors_expose_headers": "X-Extra"})
    answer = here.get(f"{C}/o", origin="http://ours", x_auth_token="anna")
    assert answer.headers["access-control-allow-origin"] == "http://ours"
    assert "x-extra" in answer.headers["access-control-expose-headers"]
    lax = made(tmp_path, cors={"strict_cors_mode": "no"})
    answer = lax.get(f"{C}/o", origin="http://any", x_auth_token="anna")
    assert answer.headers["access-control-allow-origin"] == "http://any"
    assert preflight(lax, "http://any").status == 401
    assert lax.store.facts["swift"]["strict_cors_mode"] is False


# ---- static web sites


def site(here: World, **metadata: str) -> None:
    given = {f"x_container_meta_web_{name}": value for name, value in metadata.items()}
    here.post(C, x_auth_token="anna", x_container_read=".r:*,.rlistings", **given)


def put(here: World, name: str, body: bytes = b"x", kind: str = "text/plain") -> None:
    assert here.put(f"{C}/{name}", body, x_auth_token="anna", content_type=kind).status == 201


def test_index_pages(here: World) -> None:
    site(here, index="index.html")
    put(here, "index.html", b"<p>home", "text/html")
    put(here, "sub/index.html", b"<p>below", "text/html")
    answer = here.get(C)
    assert (answer.status, answer.headers["location"]) == (301, f"{C}/")
    answer = here.get(f"{C}/")
    assert (answer.read(), answer.headers["content-type"]) == (b"<p>home", "text/html")
    answer = here.head(f"{C}/")
    assert (answer.headers["content-type"], answer.headers["content-length"]) == ("text/html", "7")
    assert here.get(f"{C}/sub").headers["location"] == f"{C}/sub/"
    assert here.get(f"{C}/sub/").read() == b"<p>below"
    assert here.get(f"{C}/none").status == 404
    assert here.get(f"{C}/", if_none_match=here.get(f"{C}/").headers["etag"]).status == 304
    # With a token it is a container like any other, unless the client wants the site.
    assert b"index.html\n" in here.get(C, x_auth_token="anna").read()
    assert here.get(f"{C}/", x_auth_token="anna", x_web_mode="true").read() == b"<p>home"
    assert here.get("/v1/AUTH_p1", x_web_mode="true").status == 401


def test_listings(here: World) -> None:
    site(here, listings="yes", listings_css="style sheet.css")
    put(here, 'sub/a&"<b>.txt', b"x" * 2048)
    put(here, "sub/deep/er")
    put(here, "javascript:alert(1)")
    text = here.get(f"{C}/").read().decode()
    assert '<a href="./sub/">sub/</a>' in text and 'href="./o"' in text
    assert 'href="./javascript%3Aalert%281%29"' in text
    assert (
        '<link rel="stylesheet" type="text/css" href="style%20sheet.css" />' in text
        and 'id="parent"' not in text
    )
    text = here.get(f"{C}/sub/").read().decode()
    assert 'href="./a%26%22%3Cb%3E%2Etxt">a&amp;&quot;&lt;b&gt;.txt</a>' in text
    assert '<td class="colsize">2Ki</td>' in text and 'class="item type-text type-plain"' in text
    assert 'id="parent"' in text and 'href="../style%20sheet.css"' in text
    assert here.get(f"{C}/sub").headers["location"] == f"{C}/sub/"
    assert here.get(f"{C}/none/").status == 404 and here.get(f"{C}/none").status == 404
    assert "Listing of /v1/AUTH_p1/c/sub/" in text
    site(here, listings="yes", listings_label="<My> files")
    assert "Listing of &lt;My&gt; files/sub/" in here.get(f"{C}/sub/").read().decode()


def test_what_is_not_listed(here: World) -> None:
    site(here, index="none.html")
    text = here.get(f"{C}/")
    assert text.status == 404 and b"Web Listing Disabled" in text.read()
    here.post(C, x_auth_token="anna", x_container_read=".r:*", x_container_meta_web_listings="yes")
    assert here.get(f"{C}/").status == 401
    assert here.get(f"{C}/o").read() == b"hello"
    here.post(C, x_auth_token="anna", x_container_read="")
    assert here.get(f"{C}/o").status == 401


def test_error_pages(here: World) -> None:
    site(here, index="index.html", error="error.html")
    put(here, "404error.html", b"<p>not here", "text/html")
    put(here, "401error.html", b"<p>not yours", "text/html")
    answer = here.get(f"{C}/none")
    assert (answer.status, answer.read(), answer.headers["content-type"]) == (
        404,
        b"<p>not here",
        "text/html",
    )
    assert here.get(f"{C}/").status == 404
    here.post(C, x_auth_token="anna", x_container_read=".r:good")
    assert here.get(f"{C}/").status == 401  # who may not read it is not shown the page either
    assert here.get(f"{C}/none", referer="http://good/").read() == b"<p>not here"


def test_directories(here: World) -> None:
    site(here, listings="yes")
    put(here, "dir", b"", "application/directory")
    put(here, "dir/x")
    assert here.get(f"{C}/dir").headers["location"] == f"{C}/dir/"
    put(here, "own", b"", "text/directory")
    assert here.get(f"{C}/own").status == 200
    site(here, listings="yes", directory_type="text/directory")
    assert here.get(f"{C}/own").status == 404


def test_no_site(here: World) -> None:
    here.post(C, x_auth_token="anna", x_container_read=".r:*,.rlistings")
    assert here.get(C).read() == b"o\n"
    assert here.get(C, x_web_mode="true").status == 404
    assert here.get(f"{C}/o").read() == b"hello"


def test_a_site_by_temporary_url(here: World) -> None:
    here.post("/v1/AUTH_p1", x_auth_token="anna", x_account_meta_temp_url_key="hush")
    here.post(C, x_auth_token="anna", x_container_meta_web_listings="yes")
    put(here, "docs/a")
    ends = str(int(time.time()) + 600)
    sign = hmac.new(b"hush", f"GET\n{ends}\nprefix:{C}/".encode(), hashlib.sha256).hexdigest()
    query = {"temp_url_sig": sign, "temp_url_expires": ends, "temp_url_prefix": ""}
    answer = here.get(f"{C}/", query=query)
    text = answer.read().decode()
    assert answer.headers["content-disposition"] == "inline"
    found = re.search(r'href="\./docs/\?([^"]*)"', text)
    assert found is not None and f"temp_url_sig={sign}" in found[1] and "&amp;" in found[1]
    assert here.get(f"{C}/docs/", query=query).status == 200
    assert sign in here.get(f"{C}/docs", query=query).headers["location"]


def test_redirects_with_a_base(tmp_path: Path) -> None:
    here = made(tmp_path, staticweb={"url_base": "https://www.example.com/x"})
    site(here, listings="yes")
    assert here.get(C).headers["location"] == f"https://www.example.com{C}/"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (1023, "1023"), (1024, "1Ki"), (1536, "2Ki"), (5 << 30, "5Gi"), (1 << 83, "8Yi")],
)
def test_sizes(number: int, shown: str) -> None:
    assert page.size(number) == shown
