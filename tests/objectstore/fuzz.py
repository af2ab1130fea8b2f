"""Throws wild requests at a whole object store and judges what comes back.

    python -m tests.objectstore.fuzz --requests 100000 --seed 1

Half go over loopback sockets, half through the pipeline in this process. Faults are: an answer of the 500s other than
501 (505 to another protocol, 503 if the request is answered when it is repeated), none within `PATIENCE` seconds, a
refusal that is not in the service's own form, a traceback or a secret in an answer, an error in the log, and a store
that is not whole afterwards. Each request depends on the seed and its number alone; ``--only N`` repeats one (its
answer depends on those before it, too).
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from altostack.objectstore import compose
from altostack.objectstore.http import Body, Bytes, ClientGone, Refusal, Request, Stream, Unsaid
from altostack.objectstore.httpd.server import Server, listen
from tests.objectstore.wild import ACCOUNT, CONTAINERS, OBJECTS, S3_SECRET, TEMP_KEY, Wild, clean, wild, wire
from tests.objectstore.world import World, world

PATIENCE = 30.0  # seconds; a machine may be busy with other things
KEY = "password-of-the-fuzzers-tester"
USERS = {
    "tempauth": {
        "user_test_tester": f"{KEY} .admin",
        "user_other_boss": "other-secret .admin",
    },
    "s3": {"key_alice": f"{S3_SECRET} {ACCOUNT} alice", "min_segment_size": "1024"},
}
SECRETS = (S3_SECRET, KEY, "other-secret", "key of the tests")
TRACES = (b"Traceback (most recent", b'File "/', b'.py", line', b"altostack.objectstore", b"object at 0x")
CONTROL = {f"/v1/AUTH_other/kept/{number}": os.urandom(0) + b"kept %d" % number * 50 for number in range(5)}


@dataclass
class Answer:
    """status 0: the connection was closed without one."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trouble: str = ""  # what was wrong with the answer's own form


