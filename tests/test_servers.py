"""The servers that other tests rest on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import servers


def no_process_in(folder: str) -> bool:
    """Whether no process was started with an argument that names the folder."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if folder.encode() in (entry / "cmdline").read_bytes():
                    return False
            except OSError:
                continue
    return True


@pytest.mark.databases
@pytest.mark.parametrize("server", [servers.postgres, servers.mariadb])
def test_a_database_server_comes_and_goes(server: object) -> None:
    assert callable(server)
    with server() as url:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE a (b VARCHAR(10))"))
            connection.execute(sa.text("INSERT INTO a VALUES ('é')"))
            assert connection.execute(sa.text("SELECT b FROM a")).scalar() == "é"
        engine.dispose()
        place = sa.make_url(url).query
        folder = str(place.get("host") or Path(str(place["unix_socket"])).parent)
        assert not no_process_in(folder)
    assert no_process_in(folder)
    assert not os.path.exists(folder)


@pytest.mark.databases
def test_a_broker_comes_and_goes() -> None:
    with servers.rabbitmq() as broker:
        broker.start()
        assert servers.listens(broker.port, greet=True)
        broker.stop(kill=True)
        assert not servers.listens(broker.port)
        broker.start()
        assert servers.listens(broker.port, greet=True)
        folder = str(broker.folder)
        assert not no_process_in(folder)
    assert no_process_in(folder)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        servers.ServerMissing, match="apt-get install --no-install-recommends nonesuch-package"
    ):
        servers.program("nonesuch", "nonesuch-package")
