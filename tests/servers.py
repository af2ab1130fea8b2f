"""Private database servers and a broker for tests: own folders, loopback or Unix sockets alone, gone afterwards.

A missing Debian package is installed when root; otherwise `ServerMissing` says what to install.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path


class ServerMissing(Exception):
    """A server's program is not on this machine and cannot be installed by us."""


class ServerFailed(Exception):
    """A server did not start; the message ends with its log."""


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def program(name: str, package: str, *patterns: str) -> str:
    """The path of a program: in PATH or by glob patterns, after installing its Debian package if need be.

    Raises:
        ServerMissing: it is not there and cannot be installed.
    """
    if found := _look(name, patterns):
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ServerMissing(f"{name} is not installed: apt-get install --no-install-recommends {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
    done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True, check=False)
        done = subprocess.run(install, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not (found := _look(name, patterns)):
        raise ServerMissing(f"{package} could not be installed: {done.stderr.strip()}")
    return found


def _look(name: str, patterns: tuple[str, ...]) -> str | None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    places = [
        shutil.which(name, path=path),
        *(place for pattern in patterns for place in sorted(glob.glob(pattern))),
    ]
    return next((place for place in places if place), None)


class Server:
    """A child process with a folder, in a session of its own."""

    def __init__(
        self, folder: Path, command: list[str], *, user: str | None, environ: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self._command = command
        self._user = user
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, answers: Callable[[], bool], *, timeout: float = 60.0) -> None:
        """Start and wait until `answers()`.

        Raises:
            ServerFailed: it ended, or did not answer in time.
        """
        log = self.folder / "output.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=self._environ,
                user=self._user,
                group=pwd.getpwnam(self._user).pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
                start_new_session=True,
            )
        end = time.monotonic() + timeout
        while not answers():
            if not self.running or time.monotonic() > end:
                self.stop()
                raise ServerFailed(
                    f"{self._command[0]} did not start:\n{log.read_text(errors='replace')[-3000:]}"
                )
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM, *, timeout: float = 20.0) -> None:
        """End the process and all that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # then it had its chance
            self._process.wait(timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        # Its children's sockets are closed when they are gone, and not yet when they are told to go.
        until = time.monotonic() + 10
        while _exists(self._process.pid) and time.monotonic() < until:
            time.sleep(0.02)
        self._process = None


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _folder(user: str | None) -> Iterator[Path]:
    """A short-named folder (socket paths are at most 107 bytes) that `user` owns."""
    with tempfile.TemporaryDirectory(prefix="alto-") as name:
        folder = Path(name)
        if user is not None:
            folder.chmod(0o755)
            shutil.chown(folder, user)
        yield folder


def _other_user(*names: str) -> str | None:
    """Whom a server runs as that refuses to be root's; None when we are not root."""
    if os.geteuid() != 0:
        return None
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ServerMissing(f"none of the users {', '.join(names)} exists")


