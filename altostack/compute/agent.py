"""A node's agent: fetches what is wanted, makes the driver converge, reports what is.

Guests are worked on in parallel, each one serially. A journal keeps, for each guest, the generation that was
reached: a guest that changes by itself afterwards is reported, not changed back, until somebody wants something new.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from altostack.compute import config_drive
from altostack.compute.converge import Converger, seen
from altostack.compute.drivers.base import ComputeDriver, DriverError, GuestEvent, GuestNotFound, WrongState
from altostack.compute.image_cache import ImageAway, ImageCache
from altostack.kit import context as contexts
from altostack.kit.bus import BusRefused
from altostack.kit.clients import Client, RemoteError
from altostack.kit.reconcile import Loop
from altostack.kit.service import Node, Runtime

log = logging.getLogger(__name__)
_CHUNK = 100
_TRIES = 3
HEARTBEAT = 20.0
FULL_LOOK = 60.0


class Journal:
    """What was done to each guest, in a small file each: {"generation", "verb"}."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob(".*.new"):
            file.unlink()  # a killed agent's
        for file in folder.glob("*.json"):
            try:
                self._known[file.stem] = msgspec.json.decode(file.read_bytes(), type=dict[str, int])
            except ValueError:
                file.unlink()  # cut off by a crash: the guest is looked at afresh

    def get(self, guest_id: str) -> dict[str, int]:
        """The guest's entry, zeros where there is none."""
        return self._known.get(guest_id, {"generation": -1, "verb": 0})

    def put(self, guest_id: str, *, generation: int, verb: int) -> None:
        """Write the guest's entry."""
        entry = {"generation": generation, "verb": verb}
        fresh = self._folder / f".{guest_id}.new"
        fresh.write_bytes(msgspec.json.encode(entry))
        fresh.replace(self._folder / f"{guest_id}.json")
        self._known[guest_id] = entry

    def drop(self, guest_id: str) -> None:
        """Forget the guest."""
        self._known.pop(guest_id, None)
        (self._folder / f"{guest_id}.json").unlink(missing_ok=True)


