"""Where the keys of encryption come from: the operator's own secrets, and those that a key manager keeps."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from altostack.objectstore.middleware import keymaster
from altostack.objectstore.middleware.barbican import Barbican, KeyManagerError
from altostack.objectstore.middleware.keymaster import ManagedSecrets, RootSecrets, UnknownSecret, key_master
from tests.objectstore.shapes.test_encryption import FIRST, PLAIN, SECOND, on_disk, reopened

PASSWORD = "correct horse"
ONE, TWO, SHORT, OPAQUE = "0b5e-1", "0b5e-2", "0b5e-3", "0b5e-4"
KEPT = {
    ONE: ("symmetric", base64.b64decode(FIRST)),
    TWO: ("symmetric", base64.b64decode(SECOND)),
    SHORT: ("symmetric", b"x" * 31),
    OPAQUE: ("opaque", b"x" * 32),
}


class Manager(ThreadingHTTPServer):
    """The calls of an identity service and of a key manager that it takes to get a secret, as their references say."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Calls)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[tuple[str, str]] = []
        self.catalog: list[dict[str, Any]] = [
            {"type": "image", "endpoints": [{"interface": "public", "region_id": "here", "url": "http://no"}]},
            {"type": "key-manager", "endpoints": [
                {"interface": "internal", "region_id": "here", "url": "http://no"},
                {"interface": "public", "region_id": "here", "url": f"{self.url}/kms"},
            ]},
        ]  # fmt: skip

    @property
    def options(self) -> dict[str, str]:
        return {
            "keymaster": "barbican", "auth_endpoint": f"{self.url}/v3", "username": "store", "password": PASSWORD,
            "project_name": "service",
        }  # fmt: skip


