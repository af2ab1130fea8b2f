"""Attacks on the image service, each tried as the attacker would."""

from __future__ import annotations

import gzip
import logging
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from altostack.image import fetch
from altostack.image.config import Fetch, Imports
from altostack.image.dialect import PATCH_MEDIA
from tests.image.stand import TWO, Glance
from tests.image.test_images import VMDK, qcow2
from tests.image.test_inspect import gpt, iso
from tests.image.web import Web, serving

pytestmark = pytest.mark.everywhere


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def glance(tmp_path: Path, web: Web) -> Iterator[Glance]:
    lone = Glance(tmp_path, allow=web.host, stores=TWO, show_locations=True)
    yield lone
    lone.close()


# ---- files that make a hypervisor or qemu-img open something else


def data_file() -> bytes:
    """A qcow2 whose data are in another file, which a header extension names."""
    name = b'json:{"driver":"nbd","host":"127.0.0.1","port":"10809"}'
    head = bytearray(qcow2(incompatible=4))
    extension = struct.pack(">II", 0x44415441, len(name)) + name
    head[104 : 104 + len(extension)] = extension
    return bytes(head)


EVIL = {
    "a backing file": ("qcow2", qcow2(backing="/etc/passwd")),
    "a backing file, in JSON": ("qcow2", qcow2(backing='json:{"file.filename":"/etc/passwd"}')),
    "a backing file on the network": ("qcow2", qcow2(backing="nbd://127.0.0.1:10809")),
    "a data file": ("qcow2", data_file()),
    "a qcow2 that calls itself raw": ("raw", qcow2(backing="/etc/passwd")),
    "a qcow2 that calls itself a kernel": ("aki", qcow2(backing="/etc/passwd")),
    "a descriptor of a flat VMDK": ("vmdk", VMDK.ljust(70_000, b"\0")),
    "a descriptor that calls itself raw": ("raw", VMDK.ljust(70_000, b"\0")),
    "a QED that calls itself raw": ("raw", b"QED\0".ljust(70_000, b"\0")),
    "a qcow2 behind a disc's name": ("iso", qcow2()),
    "a disc that begins as a qcow2": ("iso", qcow2()[:512] + iso()[512:]),
    "a partitioned disk that begins as a qcow2": ("raw", qcow2()[:400] + gpt()[400:]),
    "ten exabytes": ("qcow2", qcow2(size=10 << 60)),
    "a table of first-level entries that is all there is": ("qcow2", qcow2(incompatible=1 << 9)),
}


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("way", ["upload", "import", "download", "location"])
def test_evil_files_get_in_by_no_way(glance: Glance, web: Web, name: str, way: str) -> None:
    declared, bits = EVIL[name]
    web.files["/evil"] = bits
    key = glance.make(disk_format=declared)["id"]
    if way == "upload":
        assert glance.put(key, bits).status == 400
    elif way == "import":
        glance.put(key, bits, to="stage").read()
        glance.bring(key, "glance-direct")
    elif way == "download":
        glance.bring(key, "web-download", uri=web.url("/evil"))
    else:
        glance.call("POST", f"/v2/images/{key}/locations", {"url": web.url("/evil")})
        glance.run()
    assert glance.show(key)["status"] == "queued"
    assert glance.left() == []
    assert glance.client.send("GET", f"/v2/images/{key}/file", token="member").status == 204


@pytest.mark.parametrize("container", ["compressed", "ova", "docker"])
@pytest.mark.parametrize("name", ["a backing file", "a data file"])
def test_a_wrapping_that_is_none_does_not_hide_them(glance: Glance, container: str, name: str) -> None:
    declared, bits = EVIL[name]
    key = glance.make(disk_format=declared, container_format=container)["id"]
    assert glance.put(key, bits).status == 400


