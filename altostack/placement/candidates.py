"""Allocation candidates: which providers could give what is asked for.

Three ways to the same answer. Where no provider has a parent and none shares, each candidate is one provider. When few
are asked for and the providers are not in memory, the database finds them and stops when it has enough. Otherwise
everything is read once and remembered for as long as nothing changes (`altostack.placement.world`), and searched there:
one by one, or by trees and groups (`altostack.placement.trees`).
"""

from __future__ import annotations

import random
import uuid
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from altostack.kit.call import Call
from altostack.kit.resource import MAX_INT
from altostack.kit.route import Route
from altostack.kit.versions import Version
from altostack.placement import query
from altostack.placement.config import PlacementSettings
from altostack.placement.dialect import BAD_VALUE, DUPLICATE_KEY, MISSING_VALUE, SERVICE, bad_query, fresh
from altostack.placement.model import Inventory, Provider, ProviderAggregate, ProviderTrait
from altostack.placement.query import NAMED, NUMBERED, Wish
from altostack.placement.trait import SHARES, require_classes, require_traits, standing
from altostack.placement.trees import Candidate, Request, combine
from altostack.placement.world import World, now, remembered, world

_NONE: frozenset[str] = frozenset()
_FEW = 100  # up to so many candidates, finding them in the database beats reading everything

# ---- conditions, for other queries too


def fits(row: Any, amount: int) -> Any:
    """The condition that an inventory has ``amount`` free and may give it in one piece."""
    if amount > MAX_INT:
        return sa.false()
    return sa.and_(
        row.used + amount <= (row.total - row.reserved) * row.allocation_ratio,
        row.min_unit <= amount,
        row.max_unit >= amount,
        sa.literal(amount) % row.step_size == 0,
    )


def having(wish: Wish, key: Any) -> list[Any]:
    """The conditions that the provider ``key`` itself has the traits and aggregates of ``wish``."""
    found: list[Any] = []
    trait, aggregate = ProviderTrait, ProviderAggregate
    for some in wish.required:
        found.append(key.in_(sa.select(trait.provider).where(trait.trait.in_(some))))
    if wish.forbidden:
        found.append(key.not_in(sa.select(trait.provider).where(trait.trait.in_(wish.forbidden))))
    for members in wish.member_of:
        found.append(key.in_(sa.select(aggregate.provider).where(aggregate.aggregate.in_(members))))
    if wish.outside:
        found.append(key.not_in(sa.select(aggregate.provider).where(aggregate.aggregate.in_(wish.outside))))
    return found


# ---- the request


def _read(call: Call) -> Request:
    """The query string. Raises BadRequest."""
    named = call.at_least("1.33")
    pattern = NAMED if named else NUMBERED
    known = {"limit": "1.16", "group_policy": "1.25", "root_required": "1.35", "same_subtree": "1.36"}
    since = {"resources": "1.10", "required": "1.17", "member_of": "1.21", "in_tree": "1.31"}
    suffixes: dict[str, None] = {}
    for name in call.query:
        found = None if name in known else pattern.match(name)
        if found is not None and (not found.group(2) or call.at_least("1.25")):
            known[name] = since[found.group(1)]
            suffixes[found.group(2) or ""] = None
    query.check_names(call, known)
    limit = _first(call, "limit")
    if limit is not None and (not limit.isascii() or not limit.isdigit() or limit.startswith("0")):
        raise bad_query(
            f"Invalid query string parameters: limit must be a positive integer, not {limit[:40]!r}. Failed validating "
            "'pattern' in schema"
        )
    policy = _first(call, "group_policy")
    if policy not in (None, "none", "isolate"):
        raise bad_query(f"Invalid query string parameters: {policy!r} is not one of ['none', 'isolate'].")
    if not call.at_least("1.25") and "resources" not in call.query:
        raise bad_query("Invalid query string parameters: 'resources' is a required property.")
    wishes = [query.wish(call, suffix) for suffix in suffixes]
    request = Request(
        wishes=wishes, isolate=policy == "isolate", limit=int(limit[:9]) if limit else None,
        same_subtree=_subtrees(call),
    )  # fmt: skip
    _read_root(call, request)
    _check(call, request)
    if policy is None and sum(1 for wish in wishes if wish.suffix) > 1:
        raise bad_query(
            'The "group_policy" parameter is required when specifying more than one "resources{N}" parameter.'
        )
    return request


