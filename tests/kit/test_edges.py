"""Declarations that depend on the version or on the row: bodies, computed fields, strictness of queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from altostack.kit.clients import RemoteError
from altostack.kit.resource import Action, Computed, struct
from altostack.kit.versions import Version
from tests.kit import toy as toys
from tests.kit.toy import SERVICE, WIDGETS, Toy


def create_body(version: Version | None) -> Any:
    fields: list[tuple[str, Any, bool]] = [("size", int, True)]
    if version is None or version >= (1, 3):
        fields.append(("name", str, False))
    return struct("WidgetCreate", fields)


def note_body(version: Version | None) -> Any:
    return struct("Note", [("text", str, True)] if version and version >= (1, 3) else [])


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    widgets = replace(
        WIDGETS,
        create_body=create_body,
        changes=(),
        actions={
            "note": Action(run=lambda call, row: {"text": getattr(call.body, "text", None)}, body=note_body)
        },
        computed={"big": Computed(get=lambda call, row: True if row.size > 5 else msgspec.UNSET)},
    )
    dialect = replace(SERVICE.dialect, strict_query=lambda call: call.at_least("1.3"))
    monkeypatch.setattr(toys, "SERVICE", replace(SERVICE, resources=(widgets,), dialect=dialect))
    toy = Toy(tmp_path)
    yield toy
    toy.close()


def status(toy: Toy, *args: Any, **more: Any) -> int:
    with pytest.raises(RemoteError) as caught:
        toy.call(*args, **more)
    return caught.value.status


def test_a_body_may_depend_on_the_version(toy: Toy) -> None:
    body = {"widget": {"size": 1, "name": "x"}}
    assert toy.call("POST", "/v1/widgets", body, version="1.3")["widget"]["name"] == "x"
    assert status(toy, "POST", "/v1/widgets", body, version="1.2") == 400


def test_an_actions_body_may_depend_on_the_version(toy: Toy) -> None:
    key = toy.call("POST", "/v1/widgets", {"widget": {"size": 1}}, version="1.3")["widget"]["id"]
    path = f"/v1/widgets/{key}/action"
    assert toy.call("POST", path, {"note": {"text": "a"}}, version="1.3") == {"text": "a"}
    assert toy.call("POST", path, {"note": None}, version="1.2") == {"text": None}
    assert status(toy, "POST", path, {"note": {"text": "a"}}, version="1.2") == 400


def test_a_computed_field_may_be_left_out_of_one_answer(toy: Toy) -> None:
    small = toy.call("POST", "/v1/widgets", {"widget": {"size": 1}}, version="1.3")["widget"]
    large = toy.call("POST", "/v1/widgets", {"widget": {"size": 9}}, version="1.3")["widget"]
    assert "big" not in small and large["big"] is True


def test_strictness_of_queries_may_depend_on_the_version(toy: Toy) -> None:
    assert toy.call("GET", "/v1/widgets", query={"colour": "red"}, version="1.2") == {"widgets": []}
    assert status(toy, "GET", "/v1/widgets", query={"colour": "red"}, version="1.3") == 400


def test_what_has_no_brief_fields_is_listed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from altostack.kit import resource as declared
    from altostack.kit.resource import columns

    plain = tuple(
        column if column.attr == "id" else replace(column, facet=replace(column.facet, brief=False))
        for column in columns(toys.Widget)
    )
    monkeypatch.setattr(declared, "_columns", lambda row: plain)
    widgets = replace(WIDGETS, computed={})
    monkeypatch.setattr(toys, "SERVICE", replace(SERVICE, resources=(widgets,)))
    toy = Toy(tmp_path)
    toy.call("POST", "/v1/widgets", {"widget": {"size": 1}}, version="1.3")
    assert toy.call("GET", "/v1/widgets", version="1.3")["widgets"][0]["size"] == 1
    with pytest.raises(RemoteError):
        toy.call("GET", "/v1/widgets/detail", version="1.3")
    toy.close()


def test_a_request_that_falcon_refuses_has_the_right_title(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    answer = toy.client.send("POST", "/v1/widgets", b"{}", token="member", headers={"Content-Length": "many"})
    assert answer.status == 400
    assert list(msgspec.json.decode(answer.read())) == ["Bad Request"]
    toy.close()