@dataclass
class Report:
    """What was seen."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    good: Counter[str] = field(default_factory=Counter)  # of each kind, how many succeeded
    broken_off: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    races: int = 0  # answers of 503 that were another when the request was repeated
    slowest: float = 0.0

    def text(self) -> str:
        lines = [
            "status  answers",
            *(f"{status:6}  {count}" for status, count in sorted(self.statuses.items())),
        ]
        lines += [
            "",
            *(
                f"{kind:12} {count:6}, {self.good[kind]} of them succeeded"
                for kind, count in self.kinds.most_common()
            ),
        ]
        lines += [
            "",
            f"slowest answer: {self.slowest:.2f} s",
            f"answers that broke off: {dict(self.broken_off)}",
        ]
        lines += [f"unavailable at first, answered when repeated: {self.races}"]
        return "\n".join([*lines, f"faults: {len(self.faults)}", *self.faults])


class Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        self.seen.append(text)


class Fuzzer:
    """A store, and what is thrown at it."""

    def __init__(self, folder: Path, seed: int) -> None:
        shipped = next(
            line.partition(" = ")[2]
            for line in compose.PASTE.read_text().splitlines()
            if line.startswith("pipeline = catch ")
        )
        self.folder, self.seed, self.report = folder, seed, Report()
        self.world: World = world(folder, pipeline=shipped, options=USERS, devices=3, replicas=2.0)
        listener = listen("127.0.0.1", 0)
        assert self.world.store.app is not None
        self.port = listener.getsockname()[1]
        self.listener = listener
        self.world.servers.append(Server(self.world.store.app, listener, threads=8, patience=5.0).start())
        self.tokens = {
            who: self._token(who, key) for who, key in (("test:tester", KEY), ("other:boss", "other-secret"))
        }
        self.errors = Errors()
        self._lock = threading.Lock()
        self._running: dict[int, tuple[int, float]] = {}
        self._prepare()

    def _token(self, who: str, key: str) -> str:
        return self.world.get("/auth/v1.0", x_auth_user=who, x_auth_key=key).headers["x-auth-token"]

    def _prepare(self) -> None:
        mine = {"x_auth_token": self.tokens["test:tester"]}
        theirs = {"x_auth_token": self.tokens["other:boss"]}
        here = self.world
        for name in CONTAINERS:
            assert here.put(f"/v1/{ACCOUNT}/{name}", **mine).status == 201
        for name in OBJECTS:
            assert here.put(f"/v1/{ACCOUNT}/{CONTAINERS[0]}/{name}", b"something", **mine).status == 201
        assert here.post(f"/v1/{ACCOUNT}", x_account_meta_temp_url_key=TEMP_KEY, **mine).status == 204
        assert here.put("/v1/AUTH_other/kept", **theirs).status == 201
        for name, content in CONTROL.items():
            assert here.put(name, content, **theirs).status == 201

    def close(self) -> None:
        self.world.close()
        self.listener.close()

    # ---- sending

    def one(self, number: int) -> None:
        """Make request ``number``, send and judge it."""
        r = Random(f"{self.seed} {number}")
        asked = wild(r, self.tokens["test:tester"])
        over_socket = asked.raw is not None or r.random() < 0.5
        began = time.monotonic()
        me = threading.get_ident()
        self._running[me] = (number, began)
        try:
            answer = self._over_socket(asked) if over_socket else self._inside(asked, r)
        finally:
            self._running.pop(me, None)
        seconds = time.monotonic() - began
        # Others write the same object at the same time. Only what stays unavailable is a fault.
        again = None
        if answer.status == 503:
            again = self._over_socket(asked) if over_socket else self._inside(asked, r)
        with self._lock:
            self.report.slowest = max(self.report.slowest, seconds)
            self.report.statuses[answer.status] += 1
            self.report.kinds[asked.kind] += 1
            self.report.good[asked.kind] += 200 <= answer.status < 400
            if again is not None and again.status != 503:
                self.report.races += 1  # it was told to come back later, and rightly so
                return
            for fault in judge(asked, answer, self.folder):
                shown = asked.bytes()[:600]
                self.report.faults.append(
                    f"#{number} {asked.kind}: {fault}\n    {shown!r}\n    {answer.status} {answer.body[:300]!r}"
                )

    def _over_socket(self, asked: Wild) -> Answer:
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as sock,
            contextlib.suppress(ConnectionError),
        ):
            try:
                sock.sendall(asked.bytes())
                sock.shutdown(socket.SHUT_WR)  # whoever waits for more sees that nothing comes
            except OSError:
                pass  # an answer may be there nevertheless
            parts = []
            try:
                while part := sock.recv(1 << 16):
                    parts.append(part)
            except TimeoutError:
                return Answer(0, trouble="no answer in time")
            return parsed(
                b"".join(parts),
                bare=asked.method == "HEAD" if asked.raw is None else asked.raw.startswith(b"HEAD "),
            )
        return Answer(0)

    def _inside(self, asked: Wild, r: Random) -> Answer:
        headers: dict[str, str] = {}
        for name, value in asked.headers:
            value = clean(value).strip()
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        headers.setdefault("host", "127.0.0.1:8080")
        body: Body = Bytes(asked.body)
        if asked.framed:
            headers.pop("content-length", None)
            headers["transfer-encoding"] = "chunked"
            body = Stream([asked.body[at : at + 1000] for at in range(0, len(asked.body), 1000)])
        elif asked.body and r.random() < 0.03:
            body = Stream(_leaving(asked.body), len(asked.body))
            headers["content-length"] = str(len(asked.body))
        else:
            headers.pop("transfer-encoding", None)
            headers["content-length"] = str(len(asked.body))
            if not asked.body and r.random() < 0.3:
                del headers["content-length"]
                body = Unsaid()
        target, _, query = wire(asked.target).partition("?")
        app = self.world.store.app
        assert app is not None
        try:
            request = Request(
                asked.method, target, query_string=query, headers=headers, body=body, remote="127.0.0.1"
            )
            response = app(request)
        except Refusal as refusal:
            response = refusal.response()
        status, told = response.status, dict(response.headers)
        try:
            content = b"" if asked.method == "HEAD" else response.read()
        except ClientGone:
            content = b""
        except Exception as error:
            content = b""
            with self._lock:
                self.report.broken_off[f"{asked.kind} {type(error).__name__}: {error}"[:120]] += 1
        finally:
            response.close()
        trouble = ""
        length = told.get("content-length")
        if response.entries is not None:
            trouble = "a listing that nobody wrote"
        return Answer(
            status,
            {k.lower(): v for k, v in told.items()} | ({"content-length": length} if length else {}),
            content,
            trouble,
        )

    def run(self, count: int, threads: int) -> Report:
        """Send ``count`` requests, then look at what is left."""
        logging.getLogger("altostack").addHandler(self.errors)
        before = left_open(self.folder)
        work = [
            threading.Thread(target=self._some, args=(range(n, count, threads),), daemon=True)
            for n in range(threads)
        ]
        for thread in work:
            thread.start()
        while any(thread.is_alive() for thread in work):
            work[0].join(0.5) if work[0].is_alive() else time.sleep(0.2)
            for number, began in list(self._running.values()):
                if time.monotonic() - began > PATIENCE * 2:
                    faulthandler.dump_traceback(sys.stderr)
                    self.report.faults.append(f"#{number} was not answered")
                    return self.report
        self._afterwards(before)
        logging.getLogger("altostack").removeHandler(self.errors)
        cut = [text for text in self.errors.seen if "middleware.shape.Cut: " in text]
        if cut:  # a large object whose segments others took away: the answer ends early, as it has to
            self.report.broken_off["Cut, over a socket"] += len(cut)
        for text, times in Counter(
            _alike(text) for text in self.errors.seen if text not in cut
        ).most_common():
            self.report.faults.append(f"logged {times} times: {text}")
        return self.report

    def _some(self, numbers: range) -> None:
        for number in numbers:
            try:
                self.one(number)
            except Exception as error:
                with self._lock:
                    self.report.faults.append(f"#{number}: the fuzzer itself failed: {error!r}")

    # ---- afterwards

    def _afterwards(self, before: Counter[str]) -> None:
        faults, here = self.report.faults, self.world
        theirs = {"x_auth_token": self.tokens["other:boss"]}
        for name, content in CONTROL.items():
            found = here.get(name, **theirs)
            if (found.status, found.read()) != (200, content):
                faults.append(f"{name} is not what it was: {found.status}")
        names = here.get("/v1/AUTH_other/kept", **theirs).read().decode().split()
        if names != sorted(name.rpartition("/")[2] for name in CONTROL):
            faults.append(f"another account's container lists {names}")
        path = "/v1/AUTH_other/afterwards"
        steps = [
            here.put(path, **theirs).status, here.put(f"{path}/o", b"new", **theirs).status,
            here.get(f"{path}/o", **theirs).read(),
            here.delete(f"{path}/o", **theirs).status, here.delete(path, **theirs).status,
        ]  # fmt: skip
        if steps != [201, 201, b"new", 204, 204]:
            faults.append(f"the store does not work: {steps}")
        self._read_all()
        here.close()
        faults += leftovers(self.folder)
        until = time.monotonic() + 5
        while (more := left_open(self.folder) - before) and time.monotonic() < until:
            time.sleep(0.1)
        if more:
            faults.append(f"descriptors were left open: {dict(more)}")

    def _read_all(self) -> None:
        """Everything that is listed can be asked for."""
        mine = {"x_auth_token": self.tokens["test:tester"]}
        listed = self.world.get(f"/v1/{ACCOUNT}", query={"format": "json"}, **mine)
        import json

        for container in json.loads(listed.read()):
            inside = f"/v1/{ACCOUNT}/{container['name']}"
            found = self.world.get(inside, query={"format": "json"}, **mine)
            if found.status != 200:
                self.report.faults.append(f"GET {inside!r}: {found.status}")
                continue
            for one in json.loads(found.read()):
                answer = self.world.get(f"{inside}/{one['name']}", **mine)
                if answer.status >= 500:
                    self.report.faults.append(f"GET {quote(inside)}/{one['name']!r}: {answer.status}")
                with contextlib.suppress(Exception):
                    answer.read()
                answer.close()


def _leaving(content: bytes) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    raise ClientGone("the client has gone")


def _alike(text: str) -> str:
    """A logged text without what is of one request alone."""
    first, _, rest = text.partition("\n")
    first = re.sub(r" at \w+ .*", " at ...", first)
    return "\n".join([first, *rest.splitlines()[-7:]])


def parsed(data: bytes, *, bare: bool) -> Answer:
    """What a server said until it hung up."""
    while data.startswith(b"HTTP/1.1 100 "):
        data = data.partition(b"\r\n\r\n")[2]
    if not data:
        return Answer(0)
    head, end, body = data.partition(b"\r\n\r\n")
    lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    if not end or not lines[0].startswith("HTTP/1.1 "):
        return Answer(0, body=data, trouble="no HTTP answer")
    status = int(lines[0].split()[1])
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(": ")
        if not colon or name.lower() in headers or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            return Answer(status, headers, body, f"broken header {line!r}")
        headers[name.lower()] = value
    trouble = ""
    if bare or status in (204, 304):
        trouble = "a body where none may be" if body and not body.startswith(b"HTTP/1.1 ") else ""
    elif headers.get("transfer-encoding") == "chunked":
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            if not (many := int(size, 16)):
                break
            whole, body = whole + body[:many], body[many + 2 :]
        body = whole
    elif "content-length" not in headers:
        trouble = "an answer without a length"
    else:
        body = body[: int(headers["content-length"])]  # a mangled head can be two requests
    return Answer(status, headers, b"" if bare else body, trouble)


def judge(asked: Wild, answer: Answer, folder: Path) -> list[str]:
    """What is wrong with an answer."""
    faults = [answer.trouble] if answer.trouble else []
    status, body = answer.status, answer.body
    if status == 0:
        if asked.raw is None and not faults:
            faults.append("the connection was closed without an answer")
        return faults
    if status >= 500 and status != 501 and not (status == 505 and asked.raw is not None):
        faults.append(f"a {status}")
    if not 200 <= status < 600:
        faults.append(f"no status: {status}")
    everything = body + "\n".join(f"{k}: {v}" for k, v in answer.headers.items()).encode(
        "utf-8", "surrogateescape"
    )
    if body and status >= 400:
        faults += [f"tells of the inside: {trace!r}" for trace in TRACES if trace in everything]
    faults += [
        f"tells a secret: {one}"
        for one in SECRETS
        if one.encode() in everything and one.encode() not in asked.bytes()
    ]
    if status >= 400 and TEMP_KEY.encode() in everything:
        faults.append("tells an account's key")
    if str(folder).encode() in everything:
        faults.append("tells where files lie")
    kind = answer.headers.get("content-type", "")
    if status >= 400 and body:
        if kind.startswith(("application/xml", "text/xml")):
            if b"<Error><Code>" not in body.replace(b"\n", b"") and not (
                b"<Code>" in body and b"<Error" in body
            ):
                faults.append("an error that is no XML of S3's")
        elif not kind.startswith(("text/html", "text/plain", "application/json")):
            faults.append(f"an error as {kind!r}")
        signed = any(
            name == "authorization" and value.startswith(("AWS ", "AWS4-HMAC-SHA256 "))
            for name, value in asked.headers
        )
        if (
            signed
            and status != 499
            and asked.kind.startswith("s3")
            and "x-trans-id" in answer.headers
            and not kind.startswith("application/xml")
        ):
            faults.append("an S3 client got an error in another form")
    elif status >= 400 and status != 412 and asked.method not in ("HEAD", "OPTIONS") and asked.raw is None:
        faults.append("an error without words")
    return faults


def left_open(folder: Path) -> Counter[str]:
    """This process's open files and sockets, the store's databases aside (they are kept open on purpose)."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith("socket:"):
                target = "socket"
            if not target.endswith((".db", ".db-wal", ".db-shm", ".pending")) and target != str(folder):
                found[re.sub(r"\d{4,}", "N", target)] += 1
    return found


