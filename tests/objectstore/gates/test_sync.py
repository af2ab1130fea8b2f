"""Container sync: realms, signatures, and what another cluster may do."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

import pytest

from altostack.objectstore import sync
from tests.objectstore.gates.scene import peopled
from tests.objectstore.world import World

REALMS = """
[DEFAULT]
mtime_check_interval = 0

[Realm1]
key = the realm's
key2 = its next
cluster_West = https://west.example.com/v1/
cluster_here = http://here/v1

[empty]
cluster_x = http://x/v1
"""


def realms(folder: Path, text: str = REALMS) -> sync.Realms:
    (folder / sync.FILE).write_text(text)
    return sync.Realms(folder / sync.FILE)


def test_a_signature_is_what_other_clusters_make_of_it() -> None:
    # Five lines under HMAC-SHA1: method, path, time, nonce, the container's key.
    made = sync.signature("PUT", "/v1/a/c/o%20x", "1700000000.00000", "n", "realm", "user")
    text = b"PUT\n/v1/a/c/o%20x\n1700000000.00000\nn\nuser"
    assert made == hmac.new(b"realm", text, hashlib.sha1).hexdigest()


def test_realms(tmp_path: Path) -> None:
    found = realms(tmp_path)
    realm = found.get("realm1")
    assert realm is not None and realm is found.get("REALM1")
    assert (realm.name, realm.key, realm.key2) == ("REALM1", "the realm's", "its next")
    assert realm.clusters == {"WEST": "https://west.example.com/v1", "HERE": "http://here/v1"}
    assert "the realm's" not in repr(realm)
    (tmp_path / sync.FILE).write_text("[other]\nkey = x\n[DEFAULT]\nmtime_check_interval = 0\n")
    assert [one.name for one in found.all()] == ["OTHER"]
    (tmp_path / sync.FILE).write_text("key = nonsense")  # broken: what was known stays
    assert [one.name for one in found.all()] == ["OTHER"]
    (tmp_path / sync.FILE).unlink()
    assert found.all() == []


def test_targets(tmp_path: Path) -> None:
    found = realms(tmp_path)
    there = sync.target("//realm1/west/AUTH_x/c/", found)
    assert there.url == "https://west.example.com/v1/AUTH_x/c" and there.realm is found.get("realm1")
    assert sync.target("http://host:1/v1/a/c", found, ("host",)) == sync.Target("http://host:1/v1/a/c", None)
    for wrong, words in (
        ("//realm1/west/AUTH_x", "format"),
        ("//realm1/west//c", "format"),
        ("//nowhere/west/a/c", "No realm key"),
        ("//empty/x/a/c", "No realm key"),
        ("//realm1/east/a/c", "No cluster endpoint"),
        ("ftp://host/a/c", "scheme"),
        ("http://host", "Path required"),
        ("http://host/a?b", "queries"),
        ("http://me:secret@host/a", "queries"),
        ("http://127.0.0.1/a/c", "Invalid host"),
        ("http://[/a/c", "format"),
    ):
        with pytest.raises(ValueError, match=words):
            sync.target(wrong, found, ("host",))


@pytest.fixture
def here(tmp_path: Path) -> World:
    (tmp_path / sync.FILE).write_text(REALMS)
    options = {"container_sync": {"current": "//realm1/here"}}
    made = peopled(tmp_path, "catch gatekeeper listing container_sync token acl service", options=options)
    assert made.put("/v1/AUTH_p1/c", x_auth_token="anna", x_container_sync_key="theirs").status == 201
    assert made.put("/v1/AUTH_p1/d", x_auth_token="anna").status == 201
    return made


def headers(method: str, path: str, stamp: str = "1700000000.00000", **more: str) -> dict[str, str]:
    given = {"realm_key": "the realm's", "user_key": "theirs", "realm": "realm1"} | more
    realm = sync.Realm(given["realm"].upper(), given["realm_key"])
    made = sync.signed(method, path, stamp, realm, given["user_key"])
    return {name.replace("-", "_"): value for name, value in made.items()}


def test_a_signed_change_is_made_as_of_its_time(here: World) -> None:
    path = "/v1/AUTH_p1/c/o x"
    assert here.put(path, b"new", **headers("PUT", "/v1/AUTH_p1/c/o%20x", "1700000010.00000")).status == 201
    seen = here.get(path, x_auth_token="anna")
    assert (seen.read(), seen.headers["x-timestamp"]) == (b"new", "1700000010.00000")
    assert here.put(path, b"old", **headers("PUT", "/v1/AUTH_p1/c/o%20x", "1700000000.00000")).status in (
        202,
        409,
    )
    assert here.get(path, x_auth_token="anna").read() == b"new"
    assert here.put(path, b"next", **headers("PUT", "/v1/AUTH_p1/c/o%20x", "1700000020.00000",
                                             realm_key="its next")).status == 201  # fmt: skip
    assert here.delete(path, **headers("DELETE", "/v1/AUTH_p1/c/o%20x", "1700000030.00000")).status == 204


@pytest.mark.parametrize(
    "wrong",
    [
        {"realm_key": "guess"},
        {"user_key": "guess"},
        {"realm": "nowhere"},
        {"realm": "empty", "realm_key": ""},
    ],
)
def test_wrong_keys(here: World, wrong: dict[str, str]) -> None:
    answer = here.put("/v1/AUTH_p1/c/o", b"x", **headers("PUT", "/v1/AUTH_p1/c/o", **wrong))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'SwiftContainerSync realm="AUTH_p1"'
    assert here.get("/v1/AUTH_p1/c/o", x_auth_token="anna").status == 404


def test_a_signature_is_good_for_what_was_signed(here: World) -> None:
    made = headers("PUT", "/v1/AUTH_p1/c/o")
    assert here.put("/v1/AUTH_p1/c/o2", b"x", **made).status == 401
    assert here.put("/v1/AUTH_p1/d/o", b"x", **headers("PUT", "/v1/AUTH_p1/d/o", user_key="")).status == 401
    assert here.delete("/v1/AUTH_p1/c/o", **made).status == 401
    assert here.put("/v1/AUTH_p1/c/o", b"x", **(made | {"x_timestamp": "1800000000.00000"})).status == 401
    assert here.put("/v1/AUTH_p1/c/o", b"x", x_container_sync_auth="one two").status == 401
    assert here.put("/v1/AUTH_p1/c/o", b"x", x_container_sync_auth="realm1 n é").status == 401


def test_where_owners_may_copy_to(here: World) -> None:
    def ask(there: str) -> int:
        return here.post("/v1/AUTH_p1/c", x_auth_token="anna", x_container_sync_to=there).status

    assert ask("//realm1/west/AUTH_x/c") == 204
    assert (
        here.head("/v1/AUTH_p1/c", x_auth_token="anna").headers["x-container-sync-to"]
        == "//realm1/west/AUTH_x/c"
    )
    assert ask("http://127.0.0.1:6200/v1/a/c") == 400
    assert ask("//realm1/nowhere/AUTH_x/c") == 400
    assert ask("") == 204


def test_info_tells_of_realms(here: World) -> None:
    assert here.store.facts["container_sync"] == {
        "realms": {
            "REALM1": {"clusters": {"WEST": {}, "HERE": {"current": True}}},
            "EMPTY": {"clusters": {"X": {}}},
        }
    }


def test_a_large_object_comes_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / sync.FILE).write_text(REALMS)
    here = peopled(tmp_path, "catch gatekeeper listing container_sync token acl slo service")
    here.put("/v1/AUTH_p1/c", x_auth_token="anna", x_container_sync_key="theirs")
    path = "/v1/AUTH_p1/c/o"
    assert here.put(path, b"[]", x_auth_token="anna", x_static_large_object="True").status == 400
    assert here.put(path, b"[]", x_static_large_object="True", **headers("PUT", path)).status == 201
    seen = here.get(path, x_auth_token="anna", query={"multipart-manifest": "get"})
    assert (seen.read(), seen.headers["x-static-large-object"]) == (b"[]", "True")


def test_keys_without_a_realm_are_for_operators_to_accept(tmp_path: Path, here: World) -> None:
    path, shown = "/v1/AUTH_p1/c/o", {"x_container_sync_key": "theirs", "x_timestamp": "1700000000.00000"}
    assert here.put(path, b"x", **shown).status == 401
    lax = peopled(tmp_path, "catch gatekeeper container_sync token acl service",
                  options={"container_sync": {"accept_keys": "yes"}})  # fmt: skip
    assert lax.put(path, b"x", **(shown | {"x_container_sync_key": "guess"})).status == 401
    assert lax.put(path, b"x", x_container_sync_key="theirs").status == 401
    assert lax.put("/v1/AUTH_p1/d/o", b"x", **(shown | {"x_container_sync_key": ""})).status == 401
    assert lax.put(path, b"x", **shown).status == 201
