"""A storage node's side of what nodes say to each other (`wire`): the handler of its HTTP server."""

from __future__ import annotations

import inspect
import logging
import secrets
import threading
import time
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgspec

from altostack.objectstore.disk import wire
from altostack.objectstore.disk.local import LocalNode
from altostack.objectstore.disk.objects import Opened
from altostack.objectstore.http import Body, ClientGone, Handler, Refusal, Request, Response
from altostack.objectstore.storage import Query, Spot, StorageError, Subdir

log = logging.getLogger(__name__)

_METHODS: Final = ("update", "delete", "commit", "create", "info", "change", "destroy", "record")
_LARGEST_CALL: Final = 64 << 20  # bytes of arguments
_HELD: Final = 256  # objects that are held open for others
_PATIENCE: Final = 10.0  # seconds


def handler(node: LocalNode, *, key: bytes, more: Mapping[str, Callable[..., Any]] | None = None) -> Handler:
    """Answers what other nodes ask of ``node``.

    key: the cluster's; requests that are not signed with it are refused. more: further calls by name; their
    parameters' annotations say how arguments are decoded (msgspec), their results are encoded as msgpack.
    """
    calls = {name: _Callable(getattr(node, name)) for name in _METHODS}
    held = _Held()
    calls["list"] = _Callable(_listed(node))
    calls |= {name: _Callable(function) for name, function in (more or {}).items()}

    def answer(request: Request) -> Response:
        arguments = request.header(wire.ARGUMENTS)
        body = b""
        if request.method == "POST":
            if request.body.length is None or request.body.length > _LARGEST_CALL:
                raise Refusal(413)
            body = request.body.read()
        said = request.header("authorization")
        trouble = wire.check(key, said, request.method, request.target, arguments, body)
        if trouble:
            log.warning("%s: a request to %s is refused: %s", request.remote, request.target, trouble)
            raise Refusal(401, f"The request is refused: {trouble}.")
        try:
            if request.method == "POST" and request.path.startswith("/call/"):
                call = calls.get(request.path[6:])
                if call is None:
                    raise ValueError(f"the node knows no call {request.path[6:]!r}")
                return _packed(call(body))
            if request.path == "/object" and request.method == "GET":
                return _read(node, held, wire.unpacked(arguments, wire.ReadArguments))
            if request.path == "/object" and request.method == "PUT":
                return _write(node, wire.unpacked(arguments, wire.WriteArguments), request.body)
        except (StorageError, ValueError) as error:
            return Response(wire.FAILED, {}, wire.encode(wire.problem(error)))
        raise Refusal(404)

    return answer


def _packed(value: Any) -> Response:
    return Response(200, {"content-type": "application/msgpack"}, wire.encode(value))


def _listed(node: LocalNode) -> Callable[..., list[Any]]:
    def names(spot: Spot, account: str, container: str | None, query: Query) -> list[Any]:
        found = node.list(spot, account, container, query)
        return [one.name if isinstance(one, Subdir) else one for one in found]

    return names


class _Callable:
    """A function and how its arguments are decoded."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        hints = get_type_hints(function)
        parameters = inspect.signature(function).parameters
        self._names = list(parameters)
        self._needed = {name for name, one in parameters.items() if one.default is one.empty}
        self._decoders = {name: msgspec.msgpack.Decoder(_concrete(hints[name])) for name in parameters}

    def __call__(self, body: bytes) -> Any:
        """Raises ValueError for arguments that do not fit, and what the function raises."""
        given = wire.decode(body, type=wire.Call)
        raw = dict(zip(self._names, given.places, strict=False)) | given.names
        if len(given.places) > len(self._names) or not self._needed <= raw.keys() <= self._decoders.keys():
            raise ValueError(f"the call's arguments are {', '.join(self._names)}")
        return self._function(**{name: self._decoders[name].decode(value) for name, value in raw.items()})


def _concrete(hint: Any) -> Any:
    """An annotation as msgspec decodes it: what may come in any iterable comes in a list."""
    return types.GenericAlias(list, get_args(hint)) if get_origin(hint) is Iterable else hint


class _Held:
    """Objects that were asked for and are held open until somebody asks for their content, or for `_PATIENCE`."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, tuple[float, Opened]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, found: Opened) -> str:
        """The token to ask with."""
        token = secrets.token_hex(8)
        now = time.monotonic()
        old = []
        with self._lock:
            self._open[token] = (now + _PATIENCE, found)
            while len(self._open) > _HELD or next(iter(self._open.values()))[0] < now:
                old.append(self._open.popitem(last=False)[1][1])
        for one in old:
            one.close()
        return token

    def take(self, token: str) -> Opened | None:
        """None when nobody knows it any longer."""
        with self._lock:
            return self._open.pop(token, (0.0, None))[1]


def _read(node: LocalNode, held: _Held, asked: wire.ReadArguments) -> Response:
    if asked.part is None:
        found = node.read(asked.spot, frag=asked.frag, timestamp=asked.timestamp)
        small = found.length <= wire.SMALL
        told = wire.Told(
            found.timestamp, found.changed, dict(found.own),
            None if found.posted is None else dict(found.posted),
            found.length, found.frag, found.durable, "" if small else held.add(found),
        )  # fmt: skip
        body = b"".join(found.content()) if small else b""
        return Response(200, {wire.STORED: wire.packed(told)}, body)
    found = held.take(asked.token) or node.read(asked.spot, frag=asked.frag, timestamp=asked.timestamp)
    start, stop = asked.part
    if not 0 <= start <= stop <= found.length:
        found.close()
        raise ValueError("there are no such bytes")
    return Response(200, {"content-length": str(stop - start)}, found.content(start, stop))


def _write(node: LocalNode, asked: wire.WriteArguments, body: Body) -> Response:
    writer = node.write(asked.spot, asked.timestamp, size=asked.size, frag=asked.frag, absent=asked.absent)
    try:
        while size := int.from_bytes(_exactly(body, 4), "big"):
            while size:
                piece = body.read(min(size, 1 << 20))
                if not piece:
                    raise ClientGone("the content ended early")
                writer.write(piece)
                size -= len(piece)
        put = wire.decode(body.read(), type=wire.Put)
        writer.put(put.metadata, put.updates)
    finally:
        writer.abort()
    return _packed(None)


def _exactly(body: Body, size: int) -> bytes:
    found = body.read(size)
    if len(found) < size:
        raise ClientGone("the content ended early")
    return found
