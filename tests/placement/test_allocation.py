"""Allocations: generations of consumers, capacity, usages, the reshaper, and that capacity holds under load."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from altostack.kit.clients import RemoteError
from altostack.placement.model import Allocation, Inventory
from tests.lone import Lone
from tests.placement.world import call, claim, provider, refused

pytestmark = pytest.mark.everywhere


def who() -> str:
    return str(uuid.uuid4())


def used(lone: Lone, key: str) -> dict[str, int]:
    found: dict[str, int] = call(lone, "GET", f"/resource_providers/{key}/usages")["usages"]
    return found


def test_put_get_replace_delete(lone: Lone) -> None:
    key, other = provider(lone, VCPU=8, MEMORY_MB=1024), provider(lone, VCPU=8)
    path = f"/allocations/{who()}"
    assert call(lone, "GET", path) == {"allocations": {}}
    call(lone, "PUT", path, claim({key: {"VCPU": 2, "MEMORY_MB": 512}}))
    assert call(lone, "GET", path) == {
        "allocations": {key: {"generation": 3, "resources": {"VCPU": 2, "MEMORY_MB": 512}}},
        "project_id": "p", "user_id": "u", "consumer_generation": 1, "consumer_type": "INSTANCE",
    }  # fmt: skip
    call(lone, "PUT", path, claim({other: {"VCPU": 3}}, 1))
    assert (used(lone, key), used(lone, other)) == ({"VCPU": 0, "MEMORY_MB": 0}, {"VCPU": 3})
    of_provider = call(lone, "GET", f"/resource_providers/{other}/allocations")["allocations"]
    assert list(of_provider.values()) == [{"resources": {"VCPU": 3}, "consumer_generation": 2}]
    call(lone, "DELETE", path)
    assert used(lone, other) == {"VCPU": 0} and call(lone, "GET", path) == {"allocations": {}}
    call(lone, "PUT", path, claim({other: {"VCPU": 1}}))  # a consumer without allocations is new again


def test_old_bodies(lone: Lone) -> None:
    key, path = provider(lone, VCPU=8), f"/allocations/{who()}"
    item = {"resource_provider": {"uuid": key}, "resources": {"VCPU": 1}}
    call(lone, "PUT", path, {"allocations": [item]}, version="1.0")
    assert refused(lone, "PUT", path, {"allocations": [item]}, version="1.8")[0] == 400
    listed = {"allocations": [item], "project_id": "p", "user_id": "u"}
    call(lone, "PUT", path, listed, version="1.8")
    call(lone, "PUT", path, listed | {"allocations": {key: {"resources": {"VCPU": 4}}}}, version="1.12")
    assert call(lone, "GET", path)["consumer_type"] == "unknown"
    assert used(lone, key) == {"VCPU": 4}


def test_generation_of_a_consumer(lone: Lone) -> None:
    key, path = provider(lone, VCPU=8), f"/allocations/{who()}"
    for wrong in (0, 1, 9):
        status, text = refused(lone, "PUT", path, claim({key: {"VCPU": 1}}, wrong))
        assert status == 409 and "placement.concurrent_update" in text
    call(lone, "PUT", path, claim({key: {"VCPU": 1}}))
    for stale in (None, 0, 2):
        status, text = refused(lone, "PUT", path, claim({key: {"VCPU": 2}}, stale))
        assert status == 409 and "placement.concurrent_update" in text
    assert used(lone, key) == {"VCPU": 1}
    call(lone, "PUT", path, claim({}, 1))  # empty: gives everything back
    assert used(lone, key) == {"VCPU": 0}


@pytest.mark.parametrize("amount", [1, 3, 10])
def test_units(lone: Lone, amount: int) -> None:
    key = provider(lone, VCPU={"total": 16, "min_unit": 2, "max_unit": 8, "step_size": 2})
    status, text = refused(lone, "PUT", f"/allocations/{who()}", claim({key: {"VCPU": amount}}))
    assert status == 409 and "constraints" in text
    call(lone, "PUT", f"/allocations/{who()}", claim({key: {"VCPU": 6}}))


def test_capacity_counts_ratio_and_reserved(lone: Lone) -> None:
    key = provider(lone, VCPU={"total": 4, "reserved": 1, "allocation_ratio": 2.5, "max_unit": 100})
    call(lone, "PUT", f"/allocations/{who()}", claim({key: {"VCPU": 7}}))  # int(3 * 2.5)
    status, text = refused(lone, "PUT", f"/allocations/{who()}", claim({key: {"VCPU": 1}}))
    assert status == 409 and "7 of 7" in text
    status, text = refused(lone, "PUT", f"/allocations/{who()}", claim({key: {"DISK_GB": 1}}))
    assert status == 409 and "Inventory for 'DISK_GB' on" in text
    assert refused(lone, "PUT", f"/allocations/{who()}", claim({key: {"CUSTOM_X": 1}}))[0] == 400


def test_too_much_may_shrink(lone: Lone) -> None:
    key, path = provider(lone, VCPU=8), f"/allocations/{who()}"
    call(lone, "PUT", path, claim({key: {"VCPU": 8}}))
    body = {"total": 4, "resource_provider_generation": 2}
    call(lone, "PUT", f"/resource_providers/{key}/inventories/VCPU", body)
    call(lone, "PUT", path, claim({key: {"VCPU": 6}}, 1))
    assert refused(lone, "PUT", path, claim({key: {"VCPU": 7}}, 2))[0] == 409


def test_post_is_all_or_nothing(lone: Lone) -> None:
    old, new, server, migration = provider(lone, VCPU=2), provider(lone, VCPU=2), who(), who()
    call(lone, "PUT", f"/allocations/{server}", claim({old: {"VCPU": 2}}))
    too_much = {server: claim({new: {"VCPU": 2}}, 1), migration: claim({new: {"VCPU": 1}})}
    assert refused(lone, "POST", "/allocations", too_much)[0] == 409
    assert (used(lone, old), used(lone, new)) == ({"VCPU": 2}, {"VCPU": 0})
    # A full provider's share changes hands in one step.
    swap = {server: claim({new: {"VCPU": 2}}, 1), migration: claim({old: {"VCPU": 2}})}
    call(lone, "POST", "/allocations", swap)
    assert (used(lone, old), used(lone, new)) == ({"VCPU": 2}, {"VCPU": 2})


def test_usages_of_a_project(lone: Lone) -> None:
    key = provider(lone, VCPU=64, MEMORY_MB=64)
    for kind, user in (("INSTANCE", "u"), ("INSTANCE", "v"), ("MIGRATION", "u")):
        body = claim({key: {"VCPU": 2, "MEMORY_MB": 3}})
        body |= {"project_id": "1" * 32, "user_id": user, "consumer_type": kind}
        call(lone, "PUT", f"/allocations/{who()}", body)
    path = "/usages?project_id=" + "1" * 32
    assert call(lone, "GET", path, version="1.9") == {"usages": {"VCPU": 6, "MEMORY_MB": 9}}
    by_type = call(lone, "GET", path)["usages"]
    assert by_type == {
        "INSTANCE": {"VCPU": 4, "MEMORY_MB": 6, "consumer_count": 2},
        "MIGRATION": {"VCPU": 2, "MEMORY_MB": 3, "consumer_count": 1},
    }
    assert call(lone, "GET", f"{path}&consumer_type=all")["usages"]["all"]["consumer_count"] == 3
    assert call(lone, "GET", f"{path}&consumer_type=unknown")["usages"] == {}
    assert call(lone, "GET", f"{path}&user_id=v")["usages"]["INSTANCE"]["VCPU"] == 2
    assert call(lone, "GET", path, who="member") == {"usages": by_type}
    assert refused(lone, "GET", path, who="other")[0] == 403


def test_reshaper_moves_both(lone: Lone) -> None:
    root, consumer = provider(lone, VCPU=8, MEMORY_MB=64), who()
    call(lone, "PUT", f"/allocations/{consumer}", claim({root: {"VCPU": 4, "MEMORY_MB": 8}}))
    child = provider(lone, parent=root)

    def body(generation: int) -> dict[str, object]:
        return {
            "inventories": {
                root: {
                    "resource_provider_generation": generation, "inventories": {"MEMORY_MB": {"total": 64}},
                },
                child: {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 8}}},
            },
            "allocations": {consumer: claim({root: {"MEMORY_MB": 8}, child: {"VCPU": 4}}, 1)},
        }  # fmt: skip

    assert refused(lone, "POST", "/reshaper", body(3))[0] == 403  # for services
    assert refused(lone, "POST", "/reshaper", body(9), who="service")[0] == 409
    call(lone, "POST", "/reshaper", body(3), who="service")
    assert (used(lone, root), used(lone, child)) == ({"MEMORY_MB": 8}, {"VCPU": 4})


# ---- capacity is never exceeded


def check_books(lone: Lone) -> None:
    """No inventory is over its capacity, and what each says is used is what is allocated."""
    with lone.db.read() as session:
        sums = Counter[tuple[str, str]]()
        for one in session.scalars(sa.select(Allocation)):
            sums[one.provider, one.resource_class] += one.used
        for row in session.scalars(sa.select(Inventory)):
            assert row.used == sums[row.provider, row.resource_class]
            assert 0 <= row.used <= row.capacity


def storm(lone: Lone, seed: int, threads: int, steps: int) -> Counter[int]:
    """Threads put, replace and delete allocations at random; how many requests ended in which status."""
    providers = [provider(lone, VCPU=7, MEMORY_MB={"total": 40, "step_size": 2}) for _ in range(3)]
    consumers = [str(uuid.UUID(int=seed * 1000 + n)) for n in range(5)]

    def one(thread: int) -> Counter[int]:
        chance, ended = random.Random(seed * 100 + thread), Counter[int]()
        for _ in range(steps):
            path = f"/allocations/{chance.choice(consumers)}"
            try:
                if chance.random() < 0.25:
                    call(lone, "DELETE", path)
                else:
                    shares = {
                        key: {"VCPU": chance.randint(1, 5), "MEMORY_MB": chance.randrange(2, 20, 2)}
                        for key in chance.sample(providers, chance.randint(1, 2))
                    }
                    seen = call(lone, "GET", path).get("consumer_generation")
                    call(lone, "PUT", path, claim(shares, seen))
                ended[204] += 1
            except RemoteError as error:
                ended[error.status] += 1
        return ended

    with ThreadPoolExecutor(threads) as pool:
        ended = sum(pool.map(one, range(threads)), Counter[int]())
    check_books(lone)
    return ended


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(min_value=1, max_value=10**6))
def test_capacity_holds_under_parallel_requests(lone: Lone, seed: int) -> None:
    ended = storm(lone, seed, threads=6, steps=15)
    assert set(ended) <= {204, 404, 409} and ended[204] > 0


def test_one_place_goes_to_one(lone: Lone) -> None:
    key = provider(lone, VCPU=10)

    def one(_: int) -> bool:
        try:
            call(lone, "PUT", f"/allocations/{who()}", claim({key: {"VCPU": 1}}))
            return True
        except RemoteError as error:
            assert error.status == 409 and "exceed the capacity" in error.message
            return False

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(one, range(40))) == 10  # no request fails for another's sake
    check_books(lone)
