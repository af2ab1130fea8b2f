"""What is remembered of all providers: it is out of date with the commit of whatever changes an answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from altostack.placement.model import Change
from altostack.placement.world import KEPT, changed
from tests.lone import Lone
from tests.placement.world import call, claim, provider

SEARCH = "/allocation_candidates?resources=VCPU:1"
AGGREGATE = str(uuid.UUID(int=7))


def _inventory(lone: Lone, key: str) -> None:
    generation = call(lone, "GET", f"/resource_providers/{key}")["generation"]
    body = {"resource_provider_generation": generation, "total": 2}
    call(lone, "PUT", f"/resource_providers/{key}/inventories/VCPU", body)


def _claimed(lone: Lone, key: str) -> str:
    consumer = str(uuid.uuid4())
    call(lone, "PUT", f"/allocations/{consumer}", claim({key: {"VCPU": 3}}))
    return consumer


def _traits(lone: Lone, key: str) -> None:
    generation = call(lone, "GET", f"/resource_providers/{key}")["generation"]
    body = {"traits": ["HW_CPU_X86_AVX"], "resource_provider_generation": generation}
    call(lone, "PUT", f"/resource_providers/{key}/traits", body)


CHANGES: dict[str, Callable[[Lone, str], Any]] = {
    "a provider more": lambda lone, key: provider(lone, VCPU=4),
    "a provider below": lambda lone, key: provider(lone, parent=key, VCPU=4),
    "a provider less": lambda lone, key: call(lone, "DELETE", f"/resource_providers/{key}"),
    "other inventories": _inventory,
    "no inventories": lambda lone, key: call(lone, "DELETE", f"/resource_providers/{key}/inventories"),
    "an allocation": _claimed,
    "traits": _traits,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_at_once(lone: Lone, name: str) -> None:
    key = provider(lone, VCPU=4)
    provider(lone, VCPU=8)
    before = call(lone, "GET", SEARCH)
    assert len(before["allocation_requests"]) == 2
    held = lone.runtime.memo["world"]
    assert call(lone, "GET", SEARCH) == before
    assert lone.runtime.memo["world"] is held
    CHANGES[name](lone, key)
    after = call(lone, "GET", SEARCH)
    assert after != before
    lone.runtime.memo.clear()
    assert call(lone, "GET", SEARCH) == after


def test_an_allocation_that_ends_is_seen_at_once(lone: Lone) -> None:
    key = provider(lone, VCPU=3)
    consumer = _claimed(lone, key)
    assert call(lone, "GET", SEARCH)["allocation_requests"] == []
    call(lone, "DELETE", f"/allocations/{consumer}")
    assert len(call(lone, "GET", SEARCH)["allocation_requests"]) == 1


def test_a_provider_that_shares_or_is_moved_is_seen_at_once(lone: Lone) -> None:
    node = provider(lone, VCPU=4, aggregates=(AGGREGATE,))
    search = "/allocation_candidates?resources=VCPU:1,DISK_GB:1"
    disk = provider(lone, DISK_GB=100, traits=("MISC_SHARES_VIA_AGGREGATE",))
    assert call(lone, "GET", search)["allocation_requests"] == []
    call(lone, "PUT", f"/resource_providers/{disk}/aggregates", [AGGREGATE], version="1.18")
    (found,) = call(lone, "GET", search)["allocation_requests"]
    assert set(found["allocations"]) == {node, disk}
    call(lone, "PUT", f"/resource_providers/{disk}/aggregates", [], version="1.18")
    assert call(lone, "GET", search)["allocation_requests"] == []
    call(lone, "PUT", f"/resource_providers/{disk}", {"name": "disk", "parent_provider_uuid": node})
    assert len(call(lone, "GET", search)["allocation_requests"]) == 1


def test_a_refused_change_leaves_what_is_remembered(lone: Lone) -> None:
    key = provider(lone, VCPU=1)
    call(lone, "GET", SEARCH)
    held = lone.runtime.memo["world"]
    body = claim({key: {"VCPU": 9}})
    status = lone.refusal("PUT", f"/allocations/{uuid.uuid4()}", body, who="admin", version="1.39")[0]
    assert status == 409
    call(lone, "GET", SEARCH)
    assert lone.runtime.memo["world"] is held


def test_the_table_of_changes_stays_small_and_never_repeats_itself(lone: Lone) -> None:
    state = sa.select(sa.func.count(), sa.func.max(Change.id))
    seen = set()
    for _ in range(2 * KEPT + 10):
        lone.db.write(changed)
        with lone.db.read() as session:
            seen.add(tuple(session.execute(state).one()))
    assert len(seen) == 2 * KEPT + 10
    assert max(count for count, _ in seen) <= KEPT + 1


@pytest.mark.parametrize("limit", ["", "&limit=50"])
def test_both_ways_to_search_flat_providers_agree(lone: Lone, limit: str) -> None:
    keys = [provider(lone, VCPU=number, MEMORY_MB={"total": 64, "step_size": 2}) for number in range(1, 9)]
    provider(lone, VCPU=8)
    query = f"/allocation_candidates?resources=VCPU:4,MEMORY_MB:6{limit}"
    lone.runtime.memo.clear()
    fresh = call(lone, "GET", query)
    call(lone, "GET", "/allocation_candidates?resources=VCPU:1")
    assert "world" in lone.runtime.memo
    again = call(lone, "GET", query)
    found = {next(iter(one["allocations"])) for one in fresh["allocation_requests"]}
    assert found == set(keys[3:])
    assert {next(iter(one["allocations"])) for one in again["allocation_requests"]} == found
    assert again["provider_summaries"] == fresh["provider_summaries"]
    odd = f"/allocation_candidates?resources=VCPU:4,MEMORY_MB:5{limit}"
    assert call(lone, "GET", odd)["allocation_requests"] == []
