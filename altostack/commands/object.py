"""The object store's nodes: how they are, new ones, rings for all of them, and passes of the daemons."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from altostack.commands import CommandError
from altostack.commands.common import Teller, state_of

if TYPE_CHECKING:
    from altostack.objectstore.care.daemon import Care
    from altostack.objectstore.care.status import Survey

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--folder", metavar="DIR", help="the node's folder (default: the cloud's, --state)")
    told = argparse.ArgumentParser(add_help=False)
    told.add_argument("--json", action="store_true", help="print one JSON object")

    status = verbs.add_parser("status", parents=[folder, told], help="how the nodes and their devices are")
    status.add_argument("--sample", type=int, default=64, help="partitions of each ring that are tried (64)")
    verbs.add_parser("nodes", parents=[folder, told], help="which nodes there are, and whether they answer")
    where = verbs.add_parser("where", parents=[folder, told], help="on which devices an object lies")
    where.add_argument("path", help="ACCOUNT/CONTAINER/OBJECT, quoted as in a URL")
    where.add_argument("--policy", type=int, default=0, help="index of its storage policy (0)")
    serve = verbs.add_parser(
        "serve",
        parents=[folder],
        help="run a storage node by itself",
        description="Run a storage node: its devices for other nodes, and the daemons that look after them.",
    )
    serve.add_argument("--no-care", action="store_true", help="without the daemons")
    bundle = verbs.add_parser("bundle", parents=[folder], help="write what a new node needs")
    bundle.add_argument("file", help="the .tar.gz to write; it holds the cluster's key (mode 600)")
    bundle.add_argument("--host", default="", help="address at which others reach the new node")
    bundle.add_argument("--port", type=int, default=6200, help="its port (6200)")
    unpack = verbs.add_parser("unpack", help="make a node's folder of a bundle; safe to repeat")
    unpack.add_argument("file", help="what `bundle` wrote")
    unpack.add_argument("folder", help="the node's folder")
    rings = verbs.add_parser("rings", parents=[folder], help="bring rings to all nodes, or fetch newer ones")
    way = rings.add_mutually_exclusive_group(required=True)
    way.add_argument("--push", action="store_true", help="this machine's rings to every node")
    way.add_argument("--fetch", action="store_true", help="newer rings from the other nodes")
    once = verbs.add_parser("run", parents=[folder, told], help="one pass of daemons over this machine now")
    once.add_argument("daemon", nargs="+", help="replicate, reconstruct, databases, ... or all")
    once.add_argument("--device", action="append", default=[], help="only this device; may be repeated")


def run(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care.lone import Unusable
    from altostack.objectstore.storage import StorageError

    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "status": _status, "nodes": _nodes, "where": _where, "serve": _serve, "bundle": _bundle, "unpack": _unpack,
        "rings": _rings, "run": _once,
    }  # fmt: skip
    try:
        return verbs[arguments.verb](arguments)
    except (Unusable, StorageError, OSError) as error:
        raise CommandError(str(error)) from None


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.folder:
        return Path(arguments.folder).expanduser().absolute()
    return state_of(arguments).root


def _care(arguments: argparse.Namespace, devices: tuple[str, ...] = ()) -> Care:
    from altostack.objectstore.care.daemon import Care
    from altostack.objectstore.care.lone import open_node

    store = open_node(_folder(arguments))
    return Care(store=store, settings=store.settings.care, chosen=devices)


def _status(arguments: argparse.Namespace) -> int:
    """0: nothing is wrong; 1: something is."""
    import msgspec

    from altostack.objectstore.care.status import survey

    found = survey(_care(arguments), sample=arguments.sample)
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(found) | {"trouble": found.trouble}, indent=1))
    else:
        _tell(found)
    return 1 if found.trouble else 0


def _tell(found: Survey) -> None:
    now = time.time()
    for line in found.nodes:
        print(
            f"{line.host}:{line.port}" + ("" if line.status is not None else f"  does not answer: {line.why}")
        )
        if line.status is None:
            continue
        versions = "  ".join(f"{name} {held.version}" for name, held in line.status.rings.items())
        print(f"  rings: {versions}")
        for device in line.status.devices:
            print(
                f"  {device.device}: {_bytes(device.free)} free of {_bytes(device.size)}, "
                f"{device.quarantined} set aside, {device.pending} updates wait"
                + (f"; {device.why}" if device.why else "")
            )
            for report in line.status.reports:
                if report.device == device.device:
                    print(
                        "    "
                        + _pass(report.daemon, now - report.ended, report.seconds, report.did, report.trouble)
                    )
        for report in line.status.reports:
            if not report.device:
                print(
                    "  "
                    + _pass(report.daemon, now - report.ended, report.seconds, report.did, report.trouble)
                )
    for one in found.dispersion:
        print(
            f"{one.ring}: {one.reachable} of {one.copies} copies of {one.partitions} partitions can be reached "
            f"({100 * one.share:.2f} %)"
        )
    for text in found.trouble:
        print(f"! {text}")


def _pass(daemon: str, ago: float, seconds: float, did: dict[str, int], trouble: list[str]) -> str:
    counted = ", ".join(f"{name} {number}" for name, number in did.items()) or "nothing to do"
    return f"{daemon}: {ago:.0f} s ago, took {seconds:.1f} s: {counted}" + (
        f" ({trouble[0]})" if trouble else ""
    )


def _bytes(number: float) -> str:
    unit = 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{number:.0f} B"


def _nodes(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care.rings import nodes
    from altostack.objectstore.storage import StorageError

    care = _care(arguments)
    settings = care.store.settings
    told: list[dict[str, object]] = [
        {"host": settings.node_host or "127.0.0.1", "port": settings.node_port, "answers": True, "this": True}
    ]
    for device in nodes(care):
        try:
            care.peer(device).rings()
            told.append({"host": device.host, "port": device.port, "answers": True, "this": False})
        except StorageError as error:
            told.append(
                {"host": device.host, "port": device.port, "answers": False, "this": False, "why": str(error)}
            )
    if arguments.json:
        print(json.dumps({"nodes": told}, indent=1))
    else:
        for one in told:
            how = "this machine" if one["this"] else "answers" if one["answers"] else f"silent: {one['why']}"
            print(f"{one['host']}:{one['port']}  {how}")
    return 0 if all(one["answers"] for one in told) else 1


def _where(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care.status import copies_of

    account, container, name = (*unquote(arguments.path).strip("/").split("/", 2), "", "")[:3]
    if not name:
        raise CommandError("the path is ACCOUNT/CONTAINER/OBJECT")
    try:
        found = copies_of(_care(arguments), account, container, name, arguments.policy)
    except LookupError as error:
        raise CommandError(str(error)) from None
    if arguments.json:
        print(json.dumps(found.found, indent=1))
    else:
        for where, stamp in found.found.items():
            print(f"{where}  {stamp or '-'}")
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from altostack.kit import log
    from altostack.objectstore.care.lone import serve

    folder = _folder(arguments)
    tell, stop = Teller(), threading.Event()
    log.setup("object-node", folder / "log", terminal=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    serve(
        folder,
        stop=stop,
        ready=lambda store: tell(
            f"the node answers on {store.settings.node_host}:{store.settings.node_port}; Ctrl-C stops it"
        ),
        care=not arguments.no_care,
    )
    return 0


def _bundle(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care.lone import bundle

    folder = _folder(arguments)
    names = bundle(folder, Path(arguments.file), host=arguments.host, port=arguments.port)
    print(f"{arguments.file} holds {', '.join(names)}")
    _warn(folder)
    print(
        f"On the new machine: altostack object unpack {arguments.file} DIR; altostack object serve --folder DIR"
    )
    return 0


def _warn(folder: Path) -> None:
    """Say so when the rings name devices by addresses that mean another machine's own on every machine."""
    from altostack.objectstore.compose import rings_folder
    from altostack.objectstore.ring.ring import Ring

    for path in sorted(rings_folder(folder).glob("*.ring")):
        hosts = {device.host for device in Ring.load(path).devices}
        if len(hosts) == 1 and hosts & {"127.0.0.1", "localhost", "::1"}:
            print(
                f"! the {path.stem} ring names {hosts.pop()}, which is another machine everywhere: "
                f"altostack ring set-info {path.stem} /DEVICE --host ADDRESS"
            )


