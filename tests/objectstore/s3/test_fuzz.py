"""Nonsense in every place: the answer is a 4xx of S3's, never a failure of ours, and nothing hangs."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Any
from urllib.parse import quote

import pytest

from altostack.objectstore.http import Bytes, Refusal, Request
from altostack.objectstore.s3.app import factory
from altostack.objectstore.s3.operations import BUCKET, OBJECT
from tests.objectstore.s3.signer import Signer
from tests.objectstore.world import World

_KNOWN = sorted({word for _, word in (*BUCKET, *OBJECT) if word and "+" not in word})
WORDS = [
    *_KNOWN,
    "partNumber", "versionId", "prefix", "delimiter", "marker", "max-keys", "continuation-token", "start-after",
    "encoding-type", "key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "max-parts", "restore",
    "part-number-marker", "response-content-type", "select", "torrent", "analytics", "id",
]  # fmt: skip
VALUES = [
    "", "1", "-1", "0", "99999999999", "null", "2", "\x00", "é", "a/b", "%", "🜚", "url", "true", "'", "x" * 300,
    "1400000000.000000000", "\U0010ffff",
]  # fmt: skip
HEADERS = [
    "x-amz-acl", "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-metadata-directive", "x-amz-meta-a", "range",
    "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "content-md5", "x-amz-checksum-crc32",
    "x-amz-checksum-algorithm", "x-amz-trailer", "x-amz-tagging", "x-amz-storage-class", "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date", "x-amz-object-lock-legal-hold", "x-amz-grant-read", "content-encoding",
    "x-amz-decoded-content-length", "x-amz-object-attributes", "x-amz-max-parts", "content-type", "expires",
    "x-amz-expected-bucket-owner", "x-amz-mp-object-size", "x-amz-bucket-object-lock-enabled", "origin",
    "x-amz-object-ownership", "x-amz-website-redirect-location", "x-amz-checksum-type", "x-amz-tagging-directive",
]  # fmt: skip
SAID = [
    "", "*", "garden/k", "/garden/k?versionId=null", "bytes=0-5", "bytes=5-0", "bytes=abc", "private", "REPLACE", "é",
    "aGVsbG8=", "CRC32", "x-amz-checksum-crc32", "a=b&c=d", "GLACIER", "GOVERNANCE", "2099-01-01T00:00:00Z", "ON",
    "id=bob", "aws-chunked", "100", "-5", "ETag,Checksum", "Wed, 21 Oct 2099 07:28:00 GMT", '"abc"', "garden/%00",
    "multipart/form-data; boundary=x", "%zz", "%ff/%fe", "true", "BucketOwnerEnforced",
]  # fmt: skip
DOCUMENTS = [
    b"", b"<", b"<a/>", b"5;chunk-signature=x\r\nhello\r\n0\r\n\r\n",
    b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
    b"<Delete><Object><Key>k</Key></Object></Delete>",
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>",
    b"<CORSConfiguration><CORSRule><AllowedMethod>GET</AllowedMethod></CORSRule></CORSConfiguration>",
    b"<LifecycleConfiguration><Rule><Filter/><Status>Enabled</Status></Rule></LifecycleConfiguration>",
    b'{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::garden"}]}',
    b"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2099-01-01T00:00:00Z</RetainUntilDate></Retention>",
    b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
    b"<AccessControlPolicy><Owner><ID>wonderland</ID></Owner><AccessControlList/></AccessControlPolicy>",
    b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\nk\r\n--x--',
]  # fmt: skip


def ask(
    store: World, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> tuple[int, bytes]:
    text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query.items())
    assert store.store.app is not None
    try:
        request = Request(
            method, quote(path), query_string=text, headers=headers, body=Bytes(body), remote="127.0.0.1"
        )
        answer = store.store.app(request)
    except Refusal as refusal:
        answer = refusal.response()
    return answer.status, answer.read()


def some(chance: random.Random, names: list[str], values: list[str], most: int) -> dict[str, str]:
    return {chance.choice(names): chance.choice(values) for _ in range(chance.randrange(most + 1))}


def broken(chance: random.Random, text: bytes) -> bytes:
    found = bytearray(text)
    for _ in range(chance.choice((0, 0, 1, 3))):
        if found:
            found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)


@pytest.mark.parametrize("seed", range(4))
def test_nonsense_is_the_clients_error(store: World, seed: int) -> None:
    chance, signer = random.Random(seed), Signer("http://x")

    def signed(
        method: str, path: str, query: dict[str, str], more: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        headers = signer.headers(method, path, query=query, payload="UNSIGNED-PAYLOAD", more=more)
        return ask(store, method, path, query, headers | {"content-length": str(len(body))}, body)

    assert signed("PUT", "/garden", {}, {}, b"")[0] == 200
    assert signed("PUT", "/garden/k", {}, {}, b"x" * 100)[0] == 200
    for _ in range(150):
        method = chance.choice(["GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS"])
        path = chance.choice(
            ["/", "/garden", "/garden/k", "/garden/" + chance.choice(VALUES[8:]), "/nowhere/k"]
        )
        query, headers = some(chance, WORDS, VALUES, 3), some(chance, HEADERS, SAID, 3)
        body = broken(chance, chance.choice(DOCUMENTS)) if method in ("PUT", "POST") else b""
        way: Any = signed if chance.random() < 0.9 else lambda *words: ask(store, *words)
        status, answer = way(method, path, query, headers, body)
        assert status < 500 or b"<Code>NotImplemented</Code>" in answer, (
            method,
            path,
            query,
            headers,
            body,
            answer,
        )


@pytest.mark.parametrize("seed", range(2))
def test_broken_frames_leave_nothing(store: World, seed: int) -> None:
    chance, signer = random.Random(seed), Signer("http://x")
    assert ask(store, "PUT", "/garden", {}, signer.headers("PUT", "/garden"), b"")[0] == 200
    chunks = [b"a" * 8192, b"b" * 8200, b"c" * 10]
    trailers = {"x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(b"".join(chunks)).digest()).decode()}
    headers, whole = signer.chunked("/garden/k", chunks, trailers)
    for _ in range(150):
        body = mangled(chance, whole)
        status, answer = ask(store, "PUT", "/garden/k", {}, dict(headers), body)
        held, _ = ask(store, "HEAD", "/garden/k", {}, signer.headers("HEAD", "/garden/k"), b"")
        if status == 200:  # what is behind the end of the frames, or the case of a letter, means nothing
            _, content = ask(store, "GET", "/garden/k", {}, signer.headers("GET", "/garden/k"), b"")
            assert content == b"".join(chunks)
            ask(store, "DELETE", "/garden/k", {}, signer.headers("DELETE", "/garden/k"), b"")
            continue
        assert 400 <= status < 500, answer
        assert held == 404


def mangled(chance: random.Random, whole: bytes) -> bytes:
    """Cut, doubled or changed somewhere, rather in the frames than in the data."""
    frames = [at for at in range(len(whole)) if whole[at] not in b"abc" or at % 997 == 0]
    at, way = chance.choice(frames), chance.randrange(4)
    if way == 0:
        return whole[:at]
    if way == 1:
        return whole[:at] + whole[at + chance.randrange(1, 9) :]
    if way == 2:
        return whole[:at] + whole[at : at + 20] + whole[at:]
    return whole[:at] + bytes([chance.randrange(256)]) + whole[at + 1 :]


def test_options_that_make_no_sense_are_refused(store: World) -> None:
    conf = {"altostack": {"store": store.store}}
    with pytest.raises(ValueError, match="key_x"):
        factory(conf, key_x="secret-alone")
    with pytest.raises(ValueError, match="max_upload_part_num"):
        factory(conf, max_upload_part_num="many")
