"""Open bodies, policy targets of a service's own, and refusals that do not tell which ids exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from altostack.kit.call import Call
from altostack.kit.clients import RemoteError
from tests.kit import toy as toys
from tests.kit.toy import SERVICE, WIDGETS, Toy

UNKNOWN = "f" * 32


def target(call: Call, row: Any) -> Mapping[str, Any]:
    if row is None:
        return {"project_id": call.context.project_id}
    return {"project_id": row.project_id, "target.widget.size": str(row.size)}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    policy = {**WIDGETS.policy, "all": "@", "show": "role:admin or '1':%(target.widget.size)s"}
    widgets = replace(WIDGETS, extra="notes", changes=(), policy=policy, computed={}, flow=None)
    dialect = replace(
        SERVICE.dialect, open_bodies=True, target=target, refuse_first=True, update_method="PUT"
    )
    monkeypatch.setattr(toys, "SERVICE", replace(SERVICE, resources=(widgets,), dialect=dialect))
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def refused(toy: Toy, *args: Any, **more: Any) -> int:
    with pytest.raises(RemoteError) as caught:
        toy.call(*args, **more)
    return caught.value.status


def test_unknown_keys_are_kept_and_shown_again(toy: Toy) -> None:
    body = {"widget": {"size": 1, "colour": "red", "status": "available", "notes": {"x": 1}, "pool": "p"}}
    made = toy.call("POST", "/v1/widgets", body, version="1.3")["widget"]
    assert made["colour"] == "red" and made["status"] == "creating"
    path = f"/v1/widgets/{made['id']}"
    changed = toy.call("PUT", path, {"widget": {"shape": None}}, version="1.3", who="admin")["widget"]
    assert changed["colour"] == "red" and changed["shape"] is None
    shown = toy.call("GET", "/v1/widgets/detail", version="1.3")["widgets"][0]
    assert shown["colour"] == "red" and shown["shape"] is None
    assert made["pool"] == "p"  # a key like any other: the private column is not touched
    with toy.db.read() as session:
        assert session.get(toys.Widget, made["id"]).pool is None  # type: ignore[union-attr]  # it is there


def test_rules_see_the_services_own_target(toy: Toy) -> None:
    small = toy.call("POST", "/v1/widgets", {"widget": {"size": 1}}, version="1.3")["widget"]["id"]
    large = toy.call("POST", "/v1/widgets", {"widget": {"size": 2}}, version="1.3")["widget"]["id"]
    assert toy.call("GET", f"/v1/widgets/{small}", version="1.3", who="other")["widget"]["size"] == 1
    assert refused(toy, "GET", f"/v1/widgets/{large}", version="1.3", who="other") == 403


def test_a_refusal_may_come_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect = replace(SERVICE.dialect, refuse_first=lambda resource, op: op != "delete")
    monkeypatch.setattr(toys, "SERVICE", replace(SERVICE, resources=(WIDGETS,), dialect=dialect))
    toy = Toy(tmp_path)
    assert refused(toy, "DELETE", f"/v1/widgets/{UNKNOWN}", who="reader") == 404
    assert refused(toy, "PUT", f"/v1/widgets/{UNKNOWN}", {"widget": {"name": "x"}}, who="reader") == 403
    toy.close()


def test_a_refusal_does_not_tell_which_ids_exist(toy: Toy) -> None:
    assert refused(toy, "GET", f"/v1/widgets/{UNKNOWN}", version="1.3", who="other") == 403
    assert refused(toy, "GET", f"/v1/widgets/{UNKNOWN}", version="1.3", who="admin") == 404
    action = {"os-extend": {"new_size": 3}}
    assert refused(toy, "POST", f"/v1/widgets/{UNKNOWN}/action", action, version="1.3", who="reader") == 403
