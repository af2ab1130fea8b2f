"""The one folder under which a cloud keeps everything; several clouds stand side by side in several folders.

::

    altostack.toml   settings, written by people        db/       databases
    options.toml     what `altostack up` was told       keys/     token and credential keys
    secrets.toml     passwords and keys (0600)          images/   image files
    clouds.yaml      for openstack clients              volumes/  volume files
    openrc           the same, for shells               nodes/    <host>/: what a node's agents keep
                                                        log/      a log a process
                                                        run/      sockets and facts of the running processes

Everything here may be killed at any point and run again: files appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from altostack.kit import config
from altostack.kit.secret import Secret

VARIABLE: Final = "ALTOSTACK_STATE"

_FOLDERS: Final = {
    "db": 0o700,
    "keys": 0o700,
    "images": 0o711,  # a hypervisor's own user may reach a file it is told of, and may not look around
    "image-staging": 0o700,
    "objectstore": 0o700,
    "image-cache": 0o700,
    "volumes": 0o711,
    "nodes": 0o711,
    "log": 0o700,
    "run": 0o711,
    "run/metrics": 0o700,
}


class StateError(Exception):
    """The folder cannot be used; the message says why and what to do."""


class Secrets(config.Settings, frozen=True, kw_only=True):
    """What `secrets.toml` holds; each is made once, at random."""

    node_key: Secret
    metadata_secret: Secret
    admin_password: Secret
    demo_password: Secret


@dataclass(frozen=True, kw_only=True)
class State:
    """Where things are. Nothing is made before `create`."""

    root: Path

    @property
    def id(self) -> str:
        """Six hexadecimal digits that stay the same for this folder: prefix of namespaces, bridges and taps."""
        return hashlib.sha256(os.fsencode(os.path.realpath(self.root))).hexdigest()[:6]

    @property
    def settings(self) -> Path:
        return self.root / "altostack.toml"

    @property
    def options(self) -> Path:
        return self.root / "options.toml"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.toml"

    @property
    def clouds_yaml(self) -> Path:
        return self.root / "clouds.yaml"

    @property
    def openrc(self) -> Path:
        return self.root / "openrc"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def metrics(self) -> Path:
        return self.root / "run" / "metrics"

    @property
    def bus_url(self) -> str:
        """The local bus of this cloud."""
        return f"unix:{self.root / 'run' / 'bus'}"

    @property
    def exists(self) -> bool:
        """Whether a cloud was ever created here."""
        return self.secrets.exists()

    def node(self, host: str) -> Path:
        """The folder of one node's agents."""
        return self.root / "nodes" / host

    def contents(self) -> list[Path]:
        """What a cloud made in its folder; not what people wrote (altostack.toml, paste.ini, policy/)."""
        files = {"options.toml", "secrets.toml", "clouds.yaml", "openrc", "starter.qcow2"}
        tops = {name for name in _FOLDERS if "/" not in name}
        return [
            path
            for path in sorted(self.root.iterdir())
            if path.name in files | tops or path.name.startswith("images-")  # further image stores
        ]

    def create(self) -> Secrets:
        """Make what is missing and return the secrets; changes nothing that is there.

        Raises:
            StateError: the folder cannot be made or written, or its secrets cannot be read.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            for name, mode in _FOLDERS.items():
                folder = self.root / name
                folder.mkdir(exist_ok=True)
                if folder.stat().st_mode & 0o777 != mode:
                    folder.chmod(mode)
            return self._secrets()
        except OSError as error:
            raise StateError(
                f"cannot keep a cloud in {self.root}: {error.strerror}: {error.filename}; "
                f"choose another folder with --state or {VARIABLE}"
            ) from None

    def read_secrets(self) -> Secrets:
        """The secrets of a cloud that was created before.

        Raises:
            StateError: there is none.
        """
        if not self.exists:
            raise StateError(
                f"no cloud in {self.root}: run `altostack up` first, or name its folder with --state"
            )
        return self._load_secrets()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other command change this cloud meanwhile; ends with the process, however that ends.

        Raises:
            StateError: another command holds it; the message says which process.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        held = Lock(self.root / ".lock")
        if not held.take():
            raise StateError(
                f"process {held.holder() or '?'} is changing the cloud in {self.root}; wait for it"
            )
        try:
            yield
        finally:
            held.release()

    def _secrets(self) -> Secrets:
        """Read the secrets, adding those that this version knows and the file does not."""
        known = _toml_strings(self.secrets)
        missing = [name for name in Secrets.__struct_fields__ if name not in known]
        if missing:
            made = {name: secrets.token_hex(32) for name in missing if not name.endswith("password")}
            made |= {name: secrets.token_hex(15) for name in missing if name.endswith("password")}
            lines = [f"{name} = {json.dumps(value)}" for name, value in {**known, **made}.items()]
            text = "# The secrets of this cloud. Whoever reads this file owns it.\n" + "\n".join(lines) + "\n"
            write(self.secrets, text, mode=0o600)
        return self._load_secrets()

    def _load_secrets(self) -> Secrets:
        try:
            return config.load(Secrets, self.secrets, environ={})
        except config.ConfigError as error:
            raise StateError(str(error)) from None


class Lock:
    """A lock that belongs to this process alone (fcntl(2) record lock): forked children do not hold it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def take(self) -> bool:
        """Take it without waiting; False when another process has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(fd)
            return False
        self._fd = fd
        return True

    def release(self) -> None:
        """Let go; without the lock this does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self) -> int:
        """The pid of the other process that holds it; 0 when none does."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            # struct flock: l_type, l_whence, l_start, l_len, l_pid
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, asked))
            return 0 if kind == fcntl.F_UNLCK else int(pid)
        finally:
            os.close(fd)


def find(argument: str | None = None, environ: Mapping[str, str] | None = None) -> State:
    """The state folder: `argument`, else `ALTOSTACK_STATE`, else the default of root or of the user."""
    environ = os.environ if environ is None else environ
    if chosen := argument or environ.get(VARIABLE):
        return State(root=Path(chosen).expanduser().absolute())
    if os.geteuid() == 0:
        return State(root=Path("/var/lib/altostack"))
    home = environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return State(root=Path(home) / "altostack")


def write(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace a file as a whole: whoever looks, or pulls the plug, finds the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_clients(
    state: State, *, auth_url: str, region: str, passwords: Mapping[str, Secret], clouds: Mapping[str, str]
) -> None:
    """Write `clouds.yaml` and `openrc` (0600, they hold passwords).

    Args:
        passwords: by user name; each user's project has the user's name.
        clouds: name in clouds.yaml to user name; openrc takes `OS_CLOUD`-less settings of the last one.
    """
    entries: list[str] = []
    user = ""
    for cloud, user in clouds.items():
        auth = {
            "auth_url": auth_url,
            "username": user,
            "password": passwords[user].reveal(),
            "project_name": user,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }
        lines = [f"      {key}: {json.dumps(value)}" for key, value in auth.items()]
        entries.append(
            f"  {cloud}:\n    auth:\n" + "\n".join(lines) + f"\n    region_name: {json.dumps(region)}\n"
            "    identity_api_version: 3\n    interface: public\n"
        )
    write(state.clouds_yaml, "clouds:\n" + "".join(entries), mode=0o600)
    variables = {
        "OS_AUTH_URL": auth_url,
        "OS_IDENTITY_API_VERSION": "3",
        "OS_USERNAME": user,
        "OS_PASSWORD": passwords[user].reveal(),
        "OS_PROJECT_NAME": user,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": region,
        "OS_INTERFACE": "public",
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    write(state.openrc, "unset OS_CLOUD\n" + "\n".join(lines) + "\n", mode=0o600)


def _toml_strings(path: Path) -> dict[str, str]:
    """The strings of a TOML file; none when it is missing."""
    try:
        table = msgspec.toml.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StateError(f"{path}: {error}") from None
    return table
