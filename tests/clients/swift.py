"""What ``swift`` can do, each with what it needs before it and with what it changes."""

from __future__ import annotations

import json
import os
import random
import re
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from tests.clients.tour import Tour

# Options that make another command of a verb.
VARIANTS = (
    "upload --segment-size", "upload --use-dlo", "upload --changed", "upload --skip-identical", "upload --object-name",
    "download --all", "download --prefix", "download --version-id", "download --skip-identical",
    "delete --all", "delete --prefix", "delete --version-id", "delete --versions", "delete --object-threads",
    "list --versions", "post --read-acl", "post --write-acl", "copy --destination",
    "tempurl --prefix-based", "tempurl --ip-range",
)  # fmt: skip
_BITS = random.Random(1).randbytes(250_000)


def _stat(tour: Tour, what: str = "", *, who: str = "admin") -> dict[str, str]:
    """What stat shows: its words -> values."""
    text = tour(f"stat {what}", who=who)
    lines = (line.partition(":") for line in text.splitlines()) if isinstance(text, str) else ()
    return {name.strip(): value.strip() for name, _, value in lines}


def _list(tour: Tour, what: str = "", *, who: str = "admin") -> list[str]:
    text = tour(f"list {what}", who=who)
    return text.split("\n")[:-1] if isinstance(text, str) else []


def _sent(tour: Tour, method: str, pattern: str) -> int:
    """How many of the last command's requests were such."""
    return sum(one.method == method and re.search(pattern, one.path) is not None for one in tour.answers)


def _address(tour: Tour, *, who: str = "admin") -> tuple[str, str]:
    """(the account's URL, a token)."""
    told = dict(re.findall(r"export (\w+)=(\S+)", str(tour("auth", who=who))))
    return told.get("OS_STORAGE_URL", ""), told.get("OS_AUTH_TOKEN", "")


