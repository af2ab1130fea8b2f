"""catch, gatekeeper, health, /info and listing."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.objectstore import accesslog
from altostack.objectstore.accesslog import AccessLog
from altostack.objectstore.http import ClientGone, Refusal, Request, Response
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.middleware import catch, gatekeeper, health, listing
from tests.objectstore.gates.scene import Inner, ask, build, request, store


@pytest.fixture
def inner() -> Inner:
    return Inner()


def test_every_answer_says_its_transaction(tmp_path: Path, inner: Inner) -> None:
    app = build(catch.factory, store(tmp_path), inner, trans_id_suffix="-west")
    answer = ask(app, "GET", "/v1/a", x_trans_id_extra="mine\r\n: " + "x" * 99)
    said = answer.headers["x-trans-id"]
    assert re.fullmatch(r"tx[0-9a-f]{21}-[0-9a-f]{10}-west-mine[%0-9A-Zx]+", said)
    assert said.endswith("x" * 24) and not said.endswith("x" * 25)
    assert answer.headers["x-openstack-request-id"] == said == inner.asked[0].trans_id
    assert ask(app, "GET", "/v1/a").headers["x-trans-id"] != said


@pytest.mark.parametrize(
    ("trouble", "status"), [(Refusal(403), 403), (ClientGone("gone"), 499), (RuntimeError("the secret"), 500)]
)
def test_whatever_happens_is_answered(tmp_path: Path, trouble: Exception, status: int) -> None:
    def fail(request: Request) -> Response:
        raise trouble

    answer = ask(build(catch.factory, store(tmp_path), fail), "GET", "/v1/a")
    assert answer.status == status
    assert answer.headers["x-trans-id"].startswith("tx")
    assert b"the secret" not in answer.read()


@pytest.fixture
def accesses(tmp_path: Path) -> Iterator[AccessLog]:
    made = AccessLog(tmp_path / "log" / "access.log", every=0.01)
    yield made
    made.close()


def lines(accesses: AccessLog, path: Path) -> list[dict[str, object]]:
    accesses.close()
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_access_log_tells_all_but_secrets(tmp_path: Path, accesses: AccessLog) -> None:
    made = request(
        "GET", "/v1/AUTH_p1/c/o", query="temp_url_sig=deadbeef&temp_url_expires=1&X-Amz-Signature=cafe&limit=3",
        who="anna", remote="10.0.0.9", user_agent="curl\udcff",
    )  # fmt: skip
    made.trans_id = "tx-1"
    accesses(made, Response(206), 77, 0.25)
    (line,) = lines(accesses, tmp_path / "log" / "access.log")
    path = "/v1/AUTH_p1/c/o?temp_url_sig=***&temp_url_expires=1&X-Amz-Signature=***&limit=3"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ", str(line.pop("time")))
    assert isinstance(line.pop("pid"), int)
    assert line == {
        "level": "info", "logger": "altostack.objectstore.access", "process": "objectstore",
        "message": f"GET {path} 206", "request_id": "tx-1", "method": "GET", "path": path, "status": 206,
        "bytes_in": 0, "bytes_sent": 77, "seconds": 0.25, "client": "10.0.0.9", "user": "u-anna", "project": "p1",
        "agent": "curl\\udcff",
    }  # fmt: skip
    assert (tmp_path / "log" / "access.log").stat().st_mode & 0o777 == 0o600


def test_the_access_log_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesslog, "ROTATE_BYTES", 100)
    path = tmp_path / "access.log"
    for number in range(8):
        one = AccessLog(path, every=0.0)
        one(request("GET", f"/{number}"), Response(200), 0, 0.0)
        one.close()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["access.log", *(f"access.log.{number}" for number in range(1, 6))]
    assert b'"/7"' in path.read_bytes() and b'"/6"' in (tmp_path / "access.log.1").read_bytes()


def test_an_access_log_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    one = AccessLog(tmp_path / "log" / "access.log", every=0.0)
    one(request("GET", "/"), Response(200), 0, 0.0)
    one.close()
    assert "1 lines of the access log were lost" in caplog.text


def test_the_server_calls_the_access_log(tmp_path: Path, inner: Inner, accesses: AccessLog) -> None:
    import urllib.request

    listener = listen("127.0.0.1", 0)
    server = Server(build(catch.factory, store(tmp_path), inner), listener, threads=1, done=accesses)
    server.start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/v1/a") as answer:
            said = answer.headers["X-Trans-Id"]
            assert said == answer.headers["X-Openstack-Request-Id"]
            assert answer.read() == b"inner"
    finally:
        server.stop(10.0)
    (line,) = lines(accesses, tmp_path / "log" / "access.log")
    assert (line["request_id"], line["bytes_sent"]) == (said, 5)


OURS = [
    "x-backend-replication", "x-account-sysmeta-a", "x-container-sysmeta-b", "x-object-sysmeta-c",
    "x-object-transient-sysmeta-d", "x-container-host", "x-delete-at-container", "x-container-root-db-state",
    "x_backend_storage_policy_index", "x-object_sysmeta-c", "x_container_sysmeta_b", "x-backend",
]  # fmt: skip


def test_nobody_sends_or_sees_what_is_ours(tmp_path: Path) -> None:
    inner = Inner(
        lambda request: Response(200, dict.fromkeys([*OURS, "x-object-meta-x", "x-container-hosts"], "1"))
    )
    made = request("PUT", "/v1/a/c/o")
    made.headers |= dict.fromkeys([*OURS, "x-object-meta-x", "x-container-hosts"], "1") | {"x-timestamp": "7"}
    answer = build(gatekeeper.factory, store(tmp_path), inner)(made)
    left = {"x-object-meta-x": "1", "x-container-hosts": "1"}
    assert answer.headers == left
    assert inner.asked[0].headers == left | {"x-backend-inbound-x-timestamp": "7"}


def test_healthcheck(tmp_path: Path, inner: Inner) -> None:
    down = tmp_path / "down"
    app = build(health.factory, store(tmp_path), inner, disable_path=str(down))
    assert (ask(app, "GET", "/healthcheck").status, ask(app, "GET", "/healthcheck").body) == (200, b"OK")
    down.touch()
    assert ask(app, "GET", "/healthcheck").status == 503
    assert ask(app, "GET", "/healthcheck/o").body == b"inner"


def test_info(tmp_path: Path, inner: Inner) -> None:
    made = store(tmp_path)
    made.facts["tempurl"] = {"methods": ["GET"]}
    made.facts["swift"] = {"max_object_name_length": 99, "valid_api_versions": ["v1", "v1.0"]}
    app = build(health.factory, made, inner)
    answer = ask(app, "GET", "/info", origin="http://a")
    told = json.loads(answer.read())
    assert told["swift"] == {"max_object_name_length": 99}
    assert told["tempurl"] == {"methods": ["GET"]} and "admin" not in told
    assert answer.headers["access-control-allow-origin"] == "http://a"
    assert ask(app, "OPTIONS", "/info").headers["allow"] == "GET, HEAD, OPTIONS"
    assert ask(app, "PUT", "/info").status == 405
    assert ask(build(health.factory, made, inner, expose_info="no"), "GET", "/info").status == 403
    assert ask(app, "GET", "/info", query={"swiftinfo_sig": "x", "swiftinfo_expires": "99"}).status == 403


def test_info_for_operators(tmp_path: Path, inner: Inner) -> None:
    made = store(tmp_path)
    made.facts["swift"] = {"valid_api_versions": ["v1", "v1.0"]}
    app = build(health.factory, made, inner, admin_key="hush")

    def signed(method: str, expires: str) -> dict[str, str]:
        text = f"{method}\n{expires}\n/info".encode()
        return {
            "swiftinfo_sig": hmac.new(b"hush", text, hashlib.sha1).hexdigest(),
            "swiftinfo_expires": expires,
        }

    told = json.loads(ask(app, "GET", "/info", query=signed("GET", "9999999999")).read())
    assert told["admin"] == {"disallowed_sections": ["swift.valid_api_versions"]}
    assert told["swift"]["valid_api_versions"] == ["v1", "v1.0"]
    assert ask(app, "HEAD", "/info", query=signed("GET", "9999999999")).status == 200
    assert ask(app, "GET", "/info", query=signed("HEAD", "9999999999")).status == 401
    assert ask(app, "GET", "/info", query=signed("GET", "7")).status == 401
    assert ask(app, "GET", "/info", query=signed("GET", "9999999999") | {"swiftinfo_sig": "é"}).status == 401


OBJECTS = [
    {
        "name": 'a&"<b>', "hash": "0" * 32, "bytes": 3, "content_type": "text/<x>",
        "last_modified": "2026-01-31T12:00:00.123450",
    },
    {"subdir": "d/"},
]  # fmt: skip
CONTAINERS = [
    {
        "name": "c",
        "count": 2,
        "bytes": 5,
        "last_modified": "2026-01-31T12:00:00.123450",
        "storage_policy": "gold",
    }
]


def _listing(folder: Path, entries: list[dict[str, object]]) -> object:
    inner = Inner(lambda request: Response(200, {"x-container-object-count": "2"}, entries=list(entries)))
    return build(listing.factory, store(folder), inner)


def test_listings_in_three_forms(tmp_path: Path) -> None:
    app = _listing(tmp_path, OBJECTS)
    text = ask(app, "GET", "/v1/a/c")
    assert (text.status, text.body) == (200, b'a&"<b>\nd/\n')
    assert text.headers == {
        "x-container-object-count": "2", "vary": "Accept", "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(text.read())),
    }  # fmt: skip
    assert text.entries is None
    as_json = ask(app, "GET", "/v1/a/c", query={"format": "json"})
    assert json.loads(as_json.read()) == OBJECTS and "vary" not in as_json.headers
    tree = ElementTree.fromstring(ask(app, "GET", "/v1/a/c", query={"format": "xml"}).read())
    assert tree.tag == "container" and tree.get("name") == "c"
    assert [(one.tag, one.text) for one in tree[0]] == [
        (key, str(OBJECTS[0][key])) for key in ("name", "hash", "bytes", "content_type", "last_modified")
    ]
    assert (tree[1].tag, tree[1].get("name"), tree[1][0].text) == ("subdir", "d/", "d/")
    tree = ElementTree.fromstring(
        ask(_listing(tmp_path, CONTAINERS), "GET", "/v1/a", query={"format": "xml"}).read()
    )
    assert (tree.tag, tree.get("name")) == ("account", "a")
    assert {one.tag: one.text for one in tree[0]} == {key: str(value) for key, value in CONTAINERS[0].items()}


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/json", "application/json"),
        ("text/xml", "text/xml"),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "application/xml"),
        ("text/plain;q=0.1, application/json;q=0.7", "application/json"),
        ("application/*", "application/json"),
        ("text/html", 406),
        ("text/plain;q=0", 406),
        ("text/plain;q=0.1;q=2", 400),
        ("nonsense", 400),
        ("text/plain; q=abc", 400),
    ],
)
def test_accept(tmp_path: Path, accept: str, kind: str | int) -> None:
    answer = ask(_listing(tmp_path, OBJECTS), "GET", "/v1/a/c", accept=accept)
    if isinstance(kind, int):
        assert answer.status == kind
    else:
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    if accept:
        assert ask(_listing(tmp_path, OBJECTS), "GET", "/v1/a/c/o", accept=accept).status == 200


def test_empty_listings_and_heads(tmp_path: Path) -> None:
    app = _listing(tmp_path, [])
    assert ask(app, "GET", "/v1/a/c").status == 204
    assert ask(app, "GET", "/v1/a/c", query={"format": "nonsense"}).status == 204
    answer = ask(app, "GET", "/v1/a/c", query={"format": "json"})
    assert (answer.status, answer.body) == (200, b"[]")
    answer = ask(app, "HEAD", "/v1/a/c", query={"format": "xml"})
    assert answer.headers["content-type"] == "application/xml; charset=utf-8"
    assert (answer.body, answer.headers["content-length"]) == (b"", "0")
    said = {"content-type": "text/html", "x-backend-content-generator": "staticweb"}
    app = build(listing.factory, store(tmp_path), Inner(lambda request: Response(200, dict(said), b"<p>")))
    answer = ask(app, "GET", "/v1/a/c")
    assert (answer.body, answer.headers) == (b"<p>", said)
    assert ask(app, "HEAD", "/v1/a/c").headers == said
