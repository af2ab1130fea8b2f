"""Names in hosts, CNAMEs, and the one document for old clients."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from altostack.objectstore.http import Response
from altostack.objectstore.middleware import cname_lookup, crossdomain, dns, domain_remap
from altostack.objectstore.middleware.cname_lookup import CnameLookup
from tests.objectstore.gates.scene import Inner, ask, build, request, store


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("AUTH-Acc.example.com", "/", "/v1/AUTH_acc/"),
        ("auth_acc.example.com:8080", "/c/o", "/v1/AUTH_acc/c/o"),
        ("c.AUTH_acc.example.com", "/o x/é", "/v1/AUTH_acc/c/o x/é"),
        ("c.auth-acc.deep.example.org", "", "/v1/AUTH_acc/c/"),
        ("c.auth-acc.example.com", "/v1/o", "/v1/AUTH_acc/c/v1/o"),
        ("other.example.com", "/v1/a", "/v1/a"),
        ("example.com", "/v1/a", "/v1/a"),
        ("auth-acc.example.net", "/v1/a", "/v1/a"),
        ("[::1]:8080", "/v1/a", "/v1/a"),
        ("", "/v1/a", "/v1/a"),
    ],
)
def test_accounts_in_hosts(tmp_path: Path, host: str, path: str, found: str) -> None:
    inner = Inner()
    app = build(domain_remap.factory, store(tmp_path), inner, storage_domain="example.com, .deep.example.org")
    assert ask(app, "GET", path or "/", host=host).status == 200
    assert inner.asked[0].path == found


def test_options_of_names_in_hosts(tmp_path: Path) -> None:
    inner = Inner()
    app = build(
        domain_remap.factory, store(tmp_path), inner, storage_domain="example.com", mangle_client_paths="yes",
        default_reseller_prefix="AUTH",
    )  # fmt: skip
    ask(app, "GET", "/v1/o", host="c.acc.example.com")
    assert inner.asked[0].path == "/v1/AUTH_acc/c/o"
    place = inner.asked[0].place
    assert place is not None and (place.account, place.container, place.object) == ("AUTH_acc", "c", "o")
    assert ask(app, "GET", "/", host="a.b.c.example.com").status == 400
    assert ask(app, "GET", "/", host="..example.com").status == 400


def test_locations_come_back_in_the_clients_words(tmp_path: Path) -> None:
    inner = Inner(lambda request: Response(301, {"location": f"http://h{request.target}/"}))
    app = build(domain_remap.factory, store(tmp_path), inner, storage_domain="example.com")
    assert (
        ask(app, "GET", "/sub é", host="c.auth-a.example.com").headers["location"] == "http://h/sub%20%C3%A9/"
    )
    inner.answer = lambda request: Response(301, {"location": f"{request.target}/"})
    assert ask(app, "GET", "/sub", host="c.auth-a.example.com").headers["location"] == "/sub/"
    assert ask(app, "GET", "//evil", host="c.auth-a.example.com").headers["location"] == "/.//evil/"
    inner.answer = lambda request: Response(201, {"location": "http://else/where"})
    assert ask(app, "GET", "/sub", host="c.auth-a.example.com").headers["location"] == "http://else/where"


def test_cnames(tmp_path: Path) -> None:
    names: dict[str, tuple[str | None, int]] = {
        "www.mine.org": ("c.auth-a.example.com.", 60),
        "far.mine.org": ("www.mine.org", 60),
        "loop.mine.org": ("loop.mine.org", 60),
        "none.mine.org": (None, 60),
    }
    asked: list[str] = []

    def resolver(name: str) -> tuple[str | None, int]:
        asked.append(name)
        if name not in names:
            raise dns.Unanswered(name)
        return names[name]

    now = [0.0]
    inner = Inner()
    app = CnameLookup(inner, (".example.com",), resolver, depth=1, clock=lambda: now[0])
    assert ask(app, "GET", "/o", host="WWW.mine.org:8080").status == 200
    assert inner.asked[-1].headers["host"] == "c.auth-a.example.com:8080"
    ask(app, "GET", "/o", host="www.mine.org")
    assert asked == ["www.mine.org"]  # remembered
    now[0] += 61
    ask(app, "GET", "/o", host="www.mine.org")
    assert asked == ["www.mine.org"] * 2
    for host in ("loop.mine.org", "none.mine.org", "gone.mine.org", "far.mine.org"):
        assert ask(app, "GET", "/o", host=host).status == 400
    deep = CnameLookup(inner, (".example.com",), resolver, depth=2)
    assert ask(deep, "GET", "/o", host="far.mine.org").status == 200
    for host in ("a.example.com", "example.com", "10.0.0.1:80", "[::1]:80", ""):
        assert ask(app, "GET", "/o", host=host).status == 200
        assert inner.asked[-1].header("host") == host


@contextmanager
def name_server(*answers: bytes) -> Iterator[tuple[tuple[str, int], list[bytes]]]:
    """Sends ``answers`` (after the question's id) to whoever asks once."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(5)
    questions: list[bytes] = []

    def serve() -> None:
        question, client = sock.recvfrom(512)
        questions.append(question)
        for answer in answers:
            sock.sendto(answer.replace(b"ID", question[:2], 1), client)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield sock.getsockname(), questions
    finally:
        thread.join()
        sock.close()


QUESTION = b"\x03www\x04mine\x03org\0" + struct.pack("!2H", 5, 1)


def answer(code: int, *records: bytes, identity: bytes = b"ID", question: bytes = QUESTION) -> bytes:
    return identity + struct.pack("!5H", 0x8180 | code, 1, len(records), 0, 0) + question + b"".join(records)


def record(data: bytes, kind: int = 5, ttl: int = 77) -> bytes:
    return b"\xc0\x0c" + struct.pack("!2HIH", kind, 1, ttl, len(data)) + data


def test_a_question_to_the_name_system() -> None:
    true = answer(0, record(b"\1x", kind=46), record(b"\x01c\x06auth-a\xc0\x10"))
    forged = answer(0, record(b"\4evil\0"), identity=b"??")
    other = answer(0, record(b"\4evil\0"), question=QUESTION.replace(b"www", b"xxx"))
    with name_server(forged, other, true) as (server, questions):
        assert dns.cname("www.mine.org", [server]) == ("c.auth-a.mine.org", 77)
    assert questions[0][2:12] == struct.pack("!5H", 0x0100, 1, 0, 0, 0) and questions[0][12:] == QUESTION
    with name_server(answer(3)) as (server, _):
        assert dns.cname("www.mine.org", [server]) == (None, 60)
    loop = answer(0, record(struct.pack("!H", 0xC000 + 12 + len(QUESTION) + 12)))
    for broken in (answer(2), loop, answer(0)[:14], answer(0, record(b"\x05a")[:-2])):
        with name_server(broken) as (server, _), pytest.raises(dns.Unanswered):
            dns.cname("www.mine.org", [server], timeout=0.2)
    for wrong in ("", "a..b", "x" * 64 + ".org", ".".join(["x" * 60] * 5)):
        with pytest.raises(ValueError, match=r".*"):
            dns.cname(wrong, [])


def test_name_servers(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("# x\nsearch a\nnameserver 10.0.0.1\nnameserver ::1\nnameserver\n")
    assert dns.name_servers(tmp_path / "resolv.conf") == [("10.0.0.1", 53), ("::1", 53)]
    assert dns.name_servers(tmp_path / "none") == []
    made = store(tmp_path)
    build(cname_lookup.factory, made, Inner(), nameservers="127.0.0.1:5353, [::1]:53, ::1", lookup_depth="2")
    assert made.facts["cname_lookup"] == {"lookup_depth": 2}
    for wrong in ("host", "127.0.0.1:x", "1.2.3"):
        with pytest.raises(ValueError, match="nameservers"):
            build(cname_lookup.factory, made, Inner(), nameservers=wrong)


def test_the_document_for_old_clients(tmp_path: Path) -> None:
    app = build(crossdomain.factory, store(tmp_path), Inner(), cross_domain_policy="<x/>")
    answer = app(request("GET", "/crossdomain.xml"))
    assert answer.headers["content-type"] == "application/xml" and b"\n<x/>\n" in answer.read()
    assert app(request("PUT", "/crossdomain.xml")).body == b"inner"
