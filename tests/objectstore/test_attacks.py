"""Attacks on an object store with an identity service, through the pipeline as it is shipped and over real sockets.

Where each is tried, here and by the parts' own tests:

8, path traversal: here in names, copy sources, manifests and links, by token and by signature;
`gates/test_attacks.py` (names, archives, forms, temporary URLs), `disk/test_wire.py` and `disk/test_layout.py` (what
nodes are told), `fuzz.py`.

10, signed requests turned into tokens: here; `identity/test_attacks_auth.py` (who may ask for such tokens),
`gates/test_attacks.py` (a signature is no token).

13, signatures too late, too early or altered: here with keys of the identity service; `s3/test_signatures.py` (all
parts of a signature, chunks, checksums), `s3/test_identity.py` (keys, roles and users that ended),
`gates/test_attacks.py` (temporary URLs, forms, container sync).

27, what has happened to Swift: temporary URLs here (who may know the key), in `gates/test_tempurl.py` and
`gates/test_attacks.py` (methods, prefixes, line ends); XML entities here in every body, and in `s3/test_objects.py`;
versions deleted without the right to, copies that read before they ask, tombstones of what never was and manifests that
hold themselves here, in `shapes/test_attacks.py`, `shapes/test_rights.py` and `shapes/test_slo.py`; comparisons in
constant time here and in `gates/test_attacks.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest

from altostack.inprocess import InProcessCloud
from altostack.kit.clients import RemoteError
from altostack.objectstore.http import Response
from tests.objectstore.s3.signer import Answer, Signer, digest, send
from tests.objectstore.world import world


@dataclass
class Person:
    """Somebody with a token, an access key and an account."""

    site: Site
    token: str
    account: str
    access: str
    secret: str

    def swift(self, method: str, path: str, body: bytes = b"", query: str = "", **headers: str) -> Answer:
        """path: decoded, below the person's own account unless it begins with /v1."""
        where = path if path.startswith("/v1") else f"/v1/{self.account}{path}"
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.site.send(method, quote(where) + query, {"x-auth-token": self.token} | told, body)

    @property
    def signer(self) -> Signer:
        return Signer(self.site.url, self.access, self.secret)

    def s3(
        self, method: str, path: str, body: bytes = b"", query: dict[str, str] | None = None, **headers: str
    ) -> Answer:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        signed = self.signer.headers(method, path, payload=digest(body), query=query, more=told)
        asked = "?" + urlencode(query, quote_via=quote) if query else ""  # type: ignore[type-var]
        return self.site.send(method, quote(path, safe="/-_.~") + asked, signed, body)


