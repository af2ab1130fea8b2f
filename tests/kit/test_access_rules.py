"""Access rules of application credentials, at the edge of every service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.kit.clients import Client, RemoteError, ServiceToken, WsgiTransport
from altostack.kit.context import Context
from tests.kit.toy import PEOPLE, Toy


def bound(*rules: tuple[str, str, str]) -> Context:
    """A member whose credential has these rules: (service, method, path) each."""
    listed: list[dict[str, Any]] = [{"service": s, "method": m, "path": p} for s, m, p in rules]
    return msgspec.structs.replace(PEOPLE["member"], application_credential={"access_rules": listed})


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.setitem(
        PEOPLE, "lister", bound(("toy", "GET", "/v1/widgets"), ("other", "POST", "/v1/widgets"))
    )
    monkeypatch.setitem(PEOPLE, "shower", bound(("toy", "GET", "/v1/{project}/widgets/*")))
    monkeypatch.setitem(PEOPLE, "all", bound(("toy", "GET", "/v1/**"), ("toy", "POST", "/v1/**")))
    monkeypatch.setitem(PEOPLE, "free", msgspec.structs.replace(PEOPLE["member"], application_credential={}))
    service = msgspec.structs.replace(PEOPLE["admin"], roles=frozenset({"service", "admin"}))
    monkeypatch.setitem(PEOPLE, "service", service)
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def refused(toy: Toy, method: str, path: str, body: Any, who: str, **more: Any) -> int:
    with pytest.raises(RemoteError) as caught:
        toy.call(method, path, body, who=who, **more)
    return caught.value.status


def test_rules_bound_what_a_token_may_call(toy: Toy) -> None:
    body = {"widget": {"size": 1}}
    key = toy.call("POST", "/v1/widgets", body, who="all", version="1.3")["widget"]["id"]
    assert len(toy.call("GET", "/v1/widgets", who="lister")["widgets"]) == 1
    assert refused(toy, "POST", "/v1/widgets", body, "lister", version="1.3") == 401
    assert refused(toy, "GET", f"/v1/widgets/{key}", None, "lister") == 401
    assert refused(toy, "GET", f"/v1/widgets/{key}", None, "shower") == 401
    assert toy.call("GET", f"/v1/{'1' * 32}/widgets/{key}", who="shower")["widget"]["id"] == key
    assert refused(toy, "GET", f"/v1/{'1' * 32}/widgets", None, "shower") == 401
    assert toy.call("GET", f"/v1/widgets/{key}", who="all")["widget"]["id"] == key
    assert refused(toy, "DELETE", f"/v1/widgets/{key}", None, "all") == 401
    toy.call("DELETE", f"/v1/widgets/{key}", who="free")


def test_a_service_may_go_on_for_the_user(toy: Toy) -> None:
    body = {"widget": {"size": 1}}
    own = ServiceToken(lambda: ("service", 9e9))
    neighbour = Client("toy", WsgiTransport(toy.app), own, versions="toy")
    made = neighbour.call("POST", "/v1/widgets", body, token="lister", version="1.3")["widget"]
    assert toy.call("GET", f"/v1/widgets/{made['id']}", who="member")["widget"]["id"] == made["id"]
    for beside in ("member", "nonsense"):
        headers = {"X-Service-Token": beside, "Content-Type": "application/json"}
        answer = toy.client.send("DELETE", f"/v1/widgets/{made['id']}", token="lister", headers=headers)
        assert answer.status == 401
