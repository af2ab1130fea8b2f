"""The compiler and the request path, over the toy service."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from altostack.kit.clients import RemoteError
from altostack.kit.flow import Engine
from tests.kit.toy import Toy

pytestmark = pytest.mark.everywhere


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def make(toy: Toy, **fields: Any) -> dict[str, Any]:
    return toy.call("POST", "/v1/widgets", {"widget": {"size": 1, **fields}}, version="1.3")["widget"]  # type: ignore[no-any-return]  # JSON


def refused(toy: Toy, *args: Any, **more: Any) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        toy.call(*args, **more)
    return caught.value


def test_create_show_update_delete(toy: Toy) -> None:
    made = make(toy, name="one", label="x")
    assert made["status"] == "creating"
    assert "pool" not in made and "tenant_id" not in made
    shown = toy.call("GET", f"/v1/widgets/{made['id']}", version="1.3")["widget"]
    assert shown == made
    assert toy.call("GET", f"/v1/widgets/{made['id']}", who="admin")["widget"]["tenant_id"] == "1" * 32
    changed = toy.call("PUT", f"/v1/widgets/{made['id']}", {"widget": {"name": None}}, version="1.3")[
        "widget"
    ]
    assert changed["name"] is None and changed["size"] == 1 and changed["updated_at"]
    toy.call("DELETE", f"/v1/widgets/{made['id']}")
    Engine(toy.runtime).drain()
    assert refused(toy, "GET", f"/v1/widgets/{made['id']}").status == 404


def test_flow_provisions_extends_and_tells(toy: Toy) -> None:
    made = make(toy)
    path = f"/v1/widgets/{made['id']}"
    assert refused(toy, "POST", f"{path}/action", {"os-extend": {"new_size": 3}}).status == 409
    engine = Engine(toy.runtime)
    engine.drain()
    assert toy.call("GET", path, version="1.3")["widget"]["status"] == "available"
    toy.call("POST", f"{path}/action", {"os-extend": {"new_size": 3}})
    engine.drain()
    assert toy.call("GET", path, version="1.3")["widget"]["size"] == 3
    assert toy.runtime.drivers["toy"] == {made["id"]: 3}


def test_tenancy(toy: Toy) -> None:
    made = make(toy)
    path = f"/v1/widgets/{made['id']}"
    for method, body in (("GET", None), ("DELETE", None), ("PUT", {"widget": {"name": "x"}})):
        assert refused(toy, method, path, body, who="other").status == 404
    assert refused(toy, "DELETE", path, who="reader").status == 403
    assert refused(toy, "GET", path, who="nobody").status == 401
    assert toy.call("GET", "/v1/widgets", who="other") == {"widgets": []}
    assert toy.call("GET", "/v1/widgets", who="admin") == {"widgets": []}
    assert len(toy.call("GET", "/v1/widgets?all_tenants=1", who="admin")["widgets"]) == 1
    assert toy.call("GET", "/v1/widgets?all_tenants=1", who="other") == {"widgets": []}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"widget": {}}, "widget.size"),
        ({"widget": {"size": 0}}, "widget.size"),
        ({"widget": {"size": "a"}}, "widget.size"),
        ({"widget": {"size": 1, "nope": 1}}, "widget.nope"),
        ({"widget": {"size": 1, "pool": "p"}}, "widget.pool"),
        ({"widget": {"size": 1, "name": "n" * 256}}, "widget.name"),
        ({"widget": {"size": 1, "tags": ["a", 1]}}, "widget.tags[1]"),
        ({"gadget": {}}, "gadget"),
        ([], "body"),
    ],
)
def test_bad_bodies_name_the_field(toy: Toy, body: Any, field: str) -> None:
    error = refused(toy, "POST", "/v1/widgets", body, version="1.3")
    assert error.status == 400
    assert error.body["Bad Request"]["field"] == field


@pytest.mark.parametrize(
    "raw", [b"{", b"\xff", b"", b"[" * 100_000, b'{"widget":{"size":1,"name":"\\u0000"}}']
)
def test_malformed_json(toy: Toy, raw: bytes) -> None:
    answer = toy.client.send("POST", "/v1/widgets", raw, token="member")
    assert answer.status == 400
    assert b"Traceback" not in answer.read()


def test_too_large_and_wrong_media(toy: Toy) -> None:
    assert toy.client.send("POST", "/v1/widgets", b" " * 200_000, token="member").status == 413
    sent = toy.client.send("POST", "/v1/widgets", b"{}", token="member", headers={"Content-Type": "text/xml"})
    assert sent.status == 415


def test_methods_of_a_path(toy: Toy) -> None:
    told = toy.client.send("OPTIONS", "/v1/widgets", None, token="member")
    assert told.status == 200 and sorted(told.headers["allow"].split(", ")) == ["GET", "OPTIONS", "POST"]
    for method in ("PATCH", "TRACE", "PROPFIND"):
        told = toy.client.send(method, "/v1/widgets", None, token="member", version="1.3")
        assert told.status == 405 and sorted(told.headers["allow"].split(", ")) == ["GET", "POST"]
        assert told.headers["openstack-api-version"].endswith(" 1.3")


def test_an_answer_without_a_body_has_no_type(toy: Toy) -> None:
    made = make(toy)
    Engine(toy.runtime).drain()
    raw = b'{"os-extend": {"new_size": 3}}'
    for method, path, body in (
        ("POST", f"/v1/widgets/{made['id']}/action", raw), ("DELETE", f"/v1/widgets/{made['id']}", None),
    ):  # fmt: skip
        told = toy.client.send(method, path, body, token="member", version="1.3")
        assert told.status in (202, 204) and not told.read() and "content-type" not in told.headers


def test_nothing_there(toy: Toy) -> None:
    assert refused(toy, "GET", "/v1/nothing").status == 404
    assert refused(toy, "PATCH", "/v1/widgets").status == 405
    assert refused(toy, "GET", "/v1/widgets/%00").status == 404


def test_a_bug_is_a_clean_500(toy: Toy) -> None:
    error = refused(toy, "GET", "/v1/boom")
    assert error.status == 500
    assert "req-" in error.message and "division" not in error.message


def test_versions(toy: Toy) -> None:
    old = toy.call("POST", "/v1/widgets", {"widget": {"gigabytes": 2}})["widget"]
    assert old["gigabytes"] == 2 and "size" not in old and "label" not in old
    assert toy.call("GET", f"/v1/widgets/{old['id']}", version="1.3")["widget"]["size"] == 2
    error = refused(toy, "POST", "/v1/widgets", {"widget": {"size": 1, "label": "x"}}, version="1.2")
    assert error.body["Bad Request"]["field"] == "widget.label"
    assert refused(toy, "GET", "/v1/widgets", version="9.9").status == 406
    assert refused(toy, "GET", "/v1/widgets", version="x").status == 400


def test_pages_cover_everything_once(toy: Toy) -> None:
    names = [None, "b", "a", None, "c", "b", "a"]
    ids = {make(toy, name=name)["id"] for name in names}
    for sort in ("name:asc", "name:desc", "size:asc", "created_at:desc", "name:desc,size:asc"):
        seen: list[str] = []
        marker = ""
        while True:
            page = toy.call(
                "GET", f"/v1/widgets?limit=2&sort={sort}" + (f"&marker={marker}" if marker else "")
            )
            if not page["widgets"]:
                break
            seen += [widget["id"] for widget in page["widgets"]]
            marker = seen[-1]
        assert len(seen) == len(ids) and set(seen) == ids, sort
    assert refused(toy, "GET", "/v1/widgets?marker=none").status == 400
    assert refused(toy, "GET", "/v1/widgets?limit=-1").status == 400
    assert refused(toy, "GET", "/v1/widgets?sort=pool:asc").status == 400


def test_filters(toy: Toy) -> None:
    make(toy, name="a")
    make(toy, name="b")
    assert [w["name"] for w in toy.call("GET", "/v1/widgets?name=a")["widgets"]] == ["a"]
    assert len(toy.call("GET", "/v1/widgets?name=a&name=b")["widgets"]) == 2
    assert toy.call("GET", "/v1/widgets?status=nonsense")["widgets"] == []
    assert refused(toy, "GET", "/v1/widgets?size=x").status == 400


def test_quota_holds_under_parallel_creates(toy: Toy) -> None:
    def one(_: int) -> bool:
        try:
            make(toy)
            return True
        except RemoteError as error:
            assert error.status == 403
            assert "widgets" in error.message and "10" in error.message
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(one, range(40))) == 10


def test_project_in_the_path(toy: Toy) -> None:
    make(toy)
    assert len(toy.call("GET", "/v1/" + "1" * 32 + "/widgets")["widgets"]) == 1
    assert refused(toy, "GET", "/v1/" + "2" * 32 + "/widgets").status == 400
