"""Signatures of requests to EC2 and S3: what the owner of a secret key would have signed.

Sources: AWS General Reference, "Signing AWS API requests" (versions 1, 2 and 4); the ec2tokens body of the Identity
API: ``access``, ``signature``, ``host``, ``verb``, ``path``, ``params``, ``headers``, ``body_hash``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import msgspec

_HASHES: dict[str, Callable[..., hashlib._Hash]] = {"HmacSHA1": hashlib.sha1, "HmacSHA256": hashlib.sha256}
_V4 = "AWS4-HMAC-SHA256"
_S3_SERVICES = ("s3", "iam", "sts")


class Signed(msgspec.Struct):
    """A request that somebody signed, as a service hands it on."""

    access: str
    signature: str = ""
    host: str = ""
    verb: str = ""
    path: str = ""
    params: dict[str, str] = {}
    headers: dict[str, str] = {}
    body_hash: str = ""
    token: str = ""  # S3: the string that was signed, in URL-safe base 64


class Malformed(Exception):
    """The request cannot have been signed as it says."""


def verifies(request: Signed, secret: str) -> bool:
    """Whether ``secret`` signed an EC2 request. Raises Malformed."""
    if not request.signature:
        raise Malformed("EC2 signature not supplied.")
    hosts = [request.host]
    bare = urlsplit(f"//{request.host}").hostname if ":" in request.host else None
    if bare:
        hosts.append(bare)  # some clients leave the port out of what they sign
    return any(_same(request.signature, _expected(request, host, secret)) for host in hosts)


def moment(request: Signed) -> datetime:
    """When the request was signed, by that of its times which the signature covers. Raises Malformed."""
    if version(request) == 4:
        return _time(_v4(request)["date"])
    text = request.params.get("Timestamp")
    if text is None:
        raise Malformed("The signed request has no Timestamp.")
    return _time(text)


def version(request: Signed) -> int:
    """The signature's version: 1, 2 or 4. Raises Malformed."""
    given = request.params.get("SignatureVersion")
    if given in ("1", "2"):
        return int(given)
    if given is None and (
        _authorization(request).startswith(_V4) or request.params.get("X-Amz-Algorithm") == _V4
    ):
        return 4
    raise Malformed("Unknown signature version.")


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode())


def _time(text: str) -> datetime:
    for form in ("%Y%m%dT%H%M%SZ", None):
        try:
            found = datetime.strptime(text, form) if form else datetime.fromisoformat(text)
        except ValueError:
            continue
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    raise Malformed("Credential timestamp is invalid.")


def _mac(key: bytes, text: str, kind: Callable[..., hashlib._Hash] = hashlib.sha256) -> bytes:
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), kind).digest()


def _expected(request: Signed, host: str, secret: str) -> str:
    kind = version(request)
    key = secret.encode("utf-8", "surrogatepass")
    params = {name: value for name, value in request.params.items() if name != "Signature"}
    if kind == 1:
        text = "".join(name + params[name] for name in sorted(params, key=str.lower))
        return base64.b64encode(_mac(key, text, hashlib.sha1)).decode()
    if kind == 2:
        method = params.get("SignatureMethod", "HmacSHA256")
        if method not in _HASHES:
            raise Malformed("Unknown signature method.")
        text = f"{request.verb}\n{host}\n{request.path}\n{_query(params)}"
        return base64.b64encode(_mac(key, text, _HASHES[method])).decode()
    return _expected_v4(request, host, secret)


def _query(params: Mapping[str, str]) -> str:
    """The canonical query string."""
    return "&".join(f"{_quoted(name)}={_quoted(params[name])}" for name in sorted(params))


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="-_.~")


# ---- version 4


def _header(request: Signed, name: str) -> str:
    wanted = name.lower()
    return next((value for key, value in request.headers.items() if key.lower() == wanted), "")


def _authorization(request: Signed) -> str:
    return _header(request, "Authorization")


