"""The same on PostgreSQL and MariaDB: rivals, a whole course of events, and the ladder of migrations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from altostack.kit.db import Database
from altostack.kit.migrations import climb, head
from altostack.network import SERVICE, loops
from tests.network.cloud import MINE, Net
from tests.network.test_addresses import Rivals
from tests.network.test_ports import bound
from tests.network.test_routers import way_out

pytestmark = [pytest.mark.databases, pytest.mark.timeout(300)]


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def url(request: pytest.FixtureRequest) -> str:
    base: str = request.getfixturevalue(request.param)
    return base.replace("/altostack?", "/network?")


@pytest.fixture
def far(url: str, tmp_path: Path) -> Iterator[Net]:
    found = Net(tmp_path, url=url)
    yield found
    found.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rivals(far: Net, seed: int) -> None:
    far.call("PUT", f"/v2.0/quotas/{MINE}", {"quota": {"port": -1}}, who="admin")
    Rivals(far, "10.0.0.0/27").run(seed, 16)


def test_a_course_of_events(far: Net) -> None:
    agent, driver = far.agent()
    network, _, router = way_out(far)
    port = bound(far, network)["id"]
    floating = far.make("floatingip", floating_network_id=far.outside(), port_id=port)["id"]
    agent.look(())
    loops.tell(far.runtime)
    loops.tidy(far.runtime)
    assert far.show("port", port)["status"] == far.show("floatingip", floating)["status"] == "ACTIVE"
    assert far.compute.events[0]["tag"] == port and driver.desired.routers[0].id == router
    group = far.show("port", port)["security_groups"][0]
    far.make("port", network_id=network)
    agent.look_at_groups((group,))
    assert len(driver.desired.security_groups[0].members) == 2
    far.call("PUT", f"/v2.0/networks/{network}/tags", {"tags": ["a"]})
    assert [n["id"] for n in far.ask("networks?tags=a&sort_key=name&sort_dir=asc&limit=1")] == [network]
    page = far.ask("ports?limit=2", "admin")
    assert far.ask(f"ports?limit=2&marker={page[1]['id']}", "admin")[0]["id"] not in {p["id"] for p in page}
    far.drop("floatingip", floating)
    far.drop("port", port, "service")
    agent.look(())
    assert not any(n.ports for n in driver.desired.networks)


def test_the_ladder_leads_to_the_declarations(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    assert SERVICE.migrations is not None
    db = Database(url.replace("/network?", "/network_ladder?"), name="network")
    db.create()
    climb(db, SERVICE.migrations, head(SERVICE.migrations))
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, SERVICE.metadata) == []
    db.close()
