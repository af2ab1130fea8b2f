"""Rings: which device of the object store holds what."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from altostack.commands import CommandError
from altostack.commands.common import state_of

if TYPE_CHECKING:  # numpy takes a tenth of a second, and `altostack ring --help` needs none
    from altostack.objectstore.ring.builder import Builder, Outcome
    from altostack.objectstore.storage import Device

_SELECT: Final = re.compile(
    r"d?(?P<id>\d+)|(?:r(?P<region>\d+))?(?:z(?P<zone>\d+))?"
    r"(?:-?(?P<host>\[[0-9A-Fa-f:.]+\]|[^-:/\[\]?*][^:/\[\]?*]*))?(?::(?P<port>\d+))?(?:/(?P<device>.+))?"
)
_SPEC: Final = re.compile(
    r"r(?P<region>\d+)z(?P<zone>\d+)-(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(?P<port>\d+)"
    r"(?:R(?P<replication_host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(?P<replication_port>\d+))?"
    r"/(?P<device>[^/_]+)(?:_(?P<meta>.*))?"
)
_SELECTION: Final = (
    "a device's number, or what describes it or several: r1, r1z2, r1z2-10.0.0.1, 10.0.0.1:6200/sdb, /sdb"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "RING is account, container, object or object-1 of the cloud's folder, or the path of a .builder file. Every "
        "change is saved at once; partitions move by `rebalance` alone."
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)

    def verb(name: str, help: str, **more: Any) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help, **more)
        made.add_argument("ring", metavar="RING")
        return made

    make = verb("create", "begin a ring")
    make.add_argument("--part-power", type=int, default=18, help="2 to this are the partitions (default: 18)")
    make.add_argument(
        "--replicas", type=float, default=3.0, help="of each partition; 2.5 is possible (default: 3)"
    )
    make.add_argument(
        "--min-part-hours",
        type=float,
        default=1.0,
        help="a partition stays that long after it moved (default: 1)",
    )
    add = verb(
        "add",
        "add devices",
        description="Add devices, as in: altostack ring add object r1z1-10.0.0.1:6200/sdb 4000. Replication traffic "
        "may have an address of its own: r1z1-10.0.0.1:6200R10.1.0.1:6200/sdb; a note follows after _.",
    )
    add.add_argument("devices", nargs="+", metavar="DEVICE WEIGHT")
    weight = verb("set-weight", "change how much devices hold beside others; 0 drains them")
    weight.add_argument("select", metavar="DEVICES", help=_SELECTION)
    weight.add_argument("weight", type=float)
    info = verb("set-info", "change where devices are, or their notes")
    info.add_argument("select", metavar="DEVICES", help=_SELECTION)
    for name, kind in _INFO.items():
        info.add_argument(f"--{name.replace('_', '-')}", type=kind)
    remove = verb("remove", "take devices away at the next rebalance")
    remove.add_argument("select", metavar="DEVICES", help=_SELECTION)
    for one in (weight, info, remove):
        one.add_argument("--all", action="store_true", help="more than one device may be meant")
    balance = verb(
        "rebalance", "put partitions where they should be; all parts of a composite ring, if it is one"
    )
    balance.add_argument("--seed", type=int, help="the same seed gives the same ring")
    verb("validate", "tell whether the ring is sound")
    dispersion = verb("dispersion", "how far apart replicas lie")
    dispersion.add_argument("--nodes", action="store_true", help="each region, zone, host and device too")
    show = verb("show", "what it is like, and its devices")
    show.add_argument(
        "--of", metavar="A[/C[/O]]", help="instead: the devices of an account, container or object"
    )
    verb("set-overload", "let devices hold more than their weight says, to keep replicas apart").add_argument(
        "overload", type=_fraction, help="0.1 or 10%%"
    )
    verb("set-replicas", "change the number of replicas").add_argument("replicas", type=float)
    verb("set-min-part-hours", "change how long a partition stays after it moved").add_argument(
        "hours", type=float
    )
    power = verb(
        "increase-partition-power",
        "double the partitions while the store runs",
        description="Double the partitions while the store runs: prepare; when nodes keep every object at both places, "
        "increase; when they have cleaned up, finish. Cancel takes the place of increase.",
    )
    power.add_argument("step", choices=list(_STEPS))
    composed = verb("compose", "make one ring of several builders with regions of their own")
    composed.add_argument("builders", nargs="*", metavar="BUILDER", help="(default: those of last time)")
    composed.add_argument(
        "--force", action="store_true", help="also of others than last time, or in another order"
    )
    verb("write", "write the ring file anew")
    verb("pretend-min-part-hours-passed", "let every partition move at the next rebalance")


def run(arguments: argparse.Namespace) -> int:
    from altostack.objectstore.ring.builder import RingError
    from altostack.objectstore.ring.sealed import BadFile

    path = _path(arguments, arguments.ring)
    try:
        if arguments.verb == "create":
            path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            _VERBS[arguments.verb](arguments, path)
    except FileNotFoundError as error:
        raise CommandError(f"there is no {error.filename}") from None
    except (RingError, BadFile, OSError) as error:
        raise CommandError(str(error)) from None
    return 0


# ---- changes


def _create(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring.builder import Builder

    if path.exists():
        raise CommandError(f"{path} is there already")
    Builder.create(
        path,
        part_power=arguments.part_power,
        replicas=arguments.replicas,
        min_part_hours=arguments.min_part_hours,
    ).save()
    print(f"{path}: {1 << arguments.part_power} partitions, {arguments.replicas:g} replicas, no device yet")


def _add(arguments: argparse.Namespace, path: Path) -> None:
    words = arguments.devices
    if len(words) % 2:
        raise CommandError("every device needs a weight after it")
    builder = _load(path)
    for text, weight in zip(words[::2], words[1::2], strict=True):
        found = _SPEC.fullmatch(text)
        if found is None:
            raise CommandError(f"{text!r} is no device: write it as in r1z1-10.0.0.1:6200/sdb")
        try:
            number = float(weight)
        except ValueError:
            raise CommandError(f"{weight!r} is no weight") from None
        id = builder.add(
            region=int(found["region"]),
            zone=int(found["zone"]),
            host=found["host"].strip("[]"),
            port=int(found["port"]),
            device=found["device"],
            weight=number,
            meta=found["meta"] or "",
            replication_host=(found["replication_host"] or "").strip("[]"),
            replication_port=int(found["replication_port"] or 0),
        )
        print(f"device {id} is {_text(builder.state.devices[id])}, weight {number:g}")
    builder.save()


def _set_weight(arguments: argparse.Namespace, path: Path) -> None:
    builder = _load(path)
    for one in _selected(builder, arguments):
        builder.set_weight(one.id, arguments.weight)
        print(f"device {one.id}, {_text(one)}: weight {one.weight:g} -> {arguments.weight:g}")
    builder.save()


def _set_info(arguments: argparse.Namespace, path: Path) -> None:
    changes = {name: getattr(arguments, name) for name in _INFO if getattr(arguments, name) is not None}
    if not changes:
        raise CommandError("nothing is to be changed: name at least one of " + ", ".join(_INFO))
    builder = _load(path)
    for one in _selected(builder, arguments):
        builder.set_info(one.id, **changes)
        print(f"device {one.id}: {_text(one)} -> {_text(builder.state.devices[one.id])}")
    builder.save()


def _remove(arguments: argparse.Namespace, path: Path) -> None:
    builder = _load(path)
    for one in _selected(builder, arguments):
        builder.remove(one.id)
        print(f"device {one.id}, {_text(one)}, goes at the next rebalance")
    builder.save()


def _rebalance(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring import composite

    whole = path.with_suffix(".composite")
    if not path.exists() and whole.exists():
        definition, outcomes = composite.rebalance(whole, arguments.seed)
        for component, outcome in zip(definition.components, outcomes, strict=True):
            part = path.parent / component.path
            print(part)
            _tell(_load(part), outcome)
        print(f"{path.with_suffix('.ring')} is composed, version {definition.version}")
        return
    builder = _load(path)
    outcome = builder.rebalance(arguments.seed)
    builder.save()
    _tell(builder, outcome)


def _tell(builder: Builder, outcome: Outcome) -> None:
    from altostack.objectstore.ring import survey

    spread = survey.dispersion(builder).percent
    print(f"{outcome.moved} replicas moved, {outcome.placed} placed for the first time")
    print(
        f"balance {survey.balance(builder):.2f} %, dispersion {spread:.2f} %, version {builder.state.version}"
    )
    if outcome.held_back:
        wait = _duration(builder.seconds_left())
        print(
            f"{outcome.held_back} replicas still are on devices that hold too much: of a partition one moves at a "
            f"time; rebalance again in {wait}"
        )


def _set_overload(arguments: argparse.Namespace, path: Path) -> None:
    builder = _load(path)
    builder.set_overload(arguments.overload)
    builder.save()
    print(f"overload {100 * arguments.overload:g} %")


def _set_replicas(arguments: argparse.Namespace, path: Path) -> None:
    builder = _load(path)
    builder.set_replicas(arguments.replicas)
    builder.save()
    print(f"{arguments.replicas:g} replicas after the next rebalance")


def _set_hours(arguments: argparse.Namespace, path: Path) -> None:
    builder = _load(path)
    builder.set_min_part_hours(arguments.hours)
    builder.save()
    print(f"a partition stays {arguments.hours:g} hours after it moved")


def _increase(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring.builder import Builder

    builder = _load(path)
    getattr(Builder, _STEPS[arguments.step])(builder)
    builder.save()
    coming = builder.state.next_power
    print(f"partition power {builder.state.power}, next {'none' if coming is None else coming}")


def _compose(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring import composite

    if path.exists():
        raise CommandError(f"{path} is a builder: a composite ring has another name than its parts")
    builders = [_path(arguments, one) for one in arguments.builders]
    definition = composite.compose(path.with_suffix(".composite"), builders, force=arguments.force)
    print(f"{path.with_suffix('.ring')}: {len(definition.components)} builders, version {definition.version}")


def _write(arguments: argparse.Namespace, path: Path) -> None:
    print(f"{_load(path).write_ring()} is written")


def _pretend(arguments: argparse.Namespace, path: Path) -> None:
    builder = _load(path)
    builder.pretend_min_part_hours_passed()
    builder.save()
    print("every partition may move at the next rebalance")


# ---- looks


def _validate(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring import survey
    from altostack.objectstore.ring.ring import Ring

    builder = _load(path)
    found = survey.problems(builder)
    file = path.with_suffix(".ring")
    if builder.balanced:
        ring = Ring.load(file)
        if ring.version != builder.state.version or ring.facts.salt != builder.state.salt:
            found.append(f"{file} is not what this builder writes now: altostack ring write")
    if found:
        raise CommandError("; ".join(found))
    print(f"{path} is sound: balance {survey.balance(builder):.2f} %")


def _dispersion(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring import survey

    builder = _load(path)
    found = survey.dispersion(builder)
    print(f"dispersion {found.percent:.2f} % of all replicas lie closer to others than they should")
    required = 100 * builder.plan().required
    print(
        f"overload {100 * builder.state.overload:g} %; with {required:.2f} % they would lie as far apart as can be"
    )
    _table(
        ["level", "number", "partitions sharing one", "replicas too close", "ideal"],
        [[one.name, len(one.nodes), one.shared, one.close, one.ideal] for one in found.levels],
    )
    if arguments.nodes:
        counts = [f"{number} replicas" for number in range(len(builder.table) + 1)]
        _table(
            ["level", "node", "at most", "too close", *counts],
            [
                [level.name, " ".join(map(str, node.path)), node.most, node.close, *node.counts]
                for level in found.levels
                for node in sorted(level.nodes, key=lambda one: [str(word) for word in one.path])
            ],
        )


def _show(arguments: argparse.Namespace, path: Path) -> None:
    from altostack.objectstore.ring import survey
    from altostack.objectstore.ring.ring import Ring

    if arguments.of:
        _show_of(Ring.load(path.with_suffix(".ring")), arguments.of)
        return
    builder = _load(path)
    state = builder.state
    print(
        f"{path}: version {state.version}, {builder.parts} partitions (2^{state.power}), {state.replicas:g} replicas, "
        f"{len(state.devices)} devices"
    )
    print(
        f"overload {100 * state.overload:g} %, balance {survey.balance(builder):.2f} %, min-part-hours "
        f"{state.min_part_hours:g} ({_duration(builder.seconds_left())} left)"
    )
    if state.next_power is not None:
        print(f"the partition power is being changed: next {state.next_power}")
    if not builder.balanced:
        print("rebalance is needed: some partitions have no device")
    holding, balances = builder.holding(), survey.balances(builder)
    _table(
        ["id", "region", "zone", "host", "port", "device", "weight", "partitions", "balance %", "notes"],
        [
            [
                one.id, one.region, one.zone, one.host, one.port, one.device, f"{one.weight:g}", holding[one.id],
                f"{balances[one.id]:.2f}", "goes at the next rebalance" if one.id in state.removed else one.meta,
            ]
            for one in builder.devices
        ],
    )  # fmt: skip


def _show_of(ring: Any, name: str) -> None:
    words = name.strip("/").split("/", 2)
    part, digest = ring.locate(*words)
    print(f"/{'/'.join(words)}: partition {part}, digest {digest}")
    rows: list[list[object]] = [[str(n), *_row(one)] for n, one in enumerate(ring.nodes(part))]
    for number, one in enumerate(ring.handoffs(part)):
        if number == len(rows):
            break
        rows.append(["handoff", *_row(one)])
    _table(["replica", "id", "region", "zone", "host", "port", "device"], rows)


# ---- helpers


def _row(one: Device) -> list[object]:
    return [one.id, one.region, one.zone, one.host, one.port, one.device]


def _load(path: Path) -> Builder:
    from altostack.objectstore.ring.builder import Builder

    return Builder.load(path)


def _path(arguments: argparse.Namespace, ring: str) -> Path:
    """The builder file of a ring's name or path."""
    if "/" in ring or ring.endswith(".builder"):
        return Path(ring).absolute().with_suffix(".builder")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", ring):
        raise CommandError(f"{ring!r} is no name of a ring")
    state = state_of(arguments)
    if not state.exists:
        raise CommandError(
            f"there is no cloud in {state.root}; name the ring by the path of its .builder file"
        )
    from altostack.objectstore.compose import rings_folder

    return rings_folder(state.root) / f"{ring}.builder"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes rings of the folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _selected(builder: Builder, arguments: argparse.Namespace) -> list[Device]:
    from altostack.objectstore.ring.builder import find_devices

    text = arguments.select
    found = _SELECT.fullmatch(text)
    if not text or found is None:
        raise CommandError(f"{text!r} describes no device: it is {_SELECTION}")
    wanted: dict[str, Any] = {
        name: value.strip("[]") if name in ("host", "device") else int(value)
        for name, value in found.groupdict().items()
        if value is not None
    }
    devices = find_devices(builder.staying, **wanted)
    if not devices:
        raise CommandError(f"no device of the ring is {text}")
    if len(devices) > 1 and not arguments.all:
        raise CommandError(f"{len(devices)} devices are {text}; if all are meant, say --all")
    return devices


