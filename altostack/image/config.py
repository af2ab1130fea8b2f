"""[image]"""

from __future__ import annotations

from typing import Literal

import msgspec

from altostack.kit.config import Settings as Base


class Store(Base, frozen=True, kw_only=True):
    """[image.stores.<name>]: one place for bits.

    type: "file" keeps them in the folder ``path`` (default: ``images`` in the cloud's folder for the default store,
    ``images-<name>`` for others); "objectstore" keeps them as large objects, of at most ``segment_size`` bytes a piece,
    in ``container`` of the service project; "http" only reads what lies at an address that an image names. weight: the
    heaviest store that holds an image is read from.
    """

    type: Literal["file", "http", "objectstore"] = "file"
    path: str = ""
    container: str = "images"
    segment_size: int = 200 << 20
    description: str = ""
    weight: int = 0


class Fetch(Base, frozen=True, kw_only=True):
    """[image.fetch]: where the service may fetch from on a user's word (web-download, locations).

    allowed_hosts: names, addresses, networks (10.1.0.0/16), each alone or as ``host:port``; they are allowed whatever
    address they have and, with a port, at that port too. With ``only_allowed_hosts`` nobody else is.
    disallowed_hosts: never, by name or address. Without being allowed here, addresses that are not public (loopback,
    private, link-local, metadata) are refused, also behind names and redirects.
    """

    allowed_schemes: tuple[str, ...] = ("http", "https")
    allowed_ports: tuple[int, ...] = (80, 443)
    allowed_hosts: tuple[str, ...] = ()
    disallowed_hosts: tuple[str, ...] = ()
    only_allowed_hosts: bool = False
    max_redirects: int = 5
    timeout: float = 30.0  # seconds without a byte
    max_seconds: float = 21_600.0  # for all of one download


class Imports(Base, frozen=True, kw_only=True):
    """[image.imports]: how images come in besides a plain upload, and what is done to them on the way.

    methods: those offered. decompress: gzip, xz and bzip2 are unpacked. convert_to: the disk format that every image
    is converted to ("": none is). inject: properties that imported images get, except from people with a role in
    ``inject_ignore_roles``. copied_properties: beginnings of the names that glance-download brings along.
    """

    methods: tuple[str, ...] = ("glance-direct", "web-download", "copy-image", "glance-download")
    decompress: bool = False
    convert_to: Literal["", "raw", "qcow2", "vmdk"] = ""
    inject: dict[str, str] = msgspec.field(default_factory=dict)
    inject_ignore_roles: tuple[str, ...] = ("admin",)
    copied_properties: tuple[str, ...] = ("hw_", "trait:", "os_distro", "os_secure_boot", "os_type")


class Cache(Base, frozen=True, kw_only=True):
    """[image.cache]: copies of images that are slow to reach. max_bytes: what a prune leaves at most."""

    max_bytes: int = 10 << 30


class Protection(Base, frozen=True, kw_only=True):
    """One [[image.protections]]: for properties whose name matches ``pattern`` the roles that may do what.

    "@" stands for everybody, an empty list for nobody. The first match decides; what none matches is free.
    """

    pattern: str
    create: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()


class Settings(Base, frozen=True, kw_only=True):
    """max_bytes: the largest image that may be uploaded. disk_formats, container_formats: what may be declared.

    stores, default_store: where bits are kept. show_locations: images show their locations and their owners may add
    some; show_direct_url: images show the first. hash_algorithm: of os_hash_value. certificates: a folder of
    ``<uuid>.pem``, the certificates that signed images name; signed images are refused without it.
    task_hours: how long finished tasks are kept. limits: for projects that have none in identity
    (-1: unlimited; sizes in MiB).
    """

    max_bytes: int = 1 << 40
    disk_formats: tuple[str, ...] = (
        "ami",
        "ari",
        "aki",
        "vhd",
        "vhdx",
        "vmdk",
        "raw",
        "qcow2",
        "vdi",
        "iso",
        "ploop",
    )
    container_formats: tuple[str, ...] = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
    max_properties: int = 128
    max_tags: int = 128
    max_members: int = 128
    max_locations: int = 10
    stores: dict[str, Store] = msgspec.field(
        default_factory=lambda: {"files": Store(), "web": Store(type="http", weight=-1)}
    )
    default_store: str = "files"
    show_locations: bool = False
    show_direct_url: bool = False
    hash_algorithm: Literal["sha256", "sha384", "sha512"] = "sha512"
    certificates: str = ""
    fetch: Fetch = Fetch()
    imports: Imports = Imports()
    cache: Cache = Cache()
    protections: tuple[Protection, ...] = ()
    task_hours: int = 48
    limits: dict[str, int] = msgspec.field(default_factory=dict)