def _unpack(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care.lone import load_settings, unpack
    from altostack.objectstore.compose import devices_folder

    folder = Path(arguments.folder).expanduser().absolute()
    done = unpack(Path(arguments.file), folder)
    print(f"{folder}: {', '.join(done) if done else 'nothing was missing'}")
    print(f"Its devices are the folders or mount points in {devices_folder(folder, load_settings(folder))}")
    return 0


def _rings(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care import rings
    from altostack.objectstore.compose import rings_folder
    from altostack.objectstore.storage import StorageError

    care = _care(arguments)
    folder = rings_folder(care.store.folder)
    if arguments.fetch:
        tally = rings.fetch(care, everybody=True)
        print(f"{tally.did.get('fetched', 0)} newer rings were fetched")
        for text in tally.trouble:
            print(f"! {text}")
        return 1 if tally.trouble else 0
    failed = 0
    contents = {name: rings.content(folder, name) for name in rings.held(folder)}
    for device in rings.nodes(care):
        peer = care.peer(device)
        try:
            taken = [name for name, data in contents.items() if peer.accept_ring(name, data)]
            print(f"{device.host}:{device.port}  {'took ' + ', '.join(taken) if taken else 'has them'}")
        except StorageError as error:
            failed += 1
            print(f"{device.host}:{device.port}  {error}")
    return 1 if failed else 0


def _once(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.care.loops import passes

    care = _care(arguments, tuple(arguments.device))
    known = passes(care)
    wanted = list(known) if "all" in arguments.daemon else arguments.daemon
    for name in wanted:
        if name not in known:
            raise CommandError(f"there is no daemon {name!r}; there are {', '.join(known)}, all")
    began = time.time()
    for name in wanted:
        for device in care.devices():
            known[name](device)
    reports = [one for one in care.reports.all() if one.ended >= began]
    if arguments.json:
        print(
            json.dumps(
                [
                    {"daemon": r.daemon, "device": r.device, "did": r.did, "trouble": r.trouble}
                    for r in reports
                ]
            )
        )
    else:
        for one in reports:
            where = f"{one.device} " if one.device else ""
            print(where + _pass(one.daemon, 0.0, one.seconds, one.did, one.trouble))
    return 1 if any(one.trouble for one in reports) else 0
