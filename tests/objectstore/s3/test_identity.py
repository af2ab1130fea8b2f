"""Access keys of the identity service: EC2 credentials sign, and what ends there ends here at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from altostack.inprocess import InProcessCloud
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.store import Store
from tests.objectstore.s3.conftest import code
from tests.objectstore.s3.signer import Signer, send


class Site:
    """A cloud with identity and an object store that clients reach."""

    def __init__(self, state: Path, session: Any) -> None:
        self.session = session
        self.cloud = InProcessCloud(
            state,
            services=("identity", "objectstore"),
            hosts=(),
            settings={"identity": {"password_rounds": 4}},
        )
        self.identity = self.cloud.client("identity")
        self.admin = self.cloud.token("admin")
        self.store: Store = self.cloud.cloud.object_store()
        listener = listen("127.0.0.1", 0)
        assert self.store.app is not None
        self.server = Server(self.store.app, listener, threads=8).start()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.clients: list[Any] = []

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return self.identity.call(method, f"/v3{path}", body, token=self.admin)

    def user(self, name: str, role: str = "member", project: str | None = None) -> dict[str, Any]:
        """A user with a project and an access key."""
        if project is None:
            project = self.ask("POST", "/projects", {"project": {"name": name}})["project"]["id"]
        user = self.ask("POST", "/users", {"user": {"name": name, "password": "pass-word-1"}})["user"]["id"]
        (found,) = self.ask("GET", f"/roles?name={role}")["roles"]
        self.ask("PUT", f"/projects/{project}/users/{user}/roles/{found['id']}")
        made = self.ask("POST", f"/users/{user}/credentials/OS-EC2", {"tenant_id": project})["credential"]
        return {"user": user, "project": project, "role": found["id"], **made}

    def s3(self, who: dict[str, Any], **config: Any) -> Any:
        options = {
            "signature_version": "s3v4",
            "retries": {"max_attempts": 1},
            "s3": {"addressing_style": "path"},
        }
        client = self.session.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=who["access"],
            aws_secret_access_key=who["secret"], config=Config(**options | config),
        )  # fmt: skip
        self.clients.append(client)
        return client


@pytest.fixture
def site(tmp_path: Path, session: Any) -> Iterator[Site]:
    found = Site(tmp_path, session)
    yield found
    for client in found.clients:
        client.close()
    found.server.stop(1.0)
    found.cloud.stop()


def refused(call: Any) -> str:
    with pytest.raises(ClientError) as error:
        call()
    return code(error)


def test_an_access_key_opens_its_projects_account(site: Site) -> None:
    alice, bob = site.user("alice"), site.user("bob")
    mine, his = site.s3(alice), site.s3(bob)
    mine.create_bucket(Bucket="garden")
    mine.put_object(Bucket="garden", Key="k", Body=b"x")
    account = site.store.known.account(f"AUTH_{alice['project']}")
    assert account is not None
    assert account.metadata["x-account-sysmeta-project-domain-id"][0] == "default"
    assert mine.list_buckets()["Owner"] == {"ID": alice["project"], "DisplayName": "alice"}
    assert refused(lambda: his.get_object(Bucket="garden", Key="k")) == "AccessDenied"
    assert refused(lambda: his.create_bucket(Bucket="garden")) == "BucketAlreadyExists"
    assert refused(lambda: site.s3(alice | {"secret": "wrong"}).list_buckets()) == "SignatureDoesNotMatch"
    assert (
        refused(lambda: site.s3({"access": "nobody", "secret": "x"}).list_buckets()) == "InvalidAccessKeyId"
    )
    old = site.s3(alice, signature_version="s3")
    assert old.list_objects_v2(Bucket="garden")["KeyCount"] == 1
    assert old.get_object(Bucket="garden", Key="k")["Body"].read() == b"x"


def test_chunks_are_verified_with_the_key_of_the_day(site: Site) -> None:
    alice = site.user("alice")
    site.s3(alice).create_bucket(Bucket="garden")
    signer = Signer(site.url, alice["access"], alice["secret"])
    headers, body = signer.chunked("/garden/k", [b"a" * 9000, b"b"])
    assert send(site.url, "PUT", "/garden/k", headers, body).status == 200
    headers, body = signer.chunked("/garden/k", [b"a" * 9000, b"b"], break_at=1)
    assert send(site.url, "PUT", "/garden/k", headers, body).code == "SignatureDoesNotMatch"


def test_forms_are_signed_by_access_keys_too(site: Site) -> None:
    from tests.objectstore.s3.test_objects import form

    alice = site.user("alice")
    s3 = site.s3(alice)
    s3.create_bucket(Bucket="garden")
    made = s3.generate_presigned_post("garden", "k", ExpiresIn=60)
    other = Site.s3(site, alice)  # nothing is remembered of a client: the store asks identity
    site.cloud.cloud.epoch.bump()
    assert send(site.url, "POST", "/garden", *form(made["fields"])).status == 204
    assert other.get_object(Bucket="garden", Key="k")["Body"].read() == b"by form"


@pytest.mark.parametrize("way", ["key", "credential", "role", "user", "project"])
def test_what_ends_in_identity_ends_here_at_once(site: Site, way: str) -> None:
    alice = site.user("alice")
    s3 = site.s3(alice)
    s3.create_bucket(Bucket="garden")
    assert s3.list_buckets()["Buckets"]
    target = s3.generate_presigned_url("list_objects_v2", {"Bucket": "garden"}).removeprefix(site.url)
    assert send(site.url, "GET", target).status == 200
    if way == "key":
        site.ask("DELETE", f"/users/{alice['user']}/credentials/OS-EC2/{alice['access']}")
    elif way == "credential":
        import hashlib

        site.ask("DELETE", f"/credentials/{hashlib.sha256(alice['access'].encode()).hexdigest()}")
    elif way == "role":
        site.ask("DELETE", f"/projects/{alice['project']}/users/{alice['user']}/roles/{alice['role']}")
    elif way == "user":
        site.ask("PATCH", f"/users/{alice['user']}", {"user": {"enabled": False}})
    else:
        site.ask("PATCH", f"/projects/{alice['project']}", {"project": {"enabled": False}})
    assert refused(s3.list_buckets) in ("InvalidAccessKeyId", "AccessDenied")
    assert send(site.url, "GET", target).status == 403


def test_roles_say_what_may_be_done(site: Site) -> None:
    alice = site.user("alice")
    site.s3(alice).create_bucket(Bucket="garden")
    site.s3(alice).put_object(Bucket="garden", Key="k", Body=b"x")
    reader = site.s3(site.user("rita", "reader", alice["project"]))
    assert reader.get_object(Bucket="garden", Key="k")["Body"].read() == b"x"
    assert reader.list_objects_v2(Bucket="garden")["KeyCount"] == 1
    assert refused(lambda: reader.put_object(Bucket="garden", Key="k", Body=b"y")) == "AccessDenied"
    assert refused(lambda: reader.delete_object(Bucket="garden", Key="k")) == "AccessDenied"
    assert refused(lambda: reader.create_bucket(Bucket="hers")) == "AccessDenied"


def test_verified_once_a_day_is_verified_here(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = site.s3(site.user("alice"))
    s3.list_buckets()
    client = site.store.clients["identity"]
    asked: list[str] = []
    original = client.call
    monkeypatch.setattr(
        client, "call", lambda method, path, *a, **k: (asked.append(path), original(method, path, *a, **k))[1]
    )
    for _ in range(3):
        s3.list_buckets()
    assert asked == []
    site.cloud.cloud.epoch.bump()
    s3.list_buckets()
    assert asked == ["/v3/s3tokens"]


def test_wrong_signatures_cost_no_login(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = site.user("alice")
    site.s3(alice).list_buckets()
    logins: list[str] = []
    original = site.cloud.cloud.log_in
    monkeypatch.setattr(
        site.cloud.cloud, "log_in", lambda *words: (logins.append(words[0]), original(*words))[1]
    )
    site.cloud.cloud.epoch.bump()
    wrong = site.s3(alice | {"secret": "wrong"})
    for _ in range(3):
        assert refused(wrong.list_buckets) == "SignatureDoesNotMatch"
    assert logins == []
