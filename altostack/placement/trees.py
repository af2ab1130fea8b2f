"""Candidates over trees of providers and providers that share: combined in memory.

A group with a suffix is satisfied by one provider. The group without one may take each class from another provider
of the same tree, or from one that shares through an aggregate with somebody in that tree. What different groups take
must meet at one root, the anchor (placement user guide, "Provider trees"; API reference, "Allocation candidates").
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from altostack.placement.query import Wish
from altostack.placement.world import World


@dataclass(kw_only=True)
class Request:
    """A whole query. trees: the caller knows about trees (since 1.29)."""

    wishes: list[Wish]
    isolate: bool = False
    limit: int | None = None
    root_required: list[set[str]] = field(default_factory=list)
    root_forbidden: set[str] = field(default_factory=set)
    same_subtree: list[set[str]] = field(default_factory=list)
    trees: bool = True


@dataclass(kw_only=True)
class Candidate:
    """One possible answer: provider -> class -> amount; suffix -> providers; the roots of those that give."""

    shares: dict[str, dict[str, int]]
    mappings: dict[str, set[str]]
    roots: set[str]


class _Part(NamedTuple):
    """How one group may be satisfied below one anchor: (provider, class) -> amount, and who satisfies it."""

    suffix: str
    takes: tuple[tuple[str, str, int], ...]
    by: frozenset[str]


def _has(traits: set[str], required: list[set[str]], forbidden: set[str]) -> bool:
    return all(some & traits for some in required) and not forbidden & traits


def _inside(aggregates: set[str], wish: Wish) -> bool:
    return all(some & aggregates for some in wish.member_of)


def combine(world: World, request: Request, *, most: int, randomize: bool) -> list[Candidate]:
    """The candidates, up to the request's limit; ``most`` bounds how many combinations are kept."""
    anchors = [key for key in world.root if world.root[key] == key]
    if request.root_required or request.root_forbidden:
        anchors = [
            key for key in anchors if _has(world.traits[key], request.root_required, request.root_forbidden)
        ]
    allowed = set(anchors)
    parts: list[Mapping[str, list[_Part]]] = []
    for wish in request.wishes:
        single = bool(wish.suffix) or not (world.sharing or world.nested)
        found = _by_one(world, wish, allowed) if single else _by_tree(world, wish, allowed)
        if not found:
            return []
        parts.append(found)
    if randomize:
        random.shuffle(anchors)
    limit = most if request.limit is None else min(request.limit, most)
    return list(itertools.islice(_merged(world, request, parts, anchors), limit))


def _pick(world: World, wish: Wish) -> Iterator[str]:
    """The providers that may be looked at for a group."""
    tree = None if wish.in_tree is None else world.root.get(wish.in_tree, "")
    return (key for key, root in world.root.items() if tree is None or root == tree)


def _by_one(world: World, wish: Wish, allowed: set[str]) -> Mapping[str, list[_Part]]:
    """Anchor -> the ways in which one provider satisfies the whole group."""
    found: dict[str, list[_Part]] = defaultdict(list)
    for key in _pick(world, wish):
        if not all(world.fits(key, name, amount) for name, amount in wish.resources.items()):
            continue
        if not _has(world.traits[key], wish.required, wish.forbidden):
            continue
        if not _inside(world.aggregates[key], wish) or wish.outside & world.aggregates[key]:
            continue
        part = _Part(
            suffix=wish.suffix,
            takes=tuple((key, name, amount) for name, amount in wish.resources.items()),
            by=frozenset((key,)),
        )
        for anchor in {world.root[key]} | world.anchors.get(key, set()):
            if anchor in allowed:
                found[anchor].append(part)
    return found


def _by_tree(world: World, wish: Wish, allowed: set[str]) -> Mapping[str, list[_Part]]:
    """Anchor -> the ways in which a tree, with those that share with it, satisfies the group together."""
    tree = None if wish.in_tree is None else world.root.get(wish.in_tree, "")
    trees: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for name, amount in wish.resources.items():
        for key, row in world.stock.get(name, {}).items():
            if not row.fits(amount) or (tree is not None and world.root[key] != tree):
                continue
            inside = _inside(world.aggregates[key], wish)
            anchors = {world.root[key]}
            if key in world.sharing and wish.in_tree is None and inside:
                anchors |= world.anchors[key]
            for anchor in anchors & allowed:
                # An aggregate of the root spans its whole tree.
                if not inside and not _inside(world.aggregates[anchor], wish):
                    continue
                if wish.outside & (world.aggregates[key] | world.aggregates[anchor]):
                    continue
                trees[anchor].setdefault(name, []).append(key)
    found: dict[str, list[_Part]] = {}
    for anchor, givers in trees.items():
        if len(givers) < len(wish.resources):
            continue
        ways = []
        names = list(wish.resources)
        for chosen in itertools.product(*(givers[name] for name in names)):
            traits = set().union(*(world.traits[key] for key in chosen))
            if _has(traits, wish.required, wish.forbidden):
                takes = tuple(
                    (key, name, wish.resources[name]) for key, name in zip(chosen, names, strict=True)
                )
                ways.append(_Part(suffix=wish.suffix, takes=takes, by=frozenset(chosen)))
        if ways:
            found[anchor] = ways
    return found


def _merged(
    world: World, request: Request, parts: list[Mapping[str, list[_Part]]], anchors: Iterable[str]
) -> Iterator[Candidate]:
    """One candidate for each way to satisfy all groups below one anchor, each different answer once."""
    seen: set[object] = set()
    for anchor in anchors:
        if not all(anchor in found for found in parts):
            continue
        for chosen in itertools.product(*(found[anchor] for found in parts)):
            if not _together(world, request, chosen):
                continue
            total: dict[tuple[str, str], int] = {}
            for part in chosen:
                for key, name, amount in part.takes:
                    total[key, name] = total.get((key, name), 0) + amount
            if len(chosen) > 1 and not all(
                _still_fits(world, key, name, amount) for (key, name), amount in total.items()
            ):
                continue
            roots = {world.root[key] for key, _ in total}
            if not request.trees and len({key for key, _ in total}) > len(roots):
                continue
            mappings = {part.suffix: set(part.by) for part in chosen}
            if world.sharing:  # only they belong to several anchors
                mark = (
                    frozenset(total.items()),
                    frozenset((suffix, frozenset(keys)) for suffix, keys in mappings.items()),
                )
                if mark in seen:
                    continue
                seen.add(mark)
            shares: dict[str, dict[str, int]] = {}
            for (key, name), amount in total.items():
                shares.setdefault(key, {})[name] = amount
            yield Candidate(shares=shares, mappings=mappings, roots=roots)


def _together(world: World, request: Request, chosen: tuple[_Part, ...]) -> bool:
    """group_policy=isolate and same_subtree."""
    if request.isolate:
        alone = [part.by for part in chosen if part.suffix]
        if len(set().union(*alone)) < len(alone):
            return False
    for suffixes in request.same_subtree:
        keys = set().union(*(part.by for part in chosen if part.suffix in suffixes))
        common = set.intersection(*(world.line(key) for key in keys)) if keys else keys
        if len(keys) > 1 and not common & keys:
            return False
    return True


def _still_fits(world: World, key: str, name: str, amount: int) -> bool:
    return amount <= world.stock[name][key].high
