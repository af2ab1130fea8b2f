"""Object lock: versions that nobody may delete before their time, or while they are held (write once, read many).

A locked bucket always keeps versions, so what is overwritten stays; what is guarded is the deletion of a version. The
same holds for requests in Swift's language (`worm`). Source: Amazon S3 user guide, "Locking objects with Object Lock".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import settings, xml
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error, denied
from altostack.objectstore.s3.versioning import enabled

MODE: Final = "x-object-transient-sysmeta-s3api-lock-mode"
UNTIL: Final = "x-object-transient-sysmeta-s3api-lock-until"  # ISO 8601, UTC
HOLD: Final = "x-object-transient-sysmeta-s3api-lock-hold"
KEPT: Final = (MODE, UNTIL, HOLD)
_MODES: Final = ("GOVERNANCE", "COMPLIANCE")
_BYPASS: Final = "x-amz-bypass-governance-retention"


def _date(text: str, name: str = "RetainUntilDate") -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise S3Error(
            "InvalidArgument", "The retain until date must be in ISO 8601 form", ArgumentName=name
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _kept_date(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"


def _now(call: Call) -> datetime:
    return datetime.fromtimestamp(call.now, UTC)


def shown(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that tell of an object's lock, from Swift's answer."""
    found: dict[str, str] = {}
    if headers.get(MODE):
        found["x-amz-object-lock-mode"] = headers[MODE]
        found["x-amz-object-lock-retain-until-date"] = headers[UNTIL]
    if headers.get(HOLD):
        found["x-amz-object-lock-legal-hold"] = headers[HOLD]
    return found


def for_put(call: Call) -> dict[str, str]:
    """The headers that lock a new object, as it asks or as the bucket's default has it. Raises S3Error."""
    mode, until = call.header("x-amz-object-lock-mode"), call.header("x-amz-object-lock-retain-until-date")
    hold = call.header("x-amz-object-lock-legal-hold")
    rule = settings.read(call.info, "lock")
    if not rule:
        if mode or until or hold:
            raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
        return {}
    found: dict[str, str] = {}
    if mode or until:
        if not (mode and until):
            raise S3Error("InvalidArgument", "A lock needs both its mode and its date.")
        _permit(call, "s3:PutObjectRetention")
        found |= _checked(call, mode, until)
    elif rule.get("mode"):
        days = int(rule["days"]) if rule.get("days") else 365 * int(rule["years"])
        found |= {MODE: rule["mode"], UNTIL: _kept_date(_now(call) + timedelta(days=days))}
    if hold:
        if hold not in ("ON", "OFF"):
            raise S3Error("InvalidArgument", "Legal Hold must be either of 'ON' or 'OFF'")
        _permit(call, "s3:PutObjectLegalHold")
        found[HOLD] = hold
    return found


def _permit(call: Call, action: str) -> None:
    from altostack.objectstore.s3 import access

    access.authorize(call, action, info=call.info, key=call.key)


def _checked(call: Call, mode: str, until: str) -> dict[str, str]:
    if mode not in _MODES:
        raise S3Error("InvalidArgument", "Unknown wormMode directive.", ArgumentName="x-amz-object-lock-mode")
    when = _date(until, "x-amz-object-lock-retain-until-date")
    if when <= _now(call):
        raise S3Error("InvalidArgument", "The retain until date must be in the future!")
    return {MODE: mode, UNTIL: _kept_date(when)}


def locked(headers: Mapping[str, str], now: datetime, *, bypass: bool) -> bool:
    """Whether a version may not be deleted at this time. bypass: of governance retention, by somebody who may."""
    if headers.get(HOLD) == "ON":
        return True
    mode = headers.get(MODE)
    if not mode or _date(headers.get(UNTIL, "")) <= now:
        return False
    return mode == "COMPLIANCE" or not bypass


def _bypasses(call: Call) -> bool:
    """Whether the request asks to bypass governance retention and may."""
    if call.header(_BYPASS).lower() != "true":
        return False
    _permit(call, "s3:BypassGovernanceRetention")
    return True