def _first(call: Call, name: str) -> str | None:
    """These two are taken from their first mention."""
    return call.query[name][0] if name in call.query else None


def _read_root(call: Call, request: Request) -> None:
    values = call.query.get("root_required", [])
    if len(values) > 1:
        raise bad_query("Query parameter 'root_required' may be specified only once.", DUPLICATE_KEY)
    if values:
        request.root_required, request.root_forbidden = query.traits(call, values, "root_required")
        clash = {name for some in request.root_required for name in some} & request.root_forbidden
        if clash:
            raise bad_query(
                "Conflicting required and forbidden traits found in root_required: "
                + ", ".join(sorted(clash)),
                BAD_VALUE,
            )


def _subtrees(call: Call) -> list[set[str]]:
    found = []
    for text in call.query.get("same_subtree", []):
        suffixes = {part.strip() for part in text.split(",")}
        if "" in suffixes:
            raise bad_query(
                "Empty string (unsuffixed group) can not be specified in `same_subtree`", BAD_VALUE
            )
        found.append(suffixes)
    return found


def _check(call: Call, request: Request) -> None:
    """Raises BadRequest where groups do not make sense together."""
    wishes = request.wishes
    empty = [wish.suffix for wish in wishes if not wish.resources]
    if call.at_least("1.36"):
        if len(empty) == len(wishes):
            raise bad_query("There must be at least one resources or resources[$S] parameter.", MISSING_VALUE)
        linked = set().union(*request.same_subtree)
        if bad := [suffix for suffix in empty if suffix not in linked]:
            raise bad_query(
                "Resourceless suffixed group request should be specified in `same_subtree` query param: "
                f"bad group(s) - {bad}.",
                BAD_VALUE,
            )
        present = [wish.suffix for wish in wishes]
        if unknown := sorted(linked - set(present)):
            raise bad_query(
                f"Real suffixes should be specified in `same_subtree`: {unknown} not found in {present}.",
                BAD_VALUE,
            )
    else:
        _check_orphans(wishes)
    clashes = [
        f"required{wish.suffix}: ({', '.join(sorted(some))})"
        for wish in wishes
        for some in wish.required
        if some <= wish.forbidden
    ]
    if clashes:
        raise bad_query(
            "Conflicting required and forbidden traits found in the following traits keys: "
            + ", ".join(sorted(clashes))
        )


def _check_orphans(wishes: list[Wish]) -> None:
    if orphans := [f"required{w.suffix}" for w in wishes if w.required and not w.resources]:
        raise bad_query(
            "All traits parameters must be associated with resources.  Found the following orphaned traits "
            "keys: " + ", ".join(orphans)
        )
    if orphans := [f"member_of{w.suffix}" for w in wishes if (w.member_of or w.outside) and not w.resources]:
        raise bad_query(
            "All member_of parameters must be associated with resources. Found the following orphaned "
            "member_of keys: " + ", ".join(orphans)
        )
    if not all(wish.resources for wish in wishes):
        raise bad_query("All request groups must specify resources.")
    if not wishes:
        raise bad_query("At least one request group (`resources` or `resources{$S}`) is required.")


# ---- the search


@cache
def _other(place: int) -> Any:
    """Inventories under another name; making one takes longer than the query."""
    return aliased(Inventory, name=f"other_{place}")