def _v4(request: Signed) -> dict[str, str]:
    """credential, signed headers and date of a request. Raises Malformed."""
    found = {
        "credential": request.params.get("X-Amz-Credential", ""),
        "headers": request.params.get("X-Amz-SignedHeaders", ""),
    }
    if _authorization(request).startswith(_V4):
        parts = dict(
            part.strip().split("=", 1)
            for part in _authorization(request).removeprefix(_V4).split(",")
            if "=" in part
        )
        found = {"credential": parts.get("Credential", ""), "headers": parts.get("SignedHeaders", "")}
    found["date"] = _header(request, "X-Amz-Date") or request.params.get("X-Amz-Date", "")
    if not all(found.values()):
        raise Malformed("The signed request lacks its credential, its signed headers or its date.")
    return found


def _expected_v4(request: Signed, host: str, secret: str) -> str:
    found = _v4(request)
    scope = found["credential"].split("/")
    if len(scope) != 5 or scope[4] != "aws4_request" or scope[0] != request.access:
        raise Malformed("The signed request's credential scope is wrong.")
    if found["date"][:8] != scope[1]:
        raise Malformed("The signed request's date is not that of its credential scope.")
    names = found["headers"].lower().split(";")
    if "host" not in names or names != sorted(names):
        raise Malformed("The signed request's signed headers must be in order and hold the host.")
    held = {name.lower(): " ".join(value.split()) for name, value in request.headers.items()} | {"host": host}
    if not set(names) <= set(held):
        raise Malformed("A signed header is missing from the request.")
    params = {name: value for name, value in request.params.items() if name != "X-Amz-Signature"}
    posted = (
        request.verb.upper() == "POST" and "X-Amz-Algorithm" not in params
    )  # parameters are in the body then
    lines = [request.verb, request.path, "" if posted else _query(params)]
    lines += [f"{name}:{held[name]}" for name in names]
    lines += ["", ";".join(names), request.body_hash]
    digest = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()
    text = "\n".join([_V4, found["date"], "/".join(scope[1:]), digest])
    return _mac(_v4_key(secret, scope[1:]), text).hex()


def _v4_key(secret: str, scope: list[str]) -> bytes:
    key = f"AWS4{secret}".encode("utf-8", "surrogatepass")
    for part in scope:
        key = _mac(key, part)
    return key


# ---- S3: only the string that was signed is known


def _s3_text(request: Signed) -> str:
    try:
        plain = base64.urlsafe_b64decode(request.token.encode("ascii") + b"==")
    except (UnicodeError, binascii.Error, ValueError):
        raise Malformed("The string to sign is not base 64.") from None
    return plain.decode("utf-8", "surrogateescape")


def _s3_scope(request: Signed, text: str) -> list[str] | None:
    """[day, region, service, end] of a version 4 signature, None before version 4. Raises Malformed.

    It is in the string to sign; that of a form's policy is in X-Amz-Credential instead.
    """
    if text.startswith("AWS4"):
        lines = text.split("\n")
        scope = lines[2].split("/") if len(lines) == 4 and lines[0] == _V4 else []
    elif (said := request.params.get("X-Amz-Credential")) is not None:
        scope = said.split("/")[-4:]
    else:
        return None
    if len(scope) != 4 or scope[3] != "aws4_request" or scope[2] not in _S3_SERVICES:
        raise Malformed("Invalid EC2 signature.")
    return scope


def s3_signing_key(request: Signed, secret: str) -> bytes | None:
    """The key that signed ``request.token``, good for its day, region and service; None before version 4.

    Raises Malformed.
    """
    scope = _s3_scope(request, _s3_text(request))
    return None if scope is None else _v4_key(secret, scope)


def verifies_s3(request: Signed, secret: str) -> bool:
    """Whether ``secret`` signed ``request.token``. Raises Malformed."""
    text = _s3_text(request)
    if not request.signature or not text:
        raise Malformed("S3 signature not supplied.")
    scope = _s3_scope(request, text)
    if scope is None:
        mac = hmac.new(secret.encode(), text.encode("utf-8", "surrogateescape"), hashlib.sha1).digest()
        return _same(request.signature, base64.b64encode(mac).decode())
    return _same(request.signature, _mac(_v4_key(secret, scope), text).hex())
