"""Allocation candidates: flat, nested, sharing, groups; and that both ways of searching agree."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from altostack.placement.model import Provider, ProviderTrait
from altostack.placement.trait import SHARES
from tests.lone import Lone
from tests.placement.world import call, claim, provider, refused

pytestmark = pytest.mark.everywhere


def candidates(lone: Lone, words: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = call(lone, "GET", f"/allocation_candidates?{words}", **more)
    return found


def givers(lone: Lone, words: str) -> set[frozenset[str]]:
    return {frozenset(one["allocations"]) for one in candidates(lone, words)["allocation_requests"]}


def test_flat(lone: Lone) -> None:
    big = provider(lone, VCPU=8, MEMORY_MB=1024, traits=("HW_CPU_X86_AVX2",))
    small = provider(lone, VCPU=2, MEMORY_MB=1024)
    provider(lone, VCPU=8)  # has no memory
    call(lone, "PUT", f"/allocations/{uuid.uuid4()}", claim({big: {"VCPU": 5, "MEMORY_MB": 1}}))
    words = "resources=VCPU:2,MEMORY_MB:512"
    found = candidates(lone, words)
    assert {next(iter(one["allocations"])) for one in found["allocation_requests"]} == {big, small}
    assert found["allocation_requests"][0]["mappings"] in ({"": [big]}, {"": [small]})
    assert found["provider_summaries"][big] == {
        "resources": {"VCPU": {"capacity": 8, "used": 5}, "MEMORY_MB": {"capacity": 1024, "used": 1}},
        "traits": ["HW_CPU_X86_AVX2"], "parent_provider_uuid": None, "root_provider_uuid": big,
    }  # fmt: skip
    assert givers(lone, f"{words}&required=HW_CPU_X86_AVX2") == {frozenset({big})}
    assert givers(lone, f"{words}&required=!HW_CPU_X86_AVX2") == {frozenset({small})}
    assert givers(lone, f"{words}&required=in:HW_CPU_X86_AVX2,HW_CPU_X86_AVX") == {frozenset({big})}
    assert givers(lone, f"{words}&root_required=HW_CPU_X86_AVX2") == {frozenset({big})}
    assert givers(lone, f"{words}&in_tree={small}") == {frozenset({small})}
    assert givers(lone, "resources=VCPU:4") != {frozenset({big})}
    limited = candidates(lone, f"{words}&limit=1")
    assert len(limited["allocation_requests"]) == len(limited["provider_summaries"]) == 1


def test_old_forms(lone: Lone) -> None:
    key = provider(lone, VCPU=8, MEMORY_MB=64)
    found = candidates(lone, "resources=VCPU:1", version="1.10")
    assert found == {
        "allocation_requests": [
            {"allocations": [{"resource_provider": {"uuid": key}, "resources": {"VCPU": 1}}]}
        ],
        "provider_summaries": {key: {"resources": {"VCPU": {"capacity": 8, "used": 0}}}},
    }
    assert refused(lone, "GET", "/allocation_candidates?resources=VCPU:1&limit=1", version="1.15")[0] == 400
    assert refused(lone, "GET", "/allocation_candidates?resources=VCPU:1", version="1.9")[0] == 404


def test_member_of(lone: Lone) -> None:
    zone, other = str(uuid.uuid4()), str(uuid.uuid4())
    inside, outside = provider(lone, VCPU=1, aggregates=(zone,)), provider(lone, VCPU=1)
    assert givers(lone, f"resources=VCPU:1&member_of={zone}") == {frozenset({inside})}
    assert givers(lone, f"resources=VCPU:1&member_of=!{zone}") == {frozenset({outside})}
    assert givers(lone, f"resources=VCPU:1&member_of={other}") == set()


def test_trees_and_sharing(lone: Lone) -> None:
    zone = str(uuid.uuid4())
    host = provider(lone, VCPU=8, MEMORY_MB=64, aggregates=(zone,))
    left = provider(lone, parent=host, SRIOV_NET_VF=2, traits=("CUSTOM_LEFT",))
    right = provider(lone, parent=host, SRIOV_NET_VF=2)
    disk = provider(lone, DISK_GB=100, aggregates=(zone,), traits=(SHARES,))
    provider(lone, VCPU=8)  # reaches neither
    whole = "resources=VCPU:1,DISK_GB:10"
    assert givers(lone, whole) == {frozenset({host, disk})}
    assert set(candidates(lone, whole)["provider_summaries"]) == {host, left, right, disk}
    two = "resources=VCPU:1&resources1=SRIOV_NET_VF:1&resources2=SRIOV_NET_VF:1"
    apart = givers(lone, f"{two}&group_policy=isolate")
    assert apart == {frozenset({host, left, right})}
    assert givers(lone, f"{two}&group_policy=none") == apart | {
        frozenset({host, left}), frozenset({host, right}),
    }  # fmt: skip
    assert givers(lone, "resources1=SRIOV_NET_VF:1&required1=CUSTOM_LEFT") == {frozenset({left})}
    # Versions that do not know trees are not offered two providers of one.
    assert candidates(lone, "resources=VCPU:1,SRIOV_NET_VF:1", version="1.28")["allocation_requests"] == []
    same = "resources_A=VCPU:1&resources_B=SRIOV_NET_VF:1&same_subtree=_A,_B&group_policy=none"
    assert givers(lone, same) == {frozenset({host, left}), frozenset({host, right})}
    assert givers(lone, same.replace("_A=VCPU", "_A=DISK_GB")) == set()


def test_a_candidate_can_be_claimed_as_it_is(lone: Lone) -> None:
    provider(lone, VCPU=4, MEMORY_MB=64)
    (one,) = candidates(lone, "resources=VCPU:2,MEMORY_MB:8")["allocation_requests"]
    call(lone, "PUT", f"/allocations/{uuid.uuid4()}", claim() | one)
    assert candidates(lone, "resources=VCPU:3")["allocation_requests"] == []


def test_the_two_ways_agree(lone: Lone) -> None:
    """The database's answer for flat providers is that of the search over trees."""
    chance, zone = random.Random(5), str(uuid.uuid4())
    keys = []
    for _ in range(12):
        stock: dict[str, Any] = {"VCPU": chance.randint(1, 8), "MEMORY_MB": chance.randint(1, 64)}
        traits = tuple(chance.sample(("CUSTOM_A", "CUSTOM_B", "CUSTOM_C"), chance.randint(0, 2)))
        keys.append(provider(lone, traits=traits, aggregates=(zone,) * chance.randint(0, 1), **stock))
    for name in ("CUSTOM_A", "CUSTOM_B", "CUSTOM_C"):
        call(lone, "PUT", f"/traits/{name}")
    asked = [
        f"resources=VCPU:{n},MEMORY_MB:{n * 7}{more}"
        for n in (1, 3, 5)
        for more in (
            "", "&required=CUSTOM_A", "&required=!CUSTOM_A,CUSTOM_B", "&required=in:CUSTOM_A,CUSTOM_C",
            f"&member_of={zone}", f"&member_of=!{zone}", f"&in_tree={keys[3]}", "&root_required=!CUSTOM_B",
        )
    ]  # fmt: skip
    flat = [givers(lone, words) for words in asked]
    provider(lone, parent=provider(lone))  # from here on there are trees
    assert [givers(lone, words) for words in asked] == flat
    assert any(flat) and not all(flat)


def test_few_queries_however_many_providers(lone: Lone, tmp_path: Path) -> None:
    for _ in range(30):
        provider(lone, VCPU=8)
    statements: list[str] = []
    sa.event.listen(lone.db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert len(candidates(lone, "resources=VCPU:1&limit=5")["allocation_requests"]) == 5
    assert len([text for text in statements if text.startswith("SELECT")]) <= 6


def test_random_limited_answers_are_different(tmp_path: Path) -> None:
    from altostack.placement import SERVICE
    from altostack.placement.config import PlacementSettings

    lone = Lone(SERVICE, tmp_path, settings=PlacementSettings())
    SERVICE.bootstrap(lone.runtime)  # type: ignore[misc]  # it has one
    for _ in range(20):
        provider(lone, VCPU=8)
    seen = set().union(*(givers(lone, "resources=VCPU:1&limit=1") for _ in range(30)))
    assert len(seen) > 3
    with lone.db.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(ProviderTrait)) == 0
        assert session.scalar(sa.select(sa.func.count()).select_from(Provider)) == 20
    lone.close()
