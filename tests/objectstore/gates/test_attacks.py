"""Attacks on the doors of the object store, through the whole pipeline as it is shipped.

Traversal by names; signatures and tokens that are used for what they were not made for, too late, too early or altered;
headers that claim to be ours; listings of others; temporary URLs that reach further than they should.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import json
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from altostack.objectstore import compose, sync
from altostack.objectstore.http import Response
from altostack.objectstore.middleware import signing
from altostack.objectstore.storage import Spot
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

SHIPPED = next(
    line.partition(" = ")[2]
    for line in compose.PASTE.read_text().splitlines()
    if line.startswith("pipeline = catch ")
)
C = "/v1/AUTH_p1/c"
LATER = str(int(time.time()) + 3600)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[World]:
    (tmp_path / sync.FILE).write_text("[realm]\nkey = realm key\n")
    made = peopled(tmp_path, SHIPPED, options={"tempauth": {"user_one_boss": "secret1 .admin"}})
    made.put(C, x_auth_token="anna", x_container_sync_key="theirs")
    made.put("/v1/AUTH_p1/private", x_auth_token="anna")
    made.put("/v1/AUTH_p1/private/o", b"the secret", x_auth_token="anna")
    made.post("/v1/AUTH_p1", x_auth_token="anna", x_account_meta_temp_url_key="hush")
    made.put("/v1/AUTH_p2/other", x_auth_token="bert")
    made.put("/v1/AUTH_p2/other/o", b"bert's secret", x_auth_token="bert")
    yield made
    made.close()


def temp_url(method: str, path: str, expires: str = LATER, **more: str) -> dict[str, str]:
    text = f"{method}\n{expires}\n{path}".encode()
    return {
        "temp_url_sig": hmac.new(b"hush", text, hashlib.sha256).hexdigest(),
        "temp_url_expires": expires,
    } | more


def raw(here: World, *lines: str, body: bytes = b"") -> bytes:
    """What the server answers to these lines, sent as they are."""
    if not here.servers:
        here.headers["url"] = here.serve()
    host, _, port = here.headers["url"].removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall("\r\n".join((*lines, "Connection: close", "", "")).encode("latin-1") + body)
        got = b""
        while part := client.recv(65536):
            got += part
    return got


def stored(here: World, name: str) -> dict[str, str]:
    """All that the disk holds of an object beside its data."""
    ring = here.store.rings.object(0)
    part, digest = ring.locate("AUTH_p1", "c", name)
    device = ring.nodes(part)[0]
    found = here.store.node(device).read(Spot(device.device, part, digest))
    with contextlib.closing(found):
        return dict(found.metadata)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# ---- names that climb (8)

NAMES = [
    "../../../../../../etc/passwd",
    "..",
    ".",
    "a/../../../../x",
    "..%2f..%2fx",
    "%2e%2e/x",
    "....//x",
    "\\..\\..\\x",
    "a\nb",
    "~root/x",
    "$(id)",
    "x" * 1024,
    "é" * 512,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_only_names(here: World, tmp_path: Path, name: str) -> None:
    folders = set(tmp_path.parent.iterdir())
    at_first = {path.name for path in tmp_path.iterdir()}
    assert here.put(f"{C}/{name}", b"mine", x_auth_token="anna").status == 201
    assert here.get(f"{C}/{name}", x_auth_token="anna").read() == b"mine"
    listed = json.loads(here.get(C, x_auth_token="anna", query={"format": "json"}).read())
    assert [one["name"] for one in listed] == [name]
    for path in tmp_path.rglob("*"):
        assert name.strip("/.") not in path.name or len(name) < 3
    assert {path.name for path in tmp_path.iterdir()} - at_first <= {"objectstore", "run"}
    assert set(tmp_path.parent.iterdir()) == folders
    assert here.delete(f"{C}/{name}", x_auth_token="anna").status == 204


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("/v1/AUTH_p1/../AUTH_p2/other/o", 404),
        ("/v1/AUTH_p1/%2e%2e/AUTH_p2/other/o", 404),
        ("/v1/AUTH_p1%2f..%2fAUTH_p2/other/o", 404),
        ("/v1/AUTH_p1/c/../../AUTH_p2/other/o", 404),
        ("//v1/AUTH_p2/other/o", 404),
        ("/./v1/AUTH_p2/other/o", 404),
        ("/v1//AUTH_p2/other/o", 404),
        ("/v1/./AUTH_p2/other/o", 403),
        ("/v1/AUTH_p2%00/other/o", 412),
        ("/v1/AUTH_p1/c/%00", 412),
        ("/v1/AUTH_p1/c/a%00b", 412),
        ("/v1/AUTH_p1/c/%ff%fe", 412),
        ("/v1/AUTH_p1/c/%c0%ae%c0%ae/x", 412),
        ("/V1/AUTH_p2/other/o", 404),
        ("/v1.0/AUTH_p2/other/o", 403),
    ],
)
def test_paths_reach_nothing_of_others(here: World, target: str, wanted: int) -> None:
    answer = raw(here, f"GET {target} HTTP/1.1", "Host: x", "X-Auth-Token: anna")
    assert b"secret" not in answer
    assert status(answer) == wanted or (wanted == 404 and status(answer) in (400, 403))


# ---- signatures and tokens used for something else (10)


def test_a_signature_is_no_token(here: World) -> None:
    path = f"{C}/o"
    here.put(path, b"x", x_auth_token="anna")
    given = temp_url("GET", path)
    seal = given["temp_url_sig"]
    for headers in ({"x_auth_token": seal}, {"authorization": f"Bearer {seal}"}, {"x_service_token": seal}):
        assert here.get(path, **headers).status == 401
    answer = here.get(path, query=given)
    assert answer.status == 200
    assert not [name for name in answer.headers if "token" in name or "key" in name]
    for other in ("/v1/AUTH_p1", C, "/v1/AUTH_p1/private/o"):
        assert here.get(other, query=given).status == 401
    assert here.get("/auth/v1.0", query=given).status == 401
    assert here.get(path, query={"X-Amz-Signature": seal, "X-Amz-Credential": "hush"}).status in (
        400,
        401,
        403,
    )


def test_a_forms_signature_is_no_temporary_url(here: World) -> None:
    text = f"{C}/o\n\n100\n1\n{LATER}".encode()
    seal = hmac.new(b"hush", text, hashlib.sha256).hexdigest()
    for method in ("GET", "PUT", "POST"):
        assert (
            here.ask(method, f"{C}/o", query={"temp_url_sig": seal, "temp_url_expires": LATER}).status == 401
        )


def test_a_form_sets_no_headers_but_its_own(here: World) -> None:
    text = f"{C}/\n\n100\n1\n{LATER}".encode()
    fields = {
        "max_file_size": "100", "max_file_count": "1", "expires": LATER,
        "signature": hmac.new(b"hush", text, hashlib.sha256).hexdigest(),
        "x-object-manifest": "private/o", "x-symlink-target": "private/o", "x-copy-from": "private/o",
        "x-object-meta-color": "red", "x-backend-storage-policy-index": "1",
    }  # fmt: skip
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        '--b\r\nContent-Disposition: form-data; name="f"; filename="../../private/o"\r\n'
        "X-Symlink-Target: private/o\r\n\r\nmine\r\n--b--\r\n"
    )
    answer = here.post(f"{C}/", "".join(parts).encode(), content_type="multipart/form-data; boundary=b")
    assert answer.status == 201
    seen = here.get(f"{C}/../../private/o", x_auth_token="anna")
    assert seen.read() == b"mine" and "x-object-meta-color" not in seen.headers
    assert here.get("/v1/AUTH_p1/private/o", x_auth_token="anna").read() == b"the secret"
    evil = "".join(parts).replace("X-Symlink-Target: private/o", "Content-Type: a/b\rX-Evil: 1")
    assert here.post(f"{C}/", evil.encode(), content_type="multipart/form-data; boundary=b").status == 400


# ---- too late, too early, altered (13)


@pytest.mark.parametrize("expires", ["1", "a moment ago", "-1", "0x7fffffff", "1e12", " 9999999999", "NaN"])
def test_what_has_ended_has_ended(here: World, expires: str) -> None:
    if expires == "a moment ago":
        expires = str(int(time.time()) - 1)
    path = f"{C}/o"
    here.put(path, b"x", x_auth_token="anna")
    assert here.get(path, query=temp_url("GET", path, expires)).status == 401


def test_every_altered_bit_counts(here: World) -> None:
    path = f"{C}/o"
    here.put(path, b"x", x_auth_token="anna")
    given = temp_url("GET", path)
    seal = given["temp_url_sig"]
    assert here.get(path, query=given).status == 200
    for at in range(0, 64, 7):
        other = seal[:at] + ("0" if seal[at] != "0" else "1") + seal[at + 1 :]
        assert here.get(path, query=given | {"temp_url_sig": other}).status == 401
    for other in ("", seal[:-1], seal[:32], seal + "00", "sha256:", "sha256:" + seal, "md5:AAAA", "sha1:" + "A" * 27,
                  seal.upper(), "sha256:" + base64.b64encode(b"x" * 32).decode()):  # fmt: skip
        assert here.get(path, query=given | {"temp_url_sig": other}).status == 401
    assert here.get(path, query=given | {"temp_url_expires": str(int(LATER) + 1)}).status == 401


def test_a_change_of_another_cluster_cannot_be_altered_or_redated(here: World) -> None:
    realm = sync.Realm("REALM", "realm key")
    made = sync.signed("PUT", f"{C}/o", "1700000000.00000", realm, "theirs")
    sent = {name.replace("-", "_"): value for name, value in made.items()}
    cut = {"x_container_sync_auth": sent["x_container_sync_auth"][:-1]}
    for wrong in ({"x_timestamp": "9999999999.00000"}, {"x_timestamp": ""}, cut):
        assert here.put(f"{C}/o", b"x", **(sent | wrong)).status == 401
    assert here.put("/v1/AUTH_p1/private/o", b"x", **sent).status == 401
    assert here.put(f"{C}/o", b"x", **sent).status == 201
    answer = here.put(f"{C}/o2", b"x", x_auth_token="anna", x_timestamp="9999999999.00000")
    assert answer.status == 201  # a client's own date counts for nothing
    assert float(here.head(f"{C}/o2", x_auth_token="anna").headers["x-timestamp"]) < 9e9


# ---- headers that claim to be ours (15)


@pytest.mark.parametrize(
    "lines",
    [
        (
            "X-Roles: admin,ResellerAdmin",
            "X-User-Id: u-anna",
            "X-Project-Id: p1",
            "X-Identity-Status: Confirmed",
        ),
        ("X_Auth_Token: anna",),
        ("X-Auth-Token: nobody", "X-Auth-Token: anna"),
        ("X-Auth-Token: anna", "X-Auth-Token: anna"),
        ("X-Auth-Token : anna",),
        ("X-Backend-Allow-Private-Methods: true", "X-Backend-Owner: true"),
        ("Remote-User: .wsgi.tempurl", "X-Remote-User: anna"),
        ("X-Altostack-Node: node1:00",),
        ("X-Service-Token: nova",),
        ("Referer: http://x/", "X-Forwarded-For: 127.0.0.1"),
    ],
)
def test_no_header_but_a_token_names_the_caller(here: World, lines: tuple[str, ...]) -> None:
    answer = raw(here, "GET /v1/AUTH_p1/private/o HTTP/1.1", "Host: x", *lines)
    assert status(answer) in (400, 401)
    assert b"the secret" not in answer


@pytest.mark.parametrize(
    "name",
    [
        "X-Object-Sysmeta-Evil",
        "x-object_sysmeta-Evil",
        "X_Object_Sysmeta_Evil",
        "X-Object-Transient-Sysmeta-Evil",
        "X-Backend-Container-Update-Override-Size",
        "X-Backend-Storage-Policy-Index",
        "X-Container-Host",
        "X-Delete-At-Container",
    ],
)
def test_system_metadata_is_not_for_clients(here: World, name: str) -> None:
    answer = raw(
        here,
        f"PUT {C}/o HTTP/1.1",
        "Host: x",
        "X-Auth-Token: anna",
        f"{name}: 7",
        "Content-Length: 1",
        body=b"x",
    )
    assert status(answer) in (201, 400)
    if status(answer) == 201:
        assert not [one for one in stored(here, "o").items() if "evil" in one[0] or one[1] == "7"]
        listed = json.loads(here.get(C, x_auth_token="anna", query={"format": "json"}).read())
        assert listed[0]["bytes"] == 1


def test_system_metadata_of_accounts_and_containers(here: World) -> None:
    here.post("/v1/AUTH_p1", x_auth_token="anna", x_account_sysmeta_quota_bytes="1",
              x_account_sysmeta_core_access_control='{"admin":["*:*"]}')  # fmt: skip
    here.post(C, x_auth_token="anna", x_container_sysmeta_evil="1")
    account, container = here.store.known.account("AUTH_p1"), here.store.known.container("AUTH_p1", "c")
    assert account is not None and container is not None
    assert not [name for name in account.metadata if "quota" in name or "core" in name]
    assert "x-container-sysmeta-evil" not in container.metadata
    assert here.get("/v1/AUTH_p1", x_auth_token="bert").status == 403


def test_archives_bring_no_headers_of_ours(here: World) -> None:
    made = io.BytesIO()
    with tarfile.open(mode="w", fileobj=made, format=tarfile.PAX_FORMAT) as tar:
        for number, key in enumerate(
            ("user.meta.a\r\nx-backend-evil", "user.meta.", "user.x-object-sysmeta-evil", "user.meta.b")
        ):
            info = tarfile.TarInfo(f"c/{number}")
            info.pax_headers = {f"SCHILY.xattr.{key}": "1\r\nX-Evil: 1" if number == 3 else "1"}
            tar.addfile(info)
    answer = here.put("/v1/AUTH_p1", made.getvalue(), query={"extract-archive": "tar"}, x_auth_token="anna",
                      accept="application/json")  # fmt: skip
    told = json.loads(answer.read())
    assert told["Number Files Created"] == 1
    assert [one[0] for one in told["Errors"]] == ["c/0", "c/1", "c/3"]


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        (("Content-Length: 5", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
        (("Content-Length: 5", "Content-Length: 6"), b"hello!"),
        (("Content-Length: +5",), b"hello"),
        (("Content-Length: -1",), b""),
        (("Transfer-Encoding: gzip, chunked",), b"0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"5\r\nhello!\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"zz\r\n"),
    ],
)
def test_smuggled_requests(here: World, lines: tuple[str, ...], body: bytes) -> None:
    hidden = b"GET /v1/AUTH_p1/private/o HTTP/1.1\r\nHost: x\r\nX-Auth-Token: anna\r\n\r\n"
    answer = raw(here, f"PUT {C}/o HTTP/1.1", "Host: x", "X-Auth-Token: anna", *lines, body=body + hidden)
    assert status(answer) in (400, 501)
    assert b"the secret" not in answer
    assert here.get(f"{C}/o", x_auth_token="anna").status == 404


# ---- what others have (20)


@pytest.mark.parametrize("who", ["anna", "carl", "rita", "nova", None])
def test_others_are_not_listed_and_not_told_apart_from_nobody(here: World, who: str | None) -> None:
    def ask(method: str, path: str) -> tuple[int, bytes]:
        answer: Response = here.ask(method, path, x_auth_token=who or "")
        return answer.status, answer.read()

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        there, nowhere = ask(method, "/v1/AUTH_p2"), ask(method, "/v1/AUTH_nobody")
        assert there == nowhere and there[0] == (403 if who else 401)
        there, nowhere = ask(method, "/v1/AUTH_p2/other"), ask(method, "/v1/AUTH_p2/none")
        assert there == nowhere and there[0] == (403 if who else 401)
        there, nowhere = ask(method, "/v1/AUTH_p2/other/o"), ask(method, "/v1/AUTH_p2/other/none")
        assert there == nowhere and there[0] == (403 if who else 401)
    assert here.get("/v1/AUTH_p2/other/o", x_auth_token="bert").read() == b"bert's secret"


def test_no_parameter_widens_a_listing(here: World) -> None:
    queries = ("prefix=../", "marker=../AUTH_p2/", "path=/", "account=AUTH_p2", "all_tenants=1")
    for query in (dict([one.split("=")]) for one in queries):
        for path in ("/v1/AUTH_p1", C):
            assert b"other" not in here.get(path, x_auth_token="anna", query=query).read()


# ---- temporary URLs and copies that reach further (27)


def test_a_temporary_url_for_uploads_opens_nothing_to_read(here: World) -> None:
    path = f"{C}/o"
    for header in ("x_copy_from", "x_object_manifest", "x_symlink_target", "x_symlink_target_account"):
        assert here.put(path, query=temp_url("PUT", path), **{header: "/private/o"}).status == 400
        assert here.post(path, query=temp_url("POST", path), **{header: "/private/o"}).status == 400
    manifest = json.dumps([{"path": "/private/o"}]).encode()
    answer = here.put(path, manifest, query=temp_url("PUT", path, **{"multipart-manifest": "put"}))
    assert answer.status == 201
    assert here.get(path, query=temp_url("GET", path)).read() == manifest
    assert here.ask("COPY", path, query=temp_url("COPY", path), destination="c/x").status == 401
    assert here.ask("COPY", "/v1/AUTH_p1/private/o", query=temp_url("PUT", "/v1/AUTH_p1/private/o"),
                    destination="c/x").status == 401  # fmt: skip


def test_a_prefix_is_no_name_and_a_name_no_prefix(here: World) -> None:
    here.put(f"{C}/prefix:/v1/AUTH_p1/c/x", b"odd", x_auth_token="anna")
    here.put(f"{C}/xy", b"other", x_auth_token="anna")
    for signed, more in (
        (f"{C}/x", {"temp_url_prefix": "x"}),
        (f"prefix:{C}/x", {}),
        (f"prefix:{C}/x", {"temp_url_prefix": "xy"}),
        (f"prefix:{C}/private", {"temp_url_prefix": "../private"}),
        (f"prefix:{C}/x\n", {"temp_url_prefix": "x"}),
    ):
        assert here.get(f"{C}/xy", query=temp_url("GET", signed, **more)).status == 401
    assert here.get(f"{C}/xy", query=temp_url("GET", f"prefix:{C}/x", temp_url_prefix="x")).status == 200
    climbing = temp_url("GET", f"prefix:{C}/x", temp_url_prefix="x")
    for path in ("/v1/AUTH_p1/c/../private/o", "/v1/AUTH_p1/private/o", f"{C}/x/../../private/o"):
        assert b"secret" not in here.get(path, query=climbing).read()


def test_a_line_end_in_a_name_moves_nothing_into_another_line(here: World) -> None:
    # The signed text has three lines: whoever gets one signed must not be able to split it another way.
    odd = f"{C}/o\n{LATER}"
    here.put(odd, b"odd", x_auth_token="anna")
    here.put(f"{C}/o", b"plain", x_auth_token="anna")
    given = temp_url("GET", odd)
    assert here.get(odd, query=given).read() == b"odd"
    assert here.get(f"{C}/o", query=given).status == 401
    ranged = temp_url("GET", f"{C}/o") | {"temp_url_ip_range": "0.0.0.0/0\nGET"}
    assert here.get(f"{C}/o", query=ranged).status == 401


def test_a_wrong_signature_takes_as_many_comparisons_as_a_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    true = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        counted.append(one)
        return true(one, other)

    monkeypatch.setattr(signing.hmac, "compare_digest", compare)
    keys: list[tuple[str, signing.Scope]] = [(f"key{number}", "account") for number in range(4)]
    texts = ["a", "b", "c", "d"]
    first = hmac.new(b"key0", b"a", "sha256").hexdigest()
    assert signing.matching(first, "sha256", texts, keys) == "account"
    good = len(counted)
    assert signing.matching("0" * 64, "sha256", texts, keys) is None
    assert len(counted) == good * 2 == 32


def test_copies_need_both_ends(here: World) -> None:
    here.post(C, x_auth_token="anna", x_container_write="p2:*")
    for source, token, wanted in (
        ("private/o", "bert", 403),
        ("private/o", "", 401),
        ("private/o", "rita", 403),
        ("private/o", "anna", 201),
    ):
        answer = here.put(f"{C}/copy", x_auth_token=token, x_copy_from=source)
        assert answer.status == wanted
        answer = here.ask("COPY", f"/v1/AUTH_p1/{source}", x_auth_token=token, destination="c/copy2")
        assert answer.status == wanted
    foreign = {"x_copy_from": "private/o", "x_copy_from_account": "AUTH_p1"}
    answer = here.put("/v1/AUTH_p2/other/x", x_auth_token="bert", **foreign)
    assert answer.status == 403
    answer = here.ask("COPY", "/v1/AUTH_p1/private/o", x_auth_token="anna", destination="other/x",
                      destination_account="AUTH_p2")  # fmt: skip
    assert answer.status == 403
    assert here.get("/v1/AUTH_p2/other/x", x_auth_token="bert").status == 404


def test_who_may_not_delete_leaves_no_trace(here: World) -> None:
    for who in ("bert", "rita", "carl", ""):
        for path in (
            "/v1/AUTH_p1/private/o",
            "/v1/AUTH_p1/private/none",
            "/v1/AUTH_p1/private",
            "/v1/AUTH_p1",
        ):
            assert here.delete(path, x_auth_token=who).status == (403 if who else 401)
    assert here.get("/v1/AUTH_p1/private/o", x_auth_token="anna").read() == b"the secret"
    told = here.post("/v1/AUTH_p1", b"private/o\nprivate\n", query={"bulk-delete": ""}, x_auth_token="bert")
    assert b"Number Deleted: 0" in told.read()
    assert not list(Path(here.store.folder).rglob("*.ts"))


def test_errors_show_nothing_of_the_query_or_the_keys(here: World) -> None:
    asked = {"temp_url_sig": "<script>alert(1)</script>", "temp_url_expires": LATER}
    for path in (f"{C}/<script>", "/v1/AUTH_<script>/c"):
        answer = raw(
            here, f"GET {path.replace('<', '%3C').replace('>', '%3E')}?{urlencode(asked)} HTTP/1.1", "Host: x"
        )
        assert status(answer) == 401
        assert b"<script>" not in answer and b"hush" not in answer and b"theirs" not in answer
