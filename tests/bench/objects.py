"""The object store under load: ours, with --upstream an upstream stand's, and nginx with plain files as the limit.

The same requests from the same generator to each side, one side after the other, in one run, on one disk. Ours and
upstream's keep three copies on three folders, synced before an answer; ``--copies 1`` keeps one of ours, which is what
nginx does. It does not sync: in rows of large PUTs, "nginx, fsync" is one whose client syncs the file before it goes
on. Large bodies are read and written by a thread a client.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import urllib3

from altostack.objectstore.compose import devices_folder, rings_folder
from altostack.objectstore.config import Settings
from altostack.objectstore.ring.builder import Builder
from tests.bench.load import Answer, Figures, Script, request, run
from tests.stand import free_ports, running

CLIENTS = (1, 32)
_MIB = 1 << 20
_SHUT = "shut"
_SYNCED = "nginx, fsync"


@dataclass(kw_only=True)
class Side:
    """One side: where it listens, the path below which containers are, and what has to be sent along."""

    name: str
    port: int
    root: str
    token: str = ""
    folders: bool = False  # containers are folders of a plain web server
    synced: Path | None = None  # the folder whose files the client syncs after a large PUT
    made: set[str] = field(default_factory=set)

    def container(self, name: str) -> str:
        """The path of a container, made when it is not there."""
        path = f"{self.root}/{name}"
        if name not in self.made and not self.folders:
            self.call("PUT", path)
        self.made.add(name)
        return path

    def call(self, method: str, path: str, body: bytes = b"") -> None:
        """Raises RuntimeError for a refusal."""
        headers = {"X-Auth-Token": self.token} if self.token else {}
        answer = urllib3.request(method, f"http://127.0.0.1:{self.port}{path}", body=body, headers=headers)
        if answer.status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path}: {answer.status} {answer.data[:300]!r}")

    def settle(self, method: str, path: str) -> None:
        """Have the file last that a large PUT made, where it is the client who sees to that."""
        if method == "PUT" and self.synced is not None:
            file = os.open(f"{self.synced}{path}", os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        return request(method, path, token=self.token, body=body)


# ---- the sides


def furnish(copies: int) -> Callable[[Path, int], None]:
    """Rings of that many copies on as many devices, in the folder of a cloud that is not started yet."""

    def make(state: Path, port: int) -> None:
        rings, settings = rings_folder(state), Settings()
        rings.mkdir(parents=True)
        for name in ("account", "container", "object"):
            builder = Builder.create(
                rings / f"{name}.builder", part_power=10, replicas=float(copies), min_part_hours=1
            )
            for number in range(1, copies + 1):
                builder.add(
                    region=1,
                    zone=number,
                    host="127.0.0.1",
                    port=settings.node_port,
                    device=f"d{number}",
                    weight=100.0,
                )
                (devices_folder(state, settings) / f"d{number}").mkdir(parents=True, exist_ok=True)
            builder.rebalance()
            builder.save()

    return make


@contextmanager
def altostack(copies: int, processes: int) -> Iterator[Side]:
    settings = f"[objectstore]\nprocesses = {processes}\n"
    with running("--simulate", settings=settings, furnish=furnish(copies)) as stand:
        projects = stand.call("GET", "/identity/v3/projects?name=admin", stand.token("admin"))[1]["projects"]
        yield Side(
            name="altostack",
            port=stand.port + 2,
            root=f"/v1/AUTH_{projects[0]['id']}",
            token=stand.token("admin"),
        )


def upstream() -> Side:
    """The stand's Swift."""
    user = {"name": "admin", "domain": {"id": "default"}, "password": "secret"}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    body = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}}
    answer = urllib3.request("POST", "http://127.0.0.1:15000/v3/auth/tokens", json=body)
    project = msgspec.json.decode(answer.data)["token"]["project"]["id"]
    return Side(
        name="upstream", port=18080, root=f"/v1/AUTH_{project}", token=answer.headers["X-Subject-Token"]
    )


@contextmanager
def nginx() -> Iterator[tuple[Side, Side]]:
    """nginx that takes files by PUT (dav_methods) and serves them by sendfile; and the same, synced by its client."""
    with tempfile.TemporaryDirectory(prefix="altostack-bench-nginx-") as name:
        folder, port = Path(name), free_ports()
        folder.chmod(0o755)
        (folder / "files").mkdir()
        config = f"""
            daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log; user root;
            events {{ worker_connections 1024; }}
            http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; client_max_body_size 0;
              client_body_temp_path {folder}/incoming;
              server {{ listen 127.0.0.1:{port}; root {folder}/files;
                location / {{ dav_methods PUT DELETE; create_full_put_path on; dav_access user:rw; }} }} }}"""
        (folder / "conf").write_text(config)
        server = subprocess.Popen(["nginx", "-p", name, "-c", "conf", "-e", f"{folder}/error.log"])
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield (
                Side(name="nginx", port=port, root="", folders=True),
                Side(name=_SYNCED, port=port, root="/synced", folders=True, synced=folder / "files"),
            )
        finally:
            server.terminate()
            server.wait()


