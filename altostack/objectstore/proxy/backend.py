"""What handlers of the pipeline and the proxy tell each other beside the object storage API. Clients never see this.

Headers of requests to the proxy (the gatekeeper takes them from clients):

- ``x-timestamp``: the change is to be dated so, for synchronisation and repair; else the store's clock dates it.
- ``x-backend-storage-policy-index``: an object of this policy, whatever the container's is.
- ``x-backend-etag-is-at``: names of metadata, comma between them; the first that the object has is the ETag that
  If-Match and If-None-Match are compared with. The ETag of the answer stays what is stored.
- ``x-backend-ignore-range-if-metadata-present``: names of metadata; an object that has one is answered whole.
- ``x-backend-open-expired``: "true" answers an object whose X-Delete-At has passed, and lets a POST change it.
- ``x-backend-container-update-override-{etag,size,content-type}`` (one request) and
  ``x-object-sysmeta-container-update-override-{etag,size,content-type}`` (kept): what the container's list says of the
  object instead of the truth. The kept one wins.
- ``x-if-delete-at``: a DELETE happens only if the object's X-Delete-At is this (412 otherwise).

Headers of answers: ``x-backend-timestamp`` (newest change), ``x-backend-data-timestamp`` (of an object's data),
``x-backend-storage-policy-index``, ``x-backend-fake-account-listing`` (the account is not there yet); a missing
object's ``x-backend-timestamp`` is its tombstone's. A POST's answer has the object's system metadata.

Facts of a request (``request.facts``):

- OWNER: True when `Request.authorize` found that the bearer owns the account: then owners' headers (ACLs, keys) are
  read and written. Requests without ``authorize`` are owners'.
- RESELLER: True for those who may create and delete accounts.
- FOOTERS: ``Callable[[dict[str, str]], None]``, called by an object's PUT when the whole body has been read and before
  anything is visible. It is handed the metadata about to be stored (lower-case names, with "etag" and
  "content-length" of the bytes that arrived here) and may add to it and change it. An "etag" that it changes is stored
  as given. A Refusal that it raises ends the PUT without a trace. Requests of our own do not inherit it: the proxy
  takes it from the request that it belongs to; whoever makes a `Request.sub` of a request with footers removes it.
"""

from __future__ import annotations

from typing import Final

from altostack.objectstore.http import Request

OWNER: Final = "owner"
RESELLER: Final = "reseller"
FOOTERS: Final = "footers"

ETAG_IS_AT: Final = "x-backend-etag-is-at"
IGNORE_RANGE: Final = "x-backend-ignore-range-if-metadata-present"
OPEN_EXPIRED: Final = "x-backend-open-expired"
POLICY: Final = "x-backend-storage-policy-index"
TIMESTAMP: Final = "x-backend-timestamp"
DATA_TIMESTAMP: Final = "x-backend-data-timestamp"
FAKE_ACCOUNT: Final = "x-backend-fake-account-listing"
OVERRIDE: Final = "x-backend-container-update-override-"
KEPT_OVERRIDE: Final = "x-object-sysmeta-container-update-override-"

OWNERS_HEADERS: Final = frozenset(
    {
        "x-container-read",
        "x-container-write",
        "x-container-sync-key",
        "x-container-sync-to",
        "x-account-meta-temp-url-key",
        "x-account-meta-temp-url-key-2",
        "x-container-meta-temp-url-key",
        "x-container-meta-temp-url-key-2",
        "x-account-access-control",
    }
)


def owner(request: Request) -> bool:
    """Whether the request may see and set what belongs to the account's owner alone."""
    return request.authorize is None or bool(request.facts.get(OWNER))


def true(value: str) -> bool:
    """Whether a header's or parameter's value says yes."""
    return value.lower() in ("true", "1", "yes", "on", "t", "y")
