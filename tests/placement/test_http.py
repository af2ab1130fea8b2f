"""What placement makes of HTTP itself: methods, media types, versions; and its words for bodies that are wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from falcon import testing

from tests.lone import Lone

pytestmark = pytest.mark.everywhere

ONE = "/resource_providers/5202c48f-c960-4eec-bde3-89c4f22a17b9"
AGGREGATE = "a893eb5c-e2a0-4251-ab26-f71d3b0cfc0b"


def ask(
    lone: Lone, method: str, path: str, body: bytes | None = None, *, version: str = "1.39", **headers: str
) -> tuple[int, dict[str, str], str]:
    """(status, headers, body); words of header names are joined by "_"."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = lone.client.send(method, path, body, token="admin", version=version, headers=sent)
    return (
        answer.status,
        {name.lower(): value for name, value in answer.headers.items()},
        answer.read().decode(),
    )


def detail(text: str) -> str:
    (error,) = json.loads(text)["errors"]
    return str(error["detail"])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/", "GET"), ("OPTIONS", "/", "GET"), ("POST", "/", "GET"),
        ("DELETE", "/resource_providers", "GET, POST"), ("OPTIONS", "/resource_providers", "GET, POST"),
        ("GET", "/reshaper", "POST"), ("PATCH", ONE, "GET, PUT, DELETE"),
    ],
)  # fmt: skip
def test_other_methods_are_refused_with_those_there_are(
    lone: Lone, method: str, path: str, allowed: str
) -> None:
    status, headers, text = ask(lone, method, path)
    assert (status, headers["allow"]) == (405, allowed)
    assert headers["openstack-api-version"] == "placement 1.39"
    assert f"The method {method} is not allowed" in detail(text)


def test_the_version_is_told_of_what_is_not_there_too(lone: Lone) -> None:
    status, headers, _ = ask(lone, "GET", "/barnabas", version="1.23")
    assert (status, headers["openstack-api-version"]) == (404, "placement 1.23")
    assert headers["vary"] == "openstack-api-version"
    assert ask(lone, "GET", "/barnabas", version="1.99")[0] == 406


@pytest.mark.parametrize(
    ("version", "status", "words"),
    [
        ("0.5", 406, "Unacceptable version header: 0.5"),
        ("pony.horse", 400, "invalid version string: pony.horse"),
        ("{asked}", 400, "invalid version string: {asked}"),
    ],
)
def test_versions_that_nobody_speaks(lone: Lone, version: str, status: int, words: str) -> None:
    got, _, text = ask(lone, "GET", "/", version=version)
    assert got == status and words in detail(text)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200), ("*/*", 200), ("text/html, */*;q=0.8", 200), ("", 200),
        ("text/plain", 406), ("text/html,application/xml;q=0.9", 406),
    ],
)  # fmt: skip
def test_only_json_is_to_be_had(lone: Lone, accept: str, status: int) -> None:
    assert ask(lone, "GET", "/resource_providers", Accept=accept)[0] == status
    assert ask(lone, "GET", "/", Accept=accept)[0] == 200


def test_errors_are_html_for_who_takes_nothing_else(lone: Lone) -> None:
    status, headers, text = ask(lone, "GET", "/resource_providers/<b>", Accept="text/html")
    assert (status, headers["content-type"]) == (406, "text/html; charset=UTF-8")
    status, headers, text = ask(lone, "DELETE", "/resource_providers/<b>", Accept="text/html")
    assert status == 404 and "&lt;b&gt;" in text and "<b>" not in text
    _, headers, _ = ask(
        lone, "DELETE", "/resource_providers/none", Accept="text/html, application/json;q=0.1"
    )
    assert headers["content-type"] == "application/json"


def test_answers_without_a_body_have_no_type(lone: Lone) -> None:
    status, headers, text = ask(lone, "PUT", "/traits/CUSTOM_A")
    assert (status, text) == (201, "") and "content-type" not in headers
    status, headers, _ = ask(lone, "PUT", "/traits/CUSTOM_A")
    assert status == 204 and "content-type" not in headers


def test_bodies_say_what_they_are(lone: Lone) -> None:
    status, _, text = ask(lone, "POST", "/resource_providers", b"{}")
    assert status == 400 and "content-type header required" in detail(text)
    status, _, text = ask(lone, "PUT", ONE)
    assert status == 415 and "The media type None is not supported" in detail(text)
    assert ask(lone, "POST", "/resource_providers", b"{}", Content_Type="text/plain")[0] == 415
    status, _, text = ask(lone, "DELETE", ONE, b"{}")
    assert status == 400 and "content-type header required" in detail(text)


