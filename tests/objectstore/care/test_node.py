"""Nodes by themselves: keys, bundles, rings on their way, calls over HTTP, status, the command."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from altostack.cli import main
from altostack.objectstore import compose
from altostack.objectstore.care import key, lone, rings
from altostack.objectstore.care.daemon import Care
from altostack.objectstore.care.loops import passes
from altostack.objectstore.care.status import survey
from altostack.objectstore.ring.builder import Builder
from altostack.objectstore.storage import Row, Spot


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Nodes:
    """Two storage nodes, both served by threads of this process, with two devices each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {"n1": free_port(), "n2": free_port()}
        first = folder / "n1"
        for name, port in self.ports.items():
            (folder / name).mkdir()
            (folder / name / "altostack.toml").write_text(
                f'[objectstore]\nnode_host = "127.0.0.1"\nnode_port = {port}\n'
                "[objectstore.policies.standard]\nindex = 0\ndefault = true\n"
                '[objectstore.policies.coded]\nindex = 1\ntype = "erasure_coding"\ndata = 2\nparity = 2\n'
            )
        compose.rings_folder(first).mkdir(parents=True)
        for ring, copies in {"account": 3.0, "container": 3.0, "object": 3.0, "object-1": 4.0}.items():
            self.builder(ring, copies)
        key.cluster_key(first)
        second = folder / "n2"
        key.keep_key(key.path_of(second), key.cluster_key(first))
        shutil.copytree(compose.rings_folder(first), compose.rings_folder(second))
        for name in self.ports:
            for device in ("d1", "d2"):
                (folder / name / "objectstore" / "devices" / device).mkdir(parents=True)

    def builder(self, ring: str, copies: float) -> None:
        made = Builder.create(
            compose.rings_folder(self.folder / "n1") / f"{ring}.builder", part_power=4, replicas=copies,
            min_part_hours=0.0,
        )  # fmt: skip
        for zone, (_, port) in enumerate(self.ports.items(), 1):
            for device in ("d1", "d2"):
                made.add(region=1, zone=zone, host="127.0.0.1", port=port, device=device, weight=100.0)
        made.rebalance()
        made.save()

    def care(self, name: str) -> Care:
        return Care(store=lone.open_node(self.folder / name))

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=lone.serve, args=(self.folder / name,),
            kwargs={"stop": stop, "ready": lambda store: ready.set(), "care": False},
        )  # fmt: skip
        thread.start()
        try:
            assert ready.wait(10)
            yield
        finally:
            stop.set()
            thread.join(15)


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    made = key.cluster_key(tmp_path)
    assert len(made) == 32
    assert key.cluster_key(tmp_path) == made
    path = key.path_of(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ValueError, match="can be read by others"):
        key.cluster_key(tmp_path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(ValueError, match="does not hold a key"):
        key.cluster_key(tmp_path)


def test_a_bundle_makes_a_node(nodes: Nodes, tmp_path: Path) -> None:
    file, folder = tmp_path / "node.tar.gz", tmp_path / "n3"
    lone.bundle(nodes.folder / "n1", file, host="10.0.0.3", port=6201)
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(lone.unpack(file, folder)) == 5
    assert lone.unpack(file, folder) == []
    settings = lone.load_settings(folder)
    assert (settings.node_host, settings.node_port) == ("10.0.0.3", 6201)
    assert settings.policies == lone.load_settings(nodes.folder / "n1").policies
    assert key.cluster_key(folder) == key.cluster_key(nodes.folder / "n1")
    assert lone.open_node(folder).rings.object(1).replicas == 4


def test_a_bundle_of_another_cluster_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "node.tar.gz"
    lone.bundle(nodes.folder / "n1", file)
    other = tmp_path / "other"
    key.cluster_key(other)
    with pytest.raises(lone.Unusable, match="another cluster"):
        lone.unpack(file, other)
    assert not compose.rings_folder(other).exists()
    file.write_bytes(b"nonsense")
    with pytest.raises(lone.Unusable, match="no bundle"):
        lone.unpack(file, tmp_path / "n4")


def test_wrong_settings_name_the_right_ones(tmp_path: Path) -> None:
    (tmp_path / "altostack.toml").write_text("[objectstore]\nnode_prot = 1\n")
    with pytest.raises(lone.Unusable, match="node_port"):
        lone.load_settings(tmp_path)


def test_only_newer_rings_of_the_same_cluster_are_taken(nodes: Nodes, tmp_path: Path) -> None:
    here, there = compose.rings_folder(nodes.folder / "n1"), compose.rings_folder(nodes.folder / "n2")
    assert not rings.accept(there, "object", rings.content(here, "object"))
    builder = Builder.load(here / "object.builder")
    builder.add(region=1, zone=3, host="127.0.0.1", port=1, device="d1", weight=1.0)
    builder.rebalance()
    builder.save()
    newer = rings.content(here, "object")
    with pytest.raises(ValueError, match="damaged"):
        rings.accept(there, "object", newer[:-4] + b"\1\2\3\4")
    with pytest.raises(ValueError, match="another cluster"):
        rings.accept(there, "container", newer)
    with pytest.raises(ValueError, match="name of a ring"):
        rings.accept(there, "../key", newer)
    assert rings.accept(there, "object", newer)
    assert rings.held(there)["object"] == rings.held(here)["object"]
    assert not [path for path in there.iterdir() if path.name.startswith(".")]


def test_nodes_fetch_newer_rings_and_an_operator_pushes_them(
    nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = Builder.load(compose.rings_folder(nodes.folder / "n1") / "object.builder")
    builder.rebalance(seed=2)
    builder.save()
    with nodes.serving("n1"), nodes.serving("n2"):
        assert main(["object", "rings", "--push", "--folder", str(nodes.folder / "n1")]) == 0
        assert "took object" in capsys.readouterr().out
        builder.rebalance(seed=3)
        builder.save()
        care = nodes.care("n2")
        assert survey(care).differing == ["object"]
        assert rings.fetch(care).did == {"fetched": 1}
        assert rings.fetch(care).did == {}
        assert survey(nodes.care("n1")).differing == []


def test_daemons_of_two_nodes_work_by_their_calls(nodes: Nodes) -> None:
    care = {name: nodes.care(name) for name in nodes.ports}
    one = care["n1"]
    stamp = one.store.clock.now()
    bodies = {f"o{n}": os.urandom(10 + n * 9000) for n in range(8)}
    one.local.ledgers.create(spot(one, "a", "c"), "a", "c", stamp)
    ring = one.store.rings.object(0)
    for name, body in bodies.items():
        part, digest = ring.locate("a", "c", name)
        writer = one.local.write(Spot("d1", part, digest), stamp)
        writer.write(body)
        writer.put({"name": f"/a/c/{name}", "content-length": str(len(body)), "content-type": "x"})
    one.local.record(spot(one, "a", "c"), "a", "c", [Row(name=name, timestamp=stamp) for name in bodies])
    with nodes.serving("n1"), nodes.serving("n2"):
        for _ in range(3):
            for each in care.values():
                every = passes(each)
                for daemon in ("replicate", "databases", "deliver"):
                    for device in each.devices():
                        every[daemon](device)
        for name, body in bodies.items():
            for home in one.homes("a", "c", name):
                assert b"".join(home.node.read(home.spot).content()) == body
        counts = {home.node.info(home.spot, "a", "c").count for home in one.homes("a", "c")}
        assert counts == {len(bodies)}
        assert {home.node.info(home.spot, "a", None).count for home in one.homes("a")} == {len(bodies)}
    for each in care.values():
        assert all(not report.trouble for report in each.reports.all()), each.reports.all()


def test_recon_answers_as_monitoring_asks(nodes: Nodes) -> None:
    folder = nodes.folder / "n1"
    care = nodes.care("n1")
    for daemon in ("replicate", "databases", "audit-full", "deliver", "expire", "drives"):
        for device in care.devices():
            passes(care)[daemon](device)
    port = nodes.ports["n1"]

    def ask(path: str) -> Any:
        answer = urllib3.request("GET", f"http://127.0.0.1:{port}/recon/{path}")
        assert answer.status == 200, path
        return answer.json()

    with nodes.serving("n1"):
        assert ask("version")["version"]
        usage = ask("diskusage")
        assert [one["device"] for one in usage] == ["d1", "d2"]
        assert all(one["mounted"] and one["size"] >= one["used"] + one["avail"] > 0 for one in usage)
        assert ask("unmounted") == []
        assert ask("quarantined") == {"accounts": 0, "containers": 0, "objects": 0, "policies": {}}
        assert ask("async")["async_pending"] == 0
        assert {Path(path).name for path in ask("ringmd5")} == {
            f"{name}.ring" for name in rings.held(compose.rings_folder(folder))
        }
        for kind in ("account", "container", "object"):
            found = ask(f"replication/{kind}")
            assert found["replication_last"] > 0
            assert found["replication_stats"]["failure"] >= 0
            assert ask(f"auditor/{kind}")
        for path in ("time", "mem", "load", "mounted", "devices", "driveaudit", "reconstruction/object", "relinker",
                     "updater/object", "updater/container", "expirer/object", "sharding"):  # fmt: skip
            ask(path)
        assert urllib3.request("GET", f"http://127.0.0.1:{port}/recon/nonsense").status == 404
        assert urllib3.request("POST", f"http://127.0.0.1:{port}/call/care.status", body=b"").status == 401


def spot(care: Care, account: str, container: str) -> Spot:
    part, digest = care.store.rings.container.locate(account, container)
    return Spot("d1", part, digest)


def test_status_tells_of_nodes_devices_and_trouble(nodes: Nodes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(nodes.folder / "n1")
    with nodes.serving("n1"), nodes.serving("n2"):
        assert main(["object", "run", "replicate", "--folder", folder]) == 0
        assert main(["object", "status", "--folder", folder]) == 0
        told = capsys.readouterr().out
        assert "copies of 16 partitions can be reached (100.00 %)" in told
        assert "replicate:" in told
        (nodes.folder / "n2" / "objectstore" / "devices" / "d2").rename(nodes.folder / "gone")
        assert main(["object", "status", "--json", "--folder", folder]) == 1
        table = json.loads(capsys.readouterr().out)
        assert [text for text in table["trouble"] if "d2" in text]
        assert all(one["reachable"] < one["copies"] for one in table["dispersion"])
    assert main(["object", "nodes", "--folder", folder]) == 1
    assert "silent" in capsys.readouterr().out
    assert main(["object", "where", "a/c/o%20o", "--folder", folder]) == 0
    assert main(["object", "run", "nonsense", "--folder", folder]) == 1
    assert "there is no daemon" in capsys.readouterr().err
