"""A walk through a cloud by its public API: every step is printed with its time.

It does what a person would do first: key pair, network, router, security group, servers, floating IP, volume,
snapshot, power, resize, console; and takes away what it made. In a simulated cloud the steps that look into a guest
are left out, and said to be.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from altostack.kit.clients import Client, RemoteError

Say = Callable[[str, float, str], None]


class DemoFailed(Exception):
    """A step did not come out as it should; the message names it."""


@dataclass(kw_only=True)
class Demo:
    """The walk.

    clients: by service name. token: whose cloud it is. inside: runs a command where floating IPs are reached (None in a
    simulated cloud). say: takes a step's name, its seconds, and what came of it. patience: seconds that any one thing
    may take.
    """

    clients: dict[str, Client]
    token: str
    say: Say
    inside: Callable[[list[str]], subprocess.CompletedProcess[str]] | None
    patience: float = 180.0
    ids: dict[str, str] = field(default_factory=dict)
    _undo: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    # ---- words that the steps are made of

    def call(self, service: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """A request as the user."""
        return self.clients[service].call(method, path, body, token=self.token, **more)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; what is appended to the list is said of it."""
        began = time.monotonic()
        came: list[str] = []
        try:
            yield came
        except (RemoteError, DemoFailed) as trouble:
            self.say(name, time.monotonic() - began, f"failed: {trouble}")
            raise DemoFailed(f"{name}: {trouble}") from trouble
        self.say(name, time.monotonic() - began, ", ".join(came))

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """What ``look`` gives once it is true. Raises DemoFailed when patience ends."""
        end = time.monotonic() + self.patience
        while not (found := look()):
            if time.monotonic() > end:
                raise DemoFailed(f"{what} did not happen within {self.patience:g} s")
            time.sleep(0.1)
        return found

    def server(self, key: str) -> dict[str, Any]:
        """A server as it stands. Raises DemoFailed with its fault when it is in error."""
        found: dict[str, Any] = self.call("compute", "GET", f"/v2.1/servers/{self.ids[key]}", version="2.47")[
            "server"
        ]
        if found["status"] == "ERROR":
            raise DemoFailed(f"server {key}: {found.get('fault', {}).get('message', 'no reason given')}")
        return found

    def becomes(self, key: str, status: str) -> None:
        """Wait until a server has the status and rests in it."""
        self.until(f"server {key} {status}", lambda: _rests(self.server(key), status))

    def volume_becomes(self, status: str) -> None:
        """Wait until the volume has the status."""
        path = f"/v3/volumes/{self.ids['volume']}"
        self.until(f"volume {status}", lambda: self.call("volume", "GET", path)["volume"]["status"] == status)

    def act(self, key: str, word: str, body: Any = None) -> Any:
        """Post a server action."""
        return self.call(
            "compute", "POST", f"/v2.1/servers/{self.ids[key]}/action", {word: body}, version="2.47"
        )

    def later(self, name: str, work: Callable[[], None]) -> None:
        """Remember how to take something away."""
        self._undo.append((name, work))

    def guest(self, command: str) -> str | None:
        """What a command in the first server printed, over SSH; None where there is no guest to look into."""
        if self.inside is None:
            return None
        words = ["ssh", "-i", self.ids["key file"], "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]
        words += [
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "ConnectTimeout=3",
            f"root@{self.ids['address']}",
            command,
        ]
        run = self.inside

        def attempt() -> subprocess.CompletedProcess[str] | None:
            done = run(words)
            return done if done.returncode == 0 else None

        done: subprocess.CompletedProcess[str] = self.until(f"ssh {command!r}", attempt)
        return done.stdout.strip()

    # ---- the walk

    def run(self) -> None:
        """All steps; what they made is removed at the end, also after a failure. Raises DemoFailed."""
        with tempfile.TemporaryDirectory(prefix="altostack-demo-") as folder:
            try:
                self.key(Path(folder))
                self.network()
                self.boot()
                self.reach()
                self.volume()
                self.power()
                self.snapshot()
                self.resize()
                self.console()
            finally:
                self.clean()

    def key(self, folder: Path) -> None:
        """A key pair of ours."""
        with self.step("key pair") as came:
            file = folder / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
            self.ids["key file"] = str(file)
            body = {"keypair": {"name": "demo", "public_key": file.with_suffix(".pub").read_text()}}
            self.call("compute", "POST", "/v2.1/os-keypairs", body)
            self.later("key pair", lambda: self.call("compute", "DELETE", "/v2.1/os-keypairs/demo"))
            came.append("demo")

    def network(self) -> None:
        """Network, subnet, router to the outside, security group."""
        with self.step("network, subnet, router, security group") as came:
            net = self.make("network", "networks", "network", {"name": "demo"})
            subnet = self.make(
                "network", "subnets", "subnet", {"network_id": net, "cidr": "10.77.0.0/24", "ip_version": 4}
            )
            outside = self.call("network", "GET", "/v2.0/networks?router:external=True")["networks"][0]["id"]
            self.ids["outside"] = outside
            gateway = {"name": "demo", "external_gateway_info": {"network_id": outside}}
            router = self.make("network", "routers", "router", gateway)
            self.call("network", "PUT", f"/v2.0/routers/{router}/add_router_interface", {"subnet_id": subnet})
            unplug = {"subnet_id": subnet}
            self.later(
                "router interface",
                lambda: self.call(
                    "network", "PUT", f"/v2.0/routers/{router}/remove_router_interface", unplug
                ),
            )
            group = self.make("network", "security-groups", "security_group", {"name": "demo"})
            for rule in (
                {"protocol": "icmp"},
                {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
            ):
                whole = {"security_group_id": group, "direction": "ingress", "ethertype": "IPv4", **rule}
                self.call("network", "POST", "/v2.0/security-group-rules", {"security_group_rule": whole})
            came.append("10.77.0.0/24, ICMP and SSH allowed")

    def make(self, service: str, plural: str, name: str, body: dict[str, Any]) -> str:
        """Create something of the network API and remember how to remove it; its id."""
        made = self.call(service, "POST", f"/v2.0/{plural}", {name: body})[name]
        self.ids[name] = made["id"]
        self.later(name, lambda: self.call(service, "DELETE", f"/v2.0/{plural}/{made['id']}"))
        return str(made["id"])

    def create(self, key: str, image: str) -> None:
        """Ask for a server."""
        flavors = self.call("compute", "GET", "/v2.1/flavors")["flavors"]
        flavor = next(one["id"] for one in flavors if one["name"] == "m1.starter")
        body = {
            "name": key,
            "imageRef": image,
            "flavorRef": flavor,
            "key_name": "demo",
            "networks": [{"uuid": self.ids["network"]}],
            "security_groups": [{"name": "demo"}],
        }
        self.ids[key] = self.call("compute", "POST", "/v2.1/servers", {"server": body})["server"]["id"]
        self.later(f"server {key}", lambda: self.remove(key))

    def remove(self, key: str) -> None:
        """Delete a server and wait until it is gone."""
        path = f"/v2.1/servers/{self.ids[key]}"
        self.clients["compute"].call("DELETE", path, token=self.token, missing_ok=True)
        client = self.clients["compute"]
        self.until(
            f"server {key} gone", lambda: client.call("GET", path, token=self.token, missing_ok=True) is None
        )

    def boot(self) -> None:
        """A server from the starter image, up to its console's last line."""
        with self.step("server ACTIVE") as came:
            images = self.call("image", "GET", "/v2/images?name=starter")["images"]
            self.create("one", images[0]["id"])
            self.becomes("one", "ACTIVE")
            came.append(self.ids["one"])
        if self.inside is not None:
            with self.step("boot finished") as came:
                self.until("boot finished", lambda: "boot finished" in self.log("one"))
                came.append("as its console log says")

    def log(self, key: str) -> str:
        """A server's console log."""
        return str(self.act(key, "os-getConsoleOutput", {})["output"])

    def reach(self) -> None:
        """A floating IP that answers."""
        with self.step("floating IP") as came:
            ports = self.call("network", "GET", f"/v2.0/ports?device_id={self.ids['one']}")["ports"]
            body = {"floating_network_id": self.ids["outside"], "port_id": ports[0]["id"]}
            made = self.call("network", "POST", "/v2.0/floatingips", {"floatingip": body})["floatingip"]
            self.later(
                "floating IP", lambda: self.call("network", "DELETE", f"/v2.0/floatingips/{made['id']}")
            )
            self.ids["address"] = made["floating_ip_address"]
            came.append(made["floating_ip_address"])
        if self.inside is None:
            self.say("ping and SSH", 0.0, "left out: a simulated guest answers nothing")
            return
        run = self.inside
        with self.step("ping") as came:
            self.until(
                "ping", lambda: run(["ping", "-c", "1", "-W", "1", self.ids["address"]]).returncode == 0
            )
            came.append(f"{self.ids['address']} answers")
        with self.step("SSH with the key from metadata") as came:
            came.append(f"the guest says it is {self.guest('hostname')}")

    def volume(self) -> None:
        """A volume, written in one server."""
        with self.step("volume attached") as came:
            body = {"volume": {"size": 1, "name": "demo"}}
            self.ids["volume"] = self.call("volume", "POST", "/v3/volumes", body)["volume"]["id"]
            self.later("volume", lambda: self.call("volume", "DELETE", f"/v3/volumes/{self.ids['volume']}"))
            self.volume_becomes("available")
            attach = {"volumeAttachment": {"volumeId": self.ids["volume"]}}
            path = f"/v2.1/servers/{self.ids['one']}/os-volume_attachments"
            came.append(self.call("compute", "POST", path, attach)["volumeAttachment"]["device"] or "")
            self.volume_becomes("in-use")
        if self.inside is not None:
            with self.step("volume written") as came:
                came.append(
                    self.guest("echo hello | dd of=/dev/vdb conv=sync 2>/dev/null; head -c 5 /dev/vdb") or ""
                )
        with self.step("volume detached"):
            self.call("compute", "DELETE", f"{path}/{self.ids['volume']}")
            self.volume_becomes("available")

    def power(self) -> None:
        """Pause, suspend, stop, start, reboot."""
        for word, back, between in (
            ("pause", "unpause", "PAUSED"),
            ("suspend", "resume", "SUSPENDED"),
            ("os-stop", "os-start", "SHUTOFF"),
        ):
            with self.step(f"{word.removeprefix('os-')} and {back.removeprefix('os-')}"):
                self.act("one", word)
                self.becomes("one", between)
                self.act("one", back)
                self.becomes("one", "ACTIVE")
        for kind in ("SOFT", "HARD"):
            with self.step(f"reboot, {kind.lower()}"):
                if kind == "SOFT":
                    self.guest("true")  # a guest that still boots does not hear the power button
                self.act("one", "reboot", {"type": kind})
                self.becomes("one", "ACTIVE")

    def snapshot(self) -> None:
        """An image of the server, and a server of the image."""
        with self.step("snapshot image") as came:
            image = self.act("one", "createImage", {"name": "demo snapshot"})["image_id"]
            self.later("snapshot image", lambda: self.call("image", "DELETE", f"/v2/images/{image}"))
            self.until(
                "snapshot active",
                lambda: self.call("image", "GET", f"/v2/images/{image}")["status"] == "active",
            )
            came.append(image)
        with self.step("a server of the snapshot"):
            self.create("two", image)
            self.becomes("two", "ACTIVE")

    def resize(self) -> None:
        """To a larger flavor and back."""
        flavors = self.call("compute", "GET", "/v2.1/flavors")["flavors"]
        larger = next(one["id"] for one in flavors if one["name"] == "m1.starter.large")
        for end, word in (("revert", "revertResize"), ("confirm", "confirmResize")):
            with self.step(f"resize and {end}"):
                self.guest("true")  # nor does it end by itself
                self.act("one", "resize", {"flavorRef": larger})
                self.becomes("one", "VERIFY_RESIZE")
                self.act("one", word)
                self.becomes("one", "ACTIVE")

    def console(self) -> None:
        """A console's URL."""
        if self.inside is None:
            self.say("console", 0.0, "left out: a simulated guest has no screen")
            return
        with self.step("console") as came:
            path = f"/v2.1/servers/{self.ids['one']}/remote-consoles"
            body = {"remote_console": {"protocol": "vnc", "type": "novnc"}}
            answer = self.call("compute", "POST", path, body, version="2.6")
            came.append(answer["remote_console"]["url"].partition("?")[0])

    def clean(self) -> None:
        """Take away what was made, last first."""
        with self.step("clean up") as came:
            failed = []
            for name, work in reversed(self._undo):
                try:
                    self.until(name, lambda work=work: _tolerant(work))  # type: ignore[misc]  # bound now
                except (RemoteError, DemoFailed) as trouble:
                    failed.append(f"{name}: {trouble}")
            self._undo.clear()
            if failed:
                raise DemoFailed("; ".join(failed))
            came.append("nothing remains")


def _rests(server: dict[str, Any], status: str) -> bool:
    return bool(server["status"] == status and server["OS-EXT-STS:task_state"] is None)


def _tolerant(work: Callable[[], None]) -> bool:
    """Do it; a conflict means not yet, and what is gone already is done."""
    try:
        work()
    except RemoteError as trouble:
        if trouble.status == 409 or (trouble.status == 400 and "status" in trouble.message):
            return False
        if trouble.status != 404:
            raise
    return True