def _text(one: Device) -> str:
    host = f"[{one.host}]" if ":" in one.host else one.host
    return f"r{one.region}z{one.zone}-{host}:{one.port}/{one.device}"


def _fraction(text: str) -> float:
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _table(titles: list[str], rows: list[list[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(titles):
        numbers = all(re.fullmatch(r"-?[\d.]+", str(row[index])) for row in rows)
        table.add_column(title, justify="right" if numbers else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200  # in a file or pipe lines are not cut to a window that is not there
    console.print(table)


_INFO: Final[dict[str, type]] = {
    "region": int, "zone": int, "host": str, "port": int, "device": str, "meta": str, "replication_host": str,
    "replication_port": int,
}  # fmt: skip
_STEPS: Final = {
    "prepare": "prepare_increase",
    "increase": "increase",
    "finish": "finish_increase",
    "cancel": "cancel_increase",
}
_VERBS: Final[dict[str, Callable[[argparse.Namespace, Path], None]]] = {
    "create": _create,
    "add": _add,
    "set-weight": _set_weight,
    "set-info": _set_info,
    "remove": _remove,
    "rebalance": _rebalance,
    "validate": _validate,
    "dispersion": _dispersion,
    "show": _show,
    "set-overload": _set_overload,
    "set-replicas": _set_replicas,
    "set-min-part-hours": _set_hours,
    "increase-partition-power": _increase,
    "compose": _compose,
    "write": _write,
    "pretend-min-part-hours-passed": _pretend,
}
