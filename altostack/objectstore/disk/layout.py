"""Where things lie on a device, and which of an object's files count.

    DEVICE/objects[-N]/<part>/<suffix>/<digest>/<timestamp>.data|.meta|.ts
    DEVICE/tmp, DEVICE/journal, DEVICE/quarantined, DEVICE/async_pending[-N], DEVICE/hashes[-N]

``N`` is the storage policy's index (0 goes without), ``suffix`` the last three digits of the digest. Fragments of an
erasure-coded object are ``<timestamp>#<frag>.data`` and, once committed, ``<timestamp>#<frag>#d.data``. A ``.meta``
that sets a content type says since when: ``<timestamp>#<timestamp of the type>.meta``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from altostack.objectstore.storage import Spot

TMP: Final = "tmp"
QUARANTINED: Final = "quarantined"
JOURNAL: Final = "journal"

Kind = Literal["data", "meta", "ts"]


def named(base: str, policy: int) -> str:
    """A folder's name for a policy: ``objects``, ``objects-1``."""
    return base if policy == 0 else f"{base}-{policy}"


def device_and_policy(path: str) -> tuple[str, int]:
    """The device and the policy of an object's file."""
    device, base, _, _, _, _ = path.rsplit("/", 5)
    return device, int(base.partition("-")[2] or 0)


def parts_folder(device: str, policy: int) -> str:
    """The folder with a policy's partitions."""
    return f"{device}/{named('objects', policy)}"


def object_folder(device: str, spot: Spot, part: int | None = None) -> str:
    """The folder with an object's files; ``device`` is the device's path."""
    digest = spot.digest
    where = spot.part if part is None else part
    return f"{device}/{named('objects', spot.policy)}/{where}/{digest[-3:]}/{digest}"


def part_of(digest: str, power: int) -> int:
    """A digest's partition when there are 2**``power``: its first bits."""
    return int(digest[:8], 16) >> (32 - power)


def check(spot: Spot, timestamp: str | None = None, frag: int | None = None) -> None:
    """Raises ValueError for what cannot be in a file's path."""
    digest = spot.digest
    if len(digest) != 32 or not digest.isalnum() or spot.part < 0 or spot.policy < 0:
        raise ValueError(f"{spot!r} is no place for an object")
    if timestamp is not None and not is_stamp(timestamp):
        raise ValueError(f"{timestamp!r} is no timestamp")
    if frag is not None and frag < 0:
        raise ValueError(f"{frag} is no fragment's index")


def is_stamp(text: str) -> bool:
    """Whether it is a timestamp in the form of `stamp`."""
    return len(text) == 20 and text[10] == "." and text[:10].isdecimal() and text[11:].isdecimal()


class File(NamedTuple):
    """One file of an object. frag: None for whole copies. durable: False for a fragment that is not committed.
    typed: since when a ``.meta`` has its content type, empty when it has none that counts."""

    name: str
    timestamp: str
    kind: Kind
    frag: int | None = None
    durable: bool = True
    typed: str = ""


def parse(name: str) -> File | None:
    """A file's name taken apart; None for what is not ours."""
    stem, _, kind = name.rpartition(".")
    stamp, *marks = stem.split("#")
    if not is_stamp(stamp):
        return None
    if kind == "data":
        if not marks:
            return File(name, stamp, "data")
        if not marks[0].isdigit() or marks[1:] not in ([], ["d"]):
            return None
        return File(name, stamp, "data", int(marks[0]), len(marks) == 2)
    if kind == "meta" and len(marks) <= 1:
        return File(name, stamp, "meta", typed=marks[0] if marks else "")
    if kind == "ts" and not marks:
        return File(name, stamp, "ts")
    return None


def data_name(timestamp: str, frag: int | None = None, *, durable: bool = True) -> str:
    """The name of the file with an object's content."""
    if frag is None:
        return f"{timestamp}.data"
    return f"{timestamp}#{frag}#d.data" if durable else f"{timestamp}#{frag}.data"


def meta_name(timestamp: str, typed: str = "") -> str:
    """The name of the file with what a POST set."""
    return f"{timestamp}#{typed}.meta" if typed else f"{timestamp}.meta"


class Files(NamedTuple):
    """An object's files, sorted out by `choose`.

    data: what is to be read, best first: the newest durable version (all its fragments here); empty when the object is
    deleted or only has fragments that are not committed. loose: fragments that are not committed and newer than
    everything durable. meta: the newest POST that is newer than ``data``. tombstone: the newest deletion, "" for none,
    if it is as new as everything durable. obsolete: what may be removed.
    """

    data: tuple[File, ...]
    loose: tuple[File, ...]
    meta: File | None
    tombstone: str
    obsolete: tuple[File, ...]

    @property
    def newest(self) -> str:
        """The timestamp of the durable data or of the tombstone; "" when nothing durable is here."""
        return self.tombstone or (self.data[0].timestamp if self.data else "")

    @property
    def kept(self) -> tuple[File, ...]:
        """What counts for replication: everything but the obsolete; a tombstone is left to `tombstone`."""
        return (*self.data, *self.loose, *(() if self.meta is None else (self.meta,)))


def choose(names: Iterable[str]) -> Files:
    """Sort out the files of one object. Of a deletion and data with the same timestamp, the deletion counts."""
    every = [file for name in names if (file := parse(name)) is not None]
    if len(every) == 1 and every[0].kind == "data" and every[0].durable:  # nearly always
        return Files((every[0],), (), None, "", ())
    written = {(file.timestamp, file.frag) for file in every if file.kind == "data" and file.durable}
    version = max((stamp for stamp, _ in written), default="")
    buried = max((file.timestamp for file in every if file.kind == "ts"), default="")
    tombstone = buried if buried and buried >= version else ""
    line = tombstone or version  # only what is beyond this counts
    data: list[File] = []
    loose: list[File] = []
    metas: list[File] = []
    obsolete: list[File] = []
    for file in every:
        if file.kind == "data":
            if not file.durable and (file.timestamp, file.frag) in written:
                obsolete.append(file)  # linked twice
            elif file.timestamp == version and not tombstone:
                data.append(file)  # a fragment of a committed version is as good as committed
            elif file.timestamp > line:
                loose.append(file)
            else:
                obsolete.append(file)
        elif file.kind == "meta":
            (metas if file.timestamp > line else obsolete).append(file)
        elif file.timestamp != tombstone:
            obsolete.append(file)
    meta = max(metas, key=lambda file: (file.timestamp, file.typed), default=None)
    if meta is not None and tombstone and not loose:
        meta = None  # of content that was deleted before that was known here
    obsolete += [file for file in metas if file is not meta]
    if meta is not None and meta.typed and meta.typed <= version:
        meta = meta._replace(typed="")  # the type of what was there before
    data.sort(key=lambda file: (not file.durable, file.frag or 0))
    loose.sort(key=lambda file: (file.timestamp, -(file.frag or 0)), reverse=True)
    return Files(tuple(data), tuple(loose), meta, tombstone, tuple(obsolete))
