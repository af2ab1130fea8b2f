"""A simulated cloud of its own for a suite, furnished with what Tempest expects to find."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from typing import Any

from altostack.objectstore import sync
from tests.conformance.suites import Suite
from tests.stand import Stand

# Two nodes, so that there is somewhere to migrate to. Passwords are hashed at the least cost: suites make people by
# the hundred, and how slow a hash is changes nothing that they look at.
SETTINGS = """\
[cloud]
hosts = ["node-1", "node-2"]

[objectstore.policies.standard]
index = 0
default = true

[objectstore.policies.silver]
index = 1

[identity]
password_rounds = 4

[identity.security_compliance]
lockout_failure_attempts = 2
lockout_duration = 5
unique_last_password_count = 2
"""
# What the image suite looks at: two stores to copy between, locations that are shown, and a web server of its own.
IMAGES = """
[image]
show_locations = true

[image.stores.files]

[image.stores.more]

[image.stores.web]
type = "http"
weight = -1

[image.fetch]
allowed_hosts = ["{host}"]
"""
# The same, as Tempest is told of it.
LOCKOUT = {
    "user_lockout_failure_attempts": 2,
    "user_lockout_duration": 5,
    "user_unique_last_password_count": 2,
}
_AVAILABLE = {
    "cinder": "block-storage", "neutron": "network", "glance": "image", "nova": "compute", "swift": "object-store",
}  # fmt: skip
_ROLES = ("ResellerAdmin",)


def furnish(state: Path, port: int) -> None:
    """What a cloud finds in its folder when it starts: a realm with itself as the only cluster, so that containers are
    kept in step with each other."""
    realm = f"[realm1]\nkey = {token_hex(16)}\ncluster_name1 = http://127.0.0.1:{port + 2}/v1/\n"
    (state / sync.FILE).write_text(realm)


class Furnished:
    """The cloud through its API, as admin."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self._token = stand.token("admin")

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The decoded answer. Raises RuntimeError on a refusal."""
        status, answer = self.stand.call(method, path, self._token, body, **headers)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    @property
    def services(self) -> set[str]:
        """The types in the catalogue."""
        return {one["type"] for one in self.call("GET", "/identity/v3/services")["services"]}

    def role(self, name: str) -> None:
        """See that there is such a role."""
        if not self.call("GET", f"/identity/v3/roles?name={name}")["roles"]:
            self.call("POST", "/identity/v3/roles", {"role": {"name": name}})

    def again(self, kind: str) -> str:
        """The same service under another type, as if another of its workers stood there; that type."""
        service = self.call("GET", f"/identity/v3/services?type={kind}")["services"][0]
        other = self.call(
            "POST", "/identity/v3/services", {"service": {"type": f"{kind}-again", "name": f"{kind}-again"}}
        )["service"]
        found = self.call("GET", f"/identity/v3/endpoints?service_id={service['id']}")["endpoints"]
        for one in found:
            wanted = {"service_id": other["id"]} | {
                key: one[key] for key in ("interface", "url", "region_id")
            }
            self.call("POST", "/identity/v3/endpoints", {"endpoint": wanted})
        return f"{kind}-again"

    def images(self) -> tuple[str, str]:
        """Two public images that can be used."""
        first = self.call("GET", "/image/v2/images?name=starter")["images"][0]
        body = {
            "name": "starter-alt",
            "visibility": "public",
            "disk_format": "raw",
            "container_format": "bare",
        }
        second = self.call("POST", "/image/v2/images", body)
        answer = self.stand.pool.request(
            "PUT",
            f"{self.stand.url}/image/v2/images/{second['id']}/file",
            body=bytes(1 << 20),
            headers={"X-Auth-Token": self._token, "Content-Type": "application/octet-stream"},
        )
        if answer.status != 204:
            raise RuntimeError(f"the second image could not be uploaded: {answer.status}")
        return first["id"], second["id"]

    def flavors(self) -> tuple[str, str]:
        """Two flavors, the second larger."""
        found = []
        for name, ram in (("conformance", 128), ("conformance-alt", 192)):
            flavor = {"name": name, "ram": ram, "vcpus": 1, "disk": 1}
            found.append(self.call("POST", "/compute/v2.1/flavors", {"flavor": flavor})["flavor"]["id"])
        return found[0], found[1]

    def public_network(self) -> dict[str, Any] | None:
        """The external network, where there is one."""
        found = self.call("GET", "/network/v2.0/networks?router%3Aexternal=True")["networks"]
        return dict(found[0]) if found else None


def settings(furnished: Furnished, suite: Suite, folder: Path, images_url: str) -> dict[str, dict[str, Any]]:
    """tempest.conf: group -> option -> value. What is not named here is Tempest's default, or switched on."""
    stand, present = furnished.stand, furnished.services
    for name in _ROLES:
        furnished.role(name)
    found: dict[str, dict[str, Any]] = {
        "DEFAULT": {"log_dir": folder, "log_file": "tempest.log", "debug": True, "use_stderr": False},
        "oslo_concurrency": {"lock_path": folder / "locks"},
        "auth": {
            "use_dynamic_credentials": True,
            "admin_username": "admin",
            "admin_password": stand.secrets["admin_password"],
            "admin_project_name": "admin",
            "admin_domain_name": "Default",
            "admin_user_domain_name": "Default",
            "admin_project_domain_name": "Default",
            "admin_system": "all",
            "create_isolated_networks": suite.networks,
        },
        "identity": {
            "uri_v3": f"{stand.url}/identity/v3",
            "auth_version": "v3",
            "v3_endpoint_type": "public",
            **LOCKOUT,
        },
        "service_available": {name: kind in present for name, kind in _AVAILABLE.items()},
    }
    for group in ("compute", "volume", "placement"):
        found[group] = {"max_microversion": "latest"}
    found["object-storage"] = {"container_sync_timeout": 120, "container_sync_interval": 2}
    found["object-storage-feature-enabled"] = {"discoverable_apis": "all"}
    found["compute"] |= {"min_compute_nodes": 2, "build_interval": 1, "build_timeout": 60}
    found["volume"] |= {"build_interval": 1, "build_timeout": 60}
    if "image" in present:
        one, two = furnished.images()
        found["compute"] |= {"image_ref": one, "image_ref_alt": two}
        found["image"] = {
            "alternate_image_endpoint": furnished.again("image"),
            "alternate_image_endpoint_type": "public",
            "image_caching_enabled": True,
            # raw first: a test declares what lies at http_image as the first of these, then as raw
            "disk_formats": "raw,qcow2,vhd,vhdx,vmdk,vdi,iso,ami,ari,aki,ploop",
            "http_image": f"{images_url}/image.raw",
            "http_qcow2_image": f"{images_url}/image.qcow2",
            "images_manifest_file": folder / "images" / "manifest.yml",
            "build_timeout": 60,
        }
    if "compute" in present:
        one, two = furnished.flavors()
        found["compute"] |= {"flavor_ref": one, "flavor_ref_alt": two}
    if "network" in present and (public := furnished.public_network()):
        found["network"] = {"public_network_id": public["id"], "floating_network_name": public["name"]}
        found["validation"] = {"image_ssh_user": "root", "run_validation": False}
    return found


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server with images in several formats, for imports; its URL."""
    images = folder / "images"
    images.mkdir()
    (images / "image.raw").write_bytes(b"\xaa" * (1 << 20))
    manifest = [_listed("raw", "raw", "image.raw")]
    if tool := shutil.which("qemu-img"):
        for name, options in (
            ("qcow2", ()),
            ("vmdk", ("-o", "subformat=monolithicSparse")),
            ("vdi", ()),
            ("vhdx", ()),
        ):
            out = images / f"image.{name}"
            subprocess.run(
                [tool, "create", "-q", "-f", name, *options, str(out), "1M"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            manifest.append(_listed(name, name, out.name))
    (images / "manifest.yml").write_text("images:\n" + "".join(manifest))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(images)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listed(name: str, form: str, filename: str) -> str:
    return f"- {{name: {name}, format: {form}, filename: {filename}, usable: true}}\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the runner's output is the suite's."""
