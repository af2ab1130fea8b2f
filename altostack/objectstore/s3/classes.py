"""Storage classes: other storage policies than the bucket's own.

``STANDARD`` is the bucket's policy. Any other class is the name or an alias of a policy; the first alias is
what is shown, so that a policy can be called what S3's clients know (GLACIER). The data of such an object
lies in a container of that policy beside the bucket (``bucket+policy``), the bucket holds a static link to it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from altostack.objectstore.http import Body, Response
from altostack.objectstore.middleware import symlink
from altostack.objectstore.middleware.shape import bare, parameters
from altostack.objectstore.s3.call import SEGMENTS, Call
from altostack.objectstore.s3.errors import S3Error
from altostack.objectstore.storage import StoragePolicy

STANDARD: Final = "STANDARD"
CLASS: Final = "x-object-sysmeta-s3api-class"
_NOT_OF_LINKS: Final = ("etag", "content-length", "if-none-match")
Footers = Callable[[dict[str, str]], None]


def policy_of(call: Call, name: str) -> StoragePolicy | None:
    """The policy of a storage class, None for the bucket's own. Raises S3Error InvalidStorageClass."""
    if not name or name.upper() == STANDARD:
        return None
    found = call.store.policy_named(name)
    if found is None or found.deprecated:
        raise S3Error("InvalidStorageClass")
    return None if found.index == (call.info.policy or 0) else found


def name_of(policy: StoragePolicy) -> str:
    """The class as it is shown."""
    return (policy.aliases[0] if policy.aliases else policy.name).upper()


def container(call: Call, policy: StoragePolicy) -> str:
    """The container beside the bucket that has this policy; it is made if need be."""
    name = f"{call.name}+{policy.name}"
    if call.find(name) is None:
        call.must(call.swift("PUT", name, headers={"x-storage-policy": policy.name}))
    return name


def parts_container(call: Call, policy: StoragePolicy | None) -> str:
    """The container for parts of multipart uploads; it is made if need be, with the bucket's own policy by default."""
    if policy is not None:
        return container(call, policy)
    name = call.name + SEGMENTS
    if call.find(name) is None:
        own = call.store.policy(call.info.policy or 0)
        call.must(call.swift("PUT", name, headers={"x-storage-policy": own.name}))
    return name


@dataclass(frozen=True)
class Linked:
    """An object whose data lies elsewhere."""

    call: Call
    container: str
    name: str
    shown: str  # the class

    def put(self, given: Mapping[str, str], content: Body, footers: Footers | None) -> Response:
        """Store the data, then the link to it. What no link leads to does not stay."""
        call = self.call
        data = {name: value for name, value in given.items() if name != "if-none-match"}
        data[CLASS] = self.shown
        stored = call.must(
            call.swift("PUT", self.container, self.name, headers=data, body=content, footers=footers)
        )
        headers = link_headers(given, self.container, self.name, bare(stored.headers["etag"]))
        headers[CLASS] = self.shown
        response = call.swift("PUT", call.name, call.object, headers=headers)
        if not response.good:
            call.swift("DELETE", self.container, self.name)
            raise call.trouble(response)
        response.headers["etag"] = stored.headers["etag"]
        return response


def link_headers(given: Mapping[str, str], container: str, name: str, etag: str) -> dict[str, str]:
    """The headers of a PUT that makes a link to an object."""
    headers = {key: value for key, value in given.items() if key not in _NOT_OF_LINKS}
    headers[symlink.TARGET] = quote(f"{container}/{name}")
    headers[symlink.TARGET_ETAG] = etag
    if "if-none-match" in given:
        headers["if-none-match"] = given["if-none-match"]
    return headers


def fresh_name(call: Call) -> str:
    """A name for data of the object, that nothing else has."""
    return f"{call.object}/{uuid.uuid4().hex}"


def target(call: Call, given: Mapping[str, str]) -> tuple[str, Linked | None]:
    """(container, None) for an object of the bucket's own policy, else where its data goes. Raises S3Error."""
    name = call.header("x-amz-storage-class")
    policy = policy_of(call, name)
    if policy is None:
        return call.name, None
    beside = container(call, policy)
    return call.name, Linked(call, beside, fresh_name(call), name_of(policy))


def shown(call: Call, headers: Mapping[str, str]) -> dict[str, str]:
    """The header that tells an object's class, from Swift's answer; nothing for STANDARD."""
    found = headers.get(CLASS)
    return {"x-amz-storage-class": found} if found else {}


def listed(call: Call, entry: Mapping[str, object]) -> str:
    """The class of an object in a listing of the call's bucket."""
    listed_hash = entry.get("hash")
    if isinstance(listed_hash, str) and "s3_class=" in listed_hash:
        return parameters(listed_hash)[1]["s3_class"]
    path = entry.get("symlink_path")
    if not isinstance(path, str) or entry.get("version_symlink"):
        return STANDARD
    parts = unquote(path).split("/", 4)
    beside = f"{call.name}+"
    if len(parts) != 5 or not parts[3].startswith(beside):
        return STANDARD
    policy = call.store.policy_named(parts[3].removeprefix(beside))
    return name_of(policy) if policy is not None else STANDARD


def follow(call: Call, response: Response, headers: Mapping[str, str]) -> Response:
    """Change what a link leads to: the link itself said where that is."""
    location = unquote(response.headers.get("location", "")).split("?", 1)[0]
    response.close()
    parts = location.split("/", 4)
    if len(parts) != 5 or parts[2] != call.account or not parts[3].startswith(f"{call.name}+"):
        raise S3Error("InvalidObjectState", "The object is a link to another one.")
    return call.swift("POST", parts[3], parts[4], headers=headers)
