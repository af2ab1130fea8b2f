"""The judge of commands itself: what it takes for working, refused and failing."""

from __future__ import annotations

import pytest

from tests.clients.client import Answer, Done
from tests.clients.table import section
from tests.clients.tour import Kind, Outcome, outcome

BODY = '{"error": {"code": 403, "message": "Not for you, 0123456789abcdef0123456789abcdef."}}'
HTML = "<html><body><h1>Not | found</h1></body></html>"


def done(code: int, *answers: tuple[str, int, str], trouble: str = "") -> Done:
    told = tuple(
        Answer(method=method, path="/v3/x", status=status, text=text) for method, status, text in answers
    )
    return Done(code=code, output="", trouble=trouble, answers=told)


@pytest.mark.parametrize(
    ("run", "kind", "words"),
    [
        (done(0, ("GET", 404, BODY), ("GET", 200, "")), Kind.WORKS, ""),
        (done(0, ("HEAD", 404, "")), Kind.WORKS, ""),
        (done(0, ("DELETE", 404, BODY)), Kind.REFUSED, "404: Not for you, ID."),
        (done(1, ("POST", 403, BODY)), Kind.REFUSED, "403: Not for you, ID."),
        (done(1, ("POST", 501, HTML)), Kind.REFUSED, "501: Not | found"),
        (done(1, ("POST", 201, ""), trouble="'x'"), Kind.FAILS, "the client: 'x'"),
        (done(1, trouble="usage"), Kind.FAILS, "the client: usage"),
        (done(0, ("GET", 500, ""), ("GET", 200, "")), Kind.FAILS, "500 to GET /v3/x"),
        (done(1, ("GET", 200, ""), trouble="Traceback (most recent call last):\nKeyError: 'x'"), Kind.FAILS,
         "KeyError: 'x'"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_command(run: Done, kind: Kind, words: str) -> None:
    assert outcome(run) == Outcome(kind=kind, words=words)


def test_a_section() -> None:
    text = section("One", {"b c": Outcome(kind=Kind.REFUSED, words="a|b"), "a": Outcome(kind=Kind.WORKS)})
    assert "2 commands: 1 works, 1 refused." in text
    assert text.endswith("| `a` | works | |\n| `b c` | refused | a\\|b |\n")
