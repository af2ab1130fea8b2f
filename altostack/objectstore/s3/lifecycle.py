"""Lifecycle rules: what becomes of objects in time. `apply` does it; the daemon that looks after the store calls it.

Source: Amazon S3 user guide, "Managing the lifecycle of objects". Days end at midnight, UTC, as they do there.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, Final

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import classes, settings, xml
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.s3.rounds import Round, apply
from altostack.objectstore.s3.tagging import checked
from altostack.objectstore.s3.versioning import kept_versions

__all__ = ["Round", "apply", "delete", "get", "put"]

_MOST: Final = 1000
Rule = dict[str, Any]


def get(call: Call) -> Response:
    rules: list[Rule] = settings.read(call.info, "lifecycle") or []
    if not rules:
        raise S3Error("NoSuchLifecycleConfiguration", BucketName=call.name)
    return document("LifecycleConfiguration", [("Rule", _shown(rule)) for rule in rules])


def _shown(rule: Rule) -> list[xml.Child]:
    found: list[xml.Child] = [("ID", rule["id"])]
    if rule.get("old"):
        found.append(("Prefix", rule["prefix"]))
    else:
        found.append(("Filter", _filter_shown(rule)))
    found.append(("Status", "Enabled" if rule["enabled"] else "Disabled"))
    if "days" in rule or "date" in rule or rule.get("marker"):
        found.append(
            (
                "Expiration",
                [
                    ("Days", rule.get("days")),
                    ("Date", rule.get("date")),
                    ("ExpiredObjectDeleteMarker", rule.get("marker") or None),
                ],
            )
        )  # fmt: skip
    for one in rule.get("transitions", []):
        when: list[xml.Child] = [("Days", one.get("days")), ("Date", one.get("date"))]
        found.append(("Transition", [*when, ("StorageClass", one["class"])]))
    if "old_days" in rule:
        found.append(
            (
                "NoncurrentVersionExpiration",
                [("NoncurrentDays", rule["old_days"]), ("NewerNoncurrentVersions", rule.get("newer"))],
            )
        )  # fmt: skip
    if "abort" in rule:
        found.append(("AbortIncompleteMultipartUpload", [("DaysAfterInitiation", rule["abort"])]))
    return found


def _filter_shown(rule: Rule) -> list[xml.Child]:
    parts: list[xml.Child] = []
    if rule["prefix"] or rule.get("said_prefix"):
        parts.append(("Prefix", rule["prefix"]))
    parts += [("Tag", [("Key", name), ("Value", value)]) for name, value in rule.get("tags", {}).items()]
    for name, key in (("ObjectSizeGreaterThan", "above"), ("ObjectSizeLessThan", "below")):
        if key in rule:
            parts.append((name, rule[key]))
    return parts if len(parts) < 2 else [("And", parts)]


def put(call: Call) -> Response:
    root = call.document("LifecycleConfiguration")
    rules = [_rule(call, one) for one in root.all("Rule")]
    if not 1 <= len(rules) <= _MOST:
        raise S3Error("MalformedXML")
    if len({rule["id"] for rule in rules}) < len(rules):
        raise S3Error("InvalidArgument", "Rule ID must be unique. Found same ID for more than one rule")
    settings.keep(call, "lifecycle", rules)
    return Response(200)


def delete(call: Call) -> Response:
    settings.keep(call, "lifecycle", None)
    return Response(204)


def _rule(call: Call, one: xml.Element) -> Rule:
    status = one.get("Status")
    if status not in ("Enabled", "Disabled"):
        raise S3Error("MalformedXML")
    name = one.get("ID") or uuid.uuid4().hex
    if len(name) > 255:
        raise S3Error("InvalidArgument", "ID length should not exceed allowed limit of 255")
    rule: Rule = {"id": name, "enabled": status == "Enabled"} | _filter(one)
    found = False
    if (expiration := one.find("Expiration")) is not None:
        found = True
        if expiration.has("ExpiredObjectDeleteMarker"):
            if expiration.has("Days") or expiration.has("Date") or rule.get("tags"):
                raise S3Error("MalformedXML")
            rule["marker"] = expiration.get("ExpiredObjectDeleteMarker").lower() == "true"
        else:
            rule |= _when(expiration, least=1)
    transitions = list(one.all("Transition"))
    if transitions and kept_versions(call.info):
        raise S3Error("NotImplemented", "Where versions are kept, objects stay in their storage class.")
    for transition in transitions:
        found = True
        chosen = transition.get("StorageClass")
        if classes.policy_of(call, chosen) is None:
            raise S3Error("InvalidStorageClass")
        rule.setdefault("transitions", []).append(_when(transition, least=0) | {"class": chosen})
    if one.has("NoncurrentVersionTransition"):
        raise S3Error("NotImplemented", "Versions that are not current stay in their storage class.")
    if (old := one.find("NoncurrentVersionExpiration")) is not None:
        found = True
        rule["old_days"] = _days(old.get("NoncurrentDays"), 1)
        if old.has("NewerNoncurrentVersions"):
            rule["newer"] = _days(old.get("NewerNoncurrentVersions"), 1)
    if (abort := one.find("AbortIncompleteMultipartUpload")) is not None:
        found = True
        if rule.get("tags") or "above" in rule or "below" in rule:
            raise S3Error("InvalidRequest", "AbortIncompleteMultipartUpload goes with prefixes alone.")
        rule["abort"] = _days(abort.get("DaysAfterInitiation"), 1)
    if not found:
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule.")
    return rule


def _filter(one: xml.Element) -> Rule:
    if (old := one.find("Prefix")) is not None:
        if one.has("Filter"):
            raise S3Error("MalformedXML")
        return {"prefix": old.text, "old": True}
    place = one.find("Filter")
    if place is None:
        raise S3Error("MalformedXML")
    if (both := place.find("And")) is not None:
        place = both
    elif len(place.children) > 1:
        raise S3Error("MalformedXML")
    prefix = place.find("Prefix")
    rule: Rule = {"prefix": prefix.text if prefix is not None else "", "said_prefix": prefix is not None}
    tags = {tag.get("Key"): tag.get("Value") for tag in place.all("Tag")}
    if tags:
        rule["tags"] = checked(tags, 10)
    for name, key in (("ObjectSizeGreaterThan", "above"), ("ObjectSizeLessThan", "below")):
        if place.has(name):
            rule[key] = _days(place.get(name), 0)
    return rule


def _when(one: xml.Element, *, least: int) -> Rule:
    days, date = one.get("Days"), one.get("Date")
    if bool(days) == bool(date):
        raise S3Error("MalformedXML")
    if days:
        return {"days": _days(days, least)}
    try:
        found = datetime.fromisoformat(date)
    except ValueError:
        raise S3Error("MalformedXML") from None
    found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    if (found.hour, found.minute, found.second, found.microsecond) != (0, 0, 0, 0):
        raise S3Error("InvalidArgument", "'Date' must be at midnight GMT")
    return {"date": f"{found:%Y-%m-%dT%H:%M:%S}.000Z"}


def _days(text: str, least: int) -> int:
    if not (text.isascii() and text.removeprefix("-").isdecimal()) or len(text) > 15:
        raise S3Error("MalformedXML")
    if int(text) < least:
        raise S3Error("InvalidArgument", f"'Days' for an action must be {least} or more")
    return int(text)