def test_a_location_that_turns_evil_later_is_not_delivered(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    web.files["/disk"] = os.urandom(2 << 20)
    value = {"url": web.url("/disk"), "metadata": {}}
    assert glance.patch(key, {"op": "add", "path": "/locations/-", "value": value})[0] == 200
    assert glance.bits(key) == web.files["/disk"]
    web.files["/disk"] = qcow2(backing="/etc/passwd")
    answer = glance.client.send("GET", f"/internal/nodes/n/images/{key}/file", node=glance.node("n"))
    with pytest.raises(Exception, match=r"declared as raw|format"):
        answer.read()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_conversion_opens_nothing_that_was_not_judged(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"SECRET" * 100_000)
    glance = Glance(tmp_path, imports=Imports(convert_to="raw"))
    for bits in (qcow2(backing=str(secret)), data_file()):
        key = glance.make(disk_format="qcow2")["id"]
        glance.put(key, bits, to="stage").read()
        glance.bring(key, "glance-direct")
        assert glance.show(key)["status"] == "queued"
        assert "qcow2" in glance.task(key)["message"]
    assert glance.left() == []
    glance.close()


# ---- bombs


def test_packed_zeros_do_not_fill_the_disk(tmp_path: Path) -> None:
    glance = Glance(tmp_path, imports=Imports(decompress=True), max_bytes=4 << 20)
    key = glance.make(container_format="compressed")["id"]
    bomb = gzip.compress(gzip.compress(bytes(300 << 20)))
    glance.put(key, bomb, to="stage").read()
    glance.bring(key, "glance-direct")  # one layer is taken off; what is inside is kept packed
    assert glance.show(key)["size"] < 4 << 20
    key = glance.make(container_format="compressed")["id"]
    glance.put(key, gzip.compress(bytes(300 << 20)), to="stage").read()
    glance.bring(key, "glance-direct")
    assert glance.show(key)["status"] == "queued"
    assert glance.stores.staging.list() == []
    glance.close()


def test_a_stream_without_end_is_cut(tmp_path: Path, web: Web) -> None:
    glance = Glance(tmp_path, allow=web.host, max_bytes=100_000)
    web.slow.add("/endless")
    key = glance.make()["id"]
    glance.bring(key, "web-download", uri=web.url("/endless"))
    assert "larger than 100000" in glance.task(key)["message"]

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(65_536)

    assert glance.put(key, endless()).status == 413
    assert glance.show(key)["status"] == "queued"
    assert glance.left() == []
    glance.close()


def test_a_server_that_dawdles_is_left(web: Web) -> None:
    web.slow.add("/drip")
    rules = Fetch(allowed_hosts=(web.host,), max_seconds=0.2)
    began = time.monotonic()
    with pytest.raises(fetch.FetchFailed, match="too long"):
        list(fetch.fetch(web.url("/drip"), rules).chunks)
    assert time.monotonic() - began < 5


# ---- reaching into the cloud's own networks

INSIDE = (
    "http://127.0.0.1/", "http://127.1/", "http://0x7f.1/", "http://2130706433/", "http://0177.0.0.1/",
    "http://localhost/", "http://localhost./", "http://[::1]/", "http://[::]/", "http://0.0.0.0/", "http://0/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/", "http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/",
    "http://[fd00:ec2::254]/", "http://[::ffff:169.254.169.254]/", "http://2852039166/", "http://10.0.0.1/",
    "http://172.16.3.4/", "http://192.168.1.1/", "http://100.64.0.1/", "http://224.0.0.1/", "http://255.255.255.255/",
)  # fmt: skip
WRONG = (
    "file:///etc/passwd", "FILE:///etc/passwd", "gopher://example.org/", "ftp://example.org/", "dict://127.0.0.1/",
    "filesystem:///etc/passwd", "cinder://x", "http:///etc/passwd", "//example.org/x", "example.org/x", "http://",
    "http://example.org:22/", "http://example.org:99999/", "http://example.org:x/", "http://u:p@example.org/",
    "http://127.0.0.1@example.org/", "http://example.org\\@127.0.0.1/", "http://exam ple.org/", "http://ex\nample.org/",
    "http://example.org/\r\nX-Evil: 1", "jar:http://example.org!/", "", "http://[::1", "https://",
)  # fmt: skip


@pytest.mark.parametrize("url", INSIDE)
def test_inner_addresses_are_refused_in_every_spelling(url: str) -> None:
    with pytest.raises((fetch.Refused, fetch.FetchFailed)) as found:
        fetch.judge(url, Fetch())
    assert isinstance(found.value, fetch.Refused) or "could not be found" in str(found.value)


@pytest.mark.parametrize("url", WRONG)
def test_wrong_urls_are_refused_before_anybody_is_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **more: Any) -> Any:
        if not more.get("flags"):
            raise AssertionError("a name was looked up")
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", never)
    with pytest.raises(fetch.Refused, match="does not pass filtering"):
        fetch.judge(url, Fetch())


