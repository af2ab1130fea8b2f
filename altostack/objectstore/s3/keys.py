"""Whose signature is it? Access keys of the identity service (EC2 credentials), and keys that the paste file names.

A secret of the identity service never comes here. The service verifies a signature (POST /v3/s3tokens) and, for
version 4, hands out the key of the signature's day, region and service; with that further requests are verified here.
It is remembered for as long as the identity epoch stands still, so a deleted credential, a disabled user or a removed
role counts with the next request. Source: Identity API v3, OS-EC2 and s3tokens.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from altostack.kit.auth import Epoch
from altostack.kit.clients import Client, RemoteError
from altostack.kit.context import Context
from altostack.objectstore.s3.errors import S3Error, denied
from altostack.objectstore.s3.signature import Signed, sign, signing_key

_REMEMBERED = 10_000
_PATH = "/v3/s3tokens"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who signed a request.

    account: theirs. key: signs the chunks of the body (version 4). owner: whether they do with their account what they
    like, None where the policy engine says so. groups: of a user of the paste file, as Swift's ACLs name them.
    """

    access: str
    context: Context
    account: str
    key: bytes | None = None
    owner: bool | None = None
    groups: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Their canonical user id: an S3 account is a project."""
        return self.context.project_id or self.account

    @property
    def name(self) -> str:
        return self.context.project_name or self.id


class Keys(Protocol):
    """Somewhere that access keys are known."""

    def bearer(self, signed: Signed) -> Caller | None:
        """Who signed; None for an unknown access key. Raises S3Error for a wrong signature."""
        ...


def same(one: str, other: str) -> bool:
    """Comparison of secrets."""
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())


def legacy(secret: str, text: bytes) -> str:
    """The signature of version 2."""
    return base64.b64encode(hmac.new(secret.encode(), text, hashlib.sha1).digest()).decode()


@dataclass(frozen=True, slots=True)
class Secret:
    """An access key of the paste file."""

    secret: str = field(repr=False)
    context: Context
    account: str
    owner: bool = True
    groups: frozenset[str] = frozenset()


class FileKeys:
    """Keys that the paste file names."""

    def __init__(self, secrets: Mapping[str, Secret]) -> None:
        self._secrets = dict(secrets)
        self._day: dict[tuple[str, tuple[str, str, str]], bytes] = {}  # keys of the day

    def bearer(self, signed: Signed) -> Caller | None:
        known = self._secrets.get(signed.access)
        if known is None:
            return None
        key = None if signed.scope is None else self._key(signed.access, signed.scope, known.secret)
        texts = (signed.text, signed.other) if signed.other else (signed.text,)
        rights = [legacy(known.secret, text) if key is None else sign(key, text) for text in texts]
        if sum(same(signed.signature, right) for right in rights) == 0:  # all are compared
            raise S3Error("SignatureDoesNotMatch")
        return Caller(signed.access, known.context, known.account, key, known.owner, known.groups)

    def _key(self, access: str, scope: tuple[str, str, str], secret: str) -> bytes:
        found = self._day.get((access, scope))
        if found is None:
            if len(self._day) > 1000:
                self._day.clear()
            found = self._day[access, scope] = signing_key(secret, scope)
        return found


class IdentityKeys:
    """EC2 credentials of the identity service. ``epoch``: moves when anything changes what they are worth."""

    def __init__(
        self, identity: Client, epoch: Epoch, prefix: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._identity, self._epoch, self._prefix, self._clock = identity, epoch, prefix, clock
        self._known: OrderedDict[tuple[str, tuple[str, str, str]], tuple[int, Caller]] = OrderedDict()
        self._lock = threading.Lock()

    def bearer(self, signed: Signed) -> Caller | None:
        now = (
            self._epoch.read()
        )  # before asking: a change meanwhile makes the answer out of date, not too new
        if signed.scope is not None:
            held = self._known.get((signed.access, signed.scope))
            if held is not None and held[0] == now and held[1].context.expires_at > self._clock():
                caller = held[1]
                if caller.key is None or not same(signed.signature, sign(caller.key, signed.text)):
                    raise S3Error("SignatureDoesNotMatch")
                return caller
        try:
            found = self._ask(signed)
        except S3Error as error:
            if not signed.other or error.code != "SignatureDoesNotMatch":
                raise
            found = self._ask(replace(signed, text=signed.other))
        if found is not None and signed.scope is not None and found.key is not None:
            with self._lock:
                self._known[signed.access, signed.scope] = (now, found)
                self._known.move_to_end((signed.access, signed.scope))
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return found

    def _ask(self, signed: Signed) -> Caller | None:
        given: dict[str, Any] = {
            "access": signed.access,
            "signature": signed.signature,
            "token": base64.urlsafe_b64encode(signed.text).decode(),
        }
        if signed.scope is not None:
            given["params"] = {"X-Amz-Credential": "/".join((signed.access, *signed.scope, "aws4_request"))}
        try:
            body = self._tokens({"credentials": given})
        except RemoteError as error:
            if error.status == 404:
                return None
            if error.status in (400, 401):
                raise (S3Error("SignatureDoesNotMatch") if _of_signature(error) else denied()) from None
            raise S3Error("ServiceUnavailable") from error
        key = body.get("signing_key")
        context = _context(body["token"])
        if not context.project_id:
            raise denied()
        account = self._prefix + context.project_id
        return Caller(signed.access, context, account, bytes.fromhex(key) if key else None)

    def _tokens(self, body: Any) -> Any:
        """Ask the service. A wrong signature is no reason to doubt our own token: else each would cost a login."""
        try:
            return self._identity.call("POST", _PATH, body, token=self._identity.own_token() or None)
        except RemoteError as error:
            if error.status != 401 or _of_signature(error):
                raise
        return self._identity.call("POST", _PATH, body)


def _of_signature(error: RemoteError) -> bool:
    """Whether it was refused because of the signature."""
    return "signature" in error.message.lower()


def _context(body: Mapping[str, Any]) -> Context:
    """The bearer of a token object (identity API v3)."""
    user, project = body["user"], body.get("project") or {}
    domain = project.get("domain") or {}
    return Context(
        user_id=user["id"],
        user_name=user["name"],
        user_domain_id=user["domain"]["id"],
        user_domain_name=user["domain"].get("name", ""),
        project_id=project.get("id"),
        project_name=project.get("name"),
        project_domain_id=domain.get("id"),
        project_domain_name=domain.get("name"),
        roles=frozenset(role["name"] for role in body.get("roles", ())),
        expires_at=datetime.fromisoformat(body["expires_at"]).timestamp(),
        methods=tuple(body.get("methods", ())),
        audit_ids=tuple(body.get("audit_ids", ())),
    )


def find(keys: Sequence[Keys], signed: Signed) -> Caller:
    """Who signed a request. Raises S3Error."""
    for one in keys:
        found = one.bearer(signed)
        if found is not None:
            return found
    raise S3Error("InvalidAccessKeyId", AWSAccessKeyId=signed.access)