def test_a_length_that_is_no_number(lone: Lone) -> None:
    sent = {"X-Auth-Token": "admin", "Content-Type": "application/json"}
    environ = testing.create_environ("/resource_providers", method="POST", headers=sent, body="{}")
    environ["CONTENT_LENGTH"] = "hi mom"
    said: list[str] = []
    text = b"".join(lone.app(environ, lambda status, headers: said.append(status)))
    assert said == ["400 Bad Request"] and "content-length header must be an integer" in detail(text.decode())


def put(lone: Lone, method: str, path: str, body: Any, version: str = "1.39") -> tuple[int, str]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, text = ask(lone, method, path, raw, version=version, Content_Type="application/json")
    return status, detail(text)


def test_a_provider_that_is_not_there_comes_before_a_body_that_is_wrong(lone: Lone) -> None:
    assert put(lone, "PUT", f"{ONE}/aggregates", [])[0] == 404
    lone.call("POST", "/resource_providers", {"name": "one", "uuid": ONE[-36:]}, who="admin")
    assert put(lone, "PUT", f"{ONE}/aggregates", [])[0] == 400


TYPED = {
    "allocations": {AGGREGATE: {"resources": {"VCPU": 2, "DISK_GB": 0}}}, "project_id": "p", "user_id": "u",
    "consumer_generation": None, "consumer_type": "INSTANCE",
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/resource_providers", b'{"foo": }', "Malformed JSON:"),
        ("POST", "/resource_providers", b"", "Malformed JSON:"),
        ("POST", "/resource_providers", {"name": 3}, "3 is not of type 'string'"),
        ("POST", "/resource_providers", {"name": "x" * 201}, " is too long"),
        ("PUT", f"{ONE}/traits", {"traits": "t"}, "'t' is not of type 'array'"),
        (
            "PUT", f"{ONE}/traits", {"traits": [], "resource_provider_generation": "g"},
            "'g' is not of type 'integer'",
        ),
        ("POST", f"{ONE}/inventories", {"resource_class": "VCPU", "total": -1}, "-1 is less than the minimum of 1"),
        ("PUT", f"/allocations/{AGGREGATE}", TYPED, "JSON does not validate: 0 is less than the minimum of 1"),
        (
            "PUT", f"/allocations/{AGGREGATE}", {**TYPED, "allocations": {}, "consumer_type": "instance"},
            "'instance' does not match '^[A-Z0-9_]+$'",
        ),
        (
            "PUT", f"/allocations/{AGGREGATE}", {**TYPED, "allocations": {}, "mappings": {"a": [AGGREGATE], "b": "c"}},
            "'c' is not of type 'array'",
        ),
    ],
)  # fmt: skip
def test_words_for_bodies_that_are_wrong(lone: Lone, method: str, path: str, body: Any, words: str) -> None:
    status, said = put(lone, method, path, body)
    assert status == 400 and words in said


def test_nobody_is_their_own_parent(lone: Lone) -> None:
    body = {"name": "child", "uuid": ONE[-36:], "parent_provider_uuid": ONE[-36:].upper()}
    status, said = put(lone, "POST", "/resource_providers", body)
    assert status == 400 and "parent provider UUID cannot be same as UUID" in said
    lone.call("POST", "/resource_providers", {"name": "child", "uuid": ONE[-36:]}, who="admin")
    status, said = put(lone, "PUT", ONE, {"name": "child", "parent_provider_uuid": ONE[-36:]})
    assert status == 400 and "creating loop in the provider tree is not allowed." in said


def test_traits_of_candidates_begin_with_the_standard_ones(lone: Lone) -> None:
    lone.call("POST", "/resource_providers", {"name": "one", "uuid": ONE[-36:]}, who="admin", version="1.0")
    ask(lone, "PUT", "/traits/CUSTOM_A")
    traits = {"traits": ["CUSTOM_A", "HW_NUMA_ROOT"], "resource_provider_generation": 0}
    lone.call("PUT", f"{ONE}/traits", traits, who="admin", version="1.39")
    amount = {"resource_class": "VCPU", "total": 8}
    lone.call("POST", f"{ONE}/inventories", amount, who="admin", version="1.39")
    for limit in ("", "&limit=1"):
        found = lone.call(
            "GET", f"/allocation_candidates?resources=VCPU:1{limit}", who="admin", version="1.39"
        )
        assert found["provider_summaries"][ONE[-36:]]["traits"] == ["HW_NUMA_ROOT", "CUSTOM_A"]
