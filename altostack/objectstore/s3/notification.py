"""Event notification: who hears of what happens in a bucket.

A destination is an address (``https://...``, or an ARN that ends with one) to which events are posted, or a bucket of
the same account (``arn:aws:sqs:::BUCKET``) in which each event becomes an object. Events for addresses are first kept
as objects in a container beside the bucket, so none is lost when this process or the receiver is not there; what was
delivered is deleted. Each is delivered at least once, in no certain order.
Source: Amazon S3 user guide, "Amazon S3 Event Notifications" and "Event message structure".
"""

from __future__ import annotations

import json
import logging
import uuid
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote_plus

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import settings, xml
from altostack.objectstore.s3.call import EVENTS, Call, document
from altostack.objectstore.s3.errors import S3Error, invalid

log = logging.getLogger(__name__)

_KINDS: Final = {
    "TopicConfiguration": "Topic",
    "QueueConfiguration": "Queue",
    "CloudFunctionConfiguration": "CloudFunction",
}
_EVENTS: Final = (
    "s3:ObjectCreated:Put", "s3:ObjectCreated:Post", "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload", "s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:Put", "s3:ObjectTagging:Delete", "s3:ObjectAcl:Put", "s3:LifecycleExpiration:Delete",
    "s3:LifecycleExpiration:DeleteMarkerCreated", "s3:LifecycleTransition",
)  # fmt: skip
_WILD: Final = tuple({f"{name.rpartition(':')[0]}:*" for name in _EVENTS})
Rule = dict[str, Any]


def get(call: Call) -> Response:
    body: list[xml.Child] = []
    for rule in settings.read(call.info, "notification") or []:
        one: list[xml.Child] = [("Id", rule["id"]), (_KINDS[rule["kind"]], rule["to"])]
        one += [("Event", name) for name in rule["events"]]
        filters: list[xml.Child] = [
            ("FilterRule", [("Name", name), ("Value", rule[name])])
            for name in ("prefix", "suffix")
            if rule.get(name)
        ]
        if filters:
            one.append(("Filter", [("S3Key", filters)]))
        body.append((rule["kind"], one))
    return document("NotificationConfiguration", body)


def put(call: Call) -> Response:
    root = call.document("NotificationConfiguration")
    rules: list[Rule] = []
    for one in root.children:
        if one.name == "EventBridgeConfiguration":
            raise S3Error("NotImplemented", "There is no event bus: name an address or a bucket.")
        if one.name not in _KINDS:
            raise S3Error("MalformedXML")
        rules.append(_rule(call, one))
    if len(rules) > 100 or len({rule["id"] for rule in rules}) < len(rules):
        raise S3Error("InvalidArgument", "Configurations must have ids of their own, and be 100 at most.")
    settings.keep(call, "notification", rules or None)
    return Response(200)


def _rule(call: Call, one: xml.Element) -> Rule:
    to = one.get(_KINDS[one.name])
    events = [found.text.strip() for found in one.all("Event")]
    if not to or not events:
        raise S3Error("MalformedXML")
    for name in events:
        if name not in _EVENTS and name not in _WILD:
            raise invalid("Event", name[:128], "There is no such event.")
    rule: Rule = {"id": one.get("Id") or uuid.uuid4().hex, "kind": one.name, "to": to, "events": events}
    for part in one.all("Filter", "S3Key", "FilterRule"):
        name, value = part.get("Name").lower(), part.find("Value")
        if name not in ("prefix", "suffix") or name in rule or value is None or len(value.text) > 1024:
            raise S3Error("InvalidArgument", "filter rule name must be either prefix or suffix, each once")
        rule[name] = value.text
    _check_destination(call, to)
    return rule


def address_of(to: str) -> str | None:
    """The URL that a destination names, None for a bucket."""
    at = to.find("http://")
    at = to.find("https://") if at < 0 else at
    return to[at:] if at >= 0 else None


def bucket_of(to: str) -> str:
    """The bucket that a destination names."""
    return to.rpartition(":")[2]


def _check_destination(call: Call, to: str) -> None:
    address = address_of(to)
    if address is not None:
        try:
            call.gate.notices.check(address)
        except ValueError as error:
            raise S3Error("InvalidArgument", f"Unable to validate the destination: {error}") from None
        return
    name = bucket_of(to)
    if not to.startswith("arn:") or "/" in name or name == call.name or call.find(name) is None:
        raise invalid("Destination", to[:256], "Unable to validate the following destination configurations")


# ---- events


def event(call: Call, name: str, *, size: int = 0, etag: str = "", version: str = "") -> None:
    """Something happened to the call's object: tell whoever wants to know. Never fails the request itself."""
    rules = settings.read(call.info, "notification")
    if not rules:
        return
    for rule in rules:
        if not _concerned(rule, name, call.object):
            continue
        try:
            _tell(call, rule, name, record(call, rule, name, size=size, etag=etag, version=version))
        except Exception:  # what was asked for is done: the answer must say so
            log.exception("an event of bucket %s could not be kept", call.bucket)


def _concerned(rule: Rule, name: str, key: str) -> bool:
    wanted = any(one == name or (one.endswith("*") and name.startswith(one[:-1])) for one in rule["events"])
    return wanted and key.startswith(rule.get("prefix", "")) and key.endswith(rule.get("suffix", ""))


def record(call: Call, rule: Rule, name: str, *, size: int, etag: str, version: str) -> dict[str, Any]:
    """The event as its message has it."""
    now = call.store.clock.now()
    what: dict[str, Any] = {"key": quote_plus(call.object), "sequencer": now.replace(".", "")}
    if name.startswith("s3:ObjectCreated"):
        what |= {"size": size, "eTag": etag}
    if version and version != "null":
        what["versionId"] = version
    who = call.caller.id if call.caller is not None else "Anonymous"
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": call.gate.regions[0],
        "eventTime": f"{datetime.fromtimestamp(call.now, UTC):%Y-%m-%dT%H:%M:%S}.{int(call.now * 1000) % 1000:03d}Z",
        "eventName": name.removeprefix("s3:"),
        "userIdentity": {"principalId": who},
        "requestParameters": {"sourceIPAddress": call.request.remote},
        "responseElements": {"x-amz-request-id": call.request.trans_id, "x-amz-id-2": call.request.trans_id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": rule["id"],
            "bucket": {
                "name": call.name,
                "ownerIdentity": {"principalId": call.owner},
                "arn": f"arn:aws:s3:::{call.name}",
            },
            "object": what,
        },
    }


def _tell(call: Call, rule: Rule, name: str, found: dict[str, Any]) -> None:
    message = json.dumps({"Records": [found]}, separators=(",", ":")).encode()
    title = f"{call.store.clock.now()}-{uuid.uuid4().hex[:8]}.json"
    headers = {"content-type": "application/json"}
    address = address_of(rule["to"])
    if address is None:
        call.must(call.swift("PUT", bucket_of(rule["to"]), title, headers=headers, body=message))
        return
    container = call.name + EVENTS
    headers["x-object-sysmeta-s3api-to"] = address
    response = call.swift("PUT", container, title, headers=headers, body=message)
    if response.status == 404:
        call.must(call.swift("PUT", container))
        response = call.swift("PUT", container, title, headers=headers, body=message)
    call.must(response)
    call.gate.notices.nudge(call.account, container, title)
