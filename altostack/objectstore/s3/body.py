"""Request bodies as S3 sends them: whole or in signed chunks, with sums before or behind them.

A `Content` is a `Body` that never gives out its last byte before everything that the client said of the body holds,
so whoever reads it to store it never has a whole body that is wrong. Source: Amazon S3 API reference, "Signature
Calculations for the Authorization Header: Transferring Payload in Multiple Chunks".
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from altostack.objectstore.http import CHUNK, Body, Bytes, ClientGone, Request
from altostack.objectstore.s3 import checksums
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.s3.keys import Caller, same
from altostack.objectstore.s3.signature import (
    CHUNKED,
    EMPTY,
    SIGNED_CHUNKS,
    SIGNED_CHUNKS_TRAILER,
    UNSIGNED,
    Signed,
    sign,
)

SMALLEST: Final = 8192  # bytes of a signed chunk that is not the last
_LONGEST_LINE: Final = 1024
_LONGEST_TRAILER: Final = 16 << 10


@dataclass(slots=True)
class _Check:
    """A sum to compare. ``expected`` may be known only at the end: from the trailers."""

    sum: checksums.Sum
    expected: Callable[[], bytes]
    code: str
    message: str = ""


class Content:
    """The object's bytes in a request.

    length: how many, None if only the end will tell. sums: algorithm -> base 64, once all is read. trouble: what `read`
    raised; a filter between here and the disks may have made something else of it. least, most: bytes that it may have.
    """

    def __init__(self, source: Body | Chunks, length: int | None) -> None:
        self.length: int | None = length
        self.least, self.most = 0, 5 << 30
        self.count_read = 0
        self.sums: dict[str, str] = {}
        self.trouble: S3Error | ClientGone | None = None
        self._source, self._left, self._checks = source, length, list[_Check]()
        self._named: dict[str, checksums.Sum] = {}
        self._ended = False

    def check(
        self, total: checksums.Sum, expected: Callable[[], bytes], code: str, message: str = ""
    ) -> None:
        """Compare a sum at the end."""
        self._checks.append(_Check(total, expected, code, message))

    def count(self, algorithm: str, expected: Callable[[], bytes] | None = None) -> None:
        """Compute a checksum for `sums`, and compare it."""
        total = self._named[algorithm] = checksums.new(algorithm)
        if expected is None:
            expected = total.digest
        self.check(
            total, expected, "BadDigest",
            f"The {algorithm.upper()} you specified did not match the calculated checksum.",
        )  # fmt: skip
        if self._ended:  # there was nothing to read
            self.sums[algorithm] = base64.b64encode(total.digest()).decode()

    def counts(self, algorithm: str) -> bool:
        """Whether a checksum is computed."""
        return algorithm in self._named

    def read(self, size: int = -1) -> bytes:
        """As `Body`; raises S3Error when something does not hold."""
        try:
            if size < 0:
                return b"".join(iter(lambda: self._read(CHUNK), b""))
            part = self._read(size)
            if len(part) == size or not part:
                return part
            parts = [part]  # less only at the end: whoever reads takes a short piece for that
            size -= len(part)
            while size and (part := self._read(size)):
                parts.append(part)
                size -= len(part)
            return b"".join(parts)
        except (S3Error, ClientGone) as error:
            self.trouble = error
            raise

    def begin(self) -> Content:
        """To be called when all checks are there. An empty body is checked at once: nobody may read it."""
        if self._left == 0:
            self.read(0)
        return self

    def _read(self, size: int) -> bytes:
        if self._left == 0:
            self._end()
            return b""
        part = self._source.read(size if self._left is None else min(size, self._left))
        if not part:
            if self._left is None:
                self._end()
                return b""
            raise S3Error("IncompleteBody")
        self.count_read += len(part)
        if self.count_read > self.most:
            raise S3Error("EntityTooLarge", MaxSizeAllowed=str(self.most))
        for check in self._checks:
            check.sum.update(part)
        if self._left is None:
            return part
        self._left -= len(part)
        if self._left == 0:
            self._end()
        return part

    def _end(self) -> None:
        if self._ended:
            return
        if self.count_read < self.least:
            raise S3Error("EntityTooSmall", MinSizeAllowed=str(self.least))
        if isinstance(self._source, Chunks):
            self._source.finish()
        for check in self._checks:
            if check.sum.digest() != check.expected():
                raise S3Error(check.code, check.message)
        self.sums = {name: base64.b64encode(total.digest()).decode() for name, total in self._named.items()}
        self._ended = True


class Chunks:
    """aws-chunked: ``size[;chunk-signature=...]``, the bytes, ..., an empty chunk, and trailers.

    caller, signed: whose key signs each chunk, None for unsigned chunks. trailers: known after `finish`.
    """

    def __init__(self, body: Body, caller: Caller | None, signed: Signed | None, *, trailing: bool) -> None:
        self._body, self._trailing = body, trailing
        self._buffer = b""
        self._left = 0  # of the current chunk
        self._last: int | None = None  # the size of the chunk before
        self._over = False
        self.trailers: dict[str, str] = {}
        self._key = b""
        self._signature = self._prefix = ""
        self._sum = hashlib.sha256()
        self._claimed = ""
        if signed is not None and caller is not None and caller.key is not None and signed.scope is not None:
            self._key = caller.key
            self._signature = signed.signature
            self._prefix = f"{signed.date}\n{'/'.join((*signed.scope, 'aws4_request'))}\n"

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, b"" after the last chunk."""
        while self._left == 0:
            if self._over:
                return b""
            self._next()
        part = self._take(min(size, self._left))
        self._left -= len(part)
        if self._key:
            self._sum.update(part)
        if self._left == 0:
            self._chunk_end()
        return part

    def finish(self) -> None:
        """Read the empty chunk and the trailers. Raises S3Error for more data, or a wrong signature."""
        while not self._over:
            self._next()
            if self._left:
                raise S3Error("IncompleteBody", "The body is longer than x-amz-decoded-content-length says.")

    def _next(self) -> None:
        """The next chunk's head."""
        line = self._line()
        size, _, rest = line.partition(b";")
        if not size or len(size) > 15 or size.strip(b"0123456789abcdefABCDEF"):
            raise S3Error("IncompleteBody", "A chunk's size is not a hexadecimal number.")
        self._left = int(size, 16)
        if self._key:
            name, _, value = rest.partition(b"=")
            if name.strip() != b"chunk-signature":
                raise S3Error("SignatureDoesNotMatch", "A chunk has no signature.")
            self._claimed = value.strip().decode("ascii", "replace")
            if self._left and self._last is not None and self._last < SMALLEST:
                raise S3Error("InvalidChunkSizeError")
            self._last = self._left
            self._sum = hashlib.sha256()
        if self._left == 0:
            self._over = True
            if self._key:
                self._verify()
            if self._trailing:
                self._read_trailers()
            elif self._buffer or self._more():
                self._line()

    def _chunk_end(self) -> None:
        if self._line() != b"":
            raise S3Error("IncompleteBody", "A chunk is longer than it says.")
        if self._key:
            self._verify()

    def _verify(self) -> None:
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{self._prefix}{self._signature}\n{EMPTY}\n{self._sum.hexdigest()}"
        right = sign(self._key, text.encode())
        if not same(self._claimed, right):
            raise S3Error("SignatureDoesNotMatch")
        self._signature = right

    def _read_trailers(self) -> None:
        signed = b""
        claimed = None
        total = 0
        while self._buffer or self._more():
            line = self._line()
            if not line:
                break
            total += len(line)
            name, colon, value = line.partition(b":")
            key = name.strip().lower().decode("latin-1")
            if not colon or total > _LONGEST_TRAILER or key in self.trailers:
                raise S3Error("MalformedTrailerError")
            if key == "x-amz-trailer-signature":
                claimed = value.strip().decode("ascii", "replace")
                continue
            self.trailers[key] = value.strip().decode("utf-8", "replace")
            signed += key.encode("latin-1") + b":" + value.strip() + b"\n"
        if self._key:
            text = f"AWS4-HMAC-SHA256-TRAILER\n{self._prefix}{self._signature}\n{hashlib.sha256(signed).hexdigest()}"
            if claimed is None or not same(claimed, sign(self._key, text.encode())):
                raise S3Error("SignatureDoesNotMatch")

    # ---- bytes

    def _more(self) -> bool:
        """Some more of the framing; data is read for itself, in larger pieces."""
        part = self._body.read(_LONGEST_LINE)
        self._buffer += part
        return bool(part)

    def _take(self, size: int) -> bytes:
        if not self._buffer:
            part = self._body.read(min(size, CHUNK))
            if not part:
                raise S3Error("IncompleteBody")
            return part
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise S3Error("IncompleteBody", "A line of the body's framing is too long.")
            if not self._more():
                if self._over and self._trailing:  # some clients leave out the empty line at the end
                    line, self._buffer = self._buffer, b""
                    return line
                raise S3Error("IncompleteBody")
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line