def _flat(session: Session, request: Request, randomize: bool) -> list[Candidate]:
    """Where each candidate is one provider: found by the database, which stops when it has enough.

    It walks the index of one class and looks the others up, so the cost is that of the answer, not of the cloud.
    """
    wish = request.wishes[0]
    anyone = Wish(required=request.root_required, forbidden=request.root_forbidden)
    (first, amount), *others = wish.resources.items()
    row = Inventory
    wanted = (
        sa.select(row.provider)
        .where(row.resource_class == first, fits(row, amount))
        .where(*having(wish, row.provider), *having(anyone, row.provider))
    )
    for place, (name, amount) in enumerate(others):
        other = _other(place)
        wanted = wanted.where(
            sa.exists().where(
                other.provider == row.provider, other.resource_class == name, fits(other, amount)
            )
        )
    if wish.in_tree is not None:
        wanted = wanted.where(row.provider == wish.in_tree)
    wanted = wanted.order_by(row.provider)
    if request.limit is None:
        found = list(session.scalars(wanted))
    else:
        # From any place on the circle of uuids on, so that not everybody is sent to the same few.
        start = str(uuid.uuid4()) if randomize else ""
        found = list(session.scalars(wanted.where(row.provider >= start).limit(request.limit)))
        if len(found) < request.limit and start:
            rest = request.limit - len(found)
            found += session.scalars(wanted.where(row.provider < start).limit(rest))
    return [
        Candidate(shares={key: dict(wish.resources)}, mappings={wish.suffix: {key}}, roots={key})
        for key in found
    ]


def _search(call: Call, request: Request) -> tuple[list[Candidate] | list[str], World | None]:
    """The candidates, and all providers where those were needed or at hand.

    Where each candidate is one provider in memory, the list is just of their ids.
    """
    settings = call.runtime.settings or PlacementSettings()
    at = now(call)
    few = request.limit is not None and request.limit <= _FEW and len(request.wishes) == 1
    if few and not remembered(call, at=at) and not _complicated(call.session):
        return _flat(call.session, request, settings.randomize_candidates), None
    found = world(call, at=at)
    if len(request.wishes) == 1 and found.flat:
        return _single(found, request, settings.randomize_candidates), found
    request.trees = call.at_least("1.29")
    most, randomize = settings.max_candidates, settings.randomize_candidates
    return combine(found, request, most=most, randomize=randomize), found


def _complicated(session: Session) -> bool:
    """Whether any provider has a parent or shares."""
    nested, sharing = session.execute(
        sa.select(
            sa.exists().where(Provider.parent.is_not(None)), sa.exists().where(ProviderTrait.trait == SHARES)
        )
    ).one()
    return bool(nested or sharing)


def _single(found: World, request: Request, randomize: bool) -> list[str]:
    """The same as `_flat`, in memory: the providers that can give all."""
    wish = request.wishes[0]
    required = [*wish.required, *request.root_required]
    forbidden = wish.forbidden | request.root_forbidden
    (first, amount), *others = wish.resources.items()
    keys = [key for key, row in found.stock.get(first, {}).items() if row.fits(amount)]
    for name, amount in others:
        stock = found.stock.get(name, {})
        keys = [key for key in keys if (row := stock.get(key)) is not None and row.fits(amount)]
    for some in required:
        keys = [key for key in keys if some & found.traits.get(key, _NONE)]
    if forbidden:
        keys = [key for key in keys if not forbidden & found.traits.get(key, _NONE)]
    for some in wish.member_of:
        keys = [key for key in keys if some & found.aggregates.get(key, _NONE)]
    if wish.outside:
        keys = [key for key in keys if not wish.outside & found.aggregates.get(key, _NONE)]
    if wish.in_tree is not None:
        keys = [key for key in keys if key == wish.in_tree]
    if request.limit is not None and request.limit < len(keys):
        keys = random.sample(keys, request.limit) if randomize else sorted(keys)[: request.limit]
    return keys


def list_candidates(call: Call) -> Any:
    """GET /allocation_candidates"""
    request = _read(call)
    root_traits = request.root_forbidden.union(*request.root_required)
    require_traits(call.session, root_traits.union(*(wish.traits for wish in request.wishes)))
    found, everything = _search(call, request)
    if not found:  # why? A class that does not exist is a mistake.
        require_classes(call.session, set().union(*(wish.resources for wish in request.wishes)))
    fresh(call)
    classes = set().union(*(wish.resources for wish in request.wishes))
    requests, summaries = _requests(call, request, found), _summaries(call, classes, found, everything)
    # Put together from parts that are JSON already: there may be thousands of them.
    return msgspec.Raw(b'{"allocation_requests":%b,"provider_summaries":%b}' % (requests, summaries))


