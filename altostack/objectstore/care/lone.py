"""A storage node by itself: a folder with rings, the cluster's key, devices, and [objectstore] in altostack.toml.

`bundle` writes what a new node's folder needs, `unpack` makes the folder of it, `serve` runs the node.
"""

from __future__ import annotations

import difflib
import io
import os
import tarfile
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from altostack.objectstore import compose
from altostack.objectstore.care import key as keys
from altostack.objectstore.care import rings
from altostack.objectstore.config import Settings
from altostack.objectstore.httpd.server import listen
from altostack.objectstore.stamp import Clock
from altostack.objectstore.store import Store

SETTINGS: Final = "altostack.toml"
_LARGEST: Final = 1 << 30  # bytes of a file in a bundle


class Unusable(Exception):
    """The folder or the bundle cannot be used; the message says why."""


def load_settings(folder: Path) -> Settings:
    """[objectstore] of the folder's altostack.toml; what other sections say is for others. Raises Unusable."""
    path = folder / SETTINGS
    try:
        table = tomllib.loads(path.read_text()).get("objectstore", {})
    except FileNotFoundError:
        table = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise Unusable(f"{path}: {error}") from None
    try:
        return msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        wrong = str(error).partition("unknown field `")[2].partition("`")[0]
        near = difflib.get_close_matches(wrong, Settings.__struct_fields__, n=1) if wrong else []
        raise Unusable(
            f"{path}: [objectstore]: {error}{f'; did you mean {near[0]!r}?' if near else ''}"
        ) from None


def open_node(folder: Path, settings: Settings | None = None, *, clock: Clock | None = None) -> Store:
    """The store of the folder, without a pipeline. Raises Unusable."""
    settings = settings or load_settings(folder)
    try:
        key = keys.read_key(keys.path_of(folder))
    except (OSError, ValueError) as error:
        raise Unusable(
            f"the cluster's key cannot be read: {error}; `altostack object bundle` on a machine of the cluster "
            "writes what a node needs"
        ) from None
    if not rings.held(compose.rings_folder(folder)):
        raise Unusable(f"there are no rings in {compose.rings_folder(folder)}")
    try:
        return compose.open_store(folder, settings, key=key, clock=clock, pipeline=False)
    except ValueError as error:
        raise Unusable(str(error)) from None


def serve(
    folder: Path,
    *,
    stop: threading.Event,
    ready: Callable[[Store], None] = lambda store: None,
    clock: Clock | None = None,
    care: bool = True,
) -> None:
    """Run the node of a folder until ``stop`` is set. ``ready``: called when it answers. Raises Unusable."""
    settings = load_settings(folder)
    if not settings.node_host:
        raise Unusable(
            f"{folder / SETTINGS}: [objectstore] node_host is not set: where do other nodes reach this one?"
        )
    store = open_node(folder, settings, clock=clock)
    try:
        listener = listen(settings.node_host, settings.node_port)
    except OSError as error:
        raise Unusable(
            f"cannot listen on {settings.node_host}:{settings.node_port}: {error.strerror}"
        ) from None
    try:
        compose.serve_store(store, {"nodes": listener}, stop=stop, ready=lambda: ready(store), care=care)
    finally:
        listener.close()


# ---- bundles


def bundle(folder: Path, target: Path, *, host: str = "", port: int = 6200) -> list[str]:
    """Write what a new node needs to a file that only its owner may read; the names of what is in it.

    host, port: of the new node, for its settings. Raises Unusable, OSError.
    """
    found = {f"objectstore/rings/{name}.ring": rings.content(compose.rings_folder(folder), name)
             for name in rings.held(compose.rings_folder(folder))}  # fmt: skip
    if not found:
        raise Unusable(
            f"there are no rings in {compose.rings_folder(folder)}: make them first (`altostack ring`)"
        )
    try:
        found["objectstore/key"] = (keys.cluster_key(folder).hex() + "\n").encode()
    except ValueError as error:
        raise Unusable(str(error)) from None
    found[SETTINGS] = _settings_text(load_settings(folder), host, port).encode()
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in sorted(found.items()):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o600
                archive.addfile(entry, io.BytesIO(content))
        scratch.replace(target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    return sorted(found)


def unpack(source: Path, folder: Path) -> list[str]:
    """Make a node's folder of a bundle; what is there already stays, but newer rings are taken over.

    Raises Unusable for a file that is no bundle, or whose key is another cluster's; OSError.
    """
    done = []
    try:
        with tarfile.open(source, "r:gz") as archive:
            content = {}
            for entry in archive:
                data = archive.extractfile(entry) if entry.isfile() and entry.size <= _LARGEST else None
                if data is None:
                    raise Unusable(f"{source} is no bundle: it holds {entry.name!r}")
                content[entry.name] = data.read()
    except (tarfile.TarError, EOFError) as error:
        raise Unusable(f"{source} is no bundle: {error}") from None
    names = {name for name in content if name.startswith("objectstore/rings/")}
    if content.keys() - names != {"objectstore/key", SETTINGS} or not names:
        raise Unusable(f"{source} is no bundle of a storage node")
    try:
        given = bytes.fromhex(content["objectstore/key"].decode().strip())
        folder.mkdir(parents=True, exist_ok=True)
        keys.keep_key(keys.path_of(folder), given)
        if keys.read_key(keys.path_of(folder)) != given:
            raise Unusable(f"{folder} belongs to another cluster: its key differs")
        for name in sorted(names):
            if rings.accept(compose.rings_folder(folder), Path(name).stem, content[name]):
                done.append(name)
    except ValueError as error:
        raise Unusable(str(error)) from None
    path = folder / SETTINGS
    if not path.exists():
        path.write_bytes(content[SETTINGS])
        done.append(SETTINGS)
    settings = load_settings(folder)
    compose.devices_folder(folder, settings).mkdir(parents=True, exist_ok=True)
    return done


def _settings_text(settings: Settings, host: str, port: int) -> str:
    """What all nodes have to agree on, and the new node's address."""
    lines = [
        "# Settings of a storage node. Every machine of the cluster has the same policies.",
        "[objectstore]",
        f"node_host = {_quoted(host)}"
        if host
        else '# node_host = "10.0.0.2"  # where other nodes reach this one',
        f"node_port = {port}",
        f"reclaim_age = {settings.reclaim_age}",
    ]
    for name, policy in settings.policies.items():
        lines += ["", f"[objectstore.policies.{_quoted(name)}]"]
        for field, value in msgspec.to_builtins(policy).items():
            lines.append(f"{field} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