# ---- the workloads: small ones by `tests.bench.load`, large ones by a thread a client


def good(answer: Answer) -> bool:
    if answer.status >= 300:
        raise RuntimeError(f"{answer.status}: {answer.body[:300]!r}")
    return True


def small_puts(side: Side, clients: int, seconds: float) -> Figures:
    path, content = side.container("small"), os.urandom(4096)

    def script(number: int) -> Script:
        count = 0
        while True:
            count += 1
            yield side.ask("PUT", f"{path}/put-{clients}-{number}-{count}", content)

    return run(side.port, script, clients=clients, seconds=seconds, count=good)


def small_gets(side: Side, clients: int, seconds: float) -> Figures:
    path, content = side.container("small"), os.urandom(4096)
    for number in range(100):
        side.call("PUT", f"{path}/get-{number}", content)

    def script(number: int) -> Script:
        count = number
        while True:
            count += 1
            yield side.ask("GET", f"{path}/get-{count % 100}")

    return run(side.port, script, clients=clients, seconds=seconds, count=good)


def deletes(side: Side, clients: int, seconds: float) -> Figures:
    """A PUT and a DELETE in turn; the DELETEs are counted, and how long they take."""
    path, content = side.container("small"), b"x"

    def script(number: int) -> Script:
        count = 0
        while True:
            count += 1
            name = f"{path}/gone-{clients}-{number}-{count}"
            yield side.ask("PUT", name, content)
            yield side.ask("DELETE", name)

    return run(
        side.port, script, clients=clients, seconds=seconds, count=lambda a: good(a) and a.status == 204
    )


def listings(names: int) -> Callable[[Side, int, float], Figures]:
    def listing(side: Side, clients: int, seconds: float) -> Figures:
        path = side.container(f"many-{names}")
        if _SHUT not in side.made:
            side.made.add(_SHUT)
            fill(side, path, names)
        places = [f"{path}?format=json&limit=1000&marker=n{at:07d}" for at in range(0, names - 1000, 997)]

        def script(number: int) -> Script:
            count = number
            while True:
                count += 1
                yield side.ask("GET", places[count % len(places)])

        return run(side.port, script, clients=clients, seconds=seconds, count=good)

    return listing


def fill(side: Side, path: str, names: int) -> None:
    """That many small objects, by 32 clients."""
    left = iter(range(names))

    def script(number: int) -> Script:
        for at in left:
            yield side.ask("PUT", f"{path}/n{at:07d}", b"")
        while True:
            yield side.ask("HEAD", path)

    done = 0

    def counted(answer: Answer) -> bool:
        nonlocal done
        done += answer.status == 201
        if done >= names:
            raise StopFilling
        return good(answer)

    try:
        run(side.port, script, clients=32, seconds=3600, count=counted)
    except StopFilling:
        return


class StopFilling(Exception):
    """Everything is there."""


def large(method: str, size: int) -> Callable[[Side, int, float], Figures]:
    """Whole bodies of ``size`` bytes; the rate is in MiB a second."""

    def work(side: Side, clients: int, seconds: float) -> Figures:
        path = side.container("large")
        content = os.urandom(_MIB)
        if method == "GET":
            transfer(side, "PUT", f"{path}/get-{size}", content, size)
        times: list[float] = []
        until = time.perf_counter() + seconds
        trouble: list[BaseException] = []

        def client(number: int) -> None:
            try:
                with socket.create_connection(("127.0.0.1", side.port)) as stream:
                    count = 0
                    while not times or time.perf_counter() < until:
                        began = time.perf_counter()
                        name = (
                            f"{path}/get-{size}"
                            if method == "GET"
                            else f"{path}/put-{clients}-{number}-{count % 4}"
                        )
                        transfer(side, method, name, content, size, stream)
                        side.settle(method, name)
                        times.append(time.perf_counter() - began)
                        count += 1
            except BaseException as error:
                trouble.append(error)

        began = time.perf_counter()
        threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if trouble:
            raise trouble[0]
        took = time.perf_counter() - began
        times.sort()
        middle, high = (times[int(len(times) * part)] * 1e3 for part in (0.5, 0.95))
        return Figures(clients=clients, rate=len(times) * size / _MIB / took, p50=middle, p95=high)

    return work