def _requests(call: Call, request: Request, found: list[Candidate] | list[str]) -> bytes:
    if not call.at_least("1.12"):
        return msgspec.json.encode([_listed(one) for one in _spelled(request, found)])
    mapped = call.at_least("1.34")
    if found and isinstance(found[0], str):
        wish = request.wishes[0]
        amounts = msgspec.json.encode(wish.resources).decode()
        tail = f',"mappings":{{{msgspec.json.encode(wish.suffix).decode()}:["%s"]}}' if mapped else "%.0s"
        form = f'{{"allocations":{{"%s":{{"resources":{amounts}}}}}{tail}}}'
        return b"[%b]" % ",".join([form % (key, key) for key in found]).encode()
    shown = []
    for one in _spelled(request, found):
        body: dict[str, Any] = {"allocations": {key: {"resources": all_} for key, all_ in one.shares.items()}}
        if mapped:
            body["mappings"] = {suffix: sorted(keys) for suffix, keys in one.mappings.items()}
        shown.append(body)
    return msgspec.json.encode(shown)


def _spelled(request: Request, found: list[Candidate] | list[str]) -> list[Candidate]:
    """The same with every candidate in full."""
    wish = request.wishes[0]
    return [
        one
        if isinstance(one, Candidate)
        else Candidate(shares={one: wish.resources}, mappings={wish.suffix: {one}}, roots={one})
        for one in found
    ]


def _listed(one: Candidate) -> dict[str, Any]:
    """Before 1.12."""
    return {
        "allocations": [
            {"resource_provider": {"uuid": key}, "resources": resources}
            for key, resources in one.shares.items()
        ]
    }


def _summaries(
    call: Call, classes: set[str], found: list[Candidate] | list[str], everything: World | None
) -> bytes:
    """Each provider in the trees of the candidates (before 1.29: each of the candidates') with what it has."""
    trees, traits = call.at_least("1.29"), call.at_least("1.17")
    only = None if call.at_least("1.27") else classes
    keys: dict[str, None] = {}
    for one in found:
        if isinstance(one, str):
            keys[one] = None
        else:
            keys.update(dict.fromkeys(one.roots if trees else one.shares))
    if everything is not None:
        wanted = (
            [key for root in keys for key in everything.trees[root]]
            if trees and everything.nested
            else list(keys)
        )
        return everything.summaries(wanted, traits=traits, trees=trees, classes=only)
    return msgspec.json.encode(_few_summaries(call.session, list(keys), traits, trees, only))


def _few_summaries(
    session: Session, keys: list[str], traits: bool, trees: bool, classes: set[str] | None
) -> dict[str, Any]:
    """The same of providers without trees, from the database."""
    shown: dict[str, Any] = {}
    for key in keys:
        shown[key] = {"resources": {}}
        if traits:
            shown[key]["traits"] = []
        if trees:
            shown[key] |= {"parent_provider_uuid": None, "root_provider_uuid": key}
    row = Inventory
    columns = (row.total, row.reserved, row.allocation_ratio, row.used)
    stock = sa.select(row.provider, row.resource_class, *columns).where(row.provider.in_(keys))
    if classes is not None:
        stock = stock.where(row.resource_class.in_(classes))
    for key, name, total, reserved, ratio, used in session.execute(stock):
        shown[key]["resources"][name] = {"capacity": int((total - reserved) * ratio), "used": used}
    if traits:
        held = sa.select(ProviderTrait.provider, ProviderTrait.trait)
        for key, name in session.execute(held.where(ProviderTrait.provider.in_(keys))):
            shown[key]["traits"].append(name)
        for one in shown.values():
            one["traits"].sort(key=standing)
    return shown


ROUTES = (
    Route(
        method="GET", path="/allocation_candidates", handler=list_candidates,
        policy="placement:allocation_candidates:list", check=SERVICE, since=Version(1, 10),
    ),
)  # fmt: skip
