"""How a task goes: fetch the bits, judge them, change them where that is set, keep them in each store.

Every step may run again after a crash: bits are put whole or not at all, and what an image is told is told in the
step's own transaction and only while the image still names this task. Whatever goes wrong, the image goes back to where
it was (queued, or active for copies), what was half done is removed, and the task says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.image import plugins, remote
from altostack.image.drivers.base import ImageTooLarge, StoreError
from altostack.image.fetch import FetchFailed, Refused, fetch
from altostack.image.image import Image, Status
from altostack.image.inspect import UnsafeImage
from altostack.image.intake import Intake, Taken
from altostack.image.signature import WORDS, BadSignature, verifier
from altostack.image.stores import Stores, ended, stores_of
from altostack.image.tasks import Task, TaskStatus
from altostack.kit.errors import ApiError
from altostack.kit.flow import Failed, Flow, Next, done, hop, step

_LONG = 24 * 3600.0  # seconds: an image may be large and a network slow
_LOOK = 2.0  # seconds between looks whether anybody still wants the bits
_EXPECTED = (
    StoreError, FetchFailed, Refused, UnsafeImage, BadSignature, remote.NotReached, plugins.ConversionFailed, ApiError,
)  # fmt: skip
COPY, LOCATION = "copy-image", "location_import"


class TaskLife(Flow[Task]):
    """The lifecycle of a `Task`. The frame: stores (still to fill), must_succeed, max_bytes, roles, taken, ..."""

    first = "begin"
    row_class = Task

    # ---- what it works on

    @property
    def stores(self) -> Stores:
        return stores_of(self.runtime)

    @property
    def method(self) -> str:
        """The import method; for other tasks their type."""
        if self.row.type == "api_image_import":
            return str(self.row.input["import_req"]["method"]["name"])
        return "web-download" if self.row.type == "import" else self.row.type

    @property
    def _key(self) -> str:
        return str(self.row.image_id)

    def _image(self) -> Image:
        """The image, read now. Raises Failed when it is gone or another's."""
        with self.runtime.db.read() as session:
            image = session.get(Image, self._key)
        if image is None or image.task_id != self.row.id:
            raise Failed(f"the image {self._key} was deleted")
        return image

    def _tell(self, change: Callable[[Image], None]) -> None:
        """Change the image in the step's transaction, if it is still this task's."""

        def work(session: Session) -> None:
            query = sa.select(Image).where(Image.id == self._key, Image.task_id == self.row.id)
            if session.get_bind().dialect.name != "sqlite":
                query = query.with_for_update()
            image = session.execute(query).scalars().first()
            if image is not None:
                change(image)

        self.write(work)

    def _wanted(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """The stream, for as long as the image is there and names this task."""
        due = time.monotonic() + _LOOK
        for chunk in stream:
            yield chunk
            if time.monotonic() > due:
                self._image()
                due = time.monotonic() + _LOOK

    # ---- steps

    @step(deadline=_LONG)
    def begin(self) -> Next:
        """Say that it is being done, and go on with what the method needs."""
        self._image()
        self.row.status = TaskStatus.PROCESSING
        if self.method == COPY:
            return hop(self.keep)
        if self.method == LOCATION:
            return hop(self.point)
        return hop(self.prepare) if self.method == "glance-direct" else hop(self.bring)

    @step(deadline=_LONG)
    def bring(self) -> Next:
        """The bits from elsewhere into staging."""
        image = self._image()
        most = int(self.frame["max_bytes"])
        try:
            if self.method == "glance-download":
                self._bring_remote(image, most)
            else:
                found = fetch(self._uri(), self.runtime.settings.fetch)
                with ended(found.chunks):
                    self.stores.staging.put(self._key, self._wanted(_at_most(found.chunks, most)))
        except _EXPECTED as trouble:
            raise Failed(f"the data could not be fetched: {trouble}") from trouble
        size = self.stores.staging.size(self._key)
        self._tell(lambda image: setattr(image, "staged_bytes", size))
        return hop(self.prepare)

    def _uri(self) -> str:
        if self.row.type == "import":
            return str(self.row.input["import_from"])
        return str(self.row.input["import_req"]["method"]["uri"])

    def _bring_remote(self, image: Image, most: int) -> None:
        method = self.row.input["import_req"]["method"]
        token = remote.unseal(self.runtime, str(self.frame.get("sealed", "")))
        other = remote.RemoteImage(
            self.runtime,
            method["glance_image_id"],
            method["glance_region"],
            method["glance_service_interface"],
            token,
        )
        found = other.show()
        if found.get("status") != "active":
            raise remote.NotReached(f"the other image is {found.get('status')}")
        self.stores.staging.put(self._key, self._wanted(_at_most(other.bits(), most)))
        beginnings = self.runtime.settings.imports.copied_properties
        known = {c.key for c in sa.inspect(Image).column_attrs} | {
            "self",
            "file",
            "schema",
            "stores",
            "locations",
        }
        copied = {
            name: value
            for name, value in found.items()
            if isinstance(value, str) and name not in known and name.startswith(tuple(beginnings))
        }
        self.frame["format"] = found["disk_format"]
        self.frame["container"] = found["container_format"]
        self.frame["copied"] = copied

    @step(deadline=_LONG)
    def prepare(self) -> Next:
        """Unpack and convert, where that is set; nothing is opened that was not judged."""
        image = self._image()
        file = self.stores.staging.path(self._key)
        if file is None:
            raise Failed("the staged data is gone")
        imports = self.runtime.settings.imports
        container, form = self._container(image), self._format(image)
        try:
            if (
                imports.decompress
                and container == "compressed"
                and plugins.unpack(file, int(self.frame["max_bytes"]))
            ):
                self.frame["container"] = container = "bare"
            signed = any(image.properties.get(word) for word in WORDS)
            if container == "bare" and not signed and plugins.convertible(form, imports.convert_to):
                self._judge(image, self.stores.staging.get(self._key))
                plugins.convert(file, form, imports.convert_to)
                self.frame["format"] = imports.convert_to
        except _EXPECTED as trouble:
            raise Failed(str(trouble)) from trouble
        return hop(self.keep)

    def _format(self, image: Image) -> str:
        return str(self.frame.get("format") or image.disk_format)

    def _container(self, image: Image) -> str:
        return str(self.frame.get("container") or image.container_format)

    def _intake(self, image: Image, algorithm: str | None = None) -> Intake:
        copied = self.method == COPY
        return Intake(
            disk_format=self._format(image),
            container_format=self._container(image),
            algorithm=algorithm or self.runtime.settings.hash_algorithm,
            max_bytes=max(int(self.frame["max_bytes"]), image.size or 0)
            if copied
            else int(self.frame["max_bytes"]),
            verifier=None if copied else verifier(image.properties, self.runtime.settings.certificates),
        )

    def _judge(self, image: Image, stream: Iterable[bytes], algorithm: str | None = None) -> Taken:
        """Read all of it for its verdict alone."""
        with ended(stream):
            intake = self._intake(image, algorithm)
            for _ in intake.watch(self._wanted(stream)):
                pass
            return intake.finish()

    @step(deadline=_LONG)
    def keep(self) -> Next:
        """The bits into the next store."""
        image = self._image()
        left: list[str] = list(self.frame["stores"])
        if not left:
            return hop(self.finish)
        name = left[0]
        try:
            taken = self._put(image, name)
        except _EXPECTED as trouble:
            if self.frame["must_succeed"] or not isinstance(trouble, StoreError):
                raise Failed(f"store {name}: {trouble}") from trouble
            self.say(f"store {name}: {trouble}", level="warning")
            self.frame["failed"] = [*self.frame.get("failed", ()), name]
            self.frame["why"] = str(trouble)
        else:
            self.frame["taken"] = taken.columns()
            self.frame["filled"] = [*self.frame.get("filled", ()), name]
        self.frame["stores"] = left[1:]
        self._tell(self._progress)
        return hop(self.keep)

    def _put(self, image: Image, name: str) -> Taken:
        stores = self.stores
        intake = self._intake(image)
        copied = self.method == COPY
        source = stores.read(self._key, image.locations) if copied else stores.staging.get(self._key)
        with ended(source):
            stores.kept[name].put(self._key, intake.watch(self._wanted(source)))
        try:
            taken = intake.finish()
            known = self.frame.get("taken") or {}
            before = (image.os_hash_value if self.method == COPY else None) or known.get("os_hash_value")
            same = image.os_hash_algo in (None, taken.hash_algo)
            if before and same and before != taken.hash_value:
                raise UnsafeImage("the bits are not those that the image's hash was made of")
        except BaseException:
            stores.kept[name].delete(self._key)
            raise
        return taken

    def _progress(self, image: Image) -> None:
        """What the image shows while stores are being filled; usable with the first, where not all must succeed."""
        filled = list(self.frame.get("filled", ()))
        image.importing = list(self.frame["stores"])
        image.failed_import = list(self.frame.get("failed", ()))
        usable = bool(filled) and (not self.frame["must_succeed"] or self.method == COPY)
        if usable or (filled and not self.frame["stores"]):
            self._publish(image, filled)

    def _publish(self, image: Image, filled: list[str]) -> None:
        known = [one for one in image.locations if one["metadata"].get("store") not in filled]
        image.locations = [*known, *(self.stores.own(name, self._key) for name in filled)]
        if self.method != COPY:
            for name, value in self.frame["taken"].items():
                setattr(image, name, value)
            image.disk_format, image.container_format = self._format(image), self._container(image)
            if image.status == Status.IMPORTING:
                image.status = Status.ACTIVE
        image.stored_bytes = (image.size or 0) * len(self.stores.kept_in(image.locations))

    @step(deadline=_LONG)
    def finish(self) -> Next:
        """The image is what it was to become."""
        image = self._image()
        if not self.frame.get("filled") and self.frame.get("failed"):
            raise Failed(f"no store could be filled: {self.frame.get('why', '')}")
        self.stores.staging.delete(self._key)
        properties = {**image.properties, **self.frame.get("copied", {}), **self._injected()}

        def close(image: Image) -> None:
            image.task_id, image.staged_bytes = None, 0
            if self.method != COPY:
                image.properties = properties

        self._tell(close)
        return self._succeed()

    def _injected(self) -> dict[str, str]:
        imports = self.runtime.settings.imports
        if self.method == COPY or set(self.frame["roles"]) & set(imports.inject_ignore_roles):
            return {}
        return dict(imports.inject)

    def _succeed(self) -> Next:
        self.row.status = TaskStatus.SUCCESS
        self.row.result = {"image_id": self._key}
        self.row.message = ""
        return done(keep=True)

    # ---- locations

    @step(deadline=_LONG)
    def point(self) -> Next:
        """The image points at the address: at once where nothing is known of the bits, else once they are proved."""
        self._image()
        given = self.row.input.get("validation_data") or {}
        location = {"url": self.row.input["loc_url"], "metadata": {"store": self.stores.web}}

        def change(image: Image) -> None:
            image.locations = [location]
            if not given.get("os_hash_value"):
                image.os_hash_algo = self.runtime.settings.hash_algorithm
                image.status = Status.ACTIVE
            else:
                image.status = Status.IMPORTING

        self._tell(change)
        return hop(self.measure)

    @step(deadline=_LONG)
    def measure(self) -> Next:
        """Read the bits where they are: are they safe, how many are they, and are they those that were promised?"""
        image = self._image()
        given = self.row.input.get("validation_data") or {}
        self.frame.setdefault("max_bytes", self.runtime.settings.max_bytes)
        try:
            found = fetch(self.row.input["loc_url"], self.runtime.settings.fetch)
            taken = self._judge(image, found.chunks, given.get("os_hash_algo"))
        except _EXPECTED as trouble:
            raise Failed(f"the data could not be taken: {trouble}") from trouble
        for name, value in given.items():
            if name != "os_hash_algo" and taken.columns()[name] != value.lower():
                raise Failed(f"{name} is not what was promised")

        def change(image: Image) -> None:
            for name, value in taken.columns().items():
                setattr(image, name, value)
            image.status, image.task_id = Status.ACTIVE, None

        self._tell(change)
        return self._succeed()

    # ---- when it does not go well

    def failed(self, name: str, reason: str) -> Next:
        """The image as it was before, and the reason in the task."""
        filled = list(self.frame.get("filled", ()))
        undo = filled if self.frame.get("must_succeed", True) else []
        with self.runtime.db.read() as session:
            image = session.get(Image, self._key)
        if image is None:
            undo = filled
        stores, key = self.stores, self._key

        def forget() -> None:  # once the image does not name them any more; what is left over then is swept
            for store in undo:
                stores.kept[store].delete(key)
            stores.staging.delete(key)

        self.after(forget)

        def change(image: Image) -> None:
            image.task_id, image.staged_bytes = None, 0
            if self.method == LOCATION:
                image.status, image.os_hash_algo = Status.QUEUED, None
                return
            image.importing = []
            image.failed_import = [*self.frame.get("failed", ()), *undo, *(self.frame.get("stores") or ())]
            image.locations = [one for one in image.locations if one["metadata"].get("store") not in undo]
            image.stored_bytes = (image.size or 0) * len(self.stores.kept_in(image.locations))
            if self.method != COPY and not image.locations:
                image.status = Status.QUEUED

        self._tell(change)
        self.row.status = TaskStatus.FAILURE
        self.row.message = reason[:2000]
        return done(keep=True)

    def destroy(self) -> Next:
        """The image was deleted: what was done for it goes, and the task says so."""
        for store in {*self.frame.get("filled", ()), *(self.frame.get("stores") or ())}:
            self.stores.kept[store].delete(self._key)
        self.stores.staging.delete(self._key)
        self.row.status = TaskStatus.FAILURE
        self.row.message = f"the image {self._key} was deleted"
        return done(keep=True)


def _at_most(stream: Iterable[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for chunk in stream:
        size += len(chunk)
        if size > most:
            raise ImageTooLarge(f"the image is larger than {most} bytes")
        yield chunk
