"""Locations: where an image's bits are, as its owner may see and say it.

Two ways in. Patches of ``/locations`` (only with the setting ``show_locations``) believe what they are told; the newer
POST to ``/images/{id}/locations`` has a task read the bits, judge them and hash them. Both take only addresses that
may be fetched from: the stores that the service keeps itself belong to nobody's pen.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from altostack.image import fetch
from altostack.image.image import Image, Status, load
from altostack.image.stores import Location, Stores, stores_of
from altostack.image.task import begin
from altostack.kit.body import convert
from altostack.kit.call import Call, Reply
from altostack.kit.errors import BadRequest, Conflict, Forbidden, NotFound, TooLarge
from altostack.kit.policy import SERVICE
from altostack.kit.route import Route

_HEX = re.compile(r"^[0-9a-fA-F]*$")


class Validation(msgspec.Struct, forbid_unknown_fields=True):
    """What the bits are said to hash to."""

    os_hash_algo: str | None = None
    os_hash_value: str | None = None
    checksum: str | None = None


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """A location as a patch gives it."""

    url: str
    metadata: dict[str, Any]
    validation_data: Validation | None = None


class NewLocation(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST."""

    url: str
    validation_data: Validation | None = None


def allowed_url(call: Call, url: str) -> str:
    """The store of an address that may be added, or BadRequest."""
    web = stores_of(call.runtime).web
    if web is None:
        raise Forbidden("This cloud has no store of type http: locations cannot be added.", field="url")
    try:
        fetch.check(url, call.runtime.settings.fetch)
    except fetch.Refused as trouble:
        raise BadRequest(str(trouble), field="url") from trouble
    return web


# ---- patches


def patch(call: Call, image: Image, op: str, where: str, value: Any) -> None:
    """One operation of a JSON patch on ``/locations`` (``where``: what follows it)."""
    call.require("delete_image_location" if op == "remove" else "set_image_location", image)
    if not call.runtime.settings.show_locations:
        raise Forbidden(
            "Locations may not be changed where they are not shown (setting show_locations).",
            field="locations",
        )
    allowed = (Status.ACTIVE,) if op == "remove" else (Status.ACTIVE, Status.QUEUED)
    if image.status not in allowed:
        raise Conflict(
            f"The locations of an image that is {image.status} may not be changed.", field="status"
        )
    known = [dict(one) for one in image.locations]
    if op == "add":
        _add(call, image, known, where, value)
    elif op == "replace":
        _replace(call, image, known, value)
    else:
        _remove(call, image, known, where)


def _add(call: Call, image: Image, known: list[Location], where: str, value: Any) -> None:
    given = convert(value, Given, at="locations")
    store = allowed_url(call, given.url)
    if any(one["url"] == given.url for one in known):
        raise BadRequest("The location is there already.", field="url")
    if len(known) >= call.runtime.settings.max_locations:
        raise TooLarge("The limit of image locations would be passed.", field="locations")
    position = _position(where, len(known) + 1)
    fresh = _validated(call, image, given.validation_data)
    known.insert(position, {"url": given.url, "metadata": {**given.metadata, "store": store}})
    _keep(image, known, fresh)


def _replace(call: Call, image: Image, known: list[Location], value: Any) -> None:
    given = convert(value, list[Given], at="locations")
    if not given:
        raise Forbidden("The locations may not be set to an empty list.", field="locations")
    urls = {one["url"]: one for one in known}
    if known:
        if sorted(one.url for one in given) != sorted(urls):
            raise BadRequest("Replacing may only change the metadata of locations.", field="locations")
        kept = [
            {"url": one.url, "metadata": {**one.metadata, "store": urls[one.url]["metadata"].get("store")}}
            for one in given
        ]
        _keep(image, kept, {})
        return
    for number, one in enumerate(given):
        _add(call, image, [dict(kept) for kept in image.locations], str(number), msgspec.to_builtins(one))


def _remove(call: Call, image: Image, known: list[Location], where: str) -> None:
    if len(known) <= 1:
        raise Forbidden("The last location of an image may not be removed.", field="locations")
    gone = known.pop(_position(where, len(known)))
    drop(call, image, known, gone)


def _position(where: str, places: int) -> int:
    position = places - 1 if where == "-" else int(where) if where.isascii() and where.isdigit() else -1
    if not 0 <= position < places:
        raise BadRequest(f"There is no position {where!r} among the locations.", field="path")
    return position