class Calls(BaseHTTPRequestHandler):
    server: Manager

    def do_POST(self) -> None:
        auth = json.loads(self.rfile.read(int(self.headers["content-length"])))["auth"]
        default = {"name": "Default"}
        user = {"name": "store", "domain": default, "password": PASSWORD}
        scope = {"project": {"name": "service", "domain": default}}
        good = auth == {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
        if self.path != "/v3/auth/tokens" or not good:
            self._answer(401, b"{}")
            return
        body = json.dumps({"token": {"catalog": self.server.catalog}}).encode()
        self._answer(201, body, {"X-Subject-Token": "a-token"})

    def do_GET(self) -> None:
        part = self.path.removeprefix("/kms/v1/secrets/").removesuffix("/payload")
        if self.headers["x-auth-token"] != "a-token":
            self._answer(401, b"{}")
        elif part not in KEPT:
            self._answer(404, b"{}")
        elif self.path.endswith("/payload"):
            good = self.headers["accept"] == "application/octet-stream"
            self._answer(200 if good else 406, KEPT[part][1])
        else:
            self._answer(200, json.dumps({"secret_type": KEPT[part][0], "status": "ACTIVE"}).encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.server.seen.append((self.command, self.path))
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def manager() -> Iterator[Manager]:
    with Manager() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_where_secrets_come_from(tmp_path: Path) -> None:
    assert key_master({}, tmp_path) is None
    (tmp_path / "keys.ini").write_text(
        f"[keymaster]\nencryption_root_secret_a = {FIRST}\nactive_root_secret_id = a\n"
    )
    keys = key_master({"keymaster_config_path": "keys.ini"}, tmp_path)
    assert keys is not None
    assert (keys.active, keys.ids) == ("a", ("a",))
    with pytest.raises(UnknownSecret, match="'b'"):
        keys.key("/a/c", "b")
    for options, said in (
        ({"encryption_root_secret": "?"}, "base64"),
        ({"encryption_root_secret": "c2hvcnQ="}, "at least 32 bytes"),
        ({"encryption_root_secret": FIRST, "active_root_secret_id": "x"}, "no secret of that id"),
        ({"encryption_root_secret_a": FIRST}, "no secret of that id"),
        ({"keymaster_config_path": "none.ini"}, "cannot be used"),
        ({"keymaster_config_path": "keys.ini", "encryption_root_secret": FIRST}, "other options"),
        ({"keymaster": "pigeon", "encryption_root_secret": FIRST}, "file or barbican"),
        ({"keymaster": "barbican"}, "needs key_id"),
        (
            {"keymaster": "barbican", "key_id": ONE, "username": "me"},
            "needs auth_endpoint, password, project_name",
        ),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            key_master(options, tmp_path)
        assert FIRST not in str(caught.value)
    assert FIRST not in repr(keys) and repr(base64.b64decode(FIRST)) not in repr(keys)
    assert RootSecrets({None: b"x" * 32}, None).key("/a", None) != RootSecrets({None: b"y" * 32}, None).key(
        "/a", None
    )


def test_secrets_of_a_key_manager(tmp_path: Path, manager: Manager) -> None:
    made = reopened(tmp_path, **manager.options, key_id=ONE)
    assert not manager.seen  # it may start later than we do
    assert made.put("/v1/a/c").status == 201
    assert made.put("/v1/a/c/o", PLAIN).status == 201
    assert made.get("/v1/a/c/o").read() == PLAIN
    made.close()
    assert PLAIN not in on_disk(tmp_path)
    assert [path for _, path in manager.seen] == [
        "/v3/auth/tokens", f"/kms/v1/secrets/{ONE}", f"/kms/v1/secrets/{ONE}/payload"
    ]  # fmt: skip
    itself = reopened(tmp_path, encryption_root_secret=FIRST)
    assert itself.get("/v1/a/c/o").read() == PLAIN
    itself.close()


def test_another_secret_becomes_the_active_one(tmp_path: Path, manager: Manager) -> None:
    first = reopened(tmp_path, **manager.options, key_id=ONE)
    first.put("/v1/a/c")
    first.put("/v1/a/c/o", PLAIN)
    first.close()
    (tmp_path / "kms.ini").write_text(
        "[kms_keymaster]\nactive_root_secret_id = new\n"
        f"key_id = {ONE}\nkey_id_new = {manager.url}/kms/v1/secrets/{TWO}\n"
        + "".join(f"{name} = {value}\n" for name, value in manager.options.items() if name != "keymaster")
    )
    second = reopened(tmp_path, keymaster="barbican", keymaster_config_path="kms.ini")
    assert second.get("/v1/a/c/o").read() == PLAIN
    assert second.put("/v1/a/c/p", PLAIN[::-1]).status == 201
    second.close()
    itself = reopened(tmp_path, encryption_root_secret_new=SECOND, active_root_secret_id="new")
    assert itself.get("/v1/a/c/p").read() == PLAIN[::-1]
    assert itself.get("/v1/a/c/o").status == 500
    itself.close()


def test_without_the_key_manager_nothing_is_written(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = reopened(tmp_path, **manager.options, key_id="gone")
    made.put("/v1/a/c")
    for _ in range(3):
        answer = made.put("/v1/a/c/o", PLAIN)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert len(manager.seen) == 2  # not asked again at once
    monkeypatch.setitem(KEPT, "gone", KEPT[ONE])
    monkeypatch.setattr(keymaster, "PATIENCE", 0.0)
    assert made.put("/v1/a/c/o", PLAIN).status == 503  # still the patience of before
    made.close()
    again = reopened(tmp_path, **manager.options, key_id="gone")
    assert again.get("/v1/a/c/o").status == 404
    assert again.put("/v1/a/c/o", PLAIN).status == 201
    again.close()
    lost = reopened(tmp_path, **(manager.options | {"password": "wrong"}), key_id=ONE)
    assert lost.get("/v1/a/c/o").status == 503
    assert lost.get("/v1/a/c", query={"format": "json"}).status == 503  # its ETags are sealed, too
    lost.close()
    assert "401" in caplog.text and "gone as store: 404" in caplog.text
    assert PASSWORD not in caplog.text and "a-token" not in caplog.text


@pytest.mark.parametrize(
    ("change", "id", "said"),
    [
        ({}, SHORT, "less than 32 bytes"),
        ({}, OPAQUE, "'opaque'; it has to be a symmetric key"),
        ({"barbican_region_name": "there"}, ONE, "no public endpoint of a key-manager service in there"),
        ({"barbican_endpoint": "http://127.0.0.1:1"}, ONE, "http://127.0.0.1:1/v1/secrets"),
        ({"auth_endpoint": "http://127.0.0.1:1/v3"}, ONE, "http://127.0.0.1:1/v3/auth/tokens"),
        ({"project_domain_name": "Other"}, ONE, "as store: 401"),
    ],
)
def test_why_there_are_no_keys(
    manager: Manager, tmp_path: Path, change: dict[str, str], id: str, said: str
) -> None:
    keys = key_master({**manager.options, **change, "key_id": id}, tmp_path)
    assert keys is not None
    with pytest.raises(KeyManagerError, match=said) as caught:
        keys.key("/a", None)
    assert PASSWORD not in str(caught.value)
    with pytest.raises(UnknownSecret):
        keys.key("/a", "other")
    assert PASSWORD not in repr(keys)


def test_where_barbican_is_may_be_said(manager: Manager) -> None:
    manager.catalog = []
    access = {name: value for name, value in manager.options.items() if name != "keymaster"}
    with pytest.raises(KeyManagerError, match="no public endpoint"):
        Barbican(**access).fetch(ONE)
    assert Barbican(**access, barbican_endpoint=f"{manager.url}/kms/v1").fetch(ONE) == KEPT[ONE][1]


@pytest.mark.parametrize("catalog", [5, [5], [{"type": "key-manager", "endpoints": [{}]}]])
def test_a_catalog_that_is_none(manager: Manager, tmp_path: Path, catalog: Any) -> None:
    manager.catalog = catalog
    keys = key_master({**manager.options, "key_id": ONE}, tmp_path)
    assert keys is not None
    with pytest.raises(KeyManagerError, match="not understood"):
        keys.key("/a", None)


def test_many_threads_fetch_once() -> None:
    asked, go = [], threading.Event()

    def fetch(id: str) -> bytes:
        asked.append(id)
        go.wait(10)
        return b"x" * 32

    keys, found = ManagedSecrets({None: ONE}, None, fetch), []
    threads = [threading.Thread(target=lambda: found.append(keys.key("/a", None))) for _ in range(8)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert asked == [ONE]
    assert set(found) == {RootSecrets({None: b"x" * 32}, None).key("/a", None)}