def test_every_door_refuses_them(glance: Glance, web: Web) -> None:
    key = glance.make()["id"]
    for url in (*INSIDE, *WRONG):
        if url.startswith("http://localhost"):
            continue  # a name: it is resolved when the task runs
        body = {"method": {"name": "web-download", "uri": url}}
        assert glance.refusal("POST", f"/v2/images/{key}/import", body)[0] == 400, url
        assert glance.refusal("POST", f"/v2/images/{key}/locations", {"url": url})[0] == 400, url
        value = {"url": url, "metadata": {}}
        assert glance.patch(key, {"op": "add", "path": "/locations/-", "value": value})[0] == 400, url
        about = {"import_from": url, "import_from_format": "raw"}
        task = {"type": "import", "input": about}
        assert glance.refusal("POST", "/v2/tasks", task, who="admin")[0] == 400, url
    assert glance.show(key)["status"] == "queued" and web.asked == []


def test_names_of_inner_addresses_are_refused_when_they_are_resolved(glance: Glance) -> None:
    key = glance.make()["id"]
    glance.bring(key, "web-download", uri="http://localhost/secret")
    assert glance.task(key)["status"] == "failure"
    assert "not public" in glance.task(key)["message"]
    glance.call("POST", f"/v2/images/{key}/locations", {"url": "http://localhost/secret"})
    glance.run()
    assert glance.show(key)["status"] == "queued"


def test_a_name_that_changes_its_mind_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that was judged is the one that is connected to, however the name resolves next."""
    answers = iter(["93.184.216.34", "127.0.0.1", "127.0.0.1"])
    real = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host == "rebind.example.org" and not more.get("flags"):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]
        return real(host, port, *args, **more)

    called: list[Any] = []

    def connect(address: Any, *args: Any, **more: Any) -> Any:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(fetch.FetchFailed):
        fetch.fetch("http://rebind.example.org/", Fetch())
    assert called == [("93.184.216.34", 80)]
    with pytest.raises(fetch.Refused):
        fetch.fetch("http://rebind.example.org/", Fetch())
    assert len(called) == 1


def test_one_inner_address_among_others_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    with pytest.raises(fetch.Refused, match="not public"):
        fetch.judge("http://both.example.org/", Fetch())


@pytest.mark.parametrize(
    "where",
    [
        "http://127.0.0.1:1/x",
        "http://localhost/x",
        "http://169.254.169.254/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "//127.0.0.1:1/",
        "http://[::1]/",
    ],
)
def test_a_redirect_inside_is_refused(glance: Glance, web: Web, where: str) -> None:
    web.moved["/start"] = where
    key = glance.make()["id"]
    glance.bring(key, "web-download", uri=web.url("/start"))
    assert glance.task(key)["status"] == "failure"
    assert "does not pass filtering" in glance.task(key)["message"]
    assert web.asked == ["/start"]
    assert glance.left() == []


def test_lists_of_hosts(web: Web) -> None:
    rules = Fetch(only_allowed_hosts=True, allowed_hosts=(web.host,))
    fetch.judge(web.url("/x"), rules)
    for url in ("http://93.184.216.34/", f"http://127.0.0.1:{web.port + 1}/", "http://127.0.0.1/"):
        with pytest.raises(fetch.Refused):
            fetch.judge(url, rules)
    never = Fetch(disallowed_hosts=("93.184.216.0/24", "evil.example.org"), allowed_hosts=("93.184.216.34",))
    for url in ("http://93.184.216.34/", "http://evil.example.org/", "http://EVIL.example.org./"):
        with pytest.raises(fetch.Refused):
            fetch.judge(url, never)
    inner = Fetch(allowed_hosts=("10.1.0.0/16",))
    fetch.judge("http://10.1.2.3/", inner)
    for url in ("http://10.2.0.1/", "http://10.1.2.3:22/"):
        with pytest.raises(fetch.Refused):
            fetch.judge(url, inner)


def test_what_answers_inside_is_not_told(glance: Glance, web: Web) -> None:
    """A refusal's words do not depend on whether anything listens there: no port scan by error text."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        said = []
        for port in (closed.getsockname()[1], web.port + 1):
            key = glance.make()["id"]
            status, text = glance.refusal(
                "POST",
                f"/v2/images/{key}/import",
                {"method": {"name": "web-download", "uri": f"http://127.0.0.1:{port}/"}},
            )
            said.append((status, text.replace(str(port), "PORT")))
        assert said[0] == said[1]


