"""An object store to try things on: its devices are folders, its proxy is a function call away.

`world(tmp_path)` is what `altostack.objectstore.compose` makes in production, with a pipeline of the test's choice and
without an identity service.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from altostack.objectstore import compose
from altostack.objectstore.config import Settings
from altostack.objectstore.http import Body, Bytes, Refusal, Request, Response
from altostack.objectstore.httpd.server import Server, listen
from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.stamp import Clock
from altostack.objectstore.store import Store


@dataclass
class World:
    """A store, and the shortest way to ask it things: ``world.put("/v1/a/c/o", b"...")``."""

    store: Store
    headers: dict[str, str] = field(default_factory=dict)  # sent with every request
    servers: list[Server] = field(default_factory=list)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Body = b"",
        *,
        query: Mapping[str, str] | None = None,
        remote: str = "127.0.0.1",
        **headers: str,
    ) -> Response:
        """The pipeline's answer; ``path`` is decoded, ``x_object_meta_color=...`` is a header."""
        sent = self.headers | {name.replace("_", "-").lower(): value for name, value in headers.items()}
        content = Bytes(body) if isinstance(body, bytes) else body
        if content.length is not None:
            sent.setdefault("content-length", str(content.length))
        elif "transfer-encoding" not in sent:
            sent["transfer-encoding"] = "chunked"
        request = Request(
            method, quote(path, safe="/~"), query_string=urlencode(query or {}), headers=sent, body=content,
            remote=remote, trans_id="tx-test",
        )  # fmt: skip
        assert self.store.app is not None
        try:
            return self.store.app(request)
        except Refusal as refusal:
            return refusal.response()

    def get(self, path: str, **more: Any) -> Response:
        return self.ask("GET", path, **more)

    def head(self, path: str, **more: Any) -> Response:
        return self.ask("HEAD", path, **more)

    def put(self, path: str, body: bytes | Body = b"", **more: Any) -> Response:
        return self.ask("PUT", path, body, **more)

    def post(self, path: str, body: bytes | Body = b"", **more: Any) -> Response:
        return self.ask("POST", path, body, **more)

    def delete(self, path: str, **more: Any) -> Response:
        return self.ask("DELETE", path, **more)

    def serve(self) -> str:
        """Listen on a free loopback port; the URL without a path."""
        listener = listen("127.0.0.1", 0)
        assert self.store.app is not None
        self.servers.append(Server(self.store.app, listener, threads=16).start())
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def close(self) -> None:
        for server in self.servers:
            server.stop(1.0)


def world(
    folder: Path,
    *,
    pipeline: str = "service",
    devices: int = 1,
    replicas: float = 1.0,
    zones: int = 1,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Mapping[str, str]] | None = None,
    nanoseconds: Any = None,
    **more: Any,
) -> World:
    """A store of ``devices`` folders d1, d2, ... in ``zones`` zones, all of this process.

    pipeline: names of filters of the project's paste file, ending with "service". options: filter -> its options in
    the paste file. settings: of [objectstore]. Further keywords go to `compose.open_store`. An erasure-coded policy
    gets a ring of as many replicas as it has fragments.
    """
    chosen = msgspec.convert(dict(settings or {}), Settings)
    rings = compose.rings_folder(folder)
    rings.mkdir(parents=True, exist_ok=True)
    names = {"account": replicas, "container": replicas}
    for policy in chosen.storage_policies():
        erasure = policy.erasure
        copies = replicas if erasure is None else float((erasure.data + erasure.parity) * erasure.duplication)
        names["object" if policy.index == 0 else f"object-{policy.index}"] = copies
    for name, copies in names.items():
        if (rings / f"{name}.ring").exists():
            continue
        builder = Builder.create(rings / f"{name}.builder", part_power=6, replicas=copies, min_part_hours=0.0)
        for number in range(1, devices + 1):
            builder.add(
                region=1, zone=1 + (number - 1) % zones, host="127.0.0.1", port=chosen.node_port,
                device=f"d{number}", weight=100.0,
            )  # fmt: skip
        builder.rebalance()
        builder.save()
    for number in range(1, devices + 1):
        (compose.devices_folder(folder, chosen) / f"d{number}").mkdir(parents=True, exist_ok=True)
    (folder / "paste.ini").write_text(_paste(pipeline, options or {}))
    clock = Clock(nanoseconds) if nanoseconds is not None else None
    return World(compose.open_store(folder, chosen, key=b"key of the tests", clock=clock, **more))


def _paste(pipeline: str, options: Mapping[str, Mapping[str, str]]) -> str:
    """The project's paste file with another pipeline and further options."""
    lines = []
    for line in compose.PASTE.read_text().splitlines():
        lines.append(line)
        if line.startswith("[filter:"):
            lines += [f"{name} = {value}" for name, value in options.get(line[8:-1], {}).items()]
    text = "\n".join(lines)
    head, _, rest = text.partition("[pipeline:objectstore]\npipeline = ")
    return f"{head}[pipeline:objectstore]\npipeline = {pipeline}\n{rest.partition(chr(10))[2]}\n"


def run_together(count: int, work: Any) -> None:
    """``work(number)`` in ``count`` threads at once; the first exception is raised again."""
    found: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as trouble:
            found.append(trouble)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if found:
        raise found[0]
