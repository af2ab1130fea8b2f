"""Smaller settings of buckets: policy, public access, ownership; and what a bucket has none of."""

from __future__ import annotations

import json
from typing import Final

from altostack.objectstore.http import Response
from altostack.objectstore.s3 import policy, settings, xml
from altostack.objectstore.s3.bucket import OWNERSHIPS
from altostack.objectstore.s3.call import Call, document
from altostack.objectstore.s3.errors import S3Error, denied

_BLOCKS: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def get_policy(call: Call) -> Response:
    held = settings.read(call.info, "policy")
    if held is None:
        raise S3Error("NoSuchBucketPolicy", BucketName=call.name)
    return Response(200, {"content-type": "application/json"}, json.dumps(held).encode())


def put_policy(call: Call) -> Response:
    held = policy.check(call.raw(), call.name)
    block = settings.read(call.info, "public-access") or {}
    if block.get("BlockPublicPolicy") and policy.public(held):
        raise denied()
    call.gate.buckets.share(call.name, call.account)
    settings.keep(call, "policy", held)
    return Response(204)


def delete_policy(call: Call) -> Response:
    settings.keep(call, "policy", None)
    return Response(204)


def policy_status(call: Call) -> Response:
    held = settings.read(call.info, "policy")
    if held is None:
        raise S3Error("NoSuchBucketPolicy", BucketName=call.name)
    return document("PolicyStatus", [("IsPublic", policy.public(held))])


def get_public_access(call: Call) -> Response:
    held = settings.read(call.info, "public-access")
    if held is None:
        raise S3Error("NoSuchPublicAccessBlockConfiguration", BucketName=call.name)
    return document("PublicAccessBlockConfiguration", [(name, bool(held.get(name))) for name in _BLOCKS])


def put_public_access(call: Call) -> Response:
    root = call.document("PublicAccessBlockConfiguration")
    found = {}
    for name in _BLOCKS:
        said = root.get(name, default="false").lower()
        if said not in ("true", "false"):
            raise S3Error("MalformedXML")
        found[name] = said == "true"
    settings.keep(call, "public-access", found)
    return Response(200)


def delete_public_access(call: Call) -> Response:
    settings.keep(call, "public-access", None)
    return Response(204)


def get_ownership(call: Call) -> Response:
    held = settings.read(call.info, "ownership")
    if held is None:
        raise S3Error("OwnershipControlsNotFoundError", BucketName=call.name)
    return document("OwnershipControls", [("Rule", [("ObjectOwnership", held)])])


def put_ownership(call: Call) -> Response:
    wish = call.document("OwnershipControls").get("Rule", "ObjectOwnership")
    if wish not in OWNERSHIPS:
        raise S3Error("MalformedXML")
    settings.keep(call, "ownership", wish)
    return Response(200)


def delete_ownership(call: Call) -> Response:
    settings.keep(call, "ownership", None)
    return Response(204)


# ---- encryption: the operator's, of everything or of nothing


def encrypts(call: Call) -> bool:
    """Whether what is stored now is encrypted at rest."""
    return bool(call.store.facts.get("encryption", {}).get("enabled"))


def get_encryption(call: Call) -> Response:
    if not encrypts(call):
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError", BucketName=call.name)
    rule: list[xml.Child] = [("ApplyServerSideEncryptionByDefault", [("SSEAlgorithm", "AES256")])]
    return document("ServerSideEncryptionConfiguration", [("Rule", rule)])


def put_encryption(call: Call) -> Response:
    """Asks for what is so or cannot be."""
    root = call.document("ServerSideEncryptionConfiguration")
    wish = root.get("Rule", "ApplyServerSideEncryptionByDefault", "SSEAlgorithm")
    if not wish:
        raise S3Error("MalformedXML")
    if wish != "AES256" or not encrypts(call):
        raise S3Error("NotImplemented", "Encryption is set up by the operator, with AES256.")
    return Response(200)


def delete_encryption(call: Call) -> Response:
    if encrypts(call):
        raise S3Error("NotImplemented", "The operator has all objects encrypted.")
    return Response(204)


# ---- what no bucket has, in the words that clients understand


def request_payment(call: Call) -> Response:
    return document("RequestPaymentConfiguration", [("Payer", "BucketOwner")])


def accelerate(call: Call) -> Response:
    return document("AccelerateConfiguration", [])


def logging(call: Call) -> Response:
    body: list[xml.Child] = []
    return document("BucketLoggingStatus", body)


def no_website(call: Call) -> Response:
    raise S3Error("NoSuchWebsiteConfiguration", BucketName=call.name)


def no_replication(call: Call) -> Response:
    raise S3Error("ReplicationConfigurationNotFoundError", BucketName=call.name)