def _validated(call: Call, image: Image, given: Validation | None) -> dict[str, str]:
    """The hashes to set. Raises Conflict where they cannot be, or differ from what is known."""
    fresh = {}
    for name in ("checksum", "os_hash_algo", "os_hash_value"):
        value = getattr(given, name, None)
        known = getattr(image, name)
        if value is None or value == known:
            continue
        if known:
            raise Conflict(f"{name} is already set to a different value.", field=name)
        fresh[name] = value
    if not fresh:
        return {}
    if image.status != Status.QUEUED:
        raise Conflict("Hashes may only be given to an image that is queued.", field="validation_data")
    algorithm = call.runtime.settings.hash_algorithm
    if fresh.get("os_hash_algo") != algorithm:
        raise Conflict(f"os_hash_algo must be {algorithm}.", field="os_hash_algo")
    digits = hashlib.new(algorithm).digest_size * 2
    if not _HEX.match(fresh.get("os_hash_value", "x")) or len(fresh["os_hash_value"]) != digits:
        raise Conflict(f"os_hash_value must be {digits} hexadecimal digits.", field="os_hash_value")
    if "checksum" in fresh and (not _HEX.match(fresh["checksum"]) or len(fresh["checksum"]) != 32):
        raise Conflict("checksum must be 32 hexadecimal digits.", field="checksum")
    return fresh


def _keep(image: Image, known: list[Location], fresh: dict[str, str]) -> None:
    image.locations = known
    if image.status == Status.QUEUED:
        for name, value in fresh.items():
            setattr(image, name, value)
        image.status = Status.ACTIVE


def drop(call: Call, image: Image, left: list[Location], gone: Location) -> None:
    """Set the locations that are left, and forget the bits of the one that is gone once that is committed."""
    stores: Stores = stores_of(call.runtime)
    image.locations = left
    image.stored_bytes = (image.size or 0) * len(stores.kept_in(left))
    name, key = gone["metadata"].get("store"), image.id
    if name in stores.kept and name not in stores.kept_in(left):
        call.after(lambda: stores.kept[name].delete(key))


# ---- the routes


def add_location(call: Call) -> Reply:
    """POST /v2/images/{id}/locations: a task reads and judges the bits, then the image is active."""
    body: NewLocation = call.body
    image = load(call, "add_image_location", lock=True)
    if image.status != Status.QUEUED or image.task_id:
        raise Conflict(f"Locations may not be added to an image that is {image.status}.", field="status")
    if not image.disk_format or not image.container_format:
        raise BadRequest("disk_format and container_format must be set before.", field="disk_format")
    allowed_url(call, body.url)
    given = body.validation_data
    if given is not None and (given.os_hash_algo or given.os_hash_value):
        _check_hash(given)
    details = (
        None if given is None else {k: v for k, v in msgspec.to_builtins(given).items() if v is not None}
    )
    begin(
        call, image, "location_import",
        {"image_id": image.id, "loc_url": body.url, "validation_data": details or {}},
    )  # fmt: skip
    return Reply(status=202)


def _check_hash(given: Validation) -> None:
    algorithm, value = given.os_hash_algo, given.os_hash_value
    if not algorithm or not value:
        raise BadRequest("os_hash_algo and os_hash_value belong together.", field="validation_data")
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise BadRequest("os_hash_algo must be one of sha256, sha384, sha512.", field="os_hash_algo")
    digits = hashlib.new(algorithm).digest_size * 2
    if not _HEX.match(value) or len(value) != digits:
        raise BadRequest(f"os_hash_value must be {digits} hexadecimal digits.", field="os_hash_value")


def get_locations(call: Call) -> list[Location]:
    """GET /v2/images/{id}/locations."""
    return list(load(call, "fetch_image_location").locations)


def delete_from_store(call: Call) -> None:
    """DELETE /v2/stores/{store}/{image}: one copy of several."""
    image = load(call, "get_image_location", lock=True)
    call.require("delete_image_location", image)
    name = call.params["store_id"]
    if name not in call.runtime.settings.stores:
        raise Conflict(f"The selected store {name} is not available.", field="store_id")
    if image.status != Status.ACTIVE:
        raise Conflict(f"An image that is {image.status} may not lose a copy.", field="status")
    if image.task_id:
        raise Conflict("An import has the image in hand.", field="status")
    left = [one for one in image.locations if one["metadata"].get("store") != name]
    gone = [one for one in image.locations if one["metadata"].get("store") == name]
    if not gone:
        raise NotFound(f"Image {image.id} is not stored in store {name}.", field="store_id")
    if not left:
        raise Forbidden(
            "The only copy may not be deleted. Consider deleting the image instead.", field="store_id"
        )
    drop(call, image, left, gone[0])


_SET = "role:admin or role:service or (role:member and project_id:%(owner)s)"
ROUTES = (
    Route(
        method="POST",
        path="/images/{image_id}/locations",
        handler=add_location,
        policy="add_image_location",
        check=_SET,
        guard=False,
        body=NewLocation,
        status=202,
    ),
    Route(
        method="GET",
        path="/images/{image_id}/locations",
        handler=get_locations,
        policy="fetch_image_location",
        check=SERVICE,
        guard=False,
    ),
    Route(
        method="DELETE",
        path="/stores/{store_id}/{image_id}",
        handler=delete_from_store,
        policy="delete_image_location",
        check="role:admin",
        guard=False,
        status=204,
    ),
)