def _fetch(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """A request of somebody without a token."""
    where = urlsplit(url)
    line = HTTPConnection(where.netloc, timeout=10)
    try:
        line.request(method, f"{where.path}?{where.query}" if where.query else where.path, body)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def login(tour: Tour) -> None:
    url, token = _address(tour)
    tour.expect("auth", url.rpartition("/")[0].endswith("/v1") and bool(token), True)
    tour.expect("stat", _stat(tour)["Account"], url.rpartition("/")[2])
    tour.know("bearer", ["--os-storage-url", url, "--os-auth-token", token])
    tour.expect("stat", _stat(tour, who="bearer")["Account"], url.rpartition("/")[2])
    tour.expect("stat", [one.method for one in tour.answers], ["HEAD"])  # no login
    for verb in ("capabilities", "info"):
        told = json.loads(tour(f"{verb} --json") or "{}")
        tour.expect(verb, {"swift", "slo", "dlo", "tempurl", "bulk_delete"} <= set(told), True)
    tour.know("nobody", [])
    tour.expect("bash_completion", "--segment-size" in tour("bash_completion upload", who="nobody"), True)


def posts(tour: Tour) -> None:
    tour("post -m Colour:blue")
    tour.expect("post", _stat(tour)["Meta Colour"], "blue")
    tour("post -m Colour:")
    tour.expect("post", "Meta Colour" in _stat(tour), False)
    tour("post -m Size:L box")
    tour.expect("post", _stat(tour, "box")["Meta Size"], "L")
    tour.expect("list", _list(tour), ["box"])
    (tour.folder / "small").write_bytes(b"small")
    tour("upload box small -m Kind:first -H 'content-type: text/x-one'")
    shown = _stat(tour, "box small")
    tour.expect("upload", (shown["Meta Kind"], shown["Content Type"], shown["Content Length"]),
                ("first", "text/x-one", "5"))  # fmt: skip
    tour("post box small -m Kind:second -H 'X-Delete-After: 1000'")
    shown = _stat(tour, "box small")
    tour.expect("post", (shown["Meta Kind"], "X-Delete-At" in shown), ("second", True))

    tour.expect("stat", tour.works("stat box small", who="demo"), False)
    url = _address(tour)[0]
    tour.expect("post --read-acl", _fetch("GET", f"{url}/box/small")[0], 401)
    tour("post --read-acl '.r:*,.rlistings' box")
    tour.expect("post --read-acl", _fetch("GET", f"{url}/box/small"), (200, b"small"))
    tour.expect("post --read-acl", _fetch("GET", f"{url}/box"), (200, b"small\n"))
    tour.expect("post --read-acl", _stat(tour, "box")["Read ACL"], ".r:*,.rlistings")

    # Somebody of another project, whom the owner lets in.
    theirs, token = _address(tour, who="demo")
    tour.know("guest", ["--os-storage-url", url, "--os-auth-token", token])
    project = theirs.rpartition("AUTH_")[2]
    tour("post --read-acl '' box")
    tour.expect("post --read-acl", tour.works("stat box small", who="guest"), False)
    tour(f"post --read-acl {project}:* box")
    tour.expect("post --read-acl", _stat(tour, "box small", who="guest")["Content Length"], "5")
    tour.expect("post --read-acl", tour.works("upload --skip-container-put box small", who="guest"), False)
    tour(f"post --write-acl {project}:* box")
    tour("upload --skip-container-put box small --object-name theirs", who="guest")
    tour.expect("post --write-acl", _list(tour, "box"), ["small", "theirs"])
    tour("delete box small theirs", who="guest")
    tour.expect("delete", _list(tour, "box"), [])
    tour("delete box")
    tour.expect("delete", _list(tour), [])


def uploads(tour: Tour) -> None:
    home = tour.folder / "home"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "bits").write_bytes(_BITS)
    (home / "ü ?&#.txt").write_bytes(b"odd")
    (home / "empty").mkdir()
    tour("upload box home")
    everything = ["home/deep/bits", "home/empty", "home/ü ?&#.txt"]
    tour.expect("upload", _list(tour, "box"), everything)
    tour("upload --object-name other box home/deep/bits")
    tour.expect("upload --object-name", _list(tour, "box"), [*everything, "other"])
    tour("upload --object-name far box home")
    tour.expect(
        "upload --object-name",
        _list(tour, "box --prefix far/"),
        ["far/deep/bits", "far/empty", "far/ü ?&#.txt"],
    )

    tour("upload --changed box home/deep/bits")
    tour.expect("upload --changed", _sent(tour, "PUT", "/deep/bits$"), 0)
    os.utime(home / "deep" / "bits", (1_000_000_000, 1_000_000_000))
    tour("upload --changed box home/deep/bits")
    tour.expect("upload --changed", _sent(tour, "PUT", "/deep/bits$"), 1)
    tour("upload --skip-identical box home/deep/bits")
    tour.expect("upload --skip-identical", _sent(tour, "PUT", "/deep/bits$"), 0)
    (home / "deep" / "bits").write_bytes(b"else")
    tour("upload --skip-identical box home/deep/bits")
    tour.expect("upload --skip-identical", _sent(tour, "PUT", "/deep/bits$"), 1)

    tour.expect("list", _list(tour, "box --delimiter /"), ["far/", "home/", "other"])
    rows = json.loads(tour("list --json box --prefix other") or "[]")
    tour.expect("list", [(row["name"], row["bytes"]) for row in rows], [("other", len(_BITS))])
    tour.expect("list", str(len(_BITS)) in tour("list --long box"), True)
    tour.expect("stat", _stat(tour, "box")["Objects"], "7")

    tour("download box other -o one")
    tour.expect("download", (tour.folder / "one").read_bytes() == _BITS, True)
    tour("download box -D all")
    tour.expect("download", (tour.folder / "all" / "home" / "ü ?&#.txt").read_bytes(), b"odd")
    tour.expect("download", (tour.folder / "all" / "home" / "empty").is_dir(), True)
    said = tour("download box 'home/ü ?&#.txt' -o -")
    tour.expect("download", said, "odd")
    tour("download box other -o part -H 'Range: bytes=10-19' --ignore-checksum")
    tour.expect("download", (tour.folder / "part").read_bytes(), _BITS[10:20])
    tour("download --prefix far/ --remove-prefix box -D near")
    tour.expect("download --prefix", (tour.folder / "near" / "deep" / "bits").read_bytes() == _BITS, True)
    tour("download --skip-identical box other -o one")
    tour.expect(
        "download --skip-identical", [one.status for one in tour.answers if "/box/other" in one.path], [304]
    )
    tour("download --all -D whole")
    tour.expect("download --all", (tour.folder / "whole" / "box" / "other").read_bytes() == _BITS, True)

    tour("copy --destination /away/copied -m Colour:red box other")
    shown = _stat(tour, "away copied")
    tour.expect(
        "copy --destination", (shown["Meta Colour"], shown["Content Length"]), ("red", str(len(_BITS)))
    )
    tour("copy --fresh-metadata -m Size:L away copied")
    shown = _stat(tour, "away copied")
    tour.expect("copy", (shown.get("Meta Size"), "Meta Colour" in shown), ("L", False))

    tour("delete --prefix far/ box")
    tour.expect("delete --prefix", _list(tour, "box"), [*everything, "other"])
    tour("delete box home/deep/bits")
    tour.expect("delete", _list(tour, "box"), [*everything[1:], "other"])
    # What is more than its threads can do one by one, it sends in one request.
    tour("delete --object-threads 1 box home/empty 'home/ü ?&#.txt' other")
    tour.expect("delete --object-threads", _sent(tour, "POST", "bulk-delete"), 1)
    tour.expect("delete --object-threads", _list(tour, "box"), [])
    tour("delete --all")
    tour.expect("delete --all", _list(tour), [])