def check_delete(call: Call) -> None:
    """Raises S3Error AccessDenied when the call would destroy what is locked."""
    if call.version is None or not settings.read(call.info, "lock"):
        return
    held = call.swift("HEAD", call.name, call.object, query={"version-id": call.version})
    held.close()
    if (
        held.good
        and locked(held.headers, _now(call), bypass=False)
        and not (not locked(held.headers, _now(call), bypass=True) and _bypasses(call))
    ):
        raise denied("Access Denied because object protected by object lock.")


# ---- operations of buckets


def get_bucket(call: Call) -> Response:
    rule = settings.read(call.info, "lock")
    if not rule:
        raise S3Error("ObjectLockConfigurationNotFoundError", BucketName=call.name)
    body: list[xml.Child] = [("ObjectLockEnabled", "Enabled")]
    if rule.get("mode"):
        term: xml.Child = ("Days", rule["days"]) if rule.get("days") else ("Years", rule["years"])
        body.append(("Rule", [("DefaultRetention", [("Mode", rule["mode"]), term])]))
    return document("ObjectLockConfiguration", body)


def check_possible(call: Call) -> None:
    """Raises S3Error NotImplemented where the filter is missing that holds Swift's users to locks."""
    if "lock" not in call.store.handlers:
        raise S3Error("NotImplemented", "Objects can be locked once the filter 'lock' is in the pipeline.")


def put_bucket(call: Call) -> Response:
    check_possible(call)
    root = call.document("ObjectLockConfiguration")
    if root.get("ObjectLockEnabled") != "Enabled":
        raise S3Error("MalformedXML")
    if not enabled(call.info):
        raise S3Error("InvalidBucketState", "Objects can be locked where versions are kept.")
    rule: dict[str, Any] = {"enabled": True}
    retention = root.find("Rule", "DefaultRetention")
    if root.has("Rule"):
        if retention is None or retention.get("Mode") not in _MODES:
            raise S3Error("MalformedXML")
        days, years = retention.get("Days"), retention.get("Years")
        if bool(days) == bool(years):
            raise S3Error("MalformedXML")
        term = days or years
        if not (term.isascii() and term.isdecimal()):
            if term.removeprefix("-").isdecimal():
                raise S3Error("InvalidArgument", "Default retention period must be a positive integer value.")
            raise S3Error("MalformedXML")
        if not 1 <= int(term) <= (36500 if days else 100):
            raise S3Error("InvalidArgument", "The retention period is too short or too long.")
        rule |= {"mode": retention.get("Mode"), "days" if days else "years": int(term)}
    settings.keep(call, "lock", rule)
    return Response(200)


# ---- operations of objects


def _require(call: Call) -> None:
    if not settings.read(call.info, "lock"):
        raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")


def get_retention(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    _require(call)
    held = objects.head(call).headers
    if not held.get(MODE):
        raise S3Error("NoSuchObjectLockConfiguration")
    return document("Retention", [("Mode", held[MODE]), ("RetainUntilDate", held[UNTIL])])


def put_retention(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    _require(call)
    root = call.document("Retention")
    mode, until = root.get("Mode"), root.get("RetainUntilDate")
    changes: dict[str, str | None] = {MODE: None, UNTIL: None}
    if mode or until:
        if mode not in _MODES or not until:
            raise S3Error("MalformedXML")
        changes |= _checked(call, mode, until)

    def check(held: Response) -> None:
        before, old = held.headers.get(MODE), held.headers.get(UNTIL)
        if not before or not old or _date(old) <= _now(call):
            return
        longer = mode == before and bool(until) and _date(until) >= _date(old)
        upgrade = before == "GOVERNANCE" and mode == "COMPLIANCE" and _date(until) >= _date(old)
        if longer or upgrade:
            return
        if before == "COMPLIANCE" or not _bypasses(call):
            raise denied("Access Denied because object protected by object lock.")

    objects.change(call, changes, check)
    return Response(200)


def get_hold(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    _require(call)
    held = objects.head(call).headers
    if not held.get(HOLD):
        raise S3Error("NoSuchObjectLockConfiguration")
    return document("LegalHold", [("Status", held[HOLD])])


def put_hold(call: Call) -> Response:
    from altostack.objectstore.s3 import objects

    _require(call)
    status = call.document("LegalHold").get("Status")
    if status not in ("ON", "OFF"):
        raise S3Error("MalformedXML")
    objects.change(call, {HOLD: status})
    return Response(200)
