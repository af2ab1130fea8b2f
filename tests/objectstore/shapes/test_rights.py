"""Rights on what filters make of objects, as real ACLs and tokens grant them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from altostack.objectstore.http import Response
from tests.objectstore.world import world

PIPELINE = (
    "catch gatekeeper listing bulk tempauth acl copy quotas slo dlo versions symlink encryption service"
)
USERS = {"user_a_owner": "k .admin", "user_a_member": "k", "user_b_owner": "k .admin", "user_b_friend": "k"}
Ask = Callable[..., Response]


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Callable[[str], Ask]]:
    """Who asks -> requests of theirs; the accounts are AUTH_a and AUTH_b."""
    store = world(tmp_path, pipeline=PIPELINE, options={"tempauth": USERS})

    def person(name: str) -> Ask:
        if not name:
            return store.ask
        token = store.get("/auth/v1.0", x_auth_user=name, x_auth_key="k").headers["x-auth-token"]
        return lambda *given, **more: store.ask(*given, x_auth_token=token, **more)

    yield person
    store.close()


def test_versions(people: Callable[[str], Ask]) -> None:
    owner, friend, stranger, anybody = (people(name) for name in ("a:owner", "b:friend", "b:owner", ""))
    path = "/v1/AUTH_a/v"
    assert owner("PUT", path, x_versions_enabled="true", x_container_read="b:friend").status == 201
    first = owner("PUT", f"{path}/o", b"one").headers["x-object-version-id"]
    assert owner("PUT", f"{path}/o", b"two").status == 201
    for query, content in (({}, b"two"), ({"version-id": first}, b"one")):
        assert friend("GET", f"{path}/o", query=query).read() == content
        assert stranger("GET", f"{path}/o", query=query).status == 403
        assert anybody("GET", f"{path}/o", query=query).status == 401
        for asks in (friend, stranger):
            for method in ("PUT", "DELETE"):
                assert asks(method, f"{path}/o", query=query).status == 403
        assert anybody("DELETE", f"{path}/o", query=query).status == 401
    assert friend("POST", f"{path}/o").status == 403
    assert len(json.loads(friend("GET", path, query={"versions": ""}).read())) == 2
    assert stranger("GET", path, query={"versions": ""}).status == 403
    assert owner("POST", path, x_container_write="b:friend", x_container_read=".r:*").status == 204
    assert anybody("GET", f"{path}/o", query={"version-id": first}).read() == b"one"
    assert friend("DELETE", f"{path}/o").status == 204
    assert friend("PUT", f"{path}/o", query={"version-id": first}).status == 201
    assert friend("DELETE", f"{path}/o", query={"version-id": first}).status == 204
    assert friend("POST", path, x_versions_enabled="false").status == 403
    assert people("a:member")("POST", path, x_versions_enabled="false").status == 403
    assert friend("DELETE", path).status == 403
    assert len(json.loads(owner("GET", path, query={"versions": ""}).read())) == 2


def test_history(people: Callable[[str], Ask]) -> None:
    owner, friend, stranger = (people(name) for name in ("a:owner", "b:friend", "b:owner"))
    owner("PUT", "/v1/AUTH_a/old")
    owner(
        "PUT",
        "/v1/AUTH_a/h",
        x_history_location="old",
        x_container_write="b:friend",
        x_container_read="b:owner",
    )
    owner("PUT", "/v1/AUTH_a/h/o", b"one")
    assert stranger("DELETE", "/v1/AUTH_a/h/o").status == 403
    assert stranger("PUT", "/v1/AUTH_a/h/o", b"x").status == 403
    assert owner("GET", "/v1/AUTH_a/old").read() == b""
    assert friend("PUT", "/v1/AUTH_a/h/o", b"two").status == 201
    assert friend("DELETE", "/v1/AUTH_a/h/o").status == 204
    assert len(owner("GET", "/v1/AUTH_a/old").read().splitlines()) == 3


def test_copies_links_and_manifests(people: Callable[[str], Ask]) -> None:
    owner, friend, stranger = (people(name) for name in ("a:owner", "b:friend", "b:owner"))
    owner("PUT", "/v1/AUTH_a/secret")
    owner("PUT", "/v1/AUTH_a/secret/o", b"secret")
    owner("PUT", "/v1/AUTH_a/open", x_container_read="b:friend,b:owner", x_container_write="b:friend,b:owner")
    stranger("PUT", "/v1/AUTH_b/own")
    for number, target in enumerate(({}, {"x_copy_from_account": "AUTH_a"})):
        path = f"/v1/AUTH_{'ab'[number]}/{('open', 'own')[number]}/copy"
        assert stranger("PUT", path, x_copy_from="secret/o", **target).status == 403
        assert owner("GET", path).status in (403, 404)
    assert (
        stranger("COPY", "/v1/AUTH_a/secret/o", destination="own/o", destination_account="AUTH_b").status
        == 403
    )
    assert stranger("COPY", "/v1/AUTH_a/open/none", destination="secret/o").status == 403
    assert friend("PUT", "/v1/AUTH_a/open/link", x_symlink_target="secret/o").status == 201
    assert friend("GET", "/v1/AUTH_a/open/link").status == 403
    assert owner("GET", "/v1/AUTH_a/open/link").read() == b"secret"
    body = b'[{"path": "/secret/o"}]'
    assert friend("PUT", "/v1/AUTH_a/open/slo", body, query={"multipart-manifest": "put"}).status == 400
    assert owner("PUT", "/v1/AUTH_a/open/slo", body, query={"multipart-manifest": "put"}).status == 201
    assert friend("GET", "/v1/AUTH_a/open/slo").status == 409
    assert friend("PUT", "/v1/AUTH_a/open/dlo", x_object_manifest="secret/o").status == 201
    assert friend("GET", "/v1/AUTH_a/open/dlo").status == 403
    assert (
        owner("GET", "/v1/AUTH_a/open/dlo").read() == owner("GET", "/v1/AUTH_a/open/slo").read() == b"secret"
    )
    answer = friend("DELETE", "/v1/AUTH_a/open/slo", query={"multipart-manifest": "delete"})
    assert b"403 Forbidden" in answer.read()
    assert owner("GET", "/v1/AUTH_a/secret/o").read() == b"secret"