class Site:
    """The cloud: anna and rita (who may only read) in one project, bert in another."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.cloud = InProcessCloud(state, services=("identity", "image", "objectstore"), hosts=())
        self.cloud.serve()
        store = self.cloud.object_store()
        self.url = store.url.partition("/v1")[0]
        self.identity = self.cloud.client("identity")
        self.anna = self._person("anna", "one")
        self.rita = self._person("rita", "one", "reader")
        self.bert = self._person("bert", "two")

    def _person(self, name: str, project: str, role: str = "member") -> Person:
        token = self.cloud.person(name, project=project, roles=(role,))
        mine = self.identity.call("GET", "/v3/auth/tokens", token=token, headers={"X-Subject-Token": token})
        user, home = mine["token"]["user"]["id"], mine["token"]["project"]["id"]
        made = self.identity.call(
            "POST",
            f"/v3/users/{user}/credentials/OS-EC2",
            {"tenant_id": home},
            token=self.cloud.token("admin"),
        )["credential"]
        return Person(self, token, f"AUTH_{home}", made["access"], made["secret"])

    def send(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        return send(self.url, method, target, headers, body)

    def raw(self, text: str) -> bytes:
        """What a connection says to bytes that no library would send."""
        parts = urlsplit(self.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as sock:
            sock.sendall(text.encode())
            sock.shutdown(socket.SHUT_WR)
            said = b""
            while part := sock.recv(65536):
                said += part
            return said

    def files(self) -> set[str]:
        """All that lies in the cloud's folder beside the devices."""
        devices = self.state / "objectstore" / "devices"
        return {str(one) for one in self.state.rglob("*") if devices not in one.parents}

    def tombstones(self) -> int:
        return sum(1 for _ in (self.state / "objectstore" / "devices").rglob("*.ts"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("cloud"))
    yield made
    made.cloud.stop()


@pytest.fixture
def secret(site: Site) -> str:
    """A container of bert's with an object that is nobody else's business."""
    assert site.bert.swift("PUT", "/private").status in (201, 202)
    assert site.bert.swift("PUT", "/private/o", b"bert's secret").status == 201
    return f"/v1/{site.bert.account}/private/o"


# ---- 8: names that would be paths


NAMES = (
    "..",
    "../..",
    "../../../../etc/passwd",
    "a/../../b",
    "./x",
    "/abs",
    "//x",
    "a//b",
    "..%2f..%2fx",
    "~root",
    "C:\\x",
)


def test_8_names_stay_names(site: Site) -> None:
    anna, before = site.anna, site.files()
    assert anna.swift("PUT", "/names").status in (201, 202)
    assert anna.s3("PUT", "/names-by-s3").status == 200
    for name in NAMES:
        content = f"content of {name}".encode()
        assert anna.swift("PUT", f"/names/{name}", content).status == 201, name
        assert anna.swift("GET", f"/names/{name}").body == content
        assert anna.s3("PUT", f"/names-by-s3/{name}", content).status == 200, name
        assert anna.s3("GET", f"/names-by-s3/{name}").body == content
    listed = anna.swift("GET", "/names", query="?format=json")
    assert sorted(one["name"] for one in json.loads(listed.body)) == sorted(NAMES)
    for name in ("..", "."):  # containers, too, are no folders
        assert anna.swift("PUT", f"/{name}").status in (201, 202)
        assert anna.swift("PUT", f"/{name}/o", b"in a container").status == 201
        assert anna.swift("GET", f"/{name}/o").body == b"in a container"
        assert anna.swift("DELETE", f"/{name}/o").status == 204
        assert anna.swift("DELETE", f"/{name}").status == 204
    assert {
        one for one in site.files() - before if not one.endswith((".db", ".db-wal", ".db-shm", ".log"))
    } == set()


def test_8_dots_reach_nobody_elses_objects(site: Site, secret: str) -> None:
    anna, bert = site.anna, site.bert
    assert anna.swift("PUT", "/mine").status in (201, 202)
    for target in (
        f"/v1/{anna.account}/../{bert.account}/private/o",
        f"/v1/{anna.account}/mine/../../{bert.account}/private/o",
        f"/v1/{anna.account}/%2e%2e/{bert.account}/private/o",
        f"/v1/{anna.account}/mine/..%2f..%2f{bert.account}%2fprivate%2fo",
        f"/v1//{bert.account}/private/o",
        f"/v1/./{bert.account}/private/o",
        f"/v1/x/../{bert.account}/private/o",
        f"//v1/{bert.account}/private/o",
        secret,
    ):
        said = site.raw(f"GET {target} HTTP/1.0\r\nX-Auth-Token: {anna.token}\r\n\r\n")
        assert said.startswith((b"HTTP/1.1 40", b"HTTP/1.1 412")), (target, said)
        assert b"secret" not in said
    for source in (
        f"../{bert.account}/private/o",
        f"mine/../../{bert.account}/private/o",
        f"/{bert.account}/private/o",
    ):
        assert anna.swift("PUT", "/mine/copy", x_copy_from=source).status in (400, 404, 412)
        assert anna.swift("PUT", "/mine/link", x_symlink_target=source).status in (201, 400, 404, 412)
        assert b"secret" not in anna.swift("GET", "/mine/link").body
        manifest = json.dumps([{"path": f"/{source.lstrip('/')}"}]).encode()
        assert anna.swift("PUT", "/mine/slo", manifest, "?multipart-manifest=put").status == 400
        assert anna.swift("PUT", "/mine/dlo", x_object_manifest=source).status in (201, 400)
        assert b"secret" not in anna.swift("GET", "/mine/dlo").body
    assert site.anna.s3("PUT", "/attackers").status == 200
    for source in (f"/attackers/../../{bert.account}/private/o", "/attackers/../private/o", "private/o"):
        assert anna.s3("PUT", "/attackers/k", x_amz_copy_source=source).status in (403, 404)
    assert anna.s3("GET", "/attackers/../private/o").status == 404


# ---- 10: a signed request is worth that request


def test_10_a_captured_url_makes_no_token(site: Site, secret: str) -> None:
    """OSSA-2025-002: whoever sees a presigned URL has all that the identity service needs to know the signer."""
    signer = site.bert.signer
    target = signer.presigned("GET", "/private/o", 300)
    assert site.send("GET", target).body == b"bert's secret"
    asked = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{signer.access}/{signer.scope}",
        "X-Amz-Date": signer.date, "X-Amz-Expires": "300", "X-Amz-SignedHeaders": "host",
    }  # fmt: skip
    canonical = signer.canonical(
        "GET", "/private/o", asked, {"host": urlsplit(site.url).netloc}, "UNSIGNED-PAYLOAD"
    )
    text = (
        f"AWS4-HMAC-SHA256\n{signer.date}\n{signer.scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    )
    import base64

    signature = target.rpartition("X-Amz-Signature=")[2]
    captured = {
        "access": signer.access,
        "signature": signature,
        "token": base64.urlsafe_b64encode(text.encode()).decode(),
    }
    as_ec2 = {
        "access": signer.access, "signature": signature, "host": urlsplit(site.url).netloc, "verb": "GET",
        "path": "/private/o", "params": asked, "headers": {}, "body_hash": "UNSIGNED-PAYLOAD",
    }  # fmt: skip
    for path, body in (("/v3/s3tokens", captured), ("/v3/ec2tokens", as_ec2)):
        for token in (None, site.anna.token, site.bert.token, signature, signer.access):
            with pytest.raises(RemoteError) as refused:
                site.identity.call("POST", path, {"credentials": body}, token=token)
            assert refused.value.status in (401, 403)
    for token in (signature, signer.access, target):
        for name in ("x-auth-token", "x-storage-token", "x-service-token"):
            assert site.send("GET", quote(secret), {name: token}).status == 401
        assert site.send("GET", quote(secret), {"authorization": f"Bearer {token}"}).status == 401


def test_10_a_captured_url_opens_nothing_else(site: Site, secret: str) -> None:
    site.bert.swift("PUT", "/private/other", b"another secret")
    target = site.bert.signer.presigned("GET", "/private/o", 300)
    assert site.send("GET", target).status == 200
    for method in ("PUT", "POST", "DELETE"):
        assert site.send(method, target, body=b"x" if method != "DELETE" else b"").status == 403
    for changed in (
        target.replace("/private/o", "/private/other"),
        target.replace("/private/o", "/private"),
        target.replace("/private/o", "/"),
        target.replace("/private/o", quote(secret)),
        target + "&acl",
        target + "&versionId=null",
        target + "&response-content-type=text/html",
        target.replace("X-Amz-Expires=300", "X-Amz-Expires=3000"),
        target.replace("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders="),
    ):
        answer = site.send("GET", changed)
        assert answer.status in (400, 401, 403), changed
        assert b"secret" not in answer.body
    answer = site.send("GET", target, {"x-auth-token": site.anna.token})
    assert answer.status in (200, 400, 403)  # it is still the signer's request, and no more than that
    assert site.bert.swift("GET", "/private/o").body == b"bert's secret"


# ---- 13: signatures too late, too early, altered


@pytest.mark.parametrize("seconds", [-86_400, -901, 901, 86_400])
def test_13_the_signers_clock(site: Site, secret: str, seconds: int) -> None:
    signer = site.bert.signer
    signer.when += timedelta(seconds=seconds)
    headers = signer.headers("GET", "/private/o")
    answer = site.send("GET", "/private/o", headers)
    assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed")
    now = site.bert.signer
    dated = headers | {"x-amz-date": now.date}  # a new date on an old signature
    assert site.send("GET", "/private/o", dated).status in (400, 403)
    dated["authorization"] = headers["authorization"].replace(signer.scope, now.scope)
    assert site.send("GET", "/private/o", dated).status == 403


def test_13_presigned_urls_end_and_do_not_begin_early(site: Site, secret: str) -> None:
    for began, lasts, status in (
        (-400, 300, 403),
        (-200, 300, 200),
        (3600, 300, 403),
        (0, 604_801, 400),
        (0, 0, 400),
        (0, -5, 400),
    ):
        signer = site.bert.signer
        signer.when += timedelta(seconds=began)
        answer = site.send("GET", signer.presigned("GET", "/private/o", lasts))
        assert answer.status in ((status, 403) if status == 400 else (status,)), (began, lasts)


def test_13_what_was_signed_is_what_is_sent(site: Site, secret: str) -> None:
    signer = site.bert.signer
    more = {"x-amz-acl": "private", "x-amz-meta-a": "1"}
    headers = signer.headers("PUT", "/private/signed", payload=digest(b"body"), more=more)
    assert site.send("PUT", "/private/signed", headers, b"body").status == 200
    for change in (
        {"x-amz-acl": "public-read"},
        {"x-amz-meta-a": "2"},
        {"x-amz-meta-b": "not signed"},
        {"x-amz-copy-source": "/private/o"},
        {"x-amz-tagging": "a=b"},
        {"host": "elsewhere.example"},
        {"x-amz-content-sha256": digest(b"other")},
        {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"},
        {"authorization": headers["authorization"].replace(signer.access, site.anna.access)},
        {"authorization": headers["authorization"].replace("x-amz-acl;", "")},
    ):
        assert site.send("PUT", "/private/signed", headers | change, b"body").status in (400, 403), change
    assert site.send("PUT", "/private/signed", headers, b"BODY").status == 400
    assert site.send("PUT", "/private/elsewhere", headers, b"body").status == 403
    assert site.send("PUT", "/private/signed?acl", headers, b"body").status == 403
    assert site.send("POST", "/private/signed", headers, b"body").status in (403, 405)
    assert site.bert.swift("GET", "/private/signed").body == b"body"
    assert site.bert.swift("HEAD", "/private/elsewhere").status == 404
    twice = "\r\n".join(f"{name}: {value}" for name, value in headers.items() if name != "content-length")
    said = site.raw(
        f"PUT /private/signed HTTP/1.1\r\n{twice}\r\nX-Amz-Acl: public-read\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert said.startswith(b"HTTP/1.1 403")


# ---- 27: what has happened to others


def test_27_who_may_only_read_does_not_see_the_keys(site: Site) -> None:
    """A key of temporary URLs is the right to write (OSSA-2014-002 and its like begin with the key)."""
    key = {"x_account_meta_temp_url_key": "account-key"}
    assert site.anna.swift("POST", "", **key).status == 204
    assert site.anna.swift(
        "PUT", "/keyed", x_container_meta_temp_url_key="container-key", x_container_read="*:*"
    ).status in (201, 202)
    assert site.anna.swift("HEAD", "").headers["x-account-meta-temp-url-key"] == "account-key"
    for who, path in ((site.rita, ""), (site.rita, "/keyed"), (site.bert, f"/v1/{site.anna.account}/keyed")):
        for method in ("GET", "HEAD"):
            answer = who.swift(method, path)
            assert answer.status in (200, 204)
            assert not [name for name in answer.headers if "temp-url-key" in name]
            assert b"-key" not in answer.body
    assert site.rita.swift("POST", "", x_account_meta_temp_url_key="mine").status == 403
    expires = str(int(time.time()) + 60)
    where = f"/v1/{site.anna.account}/keyed/o"
    for guess in ("", "account-key ", "container-keY", "mine", site.rita.token):
        text = f"PUT\n{expires}\n{where}".encode()
        signed = hmac.new(guess.encode(), text, hashlib.sha256).hexdigest()
        answer = site.send("PUT", f"{where}?temp_url_sig={signed}&temp_url_expires={expires}", body=b"x")
        assert answer.status == 401


XXE = '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
LAUGHS = "<!DOCTYPE r [<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {new} '{f'&{old};' * 10}'>" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
) + "]>"  # fmt: skip


@pytest.mark.parametrize(
    ("method", "subresource", "root", "inside"),
    [
        ("PUT", "acl", "AccessControlPolicy", "<Owner><ID>&x;</ID></Owner><AccessControlList/>"),
        ("PUT", "cors", "CORSConfiguration", "<CORSRule><AllowedOrigin>&x;</AllowedOrigin></CORSRule>"),
        ("POST", "delete", "Delete", "<Object><Key>&x;</Key></Object>"),
        ("PUT", "lifecycle", "LifecycleConfiguration", "<Rule><ID>&x;</ID><Status>Enabled</Status><Prefix/></Rule>"),
        ("PUT", "notification", "NotificationConfiguration", "<TopicConfiguration>&x;</TopicConfiguration>"),
        ("PUT", "object-lock", "ObjectLockConfiguration", "<ObjectLockEnabled>&x;</ObjectLockEnabled>"),
        ("PUT", "tagging", "Tagging", "<TagSet><Tag><Key>&x;</Key><Value>v</Value></Tag></TagSet>"),
        ("PUT", "versioning", "VersioningConfiguration", "<Status>&x;</Status>"),
        ("PUT", "", "CreateBucketConfiguration", "<LocationConstraint>&x;</LocationConstraint>"),
        ("POST", "uploadId", "CompleteMultipartUpload", "<Part><PartNumber>1</PartNumber><ETag>&x;</ETag></Part>"),
    ],
)  # fmt: skip
def test_27_no_entity_is_looked_up(site: Site, method: str, subresource: str, root: str, inside: str) -> None:
    """OSSA-2023-001."""
    anna = site.anna
    assert anna.s3("PUT", "/entities").status in (200, 409)
    where = (
        "/entities-new" if not subresource else "/entities/k" if subresource == "uploadId" else "/entities"
    )
    query = {subresource: ""} if subresource else None
    if subresource == "uploadId":
        begun = anna.s3("POST", where, query={"uploads": ""})
        query = {"uploadId": begun.body.decode().partition("<UploadId>")[2].partition("</UploadId>")[0]}
    for dtd, entity in (
        (XXE, "&x;"),
        (LAUGHS, "&i;"),
        ('<!DOCTYPE r SYSTEM "http://127.0.0.1:1/x.dtd">', "x"),
    ):
        body = f"{dtd}<{root}>{inside.replace('&x;', entity)}</{root}>".encode()
        answer = anna.s3(method, where, body, query)
        assert (answer.status, answer.code) in ((400, "MalformedXML"), (400, "MalformedACLError")), (
            answer.body
        )
        assert b"root:" not in answer.body
        assert len(answer.body) < 2000
    assert subresource or anna.s3("HEAD", where).status == 404


def test_27_whoever_may_not_write_deletes_no_version(site: Site) -> None:
    """OSSA-2015-006."""
    anna, bert = site.anna, site.bert
    readable = {"x_container_read": "*:*"}
    assert anna.swift("PUT", "/kept", x_versions_enabled="true", **readable).status in (201, 202)
    assert anna.swift("PUT", "/old").status in (201, 202)
    assert anna.swift("PUT", "/stacked", x_versions_location="old", **readable).status in (201, 202)
    for number in range(3):
        assert anna.swift("PUT", "/kept/o", b"%d" % number).status == 201
        assert anna.swift("PUT", "/stacked/o", b"%d" % number).status == 201
    versions = json.loads(anna.swift("GET", "/kept", query="?versions&format=json").body)
    assert len(versions) == 3
    for who in (bert, site.rita):
        base = f"/v1/{anna.account}"
        assert who.swift("GET", f"{base}/kept/o").body == b"2"
        for version in versions:
            asked = f"?version-id={version['version_id']}"
            assert who.swift("DELETE", f"{base}/kept/o", query=asked).status == 403
            assert who.swift("PUT", f"{base}/kept/o", query=asked).status == 403
        assert who.swift("DELETE", f"{base}/kept/o").status == 403
        assert who.swift("DELETE", f"{base}/stacked/o").status == 403
        assert who.swift("PUT", f"{base}/stacked/o", b"x").status == 403
        assert who.s3("DELETE", "/kept/o", query={"versionId": versions[0]["version_id"]}).status in (
            403,
            404,
        )
    assert json.loads(anna.swift("GET", "/kept", query="?versions&format=json").body) == versions
    assert anna.swift("GET", "/stacked/o").body == b"2"
    assert len(json.loads(anna.swift("GET", "/old", query="?format=json").body)) == 2


def test_27_a_copy_asks_before_it_reads(site: Site, secret: str) -> None:
    """OSSA-2016-004 and its like: no content, and no word on whether there is such an object."""
    anna, bert = site.anna, site.bert
    assert anna.swift("PUT", "/taken").status in (201, 202)
    answers = []
    for name in ("o", "missing"):
        source = f"private/{name}"
        answers.append([
            anna.swift("PUT", "/taken/x", x_copy_from=source, x_copy_from_account=bert.account).status,
            anna.swift(
                "COPY", f"/v1/{bert.account}/{source}", destination="taken/x", destination_account=anna.account
            ).status,
            anna.swift("HEAD", f"/v1/{bert.account}/{source}").status,
            site.send("PUT", f"/v1/{bert.account}/private/y", {"x-copy-from": source}).status,
            site.send("COPY", f"/v1/{bert.account}/{source}", {"destination": "private/y"}).status,
        ])  # fmt: skip
    assert answers == [[403, 403, 403, 401, 401]] * 2
    assert anna.swift("HEAD", "/taken/x").status == 404
    assert bert.swift("HEAD", "/private/y").status == 404
    assert bert.swift("PUT", "/given", x_container_write="*:*").status in (201, 202)
    put = anna.swift(
        "PUT", f"/v1/{bert.account}/given/x", x_copy_from="private/o"
    )  # the account of the path is meant
    assert put.status == 403
    assert bert.swift("HEAD", "/given/x").status == 404


def test_27_nobody_leaves_tombstones(site: Site, secret: str) -> None:
    """OSSA-2015-016: a deletion of what is not there, by whom it does not concern, writes nothing."""
    before = site.tombstones()
    base = f"/v1/{site.bert.account}/private"
    for number in range(5):
        assert site.anna.swift("DELETE", f"{base}/never-{number}").status == 403
        assert site.send("DELETE", f"{base}/never-{number}").status == 401
        assert site.anna.swift("DELETE", f"{base}-not/never-{number}").status == 403
        assert site.anna.s3("DELETE", f"/private/never-{number}").status in (403, 404)
    names = "\n".join(f"/private/never-{number}" for number in range(5)).encode()
    assert (
        b"403"
        in site.anna.swift(
            "POST", f"/v1/{site.bert.account}", names, "?bulk-delete", content_type="text/plain"
        ).body
    )
    assert site.bert.swift("DELETE", "/no-such-container/x").status == 404
    assert site.tombstones() == before


def test_27_manifests_that_hold_themselves_end(site: Site) -> None:
    anna = site.anna
    assert anna.swift("PUT", "/loops").status in (201, 202)
    assert anna.swift("PUT", "/loops/s", b"segment").status == 201
    put = "?multipart-manifest=put"
    previous = "s"
    for depth in range(14):
        manifest = json.dumps([{"path": f"/loops/{previous}"}, {"path": "/loops/s"}]).encode()
        made = anna.swift("PUT", f"/loops/deep-{depth}", manifest, put)
        if made.status != 201:
            assert made.status in (400, 409)
            break
        previous = f"deep-{depth}"
    assert anna.swift("GET", f"/loops/{previous}").status in (200, 409)
    # A manifest's segment is replaced by a manifest that holds it.
    assert anna.swift("PUT", "/loops/ring", json.dumps([{"path": "/loops/s"}]).encode(), put).status == 201
    assert (
        anna.swift("PUT", "/loops/ring-2", json.dumps([{"path": "/loops/ring"}]).encode(), put).status == 201
    )
    assert (
        anna.swift("PUT", "/loops/ring", json.dumps([{"path": "/loops/ring-2"}]).encode(), put).status == 201
    )
    for name in ("ring", "ring-2"):
        try:
            answer = anna.swift("GET", f"/loops/{name}")
            assert answer.status == 409 or len(answer.body) < 1000
        except OSError:
            pass  # the answer broke off
    assert anna.swift("DELETE", "/loops/ring", query="?multipart-manifest=delete").status == 200
    assert anna.swift("PUT", "/loops/me", x_object_manifest="loops/me").status == 201
    assert anna.swift("GET", "/loops/me").status in (200, 409)
    assert anna.swift("PUT", "/loops/a", x_symlink_target="loops/b").status == 201
    assert anna.swift("PUT", "/loops/b", x_symlink_target="loops/a").status == 201
    assert anna.swift("GET", "/loops/a").status == 409


def test_27_a_manifest_opens_no_segment(site: Site) -> None:
    anna, bert = site.anna, site.bert
    assert anna.swift("PUT", "/open", x_container_read="*:*").status in (201, 202)
    assert anna.swift("PUT", "/hidden").status in (201, 202)
    assert anna.swift("PUT", "/hidden/s", b"anna's secret").status == 201
    manifest = json.dumps([{"path": "/hidden/s"}]).encode()
    assert anna.swift("PUT", "/open/slo", manifest, "?multipart-manifest=put").status == 201
    assert anna.swift("PUT", "/open/dlo", x_object_manifest="hidden/s").status == 201
    assert anna.swift("PUT", "/open/link", x_symlink_target="hidden/s").status == 201
    for name in ("slo", "dlo", "link"):
        assert anna.swift("GET", f"/open/{name}").body == b"anna's secret"
        for headers in ({}, {"range": "bytes=0-3"}):
            answer = bert.swift("GET", f"/v1/{anna.account}/open/{name}", **headers)
            assert answer.status in (401, 403, 409), name
            assert b"anna" not in answer.body


def test_27_signatures_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OSSA-2014-002: every door compares by `hmac.compare_digest`, wherever the difference is."""
    here = world(
        tmp_path,
        pipeline="catch gatekeeper listing tempurl formpost s3 tempauth acl slo versions service",
        options={
            "tempauth": {"user_a_b": "key-of-b .admin"},
            "s3": {"key_alice": "alice-secret AUTH_a alice"},
        },
    )
    mine = {
        "x_auth_token": here.get("/auth/v1.0", x_auth_user="a:b", x_auth_key="key-of-b").headers[
            "x-auth-token"
        ]
    }
    here.put("/v1/AUTH_a/bucket", x_container_meta_temp_url_key="hush", **mine)
    compared: list[tuple[Any, Any]] = []
    original = hmac.compare_digest

    def spy(left: Any, right: Any) -> bool:
        compared.append((left, right))
        return original(left, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)

    def counted(answer: Response) -> tuple[int, int]:
        answer.close()
        seen = len(compared)
        compared.clear()
        return answer.status, seen

    def signed(wrong: int | None) -> Response:
        headers = Signer("http://h").headers("GET", "/bucket")
        if wrong is not None:
            at = len(headers["authorization"]) - 64 + wrong
            text = headers["authorization"]
            headers["authorization"] = text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]
        return here.ask("GET", "/bucket", **headers)

    good, first, last = counted(signed(None)), counted(signed(0)), counted(signed(63))
    assert (good[0], first[0], last[0]) == (200, 403, 403)
    assert good[1] == first[1] == last[1] >= 1

    def token(wrong: int | None) -> Response:
        text = mine["x_auth_token"]
        if wrong is not None:
            text = text[:wrong] + ("A" if text[wrong] != "A" else "B") + text[wrong + 1 :]
        return here.get("/v1/AUTH_a/bucket", x_auth_token=text)

    size = len(mine["x_auth_token"])
    good, first, last = counted(token(None)), counted(token(size - 64)), counted(token(size - 1))
    assert (good[0], first[0], last[0]) == (204, 401, 401)
    assert good[1] == first[1] == last[1] >= 1

    def key(text: str) -> Response:
        return here.get("/auth/v1.0", x_auth_user="a:b", x_auth_key=text)

    good, first, last = counted(key("key-of-b")), counted(key("Key-of-b")), counted(key("key-of-B"))
    assert (good[0], first[0], last[0]) == (200, 401, 401)
    assert first[1] == last[1] >= 1
    here.close()