class Agent:
    """The agent of one node."""

    def __init__(self, runtime: Runtime, node: Node, *, threads: int = 4) -> None:
        self._host, self._token = node.host, node.token
        self._driver: ComputeDriver = node.drivers["compute"]
        self._client: Client = runtime.clients["compute"]
        self._images: Client = runtime.clients["image"]
        root = node.root / "compute"
        self._cache = ImageCache(self._images, node.host, node.token, root / "images")
        self._no_bits = bool(runtime.cloud.get("simulate"))
        shutil.rmtree(root / "snapshots", ignore_errors=True)  # that a killed agent did not get to upload
        self._converger = Converger(
            self._driver,
            image=self._image,
            upload=self._upload,
            scratch=root / "snapshots",
            shutdown_s=float(runtime.settings.shutdown_timeout),
        )
        self._journal = Journal(root / "journal")
        self._drives = root / "drives"
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"compute-{node.host}")
        self._lock = threading.Lock()
        self._busy: dict[str, dict[str, Any] | None] = {}  # guest -> the newer document that came meanwhile
        self._changed: set[str] = set()  # guests that the driver told of
        self._reports: dict[str, dict[str, Any]] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._facts: dict[str, Any] = {}
        self._beat = 0.0
        self.looks = Loop(
            f"compute-agent-{node.host}", self.look, interval=FULL_LOOK, topics=(f"compute.node.{node.host}",)
        )
        self.reports = Loop(f"compute-report-{node.host}", self.report, interval=HEARTBEAT)
        self._driver.events(self._event)
        runtime.bus.serve(
            f"compute.agent.{node.host}",
            {"console_log": self._console_log, "diagnostics": self._diagnostics, "vnc": self._vnc},
        )

    # ---- what is wanted

    def look(self, ids: tuple[str, ...]) -> None:
        """Look at the servers that bells named, or at all of them and at what should not be there."""
        if ids:
            for start in range(0, len(ids), _CHUNK):
                for document in self._fetch(ids[start : start + _CHUNK]):
                    self._dispatch(document)
            return
        there = self._driver.guests()
        documents = self._fetch(())
        for document in documents:
            guest_id = document["id"]
            if document["generation"] > self._journal.get(guest_id)["generation"] or guest_id not in there:
                self._dispatch(document)
            else:
                self._note(guest_id, {"generation": document["generation"], **seen(there[guest_id])})
        self._sweep(there.keys() - {document["id"] for document in documents})

    def _fetch(self, ids: tuple[str, ...]) -> list[dict[str, Any]]:
        path = f"/internal/nodes/{self._host}/servers"
        query = {"id": list(ids)} if ids else None
        answer = self._client.call("GET", path, query=query, node=self._token)
        return list(answer["servers"])

    def _sweep(self, strangers: set[str]) -> None:
        """Remove guests that nobody wants here, once a second look confirms it."""
        with self._lock:
            strangers = {one for one in strangers if one not in self._busy}
        if not strangers:
            return
        wanted: set[str] = set()
        some = tuple(strangers)
        for start in range(0, len(some), _CHUNK):
            wanted |= {document["id"] for document in self._fetch(some[start : start + _CHUNK])}
        for guest_id in strangers - wanted:
            log.warning("guest %s is wanted by nobody; removing it", guest_id)
            self._driver.destroy(guest_id)
            (self._drives / guest_id).unlink(missing_ok=True)
            self._journal.drop(guest_id)

    def _dispatch(self, document: dict[str, Any]) -> None:
        """Work on one guest in the pool; while it is being worked on, keep only the newest document."""
        guest_id = document["id"]
        with self._lock:
            if guest_id in self._busy:
                self._busy[guest_id] = document
                return
            self._busy[guest_id] = None
        if self.looks.started:
            self._pool.submit(self._work, document)
        else:
            self._work(document)

    def _work(self, document: dict[str, Any]) -> None:
        guest_id = document["id"]
        while True:
            token = contexts.set_request_id(contexts.new_request_id())
            try:
                self._note(guest_id, self._once(document))
            except Exception:
                log.exception("guest %s: the agent itself is in trouble", guest_id)
            finally:
                contexts.reset_request_id(token)
            with self._lock:
                newer = self._busy[guest_id]
                if newer is None:
                    del self._busy[guest_id]
                    return
                self._busy[guest_id] = None
            document = newer

    def _once(self, document: dict[str, Any]) -> dict[str, Any]:
        """Converge one guest; the observation to report."""
        guest_id, generation = document["id"], document["generation"]
        done = self._journal.get(guest_id)
        error = None
        gone = document["power"] == "gone"
        if generation > done["generation"] or gone:
            error = self._try(document, done["verb"])
            if error is None and not gone:
                serial = (document.get("verb") or {}).get("serial", 0)
                self._journal.put(guest_id, generation=generation, verb=max(serial, done["verb"]))
        if gone and error is None:
            self._journal.drop(guest_id)
            return {"generation": generation, "power": "gone"}
        found = {"generation": generation, **self._converger.observe(guest_id)}
        if error is not None:
            found["error"] = error
        return found

    def _try(self, document: dict[str, Any], done: int) -> str | None:
        """Converge, again where that may help; what went wrong in the end."""
        for attempt in range(1, _TRIES + 1):
            try:
                self._converger.converge(self._with_drive(document), done)
                return None
            except DriverError as error:
                log.warning("guest %s, attempt %d: %s", document["id"], attempt, error)
                if not error.retryable or attempt == _TRIES:
                    return str(error) or type(error).__name__
                time.sleep(0.5 * 2**attempt)
            except Exception as error:
                log.exception("guest %s", document["id"])
                return f"{type(error).__name__}: {error}"
        raise AssertionError("unreachable")

    def _with_drive(self, document: dict[str, Any]) -> dict[str, Any]:
        """The document with the config drive among its volumes, where there shall be one; made when it is missing."""
        guest_id = document["id"]
        path = self._drives / guest_id
        if not document.get("config_drive"):
            if document["power"] == "gone":
                path.unlink(missing_ok=True)
            return document
        if not path.exists() and not self._no_bits:
            where = f"/internal/nodes/{self._host}/servers/{guest_id}/drive"
            try:
                config_drive.build(path, self._client.call("GET", where, node=self._token)["files"])
            except RemoteError as error:
                raise ImageAway(f"config drive: {error}") from error
        drive = {
            "volume_id": config_drive.volume_id(guest_id), "device": "/dev/vdz", "boot_index": None, "read_only": True,
            "connection": {"driver_volume_type": "local", "data": {"path": str(path), "format": "raw"}},
        }  # fmt: skip
        return {**document, "volumes": [*document["volumes"], drive]}

    def _image(self, image_id: str, disk_format: str, checksum: str | None) -> Path:
        if self._no_bits:
            return Path("/dev/null")  # simulated guests read nothing
        return self._cache.path(image_id, disk_format, checksum)

    def _upload(self, image_id: str, path: Path) -> None:
        def chunks() -> Any:
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    yield part

        answer = self._images.send(
            "PUT",
            f"/internal/nodes/{self._host}/images/{image_id}/file",
            chunks(),
            node=self._token,
            headers={"Content-Type": "application/octet-stream"},
        )
        text = answer.read()[:300].decode(errors="replace")
        # 409: it has its bits, from an upload whose end this agent did not live to note.
        if answer.status >= 300 and answer.status != 409:
            raise DriverError(f"image {image_id}: the image service answered {answer.status}: {text}")

    # ---- what is

    def _note(self, guest_id: str, found: dict[str, Any]) -> None:
        """Report an observation soon, if it is news."""
        with self._lock:
            if found == self._told.get(guest_id) and guest_id not in self._reports:
                return
            self._reports[guest_id] = found
        self.reports.nudge((guest_id,))

    def report(self, ids: tuple[str, ...]) -> None:
        """Post what is news; with each heartbeat also the host's facts."""
        self._look_at_changed()
        with self._lock:
            sending = dict(self._reports)
        now = time.monotonic()
        host = None
        if not ids or now - self._beat >= HEARTBEAT:
            host = self._facts_now()
        if not sending and host is None:
            return
        body = {"host": host, "servers": sending}
        self._client.call("POST", f"/internal/nodes/{self._host}/observed", body, node=self._token)
        if host is not None:
            self._beat = now
        with self._lock:
            for guest_id, found in sending.items():
                self._told[guest_id] = found
                if self._reports.get(guest_id) is found:
                    del self._reports[guest_id]
                if found["power"] == "gone":
                    self._told.pop(guest_id, None)

    def _look_at_changed(self) -> None:
        """Guests that the driver told of and that nobody works on: has anything come of it?"""
        with self._lock:
            changed = [one for one in self._changed if one not in self._busy]
            self._changed.clear()
        for guest_id in changed:
            entry = self._journal.get(guest_id)
            if entry["generation"] < 0:
                continue
            found = {"generation": entry["generation"], **self._converger.observe(guest_id)}
            with self._lock:
                if found != self._told.get(guest_id):
                    self._reports[guest_id] = found

    def _event(self, guest_id: str | None, event: GuestEvent) -> None:
        if guest_id is None:
            self.looks.nudge()
            return
        with self._lock:
            self._changed.add(guest_id)
            quiet = guest_id in self._busy
        if not quiet:
            self.reports.nudge((guest_id,))

    def _facts_now(self) -> dict[str, Any]:
        """The host as its driver describes it."""
        info = self._driver.host_info()
        self._facts = {
            "hostname": info.hostname, "vcpus": info.vcpus, "memory_mib": info.memory_mib,
            "disk_gib": info.disk_gib, "disk_free_gib": info.disk_free_gib,
            "hypervisor_type": info.hypervisor_type, "hypervisor_version": info.hypervisor_version,
            "virt_type": info.virt_type, "cpu": dict(info.cpu),
        }  # fmt: skip
        return self._facts

    # ---- live facts, asked over the bus

    def _console_log(self, args: Mapping[str, object]) -> object:
        lines = args.get("lines")
        return self._ask(
            lambda: self._driver.console_log(
                str(args["id"]), lines=int(lines) if isinstance(lines, int) else None
            )
        )

    def _diagnostics(self, args: Mapping[str, object]) -> object:
        return self._ask(lambda: self._driver.diagnostics(str(args["id"])))

    def _vnc(self, args: Mapping[str, object]) -> object:
        def where() -> object:
            console = self._driver.vnc(str(args["id"]))
            return {
                "path": str(console.path) if console.path else None, "host": console.host, "port": console.port,
            }  # fmt: skip

        return self._ask(where)

    @staticmethod
    def _ask(question: Callable[[], object]) -> object:
        try:
            return question()
        except (GuestNotFound, WrongState) as error:
            raise BusRefused(f"not running: {error}") from error
        except DriverError as error:
            raise BusRefused(str(error)) from error


def agents(runtime: Runtime, node: Node) -> tuple[Loop, ...]:
    """The loops of the compute service's agent on ``node``."""
    agent = Agent(runtime, node)
    return (agent.looks, agent.reports)


__all__ = ["Agent", "RemoteError", "agents"]
