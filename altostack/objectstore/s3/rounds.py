"""One round through the buckets that are watched: lifecycle rules, inventories, events that were not delivered yet."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from altostack.objectstore import stamp
from altostack.objectstore.http import Refusal, Request, Stream
from altostack.objectstore.middleware.shape import bare, pieces
from altostack.objectstore.middleware.versioned import MARKER_TYPE
from altostack.objectstore.s3 import (
    classes,
    headers,
    inventory,
    objects,
    segments,
    settings,
    tagging,
    uploads,
)
from altostack.objectstore.s3.call import EVENTS, Call, Gate
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.s3.notification import event
from altostack.objectstore.s3.versioning import enabled, kept_versions
from altostack.objectstore.storage import StoragePolicy
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)

_PAGE: Final = 1000
_KEPT: Final = ("x-object-meta-", "x-object-sysmeta-s3api-", "x-object-transient-sysmeta-")
Rule = dict[str, Any]


@dataclass
class Round:
    """What a round did. seen: objects and versions that were looked at."""

    buckets: int = 0
    seen: int = 0
    expired: int = 0
    transitioned: int = 0
    aborted: int = 0
    delivered: int = 0
    inventories: int = 0
    failures: int = 0


def apply(
    store: Store,
    *,
    now: float | None = None,
    part: int = 0,
    parts: int = 1,
    pause: Callable[[], None] | None = None,
    day: float = 86400.0,
) -> Round:
    """Go through the buckets once.

    now: seconds since 1970, by default the store's clock's. part of parts: several daemons divide the buckets by name.
    pause: called between pages and changes, to slow down or (by raising) to stop. day: seconds of a rule's day, for
    trying rules out; with a real day what is due becomes due at midnight, UTC.
    """
    done = Round()
    found = store.handlers.get("s3")
    if not isinstance(found, Gate):
        return done  # S3 is not in the pipeline
    moment = store.clock.seconds() if now is None else now
    for number, (account, name) in enumerate(found.buckets.watched()):
        if number % parts != part:
            continue
        if pause is not None:
            pause()
        try:
            _Bucket(found, name, account, moment, day, pause, done).work()
        except Refusal as error:
            done.failures += 1
            log.warning("the lifecycle of bucket %s stopped: %s", name, error)
    return done


class _Bucket:
    """One bucket's turn."""

    def __init__(
        self,
        gate: Gate,
        name: str,
        account: str,
        now: float,
        day: float,
        pause: Callable[[], None] | None,
        done: Round,
    ) -> None:
        self._gate, self._name, self._account = gate, name, account
        self._now, self._day, self._pause, self._done = now, day, pause, done
        self._call = self._about(None)

    def _about(self, key: str | None, version: str | None = None) -> Call:
        return Call(
            gate=self._gate,
            request=Request("POST", "/"),
            bucket=self._name,
            key=key,
            account=self._account,
            version=version,
        )

    def work(self) -> None:
        call = self._call
        pending = call.name + EVENTS
        if call.find(pending) is not None:
            self._done.delivered += self._gate.notices.deliver_all(call.account, pending)
        if call.find(call.name) is None:
            self._gate.buckets.unwatch(call.account, call.name)
            return
        for name in inventory.due(call, self._now, self._day):
            inventory.write(call, name, self._now)
            self._done.inventories += 1
        rules = [rule for rule in settings.read(call.info, "lifecycle") or [] if rule["enabled"]]
        if not rules:
            return
        self._done.buckets += 1
        if any(one in rule for rule in rules for one in ("days", "date", "transitions")):
            self._current(rules)
        old = any("old_days" in rule or rule.get("marker") or "days" in rule for rule in rules)
        if old and kept_versions(call.info):
            self._versions(rules)
        if any("abort" in rule for rule in rules):
            self._uploads(rules)

    # ---- what is due

    def _due(self, rule: Rule, since: float) -> bool:
        if "date" in rule:
            return self._now >= datetime.fromisoformat(rule["date"]).timestamp()
        return "days" in rule and self._passed(since, rule["days"])

    def _passed(self, since: float, days: int) -> bool:
        due = since + days * self._day
        if self._day == 86400.0:  # at the midnight that follows
            due = math.ceil(due / 86400.0) * 86400.0
        return self._now >= due

    def _fits(self, rule: Rule, key: str, size: int, tags: Callable[[], dict[str, str]]) -> bool:
        if not key.startswith(rule["prefix"]):
            return False
        if size <= rule.get("above", -1) or size >= rule.get("below", math.inf):
            return False
        wanted = rule.get("tags")
        return not wanted or wanted.items() <= tags().items()

    def _tags(self, call: Call) -> Callable[[], dict[str, str]]:
        def read() -> dict[str, str]:
            try:
                return tagging.of(objects.head(call).headers)
            except S3Error:
                return {}

        return read

    # ---- objects

    def _pages(self, **asked: str) -> Iterator[dict[str, Any]]:
        query = {"limit": str(_PAGE), "format": "json"} | asked
        while True:
            if self._pause is not None:
                self._pause()
            entries = self._call.must(self._call.swift("GET", self._name, query=query)).entries or []
            yield from entries
            if len(entries) < _PAGE:
                return
            query["marker"] = entries[-1]["name"]
            if "versions" in query:
                query["version_marker"] = entries[-1].get("version_id") or "null"

    def _current(self, rules: Sequence[Rule]) -> None:
        prefix = _common([rule["prefix"] for rule in rules])
        for entry in self._pages(**({"prefix": prefix} if prefix else {})):
            self._done.seen += 1
            key, size = entry["name"], int(entry.get("symlink_bytes", entry["bytes"]))
            since = _seconds(entry["last_modified"])
            call = self._about(key)
            fitting = [rule for rule in rules if self._fits(rule, key, size, self._tags(call))]
            if any(self._due(rule, since) for rule in fitting):
                self._try(self._expire, call)
                continue
            due = [one for rule in fitting for one in rule.get("transitions", []) if self._due(one, since)]
            if due and not kept_versions(self._call.info):
                chosen = max(due, key=lambda one: (one.get("days", 0), one.get("date", "")))["class"]
                policy = classes.policy_of(self._call, chosen)
                if policy is not None and classes.listed(self._call, entry) != classes.name_of(policy):
                    self._try(lambda one, policy=policy: self._move(one, policy), call)  # type: ignore[misc]

    def _try(self, work: Callable[[Call], None], call: Call) -> None:
        if self._pause is not None:
            self._pause()
        try:
            work(call)
        except Refusal as error:  # locked, or gone meanwhile, or a node is away: the next round comes
            if error.status != 404:
                self._done.failures += 1
                log.info("the lifecycle of %s/%s waits: %s", self._name, call.key, error)

    def _expire(self, call: Call) -> None:
        shown = objects.delete_one(call)
        marker = enabled(call.info) and call.version is None
        event(
            call, "s3:LifecycleExpiration:DeleteMarkerCreated" if marker else "s3:LifecycleExpiration:Delete",
            version=shown.get("x-amz-version-id", ""),
        )  # fmt: skip
        self._done.expired += 1

    def _versions(self, rules: Sequence[Rule]) -> None:
        """Versions that are not current, and markers that hide nothing."""
        group: list[dict[str, Any]] = []
        for entry in self._pages(versions="true"):
            self._done.seen += 1
            if group and group[0]["name"] != entry["name"]:
                self._group(rules, group)
                group = []
            group.append(entry)
        if group:
            self._group(rules, group)

    def _group(self, rules: Sequence[Rule], group: list[dict[str, Any]]) -> None:
        key = group[0]["name"]
        gone = 0
        for index, entry in enumerate(group):
            if index == 0 and entry.get("is_latest", True):
                continue
            since = _seconds(group[index - 1]["last_modified"]) if index else _seconds(entry["last_modified"])
            call = self._about(key, entry["version_id"])
            for rule in rules:
                newer = rule.get("newer", 0)
                if (
                    "old_days" in rule
                    and index > newer
                    and self._passed(since, rule["old_days"])
                    and self._fits(rule, key, int(entry["bytes"]), self._tags(call))
                ):
                    before = self._done.expired
                    self._try(self._expire, call)
                    gone += self._done.expired > before
                    break
        first = group[0]
        if len(group) - gone == 1 and first.get("content_type") == MARKER_TYPE:
            since = _seconds(first["last_modified"])
            for rule in rules:
                if (
                    key.startswith(rule["prefix"])
                    and not rule.get("tags")
                    and (rule.get("marker") or ("days" in rule and self._passed(since, rule["days"])))
                ):
                    self._try(self._expire, self._about(key, first["version_id"]))
                    break

    def _uploads(self, rules: Sequence[Rule]) -> None:
        for key, upload, entry in list(uploads.open_uploads(self._call)):
            since = _seconds(entry["last_modified"])
            fitting = [rule["abort"] for rule in rules if "abort" in rule and key.startswith(rule["prefix"])]
            if any(self._passed(since, days) for days in fitting):
                call = self._about(key)
                call.request = Request("DELETE", "/", query_string=f"uploadId={upload}")
                self._try(lambda one: self._abort(one), call)

    def _abort(self, call: Call) -> None:
        from altostack.objectstore.s3 import multipart

        multipart.abort(call)
        self._done.aborted += 1

    # ---- transitions

    def _move(self, call: Call, policy: StoragePolicy) -> None:
        """Bring an object's data to another class. Whoever writes it at the same time wins: what we write is dated one
        tick behind what we read, and the disks refuse what is older than what they have."""
        beside = classes.container(call, policy)
        doomed = segments.of(call)
        held = objects.head(call)
        raw = call.swift("HEAD", call.name, call.object, query={"symlink": "get"})
        raw.close()
        dated = raw.headers.get("x-backend-timestamp") or raw.headers.get("x-timestamp", "")
        if not raw.good or not dated:
            return
        when = stamp.of_ns(int(stamp.normal(dated).replace(".", "")) + 1)
        kept = {
            name: value
            for name, value in held.headers.items()
            if name.startswith(_KEPT) or name in headers.STORED or name in ("content-type", "x-delete-at")
        }
        kept[classes.CLASS] = classes.name_of(policy)
        large = objects.is_large(held.headers)
        if large and (
            headers.ETAG not in held.headers
            or len(doomed) != int(held.headers[headers.ETAG].rpartition("-")[2])
        ):
            return  # Swift's users made it: what it consists of is theirs to place
        if large:
            made = self._move_large(call, beside, kept, when)
        else:
            made = self._move_plain(call, beside, kept, when, stamp.normal(dated))
        if not made:
            return
        segments.remove(call, doomed)
        event(call, "s3:LifecycleTransition")
        self._done.transitioned += 1

    def _move_plain(self, call: Call, beside: str, kept: dict[str, str], when: str, dated: str) -> bool:
        name = classes.fresh_name(call)
        source = call.must(call.swift("GET", call.name, call.object))
        try:
            body = Stream(pieces(source.body), source.length)
            dating = {"x-timestamp": dated, "etag": bare(source.headers["etag"])}
            stored = call.must(call.swift("PUT", beside, name, headers=kept | dating, body=body))
        finally:
            source.close()
        link = classes.link_headers(kept, beside, name, bare(stored.headers["etag"])) | {"x-timestamp": when}
        return self._won(call, call.swift("PUT", call.name, call.object, headers=link), [(beside, name)])

    def _move_large(self, call: Call, beside: str, kept: dict[str, str], when: str) -> bool:
        import json

        upload = classes.fresh_name(call)
        made: list[tuple[str, str]] = []
        manifest: list[dict[str, object]] = []
        for number, (container, name) in enumerate(segments.listed(call, {}), 1):
            source = call.must(call.swift("GET", container, name))
            target = f"{upload}/{number:05d}"
            try:
                size = source.length or 0
                body = Stream(pieces(source.body), size)
                plain = {"content-type": "application/octet-stream"}
                stored = call.must(call.swift("PUT", beside, target, headers=plain, body=body))
            finally:
                source.close()
            made.append((beside, target))
            manifest.append(
                {"path": f"/{beside}/{target}", "etag": bare(stored.headers["etag"]), "size_bytes": size}
            )
        given = kept | headers.list_as(kept[headers.ETAG], kept[classes.CLASS])
        response = call.swift(
            "PUT", call.name, call.object, query={"multipart-manifest": "put"},
            headers=given | {"x-timestamp": when}, body=json.dumps(manifest).encode(),
        )  # fmt: skip
        return self._won(call, response, made)

    def _won(self, call: Call, response: Any, made: list[tuple[str, str]]) -> bool:
        """Whether what we wrote is what the bucket has now."""
        response.close()
        if response.status == 201:
            return True
        segments.remove(call, made)
        if response.status not in (202, 409, 412):
            raise call.trouble(response)
        return False


def _common(prefixes: Sequence[str]) -> str:
    """The longest beginning that all have."""
    low, high = min(prefixes), max(prefixes)
    count = next((at for at, letter in enumerate(low) if at >= len(high) or high[at] != letter), len(low))
    return low[:count]


def _seconds(iso: str) -> float:
    return (datetime.fromisoformat(iso).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(
        seconds=1
    )
