"""Signs requests by hand, so that tests can sign wrongly."""

from __future__ import annotations

import hashlib
import hmac
import http.client
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """The S3 error code."""
        text = self.body.decode()
        return text.partition("<Code>")[2].partition("</Code>")[0]


def send(
    url: str, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request over a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        connection.request(method, target, body or None, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()})
    finally:
        connection.close()


@dataclass
class Signer:
    """Version 4. Change a field to sign something else than what is sent."""

    url: str
    access: str = "alice"
    secret: str = "alice-secret"
    region: str = "us-east-1"
    service: str = "s3"
    when: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def date(self) -> str:
        return f"{self.when:%Y%m%dT%H%M%SZ}"

    @property
    def scope(self) -> str:
        return f"{self.date[:8]}/{self.region}/{self.service}/aws4_request"

    @property
    def key(self) -> bytes:
        key = f"AWS4{self.secret}".encode()
        for part in self.scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key

    def sign(self, text: str) -> str:
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()

    def canonical(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], payload: str
    ) -> str:
        pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query.items())
        lines = [method, quote(path, safe="/-_.~"), "&".join(f"{k}={v}" for k, v in pairs)]
        lines += [f"{name}:{headers[name]}" for name in sorted(headers)]
        return "\n".join([*lines, "", ";".join(sorted(headers)), payload])

    def signature(self, canonical: str) -> str:
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return self.sign(f"AWS4-HMAC-SHA256\n{self.date}\n{self.scope}\n{digest}")

    def headers(
        self,
        method: str,
        path: str,
        *,
        payload: str = EMPTY,
        query: dict[str, str] | None = None,
        more: dict[str, str] | None = None,
    ) -> dict[str, str]:
        """The headers of a signed request."""
        held = {"host": urlsplit(self.url).netloc, "x-amz-date": self.date, "x-amz-content-sha256": payload}
        held |= more or {}
        found = self.signature(self.canonical(method, path, query or {}, held, payload))
        names = ";".join(sorted(held))
        return held | {
            "authorization": f"AWS4-HMAC-SHA256 Credential={self.access}/{self.scope}, "
            f"SignedHeaders={names}, Signature={found}"
        }

    def presigned(self, method: str, path: str, expires: int = 300, **more: str) -> str:
        """The target of a presigned request."""
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.access}/{self.scope}",
            "X-Amz-Date": self.date,
            "X-Amz-Expires": str(expires),
            "X-Amz-SignedHeaders": "host",
            **more,
        }
        host = {"host": urlsplit(self.url).netloc}
        query["X-Amz-Signature"] = self.signature(
            self.canonical(method, path, query, host, "UNSIGNED-PAYLOAD")
        )
        return quote(path) + "?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in query.items())

    def chunked(
        self, path: str, chunks: list[bytes], trailers: dict[str, str] | None = None, *, break_at: int = -1
    ) -> tuple[dict[str, str], bytes]:
        """(headers, body) of a PUT in signed chunks; chunk ``break_at`` is signed wrongly."""
        payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailers else "")
        more = {"x-amz-decoded-content-length": str(sum(map(len, chunks))), "content-encoding": "aws-chunked"}
        if trailers:
            more["x-amz-trailer"] = ",".join(trailers)
        headers = self.headers("PUT", path, payload=payload, more=more)
        last = headers["authorization"].rpartition("=")[2]
        body = b""
        for number, chunk in enumerate([*chunks, b""]):
            lines = ["AWS4-HMAC-SHA256-PAYLOAD", self.date, self.scope, last, EMPTY, digest(chunk)]
            last = self.sign("\n".join(lines))
            shown = "0" * 64 if number == break_at else last
            body += (
                f"{len(chunk):x};chunk-signature={shown}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
            )
        if trailers:
            told = "".join(f"{name}:{value}\n" for name, value in trailers.items())
            text = "\n".join(["AWS4-HMAC-SHA256-TRAILER", self.date, self.scope, last, digest(told.encode())])
            body += (
                told.replace("\n", "\r\n").encode()
                + f"x-amz-trailer-signature:{self.sign(text)}\r\n".encode()
            )
        return headers, body + b"\r\n"