def large(tour: Tour) -> None:
    (tour.folder / "large").write_bytes(_BITS)
    name = "upload --segment-size"
    tour(f"{name} 100000 slo large")
    tour.expect(name, len(_list(tour, "slo_segments")), 3)
    shown = _stat(tour, "slo large")
    tour.expect(name, (shown["Content Length"], "X-Static-Large-Object" in shown), (str(len(_BITS)), True))
    tour("download slo large -o back")
    tour.expect("download", (tour.folder / "back").read_bytes() == _BITS, True)
    tour("copy --destination /slo/again slo large")
    tour.expect("copy --destination", _stat(tour, "slo again")["Content Length"], str(len(_BITS)))
    # The segments that nothing needs any more go with the manifest.
    (tour.folder / "large").write_bytes(_BITS[::-1])
    tour(f"{name} 200000 slo large")
    tour.expect(name, len(_list(tour, "slo_segments")), 2)
    tour("upload --skip-identical -S 200000 slo large")
    tour.expect("upload --skip-identical", _sent(tour, "PUT", "/large"), 0)
    tour("download slo large -o back")
    tour.expect("download", (tour.folder / "back").read_bytes() == _BITS[::-1], True)
    tour("delete slo large")
    tour.expect("delete", (_list(tour, "slo"), _list(tour, "slo_segments")), (["again"], []))

    (tour.folder / "large").write_bytes(_BITS)
    tour("upload --use-dlo -S 100000 --segment-container parts dlo large")
    shown = _stat(tour, "dlo large")
    found = (shown["Content Length"], shown["Manifest"].startswith("parts/large/"), len(_list(tour, "parts")))
    tour.expect("upload --use-dlo", found, (str(len(_BITS)), True, 3))
    tour("download dlo large -o back")
    tour.expect("download", (tour.folder / "back").read_bytes() == _BITS, True)
    tour("delete dlo large")
    tour.expect("delete", (_list(tour, "dlo"), _list(tour, "parts")), ([], []))
    tour("delete --all")


def versions(tour: Tour) -> None:
    tour("post -H 'X-Versions-Enabled: true' kept")
    for text in (b"one", b"two"):
        (tour.folder / "text").write_bytes(text)
        tour("upload kept text")
    rows = _versions(tour)
    tour.expect("list --versions", [row.get("is_latest") for row in rows], [True, False])
    old = next((row["version_id"] for row in rows if not row["is_latest"]), "")
    tour(f"download --version-id {old} kept text -o was")
    tour.expect("download --version-id", (tour.folder / "was").read_bytes(), b"one")
    tour.expect("stat", _stat(tour, f"--version-id {old} kept text")["Content Length"], "3")
    tour(f"delete --version-id {old} kept text")
    tour.expect("delete --version-id", len(_versions(tour)), 1)
    tour("delete kept text")
    tour.expect("delete", (_list(tour, "kept"), len(_versions(tour))), ([], 2))
    tour("delete --versions kept")
    tour.expect("delete --versions", _list(tour), [])


def _versions(tour: Tour) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(tour("list --versions --json kept") or "[]")
    return found


def lent(tour: Tour) -> None:
    url = _address(tour)[0]
    where = urlsplit(url)
    base, path = f"http://{where.netloc}", f"{where.path}/box"
    (tour.folder / "text").write_bytes(b"text")
    tour("post -m Temp-URL-Key:secret")
    tour("upload box text")
    for digest in ("sha256", "sha512"):
        made = str(tour(f"tempurl GET 60 {path}/text secret --digest {digest}")).strip()
        tour.expect("tempurl", _fetch("GET", base + made), (200, b"text"))
        tour.expect("tempurl", _fetch("PUT", base + made, b"x")[0], 401)
    made = str(tour(f"tempurl PUT 1m {path}/new secret --iso8601")).strip()
    tour.expect("tempurl", _fetch("PUT", base + made, b"new")[0], 201)
    tour.expect("tempurl", _fetch("GET", f"{base}{tour(f'tempurl GET 60 {path}/new wrong')}".strip())[0], 401)
    old = str(tour(f"tempurl --absolute GET 1000000000 {path}/new secret")).strip()
    tour.expect("tempurl", _fetch("GET", base + old)[0], 401)
    made = str(tour(f"tempurl --prefix-based GET 60 {path}/n secret")).strip()
    query = made.partition("?")[2]
    got = [_fetch("GET", f"{base}{path}/{name}?{query}")[0] for name in ("new", "text")]
    tour.expect("tempurl --prefix-based", got, [200, 401])
    for address, status in (("127.0.0.0/8", 200), ("10.0.0.1", 401)):
        made = str(tour(f"tempurl --ip-range {address} GET 60 {path}/new secret")).strip()
        tour.expect("tempurl --ip-range", _fetch("GET", base + made)[0], status)
    tour("post -m Temp-URL-Key:")
    tour("delete --all")


SCENARIOS = (login, posts, uploads, large, versions, lent)