def _run(command: list[str], *, user: str | None, cwd: Path, environ: Mapping[str, str]) -> None:
    done = subprocess.run(
        command,
        user=user,
        cwd=cwd,
        env=dict(environ),
        capture_output=True,
        text=True,
        check=False,
        extra_groups=[] if user else None,
    )
    if done.returncode:
        raise ServerFailed(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server on a Unix socket; yields the SQLAlchemy URL of an empty database `altostack`."""
    place = "/usr/lib/postgresql/*/bin/"
    server_program = program("postgres", "postgresql", f"{place}postgres")
    initdb = program("initdb", "postgresql", f"{place}initdb")
    user = _other_user("postgres", "nobody")
    with _folder(user) as folder:
        data, environ = folder / "data", _environment(folder)
        _run(
            [initdb, "-D", str(data), "-U", "altostack", "-A", "trust", "-E", "UTF8", "--no-sync"],
            user=user,
            cwd=folder,
            environ=environ,
        )
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "fsync": "off",
            "max_connections": "300",
            "shared_buffers": "64MB",
        }
        command = [server_program, "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        server = Server(folder, command, user=user, environ=environ)

        def answers() -> bool:
            import psycopg

            try:
                with psycopg.connect(
                    host=str(folder), user="altostack", dbname="postgres", autocommit=True
                ) as database:
                    database.execute("CREATE DATABASE altostack")
            except psycopg.OperationalError:
                return False
            return True

        try:
            server.start(answers)
            yield f"postgresql+psycopg://altostack@/altostack?host={folder}"
        finally:
            server.stop(signal.SIGINT)  # its fast shutdown


@contextlib.contextmanager
def slapd(certificate: Path | None = None) -> Iterator[str]:
    """An LDAP directory on loopback for the tree dc=example,dc=org; yields its URL.

    Whoever binds as cn=admin,dc=example,dc=org with the password "admin" may write; everybody may read.
    ``certificate``: a PEM file with a certificate and its key, for STARTTLS.
    """
    daemon = program("slapd", "slapd")
    with _folder(None) as folder:
        (folder / "data").mkdir()
        schemas = "".join(
            f"include /etc/ldap/schema/{n}.schema\n" for n in ("core", "cosine", "inetorgperson")
        )
        (folder / "slapd.conf").write_text(
            f"{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\nsizelimit unlimited\n"
            "database mdb\nmaxsize 16777216\nsuffix dc=example,dc=org\nrootdn cn=admin,dc=example,dc=org\n"
            f"rootpw admin\ndirectory {folder / 'data'}\n"
        )
        if certificate is not None:
            with (folder / "slapd.conf").open("r+") as config:
                text = config.read()
                config.seek(0)
                config.write(f"TLSCertificateFile {certificate}\nTLSCertificateKeyFile {certificate}\n{text}")
        url = f"ldap://127.0.0.1:{free_port()}"
        command = [daemon, "-f", str(folder / "slapd.conf"), "-h", url, "-d", "0"]
        server = Server(folder, command, user=None, environ=_environment(folder))

        def answers() -> bool:
            host, _, port = url.removeprefix("ldap://").partition(":")
            try:
                socket.create_connection((host, int(port)), 1).close()
            except OSError:
                return False
            return True

        try:
            server.start(answers)
            yield url
        finally:
            server.stop()


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """A MariaDB server on a Unix socket; yields the SQLAlchemy URL of an empty database `altostack`."""
    daemon = program("mariadbd", "mariadb-server-core")
    install = program("mariadb-install-db", "mariadb-server-core")
    program("my_print_defaults", "mariadb-client-core")  # which the former calls
    user = _other_user("mysql", "nobody")
    with _folder(user) as folder:
        data, place, environ = folder / "data", folder / "socket", _environment(folder)
        common = ["--no-defaults", f"--datadir={data}"]
        _run(
            [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
            user=user,
            cwd=folder,
            environ=environ,
        )
        options = {
            "socket": str(place),
            "pid-file": str(folder / "pid"),
            "tmpdir": str(folder),
            "innodb-flush-log-at-trx-commit": "0",
            "innodb-buffer-pool-size": "64M",
            "max-connections": "300",
        }
        command = [
            daemon,
            *common,
            "--skip-networking",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        server = Server(folder, command, user=user, environ=environ)

        def answers() -> bool:
            import pymysql  # type: ignore[import-untyped]  # it brings no types

            try:
                database = pymysql.connect(unix_socket=str(place), user="root")
            except pymysql.err.OperationalError:
                return False
            with database, database.cursor() as cursor:
                cursor.execute("CREATE DATABASE altostack CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
            return True

        try:
            server.start(answers)
            yield f"mysql+pymysql://root@localhost/altostack?unix_socket={place}"
        finally:
            server.stop()


class RabbitMQ:
    """A RabbitMQ node with a port mapper, cookie and folders of its own, on loopback alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        server = program(
            "rabbitmq-server-script",
            "rabbitmq-server",
            "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
        )
        epmd = program("epmd", "rabbitmq-server", "/usr/lib/erlang/erts-*/bin/epmd")
        names_port = free_port()
        environ = {
            **_environment(folder),
            "RABBITMQ_NODENAME": f"alto{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(names_port),
        }
        (folder / "plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(
            "disk_free_limit.absolute = 1MB\nvm_memory_high_watermark.absolute = 512MB\n"
        )
        self._names = Server(
            folder, [epmd, "-address", "127.0.0.1", "-port", str(names_port)], user=None, environ=environ
        )
        self._names.start(lambda: listens(names_port))
        self._node = Server(folder, [server], user=None, environ=environ)

    def start(self) -> None:
        """Start the node unless it runs; returns when it takes connections."""
        if not self._node.running:
            self._node.start(lambda: listens(self.port, greet=True), timeout=120)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the node, as an operator would or by kill -9. What it held in memory is lost."""
        self._node.stop(signal.SIGKILL if kill else signal.SIGTERM)

    def close(self) -> None:
        self._node.stop(signal.SIGKILL)
        self._names.stop()


@contextlib.contextmanager
def rabbitmq() -> Iterator[RabbitMQ]:
    """A private RabbitMQ node, not started yet."""
    with _folder(None) as folder:
        broker = RabbitMQ(folder)
        try:
            yield broker
        finally:
            broker.close()


def listens(port: int, *, greet: bool = False) -> bool:
    """Whether something accepts connections; with `greet`, whether it answers a nonsense AMQP header, too."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            if not greet:
                return True
            probe.sendall(b"AMQP\x00\x00\x00\x00")  # an unknown version: the server answers with its own
            return probe.recv(4) == b"AMQP"
    except OSError:
        return False
