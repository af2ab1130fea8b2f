"""What can go wrong, in S3's words (Amazon S3 API reference, Error responses)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from altostack.objectstore.http import Refusal, Response
from altostack.objectstore.s3 import xml

_MALFORMED = "The XML you provided was not well-formed or did not validate against our published schema."
CODES: Final[Mapping[str, tuple[int, str]]] = {
    "AccessDenied": (403, "Access Denied."),
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs."),
    "AuthorizationHeaderMalformed": (400, "The authorization header is malformed."),
    "AuthorizationQueryParametersError": (400, "The query's authorization parameters are malformed."),
    "BadDigest": (400, "The Content-MD5 or checksum that you sent is not that of what was received."),
    "BadRequest": (400, "The request is malformed."),
    "BucketAlreadyExists": (409, "The bucket's name is taken. Bucket names are shared by all users."),
    "BucketAlreadyOwnedByYou": (409, "You own the bucket already."),
    "BucketNotEmpty": (409, "The bucket is not empty."),
    "ConditionalRequestConflict": (409, "Somebody else changed the object at the same time."),
    "EntityTooLarge": (400, "What you uploaded is larger than an object or part may be."),
    "EntityTooSmall": (400, "What you uploaded is smaller than it may be."),
    "IllegalVersioningConfigurationException": (400, "The versioning configuration is invalid."),
    "IncompleteBody": (400, "The body is shorter than its Content-Length says."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The access key is not known."),
    "InvalidArgument": (400, "Invalid argument."),
    "InvalidBucketName": (400, "The bucket's name is not valid."),
    "InvalidBucketState": (409, "The bucket's state does not allow that."),
    "InvalidChunkSizeError": (403, "Only the last chunk may be smaller than 8192 bytes."),
    "InvalidDigest": (400, "The Content-MD5 is not the base 64 form of a digest."),
    "InvalidLocationConstraint": (400, "There is no such location."),
    "InvalidObjectState": (403, "The object's state does not allow that."),
    "InvalidPart": (400, "A part was not uploaded, or its ETag is another."),
    "InvalidPartNumber": (416, "The object has no such part."),
    "InvalidPartOrder": (400, "The parts are not in ascending order of their numbers."),
    "InvalidPolicyDocument": (400, "The form does not meet its policy's conditions."),
    "InvalidRange": (416, "The requested range is not satisfiable."),
    "InvalidRequest": (400, "Invalid request."),
    "InvalidStorageClass": (400, "There is no such storage class."),
    "InvalidTag": (400, "The tag is not valid."),
    "InvalidToken": (400, "The token is malformed or invalid."),
    "InvalidURI": (400, "The URI could not be understood."),
    "KeyTooLongError": (400, "The key is too long."),
    "MalformedACLError": (400, _MALFORMED),
    "MalformedPOSTRequest": (400, "The body is not well-formed multipart/form-data."),
    "MalformedPolicy": (400, "The policy is not well-formed."),
    "MalformedTrailerError": (400, "The request's trailers are malformed."),
    "MalformedXML": (400, _MALFORMED),
    "MaxMessageLengthExceeded": (400, "The request is too large."),
    "MaxPostPreDataLengthExceededError": (400, "The form's fields before the file are too large."),
    "MetadataTooLarge": (400, "The metadata is larger than it may be."),
    "MethodNotAllowed": (405, "The method is not allowed for this resource."),
    "MissingContentLength": (411, "A Content-Length is needed."),
    "MissingRequestBodyError": (400, "The request has no body."),
    "MissingSecurityHeader": (400, "A header that is needed is missing."),
    "NoSuchBucket": (404, "There is no such bucket."),
    "NoSuchBucketPolicy": (404, "The bucket has no policy."),
    "NoSuchCORSConfiguration": (404, "The bucket has no CORS configuration."),
    "NoSuchConfiguration": (404, "There is no such configuration."),
    "NoSuchKey": (404, "There is no such key."),
    "NoSuchLifecycleConfiguration": (404, "The bucket has no lifecycle configuration."),
    "NoSuchObjectLockConfiguration": (404, "The object has no lock configuration."),
    "NoSuchPublicAccessBlockConfiguration": (404, "The bucket has no public access block configuration."),
    "NoSuchTagSet": (404, "The bucket has no tags."),
    "NoSuchUpload": (404, "There is no such multipart upload: it may have been completed or aborted."),
    "NoSuchVersion": (404, "There is no such version."),
    "NoSuchWebsiteConfiguration": (404, "The bucket has no website configuration."),
    "NotImplemented": (501, "This is not implemented."),
    "NotModified": (304, "Not modified."),
    "ObjectLockConfigurationNotFoundError": (404, "The bucket has no object lock configuration."),
    "OperationAborted": (409, "A conflicting operation is in progress. Try again."),
    "OwnershipControlsNotFoundError": (404, "The bucket has no ownership controls."),
    "PreconditionFailed": (412, "A precondition that you gave does not hold."),
    "ReplicationConfigurationNotFoundError": (404, "The bucket has no replication configuration."),
    "RequestTimeTooSkewed": (403, "The request's time differs too much from ours."),
    "RequestTimeout": (400, "The body did not come within the time allowed."),
    "ServerSideEncryptionConfigurationNotFoundError": (404, "The bucket has no encryption configuration."),
    "ServiceUnavailable": (503, "The service is unavailable at the moment. Try again."),
    "SignatureDoesNotMatch": (403, "The signature is not the one that we calculated."),
    "SlowDown": (503, "Reduce your request rate."),
    "TooManyBuckets": (400, "You have as many buckets as you may have."),
    "UnexpectedContent": (400, "This request takes no content."),
    "XAmzContentSHA256Mismatch": (400, "The x-amz-content-sha256 is not that of what was received."),
}  # fmt: skip


class S3Error(Refusal):
    """The request ends with an error of S3's; ``code`` is one of `CODES`. ``details``: further elements of its body."""

    def __init__(
        self,
        code: str,
        message: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        status: int = 0,
        **details: str,
    ) -> None:
        usual, words = CODES[code]
        self.code, self.details = code, details
        super().__init__(status or usual, message or words, headers=headers, kind=code)


def denied(message: str = "") -> S3Error:
    """Access denied."""
    return S3Error("AccessDenied", message)


def invalid(name: str, value: str, message: str = "") -> S3Error:
    """An argument whose value means nothing."""
    return S3Error(
        "InvalidArgument", message, ArgumentName=name, ArgumentValue=value.encode("utf-8", "replace").decode()
    )


def render(error: S3Error, resource: str, request_id: str, *, head: bool = False) -> Response:
    """The error as S3 writes it. HEAD and 304 have no body."""
    headers = dict(error.headers)
    if head or error.status == 304:
        return Response(error.status, headers)
    parts: list[xml.Child] = [("Code", error.code), ("Message", error.message)]
    parts += list(error.details.items())
    parts += [("Resource", resource), ("RequestId", request_id)]
    return Response(
        error.status, headers | {"content-type": "application/xml"}, xml.write("Error", parts, plain=True)
    )