def leftovers(folder: Path) -> list[str]:
    """Files on the devices that no finished request leaves behind."""
    faults = []
    for device in (folder / "objectstore" / "devices").iterdir():
        for where, folders, files in os.walk(device):
            at = Path(where)
            kinds = at.relative_to(device).parts
            if not kinds:
                continue
            if kinds[0] == "tmp" and files:
                faults.append(f"temporary files: {[str(at / one) for one in files][:5]}")
            if kinds[0] == "quarantined":
                faults += (
                    [f"quarantined: {at / one}" for one in (*files, *folders)][:5] if len(kinds) == 2 else []
                )
            if kinds[0].startswith("objects") and len(kinds) == 4:
                faults += [
                    f"no object's file: {at / one}"
                    for one in files
                    if not re.fullmatch(r"\d{10}\.\d{9}(#\d{10}\.\d{9})?\.(data|ts|meta)", one)
                ]
    return faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Throw wild requests at an object store.")
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--only", type=int, default=None, metavar="N", help="this request alone")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(
        prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as folder:
        fuzzer = Fuzzer(Path(folder), given.seed)
        try:
            if given.only is not None:
                asked = wild(Random(f"{given.seed} {given.only}"), fuzzer.tokens["test:tester"])
                print(asked)
                fuzzer.one(given.only)
                found: Any = fuzzer.report
            else:
                found = fuzzer.run(given.requests, given.threads)
            print(found.text())
            return 1 if found.faults else 0
        finally:
            fuzzer.close()


if __name__ == "__main__":
    raise SystemExit(main())