def transfer(
    side: Side, method: str, path: str, content: bytes, size: int, stream: socket.socket | None = None
) -> None:
    """One request with a body of ``size`` bytes up or down. Raises RuntimeError for a refusal, ConnectionError."""
    own = None if stream else socket.create_connection(("127.0.0.1", side.port))
    wire = stream or own
    assert wire is not None
    try:
        token = f"X-Auth-Token: {side.token}\r\n" if side.token else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{token}"
        if method == "PUT":
            wire.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
            for at in range(0, size, len(content)):
                wire.sendall(content[: min(len(content), size - at)])
        else:
            wire.sendall(f"{head}\r\n".encode())
        have = b""
        while b"\r\n\r\n" not in have:
            part = wire.recv(65536)
            if not part:
                raise ConnectionError(f"{side.name} hung up: {have[:200]!r}")
            have += part
        text, _, rest = have.partition(b"\r\n\r\n")
        if text.split()[1][:1] != b"2":
            raise RuntimeError(f"{side.name}: {method} {path}: {text[:300]!r}")
        lines = (line.partition(":") for line in text.decode("latin-1").split("\r\n")[1:])
        left = int({name.lower(): value for name, _, value in lines}.get("content-length", "0")) - len(rest)
        room = bytearray(_MIB)
        while left > 0:
            got = wire.recv_into(room, min(left, _MIB))
            if not got:
                raise ConnectionError(f"{side.name} hung up with {left} bytes to come")
            left -= got
    finally:
        if own is not None:
            own.close()


WORKLOADS: tuple[tuple[str, str, Callable[[Side, int, float], Figures], tuple[str, ...]], ...] = (
    ("PUT 4 KiB", "/s", small_puts, (_SYNCED,)),
    ("GET 4 KiB", "/s", small_gets, (_SYNCED,)),
    ("DELETE", "/s", deletes, (_SYNCED,)),
    ("PUT 1 MiB", "MiB/s", large("PUT", _MIB), ()),
    ("GET 1 MiB", "MiB/s", large("GET", _MIB), (_SYNCED,)),
    ("PUT 1 GiB", "MiB/s", large("PUT", 1 << 30), ()),
    ("GET 1 GiB", "MiB/s", large("GET", 1 << 30), (_SYNCED,)),
)


def main() -> None:
    """Print a table: what, clients, each side's rate and 95th percentile, ours in relation to the others'."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--upstream", action="store_true", help="an upstream stand runs on its usual ports plus 10000"
    )
    options.add_argument("--seconds", type=float, default=5.0, help="of load for each figure")
    options.add_argument("--copies", type=int, default=3)
    options.add_argument("--processes", type=int, default=2, help="of ours that answer clients")
    options.add_argument("--clients", type=int, nargs="*", default=CLIENTS)
    options.add_argument("--names", type=int, default=100_000, help="in the container that is listed")
    options.add_argument("--only", default="", help="part of a name of what is to be measured")
    chosen = options.parse_args()
    with ExitStack() as stack:
        sides = [stack.enter_context(altostack(chosen.copies, chosen.processes))]
        if chosen.upstream:
            sides.append(upstream())
        if shutil.which("nginx"):
            sides.extend(stack.enter_context(nginx()))
        print(f"{'what':24} {'clients':>7} " + " ".join(f"{side.name:>12}       p95 ms" for side in sides))
        listed = (f"1,000 names of {chosen.names}", "/s", listings(chosen.names), ("nginx", _SYNCED))
        for name, unit, work, without in (*WORKLOADS, listed):
            if chosen.only not in name:
                continue
            for clients in chosen.clients:
                count = min(clients, 4) if "GiB" in name else clients
                figures = {
                    side.name: work(side, count, chosen.seconds) for side in sides if side.name not in without
                }
                show(name, unit, figures)


def show(name: str, unit: str, figures: dict[str, Figures]) -> None:
    ours = figures["altostack"]
    row = " ".join(f"{one.rate:12.0f} {unit:5} {one.p95:7.1f}" for one in figures.values())
    others = ((other, one) for other, one in figures.items() if other != "altostack")
    ratios = "  ".join(f"x {ours.rate / one.rate:.2f} of {other}" for other, one in others if one.rate)
    print(f"{name:24} {ours.clients:7} {row}   {ratios}", flush=True)


if __name__ == "__main__":
    main()
