"""/v3/OS-OAUTH2/token: an application credential's token in OAuth 2.0's words, for "Authorization: Bearer".

Source: RFC 6749, 4.4 (client credentials), 2.3.1 (the client's password) and 5 (answers and errors).
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import parse_qsl

from altostack.identity.auth import authenticate
from altostack.identity.login import Auth, CredentialMethod, Identity
from altostack.identity.receipt import Insufficient
from altostack.kit.body import read
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Forbidden, Unauthorized
from altostack.kit.policy import PUBLIC
from altostack.kit.route import Route

_FORM = "application/x-www-form-urlencoded"
_MOST = 16_384  # bytes of a form


def _refused(call: Call, status: int, error: str, text: str) -> Reply:
    headers = {"Cache-Control": "no-store", "Pragma": "no-cache"}
    if status == 401:
        headers["WWW-Authenticate"] = f'Keystone uri="{call.runtime.cloud.get("auth_url", call.runtime.url)}"'
    return Reply(status=status, body={"error": error, "error_description": text}, headers=headers)


def _form(call: Call) -> dict[str, str]:
    """The fields of the body. Raises ValueError."""
    kind = (call.request.content_type or "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise ValueError(f"The body must be {_FORM}.")
    text = read(call.request, _MOST).decode("utf-8")
    pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=32)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("A parameter stands twice in the body.")
    return found


def _client(call: Call, form: dict[str, str]) -> tuple[str, str]:
    """The client's id and secret: HTTP Basic, else in the form. Raises ValueError."""
    header = call.header("Authorization")
    if header is None:
        return form.get("client_id", ""), form.get("client_secret", "")
    kind, _, text = header.partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        name, colon, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except binascii.Error:
        raise ValueError("The Authorization header is malformed.") from None
    return (name, secret) if colon else ("", "")


def token(call: Call) -> Any:
    try:
        form = _form(call)
        client, secret = _client(call, form)
    except ValueError as error:
        return _refused(
            call, 400, "invalid_request", str(error) if type(error) is ValueError else "Malformed text."
        )
    if "grant_type" not in form:
        return _refused(call, 400, "invalid_request", "The parameter grant_type is required.")
    if form["grant_type"] != "client_credentials":
        text = f"The parameter grant_type {form['grant_type'][:64]} is not supported."
        return _refused(call, 400, "unsupported_grant_type", text)
    failed = _refused(call, 401, "invalid_client", "Client authentication failed.")
    if not client or not secret or len(client) > 64:
        return failed
    method = CredentialMethod(id=client, secret=secret)
    auth = Auth(identity=Identity(methods=["application_credential"], application_credential=method))
    try:
        made = authenticate(call, auth)
    except (Unauthorized, Forbidden, BadRequest, Insufficient):
        return failed
    return Reply(
        body={
            "access_token": made.id,
            "token_type": "Bearer",
            "expires_in": made.claims.expires - int(call.runtime.clock()),
        },
        headers={"Cache-Control": "no-store", "Pragma": "no-cache"},
    )


OAUTH2_ROUTES = (Route(method="POST", path="/OS-OAUTH2/token", handler=token, policy=PUBLIC, raw=True),)
