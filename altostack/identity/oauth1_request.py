"""Requests that an OAuth 1.0a consumer signed: reading one, checking its signature, taking each only once.

Source: RFC 5849, sections 3.1 to 3.4.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from oauthlib.oauth1.rfc5849 import signature
from sqlalchemy.orm import Mapped, Session, mapped_column

from altostack.identity.dialect import own_url
from altostack.identity.model import IdentityRow
from altostack.kit.errors import BadRequest, Unauthorized

if TYPE_CHECKING:
    from altostack.kit.call import Call

LIFETIME = 600  # seconds by which a request's time may be off, and for which its nonce is remembered
_VERIFY = {"HMAC-SHA1": signature.verify_hmac_sha1, "HMAC-SHA256": signature.verify_hmac_sha256}


class Nonce(IdentityRow):
    """A request that was taken. ``id``: a digest of who signed, when, and the nonce."""

    __tablename__ = "oauth_nonces"
    id: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    expires_at: Mapped[float] = mapped_column(index=True)  # epoch seconds


@dataclass(kw_only=True)
class OauthRequest:
    """A request with an OAuth header. The names are those that oauthlib's functions read.

    ``uris``: the URLs under which a client may have reached us; it signed one of them.
    """

    http_method: str
    uris: tuple[str, ...]
    params: list[tuple[str, str]]
    signature: str
    now: float
    uri: str = ""

    def get(self, name: str) -> str:
        """An ``oauth_`` parameter; "" when it is missing."""
        return next((value for key, value in self.params if key == name), "")

    def verify(self, secret: str, token_secret: str) -> None:
        """Raises Unauthorized unless the holder of both secrets signed this request, now."""
        check = _VERIFY.get(self.get("oauth_signature_method"))
        stamp = self.get("oauth_timestamp")
        if check is None or not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
            raise Unauthorized("Invalid signature")
        if abs(int(stamp) - self.now) > LIFETIME or not self.get("oauth_nonce"):
            raise Unauthorized("Invalid signature")
        for uri in self.uris:
            self.uri = uri
            if check(self, secret, token_secret):
                return
        raise Unauthorized("Invalid signature")

    def nonce(self) -> Nonce:
        """What to remember of the request."""
        words = ("oauth_consumer_key", "oauth_token", "oauth_timestamp", "oauth_nonce")
        text = "\n".join(self.get(word) for word in words)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return Nonce(id=digest, expires_at=float(self.get("oauth_timestamp")) + LIFETIME)


def remember(session: Session, request: OauthRequest) -> None:
    """Take a verified request. Raises Unauthorized when it was taken before."""
    row = request.nonce()
    if session.get(Nonce, row.id) is not None:
        raise Unauthorized("Invalid signature")
    session.add(row)
    session.flush()


def forget(session: Session, now: float) -> None:
    """Drop nonces whose requests would be too old anyway."""
    session.execute(sa.delete(Nonce).where(Nonce.expires_at < now))


def signed(call: Call) -> OauthRequest:
    """The call as its signer saw it. Raises BadRequest."""
    header = call.header("Authorization") or ""
    query = call.request.query_string
    try:
        params: list[tuple[str, str]] = signature.collect_parameters(
            uri_query=query, headers={"Authorization": header}, exclude_oauth_signature=False
        )
    except ValueError:
        raise BadRequest("The request needs a well-formed OAuth Authorization header.") from None
    names = [name for name, _ in params if name.startswith("oauth_")]
    if len(names) != len(set(names)):
        raise BadRequest("An OAuth parameter stands twice in the request.")
    given: dict[str, Any] = dict(params)
    reached = call.request.uri
    return OauthRequest(
        http_method=call.request.method,
        uris=(own_url(call), reached),
        params=[(name, value) for name, value in params if name != "oauth_signature"],
        signature=str(given.get("oauth_signature", "")),
        now=call.runtime.clock(),
    )