def content_of(request: Request, caller: Caller | None, signed: Signed | None) -> Content:
    """The object in a request's body, with everything checked that is said of it. Raises S3Error."""
    payload = signed.payload if signed is not None else request.header("x-amz-content-sha256")
    encodings = [part.strip() for part in request.header("content-encoding").split(",")]
    source: Body | Chunks = request.body
    if payload in CHUNKED or "aws-chunked" in encodings:
        length = _decoded_length(request)
        if payload in (SIGNED_CHUNKS, SIGNED_CHUNKS_TRAILER) and (caller is None or caller.key is None):
            raise S3Error("InvalidRequest", "Signed chunks need a signature of version 4.")
        source = Chunks(
            request.body,
            caller if payload in (SIGNED_CHUNKS, SIGNED_CHUNKS_TRAILER) else None,
            signed,
            trailing=payload != SIGNED_CHUNKS,
        )
    elif request.body.length is not None:
        length = request.body.length
    else:
        raise S3Error("MissingContentLength")
    content = Content(source, length)
    if payload and payload not in CHUNKED and payload != UNSIGNED:
        expected = payload.lower()
        content.check(
            hashlib.sha256(), lambda: _hex(expected), "XAmzContentSHA256Mismatch",
        )  # fmt: skip
    if (md5 := checksums.md5_of(request)) is not None:
        content.check(hashlib.md5(usedforsecurity=False), lambda: md5, "BadDigest")
    said = checksums.wanted(request)
    if said is not None:
        algorithm, value = said
        if value:
            content.count(algorithm, lambda: checksums.decoded(algorithm, value))
        elif isinstance(source, Chunks):
            trailers = source.trailers

            def trailer() -> bytes:
                if checksums.PREFIX + algorithm not in trailers:
                    raise S3Error("MalformedTrailerError", "The trailer that x-amz-trailer names is missing.")
                return checksums.decoded(algorithm, trailers[checksums.PREFIX + algorithm])

            content.count(algorithm, trailer)
        else:
            raise S3Error("InvalidRequest", "A trailer needs a body in aws-chunked encoding.")
    return content.begin()


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""


def _decoded_length(request: Request) -> int:
    said = request.headers.get("x-amz-decoded-content-length")
    if said is None:
        raise S3Error("MissingContentLength")
    if not (said.isascii() and said.isdecimal()) or len(said) > 18:
        raise S3Error("InvalidArgument", "x-amz-decoded-content-length must be a number.")
    return int(said)


def small(request: Request, caller: Caller | None, signed: Signed | None, limit: int) -> bytes:
    """A document in the body, all checked, at most ``limit`` bytes. Raises S3Error."""
    if request.body.length is None and "x-amz-decoded-content-length" not in request.headers:
        plain = Bytes(request.body.read(limit + 1))
        if plain.length is not None and plain.length > limit:
            raise S3Error("MaxMessageLengthExceeded")
        request.body = plain
    content = content_of(request, caller, signed)
    if content.length is not None and content.length > limit:
        raise S3Error("MaxMessageLengthExceeded")
    return content.read()
