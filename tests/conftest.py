"""Tiers of tests, and the database servers and broker that some of them need.

Tests marked `everywhere` talk to services over a database: the fast tier runs them on SQLite, the tier "databases" runs
the same ones on PostgreSQL and on MariaDB.

A test of a tier other than fast carries its marker: `pytest.mark.real`, `databases` or `probe`. Plain `pytest` runs
the fast ones, `pytest --tier real` those of a tier, `pytest -m ...` whatever the expression says.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import databases, servers

TIERS = {
    "real": "touches this machine's kernel or hypervisor (root needed)",
    "databases": "needs PostgreSQL, MariaDB, RabbitMQ or slapd, which the tests start",
    "probe": "starts real processes and kills them",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier", choices=["fast", *TIERS, "all"], default="fast", help="the tier of tests to run"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name, text in {**TIERS, "everywhere": "runs on every database"}.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.getoption("--tier")
    if config.getoption("-m") or tier == "all":
        return
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        tiers = {name for name in TIERS if item.get_closest_marker(name)} or {"fast"}
        if item.get_closest_marker("everywhere"):
            tiers |= {"databases"}
        (kept if tier in tiers else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames and metafunc.definition.get_closest_marker("everywhere"):
        servers_of = (
            ("postgres", "mariadb") if metafunc.config.getoption("--tier") == "databases" else ("sqlite",)
        )
        metafunc.parametrize("database", servers_of, indirect=True)


@pytest.fixture(autouse=True)
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of database that this test's services use."""
    kind = str(getattr(request, "param", "sqlite"))
    if kind != "sqlite":
        url: str = request.getfixturevalue(f"{kind}_url")
        server, _, options = url.partition("?")
        template = server.rpartition("/")[0] + "/altostack_{service}" + (f"?{options}" if options else "")
        monkeypatch.setenv(databases.VARIABLE, template)
    return kind


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A private PostgreSQL: SQLAlchemy URL of its database `altostack`; the user may make further databases."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_url() -> Iterator[str]:
    """A private MariaDB: SQLAlchemy URL of its database `altostack`; the user may make further databases."""
    with servers.mariadb() as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[servers.RabbitMQ]:
    """A private RabbitMQ that a test may stop and start again; it runs when a test begins."""
    with servers.rabbitmq() as broker:
        yield broker


@pytest.fixture
def rabbitmq_url(rabbitmq: servers.RabbitMQ) -> str:
    """The broker's amqp:// URL; the broker runs."""
    rabbitmq.start()
    return rabbitmq.url
