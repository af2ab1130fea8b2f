"""Quotas and rate limits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from altostack.objectstore.http import Request, Stream
from altostack.objectstore.middleware import ratelimit
from altostack.objectstore.middleware.buckets import Buckets, TooFast
from altostack.objectstore.middleware.ratelimit import Limits, RateLimit, rate_at
from altostack.objectstore.storage import Info
from altostack.objectstore.store import Store
from tests.objectstore.gates.scene import Inner, ask, dated, known, peopled, store
from tests.objectstore.world import World

C = "/v1/AUTH_p1/c"
MANY = {"standard": {"index": 0, "default": True}, "Gold": {"index": 1}}


@pytest.fixture
def here(tmp_path: Path) -> World:
    made = peopled(tmp_path, "catch gatekeeper listing token acl quotas service", settings={"policies": MANY})
    made.headers["x-auth-token"] = "anna"
    made.put(C)
    return made


def test_a_containers_bytes(here: World) -> None:
    assert here.post(C, x_container_meta_quota_bytes="10").status == 204
    assert here.put(f"{C}/a", b"x" * 10).status == 201
    answer = here.put(f"{C}/b", b"y")
    assert (answer.status, answer.read()) == (413, b"Upload exceeds quota.")
    assert here.put(f"{C}/b", b"").status == 201
    assert here.delete(f"{C}/a").status == 204
    assert here.put(f"{C}/c", b"z" * 11).status == 413
    assert here.put(f"{C}/c", b"z" * 10).status == 201


def test_an_upload_of_unknown_size_gets_what_is_left(here: World) -> None:
    here.post(C, x_container_meta_quota_bytes="10")
    assert here.put(f"{C}/a", Stream([b"x" * 6, b"y" * 6])).status == 413
    assert here.get(C).read() == b""
    assert here.put(f"{C}/a", Stream([b"x" * 6, b"y" * 4])).status == 201


def test_a_containers_count(here: World) -> None:
    here.post(C, x_container_meta_quota_count="1")
    assert here.put(f"{C}/a").status == 201
    assert here.put(f"{C}/b").status == 413
    assert here.put(f"{C}/b", x_auth_token="bert").status == 403  # strangers are not told
    assert here.put(f"{C}/b", x_auth_token="").status == 401
    assert here.post(C, x_remove_container_meta_quota_count="x").status == 204
    assert here.put(f"{C}/b").status == 201


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "\uff11", "9" * 30])
def test_what_is_no_quota(here: World, value: str) -> None:
    assert here.post(C, x_container_meta_quota_bytes=value).read() == b"Invalid bytes quota."
    assert here.put(C, x_container_meta_quota_count=value).read() == b"Invalid count quota."
    assert here.post("/v1/AUTH_p1", x_auth_token="root", x_account_quota_bytes=value).status == 400


@pytest.mark.parametrize(
    "name",
    [
        "x_account_quota_bytes",
        "x_account_quota_count",
        "x_account_meta_quota_bytes",
        "x_account_quota_bytes_policy_gold",
        "x_remove_account_quota_count_policy_gold",
        "x_remove_account_meta_quota_bytes",
    ],
)
def test_account_quotas_are_the_resellers(here: World, name: str) -> None:
    assert here.post("/v1/AUTH_p1", **{name: "5"}).status == 403
    assert here.post("/v1/AUTH_p1", x_auth_token="root", **{name: "5"}).status == 204


def test_an_accounts_quotas_are_seen_by_all(here: World) -> None:
    root = {"x_auth_token": "root"}
    here.post("/v1/AUTH_p1", x_account_quota_bytes="5", x_account_quota_count_policy_gold="7", **root)
    seen = here.head("/v1/AUTH_p1").headers
    assert (seen["x-account-quota-bytes"], seen["x-account-quota-count-policy-gold"]) == ("5", "7")
    here.post("/v1/AUTH_p1", x_remove_account_quota_bytes="x", x_account_quota_bytes="9", **root)
    assert "x-account-quota-bytes" not in here.head("/v1/AUTH_p1").headers


@pytest.mark.parametrize("name", ["x_account_quota_bytes", "x_account_meta_quota_bytes"])
def test_an_accounts_bytes(here: World, name: str) -> None:
    here.post("/v1/AUTH_p1", x_auth_token="root", **{name: "10"})
    assert here.put(f"{C}/a", b"x" * 11).status == 413
    assert here.put(f"{C}/a", Stream([b"x" * 11])).status == 413
    assert here.put(f"{C}/a", b"x" * 11, x_auth_token="root").status == 201  # nobody limits a reseller


def test_an_accounts_count_and_policies(here: World) -> None:
    root = {"x_auth_token": "root"}
    here.post("/v1/AUTH_p1", x_account_quota_count="0", **root)
    assert here.put(f"{C}/a").read() == b"Upload exceeds quota."
    here.post("/v1/AUTH_p1", x_account_quota_count="", x_account_quota_bytes_policy_gold="3", **root)
    assert here.put("/v1/AUTH_p1/gold", x_storage_policy="gold").status == 201
    assert here.put("/v1/AUTH_p1/gold/a", b"1234").read() == b"Upload exceeds policy quota."
    assert here.put("/v1/AUTH_p1/gold/a", b"123").status == 201
    assert here.put(f"{C}/a", b"1234").status == 201


# ---- rates


def test_rates_between_sizes() -> None:
    steps = [(0, 100.0), (100, 50.0), (200, 10.0)]
    assert [rate_at(steps, size) for size in (0, 50, 100, 150, 200, 9999)] == [100, 75, 50, 30, 10, 10]
    assert rate_at(steps[1:], 99) == 0


def test_turns(tmp_path: Path) -> None:
    now = [1000.0]
    one = Buckets(tmp_path / "rates", lambda: now[0], burst=0)
    other = Buckets(tmp_path / "rates", lambda: now[0], burst=0)  # another process
    assert [one.take("a", 2.0, 5.0), other.take("a", 2.0, 5.0), one.take("a", 2.0, 5.0)] == [0.0, 0.5, 1.0]
    assert one.take("b", 2.0, 5.0) == 0.0
    with pytest.raises(TooFast):
        one.take("a", 2.0, 1.0)
    now[0] += 1.5
    assert one.take("a", 2.0, 1.0) == 0.0
    now[0] += 100
    assert [one.take("a", 2.0, 5.0) for _ in range(2)] == [0.0, 0.5]
    now[0] -= 500  # a clock that is set back stops nobody
    assert one.take("a", 2.0, 5.0) == 0.0


def test_unused_time_is_caught_up(tmp_path: Path) -> None:
    now = [1000.0]
    buckets = Buckets(tmp_path / "rates", lambda: now[0], burst=2.0)
    buckets.take("a", 1.0, 9.0)
    now[0] += 60
    assert [buckets.take("a", 1.0, 9.0) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]


def test_turns_are_given_once(tmp_path: Path) -> None:
    buckets = [Buckets(tmp_path / "rates", lambda: 1000.0, burst=0) for _ in range(2)]
    waits: list[float] = []

    def work(number: int) -> None:
        for _ in range(50):
            waits.append(buckets[number % 2].take("a", 100.0, 1e6))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({round(wait, 6) for wait in waits}) == 100


def limited(
    folder: Path, **options: str
) -> tuple[Callable[[Request], object], Store, list[float], list[float]]:
    """(handler, store, waits so far, [the time])."""
    made = store(folder)
    now, waits = [1000.0], list[float]()
    made.clock.seconds = lambda: now[0]  # type: ignore[method-assign]
    local = {"rate_buffer_seconds": "0", "max_sleep_time_seconds": "1"} | options
    known(made).containers[("a", "c")] = Info(account="a", container="c", count=150)
    return RateLimit(Inner(), made, Limits(local), sleep=waits.append), made, waits, now


def test_what_is_limited(tmp_path: Path) -> None:
    app, _, waits, _ = limited(
        tmp_path, account_ratelimit="2", container_ratelimit_100="4", container_listing_ratelimit_100="8",
        account_verb_ratelimit_head="10",
    )  # fmt: skip
    for method, path, wait in (
        ("PUT", "/v1/a/c", 0.5),
        ("PUT", "/v1/a/c/o", 0.25),
        ("GET", "/v1/a/c", 0.125),
        ("HEAD", "/v1/a/c/o", 0.1),
        ("GET", "/v1/a/c/o", None),
        ("POST", "/v1/a/small/o", None),
        ("POST", "/v1/a", None),
    ):
        waits.clear()
        assert ask(app, method, path).status == 200 and not waits  # type: ignore[arg-type]
        assert ask(app, method, path).status == 200  # type: ignore[arg-type]
        assert waits == ([pytest.approx(wait)] if wait else [])


def test_too_long_a_wait(tmp_path: Path) -> None:
    app, _, waits, now = limited(tmp_path, account_ratelimit="1")
    assert [ask(app, "PUT", "/v1/a/c").status for _ in range(4)] == [200, 200, 498, 498]  # type: ignore[arg-type]
    answer = ask(app, "PUT", "/v1/a/c")  # type: ignore[arg-type]
    assert (answer.read(), answer.headers["retry-after"]) == (b"Slow down", "2")
    assert waits == [pytest.approx(1.0)]
    now[0] += 2
    assert ask(app, "PUT", "/v1/a/c").status == 200  # type: ignore[arg-type]
    assert ask(app, "PUT", "/v1/b/c").status == 200  # type: ignore[arg-type]


def test_those_who_wait_leave_room_for_others(tmp_path: Path) -> None:
    made = store(tmp_path, threads=4)
    go, waiting = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        waiting.set()
        go.wait(5)

    limits = Limits({"rate_buffer_seconds": "0", "max_sleep_time_seconds": "60", "account_ratelimit": "0.1"})
    app = RateLimit(Inner(), made, limits, sleep=sleep)
    assert ask(app, "PUT", "/v1/a/c").status == 200
    thread = threading.Thread(target=ask, args=(app, "PUT", "/v1/a/c"))
    thread.start()
    assert waiting.wait(5)
    assert ask(app, "PUT", "/v1/a/c").status == 498  # the one seat is taken
    assert ask(app, "GET", "/v1/a/c").status == 200
    go.set()
    thread.join()


def test_lists_of_accounts(tmp_path: Path) -> None:
    app, made, waits, _ = limited(
        tmp_path, account_ratelimit="0.1", account_whitelist="good, better", account_blacklist="bad"
    )
    assert [ask(app, "PUT", "/v1/good/c").status for _ in range(3)] == [200] * 3  # type: ignore[arg-type]
    assert ask(app, "GET", "/v1/bad/c").status == 497  # type: ignore[arg-type]
    for said, status in (("BLACKLIST", 497), ("WHITELIST", 200), ("0.01", 498), ("nonsense", 498)):
        known(made).accounts["d"] = Info(
            account="d", metadata=dated(x_account_sysmeta_global_write_ratelimit=said)
        )
        ask(app, "PUT", "/v1/d/c")  # type: ignore[arg-type]
        assert ask(app, "PUT", "/v1/d/c").status == status  # type: ignore[arg-type]
    assert not waits


@pytest.mark.parametrize(
    "options", [{"account_ratelimit": "fast"}, {"account_ratelimit": "-1"}, {"container_ratelimit_x": "1"},
                {"container_ratelimit_0": "nan"}]
)  # fmt: skip
def test_broken_limits(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ratelimit.factory({"altostack": {"store": store(tmp_path)}}, **options)