# ---- paths


@pytest.mark.parametrize(
    "wrong", ["../../../etc/passwd", "..", "%2e%2e%2fetc%2fpasswd", "a/b", "/etc/passwd", "x" * 64, ""]
)
def test_ids_are_not_paths(glance: Glance, tmp_path: Path, wrong: str) -> None:
    (tmp_path / "secret").write_text("secret")
    assert glance.refusal("POST", "/v2/images", {"id": wrong})[0] == 400
    for method, path in (
        ("GET", f"/v2/images/{wrong}/file"),
        ("DELETE", f"/v2/cache/{wrong}"),
        ("PUT", f"/v2/cache/{wrong}"),
        ("DELETE", f"/v2/stores/files/{wrong}"),
        ("DELETE", f"/v2/stores/{wrong}/{wrong}"),
        ("GET", f"/internal/nodes/n/images/{wrong}/file"),
    ):
        answer = glance.client.send(method, path, token="admin")
        assert answer.status in (404, 405) or (method == "DELETE" and answer.status == 204 and wrong == ""), (
            path
        )
    assert (tmp_path / "secret").read_text() == "secret"


# ---- other bits for an image that people trust


def test_the_bits_of_an_active_image_stay(glance: Glance, web: Web) -> None:
    web.files["/other"] = b"other bits"
    key = glance.make(who="admin", visibility="public")["id"]
    glance.put(key, b"trusted bits", who="admin").read()
    mine = glance.make()["id"]
    glance.put(mine, b"trusted bits").read()
    location = {"url": web.url("/other"), "metadata": {}}
    for who in ("member", "other"):
        for image in (key, mine):
            for operation in (
                {"op": "replace", "path": "/status", "value": "queued"},
                {"op": "replace", "path": "/checksum", "value": "0" * 32},
                {"op": "add", "path": "/os_hash_value", "value": "0" * 128},
                {"op": "add", "path": "/size", "value": 5},
                {"op": "replace", "path": "/locations", "value": [location]},
                {"op": "replace", "path": "/locations", "value": []},
                {"op": "remove", "path": "/locations/0"},
            ):
                assert glance.patch(image, operation, who=who)[0] in (400, 403, 404), (who, operation)
            assert glance.put(image, b"other bits", who=who).status in (403, 404, 409)
            assert glance.put(image, b"other bits", to="stage", who=who).status in (403, 404, 409)
            for method in ("web-download", "glance-direct"):
                body = {"method": {"name": method, "uri": web.url("/other")}}
                status, _ = glance.refusal("POST", f"/v2/images/{image}/import", body, who=who)
                assert status in (403, 404, 409)
            status, _ = glance.refusal(
                "POST", f"/v2/images/{image}/locations", {"url": web.url("/other")}, who=who
            )
            assert status in (403, 404, 409)
    # An owner may add a location, in front even; the bits that were judged are delivered all the same.
    assert glance.patch(mine, {"op": "add", "path": "/locations/0", "value": location})[0] == 200
    assert glance.bits(mine) == b"trusted bits"
    # Deactivating and activating again is no way to new bits.
    glance.call("POST", f"/v2/images/{mine}/actions/deactivate")
    assert glance.put(mine, b"other bits").status == 409
    assert glance.patch(mine, {"op": "add", "path": "/locations/0", "value": location})[0] == 409
    glance.call("POST", f"/v2/images/{mine}/actions/reactivate")
    assert glance.bits(mine) == glance.bits(key) == b"trusted bits"


