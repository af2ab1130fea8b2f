"""Tiers of tests, and the database servers and broker that some of them need.

A test of a tier other than fast carries its marker: `pytest.mark.real`, `databases` or `probe`. Plain `pytest` runs
the fast ones, `pytest --tier real` those of a tier, `pytest -m ...` whatever the expression says.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers

TIERS = {
    "real": "touches this machine's kernel or hypervisor (root needed)",
    "databases": "needs PostgreSQL, MariaDB or RabbitMQ, which the tests start",
    "probe": "starts real processes and kills them",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier", choices=["fast", *TIERS, "all"], default="fast", help="the tier of tests to run"
    )


def pytest_configure(config: pytest.Config) -> None:
    for name, text in TIERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tier = config.getoption("--tier")
    if config.getoption("-m") or tier == "all":
        return
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        tiers = {name for name in TIERS if item.get_closest_marker(name)}
        (kept if tier in (tiers or {"fast"}) else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


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
