"""Requests of scripts in web pages from elsewhere (Amazon S3 user guide, "Using cross-origin resource sharing")."""

from __future__ import annotations

from typing import Any, Final

from altostack.objectstore.http import Refusal, Response
from altostack.objectstore.s3 import access, settings, xml
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error

_METHODS: Final = ("GET", "PUT", "HEAD", "POST", "DELETE")
_VARY: Final = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"
Rule = dict[str, Any]


def get(call: Call) -> Response:
    rules = settings.read(call.info, "cors")
    if not rules:
        raise S3Error("NoSuchCORSConfiguration", BucketName=call.name)
    body: list[xml.Child] = []
    for rule in rules:
        one: list[xml.Child] = [("ID", rule.get("id"))]
        for name, key in (
            ("AllowedMethod", "methods"), ("AllowedOrigin", "origins"), ("AllowedHeader", "headers"),
            ("ExposeHeader", "expose"),
        ):  # fmt: skip
            one += [(name, value) for value in rule.get(key, [])]
        one.append(("MaxAgeSeconds", rule.get("age")))
        body.append(("CORSRule", one))
    return document("CORSConfiguration", body)


def put(call: Call) -> Response:
    root = call.document("CORSConfiguration")
    rules = [_rule(one) for one in root.all("CORSRule")]
    if not 1 <= len(rules) <= 100:
        raise S3Error("MalformedXML")
    settings.keep(call, "cors", rules)
    return Response(200)


def _rule(one: xml.Element) -> Rule:
    def texts(name: str) -> list[str]:
        return [found.text.strip() for found in one.all(name)]

    rule: Rule = {
        "id": one.get("ID") or None,
        "methods": texts("AllowedMethod"),
        "origins": texts("AllowedOrigin"),
        "headers": texts("AllowedHeader"),
        "expose": texts("ExposeHeader"),
    }
    if not rule["methods"] or not rule["origins"]:
        raise S3Error("MalformedXML")
    for method in rule["methods"]:
        if method not in _METHODS:
            raise S3Error("InvalidRequest", f"The HTTP method {method[:32]} is not supported.")
    for value in (*rule["origins"], *rule["headers"]):
        if value.count("*") > 1:
            raise S3Error("InvalidRequest", f'"{value[:128]}" can not have more than one wildcard.')
    if any("*" in value for value in rule["expose"]):
        raise S3Error("InvalidRequest", "ExposeHeader may have no wildcard.")
    age = one.get("MaxAgeSeconds")
    if age:
        if not (age.isascii() and age.isdecimal()) or len(age) > 9:
            raise S3Error("MalformedXML")
        rule["age"] = int(age)
    return rule


def delete(call: Call) -> Response:
    settings.keep(call, "cors", None)
    return Response(204)


# ---- requests


def _like(text: str, glob: str) -> bool:
    before, star, behind = glob.partition("*")
    if not star:
        return text == glob
    return len(text) >= len(before) + len(behind) and text.startswith(before) and text.endswith(behind)


def _find(rules: list[Rule], origin: str, method: str, headers: list[str] | None = None) -> Rule | None:
    for rule in rules:
        if method not in rule["methods"] or not any(_like(origin, one) for one in rule["origins"]):
            continue
        if all(any(_like(name, one.lower()) for one in rule["headers"]) for name in headers or []):
            return rule
    return None


def _headers(rule: Rule, origin: str) -> dict[str, str]:
    anybody = "*" in rule["origins"]
    found = {
        "access-control-allow-origin": "*" if anybody else origin,
        "access-control-allow-methods": ", ".join(rule["methods"]),
        "vary": _VARY,
    }
    if not anybody:
        found["access-control-allow-credentials"] = "true"
    if rule["expose"]:
        found["access-control-expose-headers"] = ", ".join(rule["expose"])
    return found


def preflight(call: Call) -> Response:
    """The answer to OPTIONS. Raises S3Error."""
    origin, method = call.header("origin"), call.header("access-control-request-method")
    if not origin:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    if not method:
        raise S3Error("BadRequest", "Invalid Access-Control-Request-Method: null")
    refusal = S3Error(
        "AccessDenied",
        "CORSResponse: no rule of the bucket allows this origin, method and headers.",
        Method=method,
        ResourceType="OBJECT" if call.key else "BUCKET",
    )
    rules = _rules(call)
    wanted = [one.strip().lower() for one in call.header("access-control-request-headers").split(",")]
    rule = _find(rules, origin, method, [one for one in wanted if one]) if rules else None
    if rule is None:
        raise refusal
    found = _headers(rule, origin)
    if call.header("access-control-request-headers"):
        found["access-control-allow-headers"] = ", ".join(one for one in wanted if one)
    if rule.get("age") is not None:
        found["access-control-max-age"] = str(rule["age"])
    return Response(200, found)


def decorate(call: Call, response: Response) -> None:
    """Tell a script's browser that it may see the answer."""
    try:
        rules = _rules(call)
    except Refusal:
        return  # no such bucket, or no bucket's name: the answer says so itself
    origin = call.header("origin")
    rule = _find(rules, origin, call.request.method)
    if rule is not None:
        response.headers.update(_headers(rule, origin))


def _rules(call: Call) -> list[Rule]:
    if call.bucket is None:
        return []
    if not call.account or call.caller is None:
        # A preflight carries no signature: the bucket is found by its name alone.
        access.locate(call)
    info = call.find(call.name)
    return (settings.read(info, "cors") or []) if info is not None else []
