"""Objects, their metadata and their ETags encrypted at rest.

Each object has a random key of its own, which is stored wrapped with a key that `keymaster` gives for the object's
path. An ETag is stored encrypted, and beside it as a MAC, which conditions are compared with; so is what else tells of
the content (`_TELLING`). ETags in lists are encrypted with the container's key. Not encrypted are names, sizes, content
types and other system metadata.

The filter stands next to the disks: all others see plain objects. Without a root secret nothing is encrypted, and
what is encrypted cannot be read.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

from altostack.objectstore.http import Content, Handler, Place, Refusal, Request, Response, ask
from altostack.objectstore.middleware import cipher
from altostack.objectstore.middleware.barbican import KeyManagerError
from altostack.objectstore.middleware.keymaster import PATIENCE, KeyMaster, UnknownSecret, key_master
from altostack.objectstore.middleware.options import Wrap, flag, store_of
from altostack.objectstore.middleware.shape import (
    EMPTY_ETAG,
    ETAG_IS_AT,
    LISTED_ETAG,
    SLO_ETAG,
    WHOLE_IF,
    again,
    also,
    bare,
    sliced,
    unconditional,
)
from altostack.objectstore.middleware.symlink import SYS_ETAG
from altostack.objectstore.proxy.backend import FOOTERS, OVERRIDE
from altostack.objectstore.proxy.limits import check_length, check_metadata
from altostack.objectstore.store import Store

log = logging.getLogger(__name__)
BODY: Final = "x-object-sysmeta-crypto-body-meta"
ETAG: Final = "x-object-sysmeta-crypto-etag"
MAC: Final = "x-object-sysmeta-crypto-etag-mac"
META: Final = "x-object-transient-sysmeta-crypto-meta"
_META: Final = META + "-"
SLO_MAC: Final = "x-object-sysmeta-crypto-slo-etag-mac"
_USER: Final = "x-object-meta-"
_TELLING: Final = (  # beginnings of names of system metadata
    SLO_ETAG,
    SYS_ETAG,
    "x-object-sysmeta-s3api-etag",
    "x-object-sysmeta-s3api-checksum-",
    "x-object-transient-sysmeta-s3api-tag",
)
_LATER: Final = {"retry-after": f"{PATIENCE:.0f}"}
UNKNOWN: Final = "<unknown>"  # an ETag in a list whose secret is not there


def factory(conf: dict[str, Any], **local: str) -> Wrap:
    """The options of `keymaster.key_master`; disable_encryption (no): what is written from now on is not encrypted,
    what is encrypted can be read. Raises ValueError."""
    store = store_of(conf)
    keys = key_master(local, store.folder)
    wrap: Wrap = Unkeyed
    if keys is not None:
        disabled = flag(local.get("disable_encryption", "no"))
        store.facts["encryption"] = {"enabled": not disabled}
        wrap = partial(Encryption, store=store, keys=keys, disabled=disabled)
    store.handlers["encryption"] = wrap
    return wrap


def reader(store: Store, app: Handler) -> Handler:
    """``app`` for daemons of ours: what it reads is plain. Where the pipeline is not, nothing can be decrypted."""
    wrap: Wrap = store.handlers.get("encryption", Unkeyed)  # type: ignore[assignment] # left by `factory`
    return wrap(app)


class Unkeyed:
    """Stands where no secret is configured: refuses to hand out what only a secret could make readable."""

    def __init__(self, app: Handler) -> None:
        self._app = app

    def __call__(self, request: Request) -> Response:
        response = self._app(request)
        if BODY in response.headers:
            response.close()
            log.error("%s is encrypted, and no root secret is configured", request.path)
            raise Refusal(500, "Unable to retrieve encryption keys.")
        return response


class Encryption:
    """The filter."""

    def __init__(self, app: Handler, *, store: Store, keys: KeyMaster, disabled: bool = False) -> None:
        self._app, self._store, self._keys, self._disabled = app, store, keys, disabled

    def __call__(self, request: Request) -> Response:
        place = request.place
        if place is None or place.container is None:
            return self._app(request)
        method = request.method
        try:
            if place.object is None:
                return self._list(request) if method == "GET" else self._app(request)
            if method in ("GET", "HEAD"):
                return self._read(request, place)
            if method == "PUT" and not self._disabled:
                return self._put(request, place)
            if method == "POST":
                return self._post(request, place)
            if method == "DELETE" and "if-match" in request.headers:
                asked = self._masked(request.headers, _path(place))
                return self._app(request if asked is None else again(request, headers=asked))
        except UnknownSecret as error:
            log.error("%s: %s", request.path, error)
            raise Refusal(500, "Unable to retrieve encryption keys.") from None
        except KeyManagerError:
            raise Refusal(503, "The key manager does not give the keys.", headers=_LATER) from None
        except cipher.Unreadable as error:
            log.error("%s: %s", request.path, error)
            raise Refusal(500, "Error decrypting object") from None
        return self._app(request)

    # ---- keys

    def _id(self, path: str) -> cipher.KeyId:
        """What is stored to find the key again."""
        return cipher.KeyId(path=path, secret=self._keys.active)

    def _key(self, path: str) -> bytes:
        return self._keys.key(path, self._keys.active)

    def _named(self, id: cipher.KeyId | None, fallback: str, *, container: bool = False) -> bytes:
        """The key that a stored id names; of the container when it names an object's."""
        if id is None:
            return self._key(fallback)
        if id.version != 1:
            raise cipher.Unreadable(f"keys of version {id.version} are not known here")
        path = "/".join(id.path.split("/", 3)[:3]) if container else id.path
        return self._keys.key(path, id.secret)

    # ---- writing

    def _put(self, request: Request, place: Place) -> Response:
        check_length(request, self._store.settings.max_object_size)
        path = _path(place)
        key, list_key = self._key(path), self._key(_container_path(place))
        id = self._id(path)
        headers = self._sealed_metadata(request, key, id)
        if "if-match" in headers:
            headers |= self._masked(headers, path) or {}
        data_key = cipher.new_key()
        meta = cipher.new_meta(id, cipher.wrap(key, data_key))
        body = cipher.Encrypting(request.body, data_key, meta.iv)
        wanted = headers.pop("etag", None)
        listed = headers.pop(LISTED_ETAG, None) or headers.pop(OVERRIDE + "etag", None)
        outer = request.facts.get(FOOTERS)
        plain = ""

        def footers(metadata: dict[str, str]) -> None:
            nonlocal plain
            total = metadata["etag"] if body.sum is None else body.sum.hexdigest()
            if wanted is not None and bare(wanted).lower() != total:
                raise Refusal(422)
            stored, metadata["etag"] = metadata["etag"], total
            if listed is not None:
                metadata[LISTED_ETAG] = listed
            if outer is not None:
                outer(metadata)
            _seal_telling(metadata, key, id)
            plain = metadata["etag"]
            shown = metadata.get(LISTED_ETAG, plain)
            if body.sum is not None:
                metadata["etag"] = stored
                metadata[ETAG] = cipher.seal(plain, key)
                metadata[MAC] = cipher.etag_mac(key, plain)
                metadata[BODY] = cipher.dump(meta)
            if shown and (body.sum is not None or shown != EMPTY_ETAG):
                metadata[LISTED_ETAG] = cipher.seal(shown, list_key, id)

        made = again(request, headers=headers, body=body)
        made.facts = request.facts | {FOOTERS: footers}
        response = self._app(made)
        if plain and response.status == 201:
            response.headers["etag"] = plain
        return response

    def _post(self, request: Request, place: Place) -> Response:
        if not self._disabled:
            path = _path(place)
            headers = self._sealed_metadata(request, self._key(path), self._id(path))
            request = again(request, headers=headers)
        response = self._app(request)
        self._show(response.headers, _path(place), request.authorize is None)
        return response

    def _sealed_metadata(self, request: Request, key: bytes, id: cipher.KeyId) -> dict[str, str]:
        """The request's headers with the client's metadata encrypted. Raises Refusal for metadata over the limits."""
        check_metadata(request.headers, "object", self._store.settings)
        headers = {}
        sealed = False
        for name, value in request.headers.items():
            if name.startswith(_USER) and value:
                headers[_META + name[len(_USER) :]] = cipher.seal(value, key)
                sealed = True
            else:
                headers[name] = value
        if sealed:
            headers[META] = cipher.dump(cipher.new_meta(id))
        _seal_telling(headers, key, id)
        return headers

    # ---- reading

    def _read(self, request: Request, place: Place) -> Response:
        path, headers = _path(place), request.headers
        asked = self._masked(headers, path)
        said = headers.get("range", "")
        if "," in said and request.method == "GET":
            return self._read_many(request, path)
        response = self._app(request if asked is None else again(request, headers=asked))
        try:
            self._decrypt(request, response, path)
        except BaseException:
            response.close()
            raise
        return response

    def _masked(self, headers: dict[str, str], path: str) -> dict[str, str] | None:
        """The headers with the MACs of the ETags that they name, None when they name none."""
        found: dict[str, str] = {}
        for name in ("if-match", "if-none-match"):
            value = headers.get(name)
            if value is None or value.strip() == "*":
                continue
            etags = [value]
            for etag in map(bare, value.split(",")):
                etags += [f'"{cipher.etag_mac(self._keys.key(path, id), etag)}"' for id in self._keys.ids]
            found[name] = ", ".join(etags)
        since = headers.get("if-range")
        if since is not None and '"' in since and not since.startswith("W/"):
            found["if-range"] = f'"{cipher.etag_mac(self._key(path), bare(since))}"'
        if not found:
            return None
        held = headers.get(ETAG_IS_AT)
        if held is not None and SLO_ETAG in held:
            held = held.replace(SLO_ETAG, f"{SLO_MAC},{SLO_ETAG}")
        return headers | found | {ETAG_IS_AT: also(held, MAC)}

    def _decrypt(self, request: Request, response: Response, path: str) -> None:
        headers = response.headers
        meta = self._show(headers, path, request.authorize is None)
        if meta is None or response.status not in (200, 206) or request.method == "HEAD":
            return
        key = cipher.unwrap(self._named(meta.key_id, path), meta)
        first = 0
        if response.status == 206:
            first = int(headers["content-range"].removeprefix("bytes ").partition("-")[0])
        body = response.body
        if isinstance(body, bytes):
            response.body = cipher.cipher(key, meta.iv, first).update(body)
        else:
            length = response.length
            if length is not None:
                headers["content-length"] = str(length)
            response.body = cipher.Decrypting(body, key, meta.iv, first)

    def _show(self, headers: dict[str, str], path: str, ours: bool) -> cipher.Meta | None:
        """Make headers what the client knows; how the data is encrypted, None when it is not.

        ours: the request is one of our own, which may want to know what lists say of the object.
        """
        said = headers.pop(BODY, None)
        meta = None if said is None else cipher.load(said)
        headers.pop(MAC, None)
        headers.pop(SLO_MAC, None)
        for name, value in headers.items():
            if name.startswith(_TELLING) and (found := cipher.split(value)) is not None:
                headers[name] = cipher.opened(*found, self._named(found[1].key_id, path))
        sealed_etag = headers.pop(ETAG, None)
        if meta is not None and sealed_etag is not None and (found := cipher.split(sealed_etag)) is not None:
            headers["etag"] = cipher.opened(*found, self._named(meta.key_id, path))
        listed = headers.get(LISTED_ETAG)
        if listed is not None and not ours:
            del headers[LISTED_ETAG]
        elif listed is not None and (found := cipher.split(listed)) is not None:
            headers[LISTED_ETAG] = cipher.opened(*found, self._named(found[1].key_id, path, container=True))
        common = headers.pop(META, None)
        if common is None:
            return meta
        key = self._named(cipher.load(common).key_id, path)
        for name in [name for name in headers if name.startswith(_META)]:
            value = headers.pop(name)
            found = cipher.split(value)
            headers[_USER + name[len(_META) :]] = value if found is None else cipher.opened(*found, key)
        return meta

    def _read_many(self, request: Request, path: str) -> Response:
        """Several ranges: each is fetched and decrypted by itself."""
        head = ask(self, again(request, method="HEAD", body=b""))
        whole_if = request.headers.get(WHOLE_IF, "")
        if not head.good or any(name.strip() in head.headers for name in whole_if.split(",") if name):
            plain = {k: v for k, v in request.headers.items() if k not in ("range", "if-range")}
            return self(again(request, headers=plain))
        etag = bare(head.headers["etag"])

        def opened(first: int, last: int) -> Content:
            wanted = unconditional(request.headers) | {
                "range": f"bytes={first}-{last}",
                "if-match": f'"{etag}"',
            }
            response = ask(self, again(request, headers=wanted))
            if response.status != 206:
                response.close()
                raise Refusal(503)  # it was replaced in between
            return response.body

        return sliced(request, head.headers, int(head.headers["content-length"]), opened, etag=etag)

    # ---- listings

    def _list(self, request: Request) -> Response:
        response = self._app(request)
        place = request.place
        assert place is not None
        path = _container_path(place)
        for entry in response.entries or ():
            listed = entry.get("hash")
            if not listed or "swift_meta=" not in listed:
                continue
            try:
                found = cipher.split(listed)
                if found is not None:
                    key = self._named(found[1].key_id, path, container=True)
                    entry["hash"] = cipher.opened(*found, key)
            except (UnknownSecret, cipher.Unreadable) as error:
                log.error("%s/%s: %s", path, entry.get("name"), error)
                entry["hash"] = UNKNOWN
            except KeyManagerError:
                response.close()
                raise
        return response


def _seal_telling(headers: dict[str, str], key: bytes, id: cipher.KeyId) -> None:
    """Encrypt the system metadata that tells of the content, unless that is done."""
    for name in [name for name in headers if name.startswith(_TELLING)]:
        value = headers[name]
        if value and cipher.split(value) is None:
            headers[name] = cipher.seal(value, key, id)
            if name == SLO_ETAG:
                headers[SLO_MAC] = cipher.etag_mac(key, value)


def _path(place: Place) -> str:
    return f"/{place.account}/{place.container}/{place.object}"


def _container_path(place: Place) -> str:
    return f"/{place.account}/{place.container}"