def test_reserved_words(glance: Glance) -> None:
    key = glance.make()["id"]
    for word in ("os_glance_import_task", "os_glance_failed_import", "os_glance_x", "deleted", "location"):
        assert glance.refusal("POST", "/v2/images", {word: "x"})[0] == 403
        assert glance.patch(key, {"op": "add", "path": f"/{word}", "value": "x"})[0] == 403


# ---- other people's images


def test_filters_do_not_open_other_projects(glance: Glance) -> None:
    key = glance.make(visibility="private", name="hidden", tags=["t"], secret_word="x")["id"]
    shared = glance.make(name="offered")["id"]
    glance.call("POST", f"/v2/images/{shared}/members", {"member": "2" * 32})
    for query in (
        f"owner={'1' * 32}", "visibility=private", "visibility=all", f"id={key}", f"id=in:{key},x", "name=hidden",
        "tag=t", "secret_word=x", "status=queued", "all_tenants=1", "all_projects=true", "is_public=None",
        "os_hidden=false", "member_status=all", f"project_id={'1' * 32}", "limit=1000", "sort=owner:asc",
    ):  # fmt: skip
        found = {one["id"] for one in glance.call("GET", f"/v2/images?{query}", who="other")["images"]}
        assert key not in found, query
        assert shared not in found or "member_status" in query, query
    assert glance.refusal("GET", f"/v2/images?marker={key}", who="other")[0] == 400
    for method, path, body in (
        ("GET", "", None), ("DELETE", "", None), ("GET", "/file", None), ("GET", "/members", None),
        ("GET", "/tasks", None), ("PUT", "/tags/x", None), ("POST", "/members", {"member": "2" * 32}),
        ("GET", "/locations", None), ("POST", "/actions/deactivate", None), ("GET", f"/members/{'2' * 32}", None),
        ("PUT", f"/members/{'2' * 32}", {"status": "accepted"}),
        ("POST", "/import", {"method": {"name": "glance-direct"}}), ("POST", "/locations", {"url": "http://e.org/"}),
    ):  # fmt: skip
        assert glance.refusal(method, f"/v2/images/{key}{path}", body, who="other")[0] == 404, (method, path)
    # Members of one image are not seen through another.
    mine = glance.make(who="other")["id"]
    assert glance.refusal("GET", f"/v2/images/{mine}/members/{'1' * 32}", who="other")[0] == 404


def test_a_copy_of_a_foreign_image_is_not_had_by_its_id(glance: Glance) -> None:
    key = glance.make(visibility="private")["id"]
    assert glance.refusal("POST", "/v2/images", {"id": key}, who="other")[0] == 409
    assert glance.show(key)["owner"] == "1" * 32


# ---- loads


def test_large_and_deep_bodies(glance: Glance) -> None:
    key = glance.make()["id"]
    for raw in (b"[" * 200_000, b'[{"op":' * 50_000, b" " * 2_000_000, b'["' + b"x" * 300_000 + b'"]'):
        answer = glance.client.send(
            "PATCH", f"/v2/images/{key}", raw, token="member", headers={"Content-Type": PATCH_MEDIA}
        )
        assert answer.status in (400, 413)
        answer.read()
    many = {f"p{n}": "x" for n in range(200)}
    assert glance.refusal("POST", "/v2/images", many)[0] == 413
    assert glance.refusal("POST", "/v2/images", {"tags": [str(n) for n in range(200)]})[0] == 413


def test_tokens_do_not_reach_the_log(glance: Glance, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        key = glance.make()["id"]
        glance.runtime.clients = {}
        glance.bring(key, "glance-download", glance_image_id=key, glance_region="RegionOne")
    assert glance.task(key)["status"] == "failure"
    said = caplog.text + str(glance.task(key))
    assert "sealed" not in said and "gAAAA" not in said
