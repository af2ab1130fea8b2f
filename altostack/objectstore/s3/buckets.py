"""Whose bucket is that? Names of buckets are shared by all accounts: whoever makes one first has it.

The owner of each is an object named after it in a hidden account; so a bucket can be found without a signature, and
by somebody of another account whom its policy lets in. Containers that Swift's users make get such an entry when they
are shared by S3; until then only their accounts reach them by S3. A second list names every bucket that daemons have to
look after.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from altostack.objectstore.http import Refusal, Request, Response
from altostack.objectstore.s3.call import allowed
from altostack.objectstore.s3.errors import S3Error

if TYPE_CHECKING:
    from altostack.objectstore.s3.call import Gate

ACCOUNT: Final = ".s3"
CONTAINER: Final = "buckets"
WATCHED: Final = "watched"  # objects named account/bucket
OWNER: Final = "x-object-sysmeta-s3api-owner"
_AGE: Final = 5.0  # seconds; changes by other machines are seen after that
_SIZE: Final = 20_000


class Buckets:
    """The register."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held: dict[str, tuple[int, float, str]] = {}

    def owner(self, name: str) -> str:
        """The account whose bucket it is, "" for a name that nobody has."""
        epoch, now = self._gate.store.epoch.read(), time.monotonic()
        held = self._held.get(name)
        if held is not None and held[0] == epoch and now < held[1]:
            return held[2]
        response = self._ask("HEAD", name)
        if not response.good and response.status != 404:
            raise S3Error("ServiceUnavailable")
        found = response.headers.get(OWNER, "") if response.good else ""
        if found:
            info = self._gate.store.known.container(found, name)
            if info is None or info.gone:
                found = ""  # deleted by Swift: the name is free
        if len(self._held) >= _SIZE:
            self._held.clear()
        self._held[name] = (epoch, now + _AGE, found)
        return found

    def claim(self, name: str, account: str) -> str:
        """Register a bucket that is about to be made; the account that has it then."""
        headers = {"content-length": "0", "if-none-match": "*", OWNER: account}
        response = self._ask("PUT", name, headers)
        if response.status == 404:
            self._ask("PUT", None)
            response = self._ask("PUT", name, headers)
        if response.status == 412:
            taken = self._fresh(name)
            if taken:
                return taken
            del headers["if-none-match"]  # its bucket is gone
            response = self._ask("PUT", name, headers)
        if not response.good:
            raise S3Error("ServiceUnavailable")
        self._held.pop(name, None)
        return account

    def share(self, name: str, account: str) -> None:
        """Others are to find the bucket. Raises S3Error when they would find another account's."""
        owner = self.owner(name) or self.claim(name, account)
        if owner != account:
            raise S3Error(
                "BucketAlreadyExists",
                "Others would find another account's bucket of this name.",
                BucketName=name,
            )

    def _fresh(self, name: str) -> str:
        self._held.pop(name, None)
        return self.owner(name)

    def release(self, name: str, account: str) -> None:
        """The bucket is deleted."""
        if self._fresh(name) in ("", account):
            held = self._ask("HEAD", name)
            if held.good and held.headers.get(OWNER) == account:
                self._ask("DELETE", name)
        self._held.pop(name, None)

    def watch(self, account: str, name: str) -> None:
        """The bucket has something for daemons to do. Raises S3Error."""
        headers = {"content-length": "0"}
        response = self._send("PUT", WATCHED, f"{account}/{name}", headers)
        if response.status == 404:
            self._send("PUT", WATCHED)
            response = self._send("PUT", WATCHED, f"{account}/{name}", headers)
        if not response.good:
            raise S3Error("ServiceUnavailable")

    def unwatch(self, account: str, name: str) -> None:
        """The bucket is gone."""
        self._send("DELETE", WATCHED, f"{account}/{name}")

    def watched(self, page: int = 1000) -> Iterator[tuple[str, str]]:
        """(account, bucket) of all that are watched."""
        last = ""
        while True:
            query = {"format": "json", "limit": str(page)} | ({"marker": last} if last else {})
            entries = self._send("GET", WATCHED, query=urlencode(query)).entries or []
            for entry in entries:
                account, _, name = entry["name"].rpartition("/")
                yield account, name
            if len(entries) < page:
                return
            last = entries[-1]["name"]

    def _ask(self, method: str, name: str | None, headers: dict[str, str] | None = None) -> Response:
        return self._send(method, CONTAINER, name, headers)

    def _send(
        self,
        method: str,
        container: str,
        name: str | None = None,
        headers: dict[str, str] | None = None,
        query: str = "",
    ) -> Response:
        path = f"/v1/{ACCOUNT}/{container}" + (f"/{quote(name)}" if name is not None else "")
        request = Request(method, path, headers=headers, query_string=query)
        request.authorize = allowed
        request.facts["s3"] = True
        try:
            response = self._gate.app(request)
        except Refusal as refusal:
            response = refusal.response()
        response.close()
        return response
