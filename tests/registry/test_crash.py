"""kill -9 at every point of every lifecycle: nothing gets stuck, nothing is lost, nothing is left.

The points are found by going through each scenario of `lives` once: before, after and at the commit of every step of
every flow, before and after every verb of the simulated drivers, and before and after every request by which a flow,
an agent or an API changes something in another service. A new step is covered as it is; a new kind needs a scenario.

Here each step is cut off once, between what it did and its commit, and each request of an API; the tier "probe" cuts
at every point, and also deletes everything right after the crash instead of carrying on.
"""

from __future__ import annotations

import ast
import inspect
import tempfile
import textwrap
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.registry.crash import API, Died, Point, World
from tests.registry.lives import SCENARIOS, Scenario


class Stage:
    """A world to crash in, a fresh one after a run that spoiled it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="altostack-crash-")
        self._number = 0
        self._world: World | None = None
        self._rehearsed: dict[str, list[Point]] = {}
        self.cut: set[str] = set()  # names of points at which something died already

    @property
    def world(self) -> World:
        if self._world is None:
            self._number += 1
            self._world = World(Path(self._folder.name) / str(self._number))
        return self._world

    def close(self) -> None:
        if self._world is not None:
            self._world.close()
            self._world = None

    def end(self) -> None:
        self.close()
        self._folder.cleanup()

    def points(self, scenario: Scenario) -> list[Point]:
        """All points that the scenario comes past."""
        if scenario.name not in self._rehearsed:
            self.play(scenario, None)
            self._rehearsed[scenario.name] = list(self.world.probe.seen)
        return self._rehearsed[scenario.name]

    def play(self, scenario: Scenario, target: Point | None, *, delete: bool = False) -> None:
        """Go through the scenario, with a death at ``target``, and see that nothing of it is left.

        delete: after the death ask for everything's deletion at once, instead of having the request carried on.
        """
        world = self.world
        try:
            acts = scenario.run(world)
            next(acts)
            world.abandon = delete
            world.probe.arm(target)
            try:
                for _ in acts:
                    raise AssertionError("a scenario yields once")
            except Died:
                delete_all(world, scenario.kind)
            world.probe.disarm()
            assert target is None or world.probe.hit, "this point was not reached again"
            world.clean()
        except BaseException:
            self.close()
            raise

    def play_each(self, scenario: Scenario, points: Iterable[Point], *, delete: bool = False) -> None:
        """One run a point. Raises AssertionError that names the points where it went wrong."""
        wrong, runs = [], 0
        for point in points:
            runs += 1
            try:
                self.play(scenario, point, delete=delete)
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                wrong.append(f"{point}: {type(error).__name__}: {error} ({last.name}, line {last.lineno})")
        if runs:
            then = "everything deleted" if delete else "carried on"
            print(f"{scenario.name}: died at {runs} points, then {then}")
        assert not wrong, f"{len(wrong)} of {runs} went wrong:\n" + "\n".join(wrong)


def delete_all(world: World, kind: str) -> None:
    """Ask for the deletion of whatever the scenario is about, in whatever state it is."""
    world.delete("compute", "/v2.1/servers", "servers")
    if kind == "server":
        return
    for plural in ("snapshots", "volumes"):
        for one in world.api("GET", "volume", f"/v3/{plural}")[plural]:
            world.api(
                "POST", "volume", f"/v3/{plural}/{one['id']}/action", {"os-force_delete": {}}, who="admin"
            )


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.end()


def steps(flow: type[Any]) -> set[str]:
    """Names of a flow's steps: methods that say what comes next, and that others name instead of calling them."""
    named = {flow.first, "destroy"}
    for part in flow.__mro__[:-1]:
        if part.__module__ == "typing":
            continue
        nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(part)))))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        named |= {
            node.attr for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
            and id(node) not in called
        }  # fmt: skip
    methods = inspect.getmembers(flow, inspect.isfunction)
    return named & {name for name, method in methods if inspect.signature(method).return_annotation == "Next"}


def test_every_kind_and_every_step_is_in_some_scenario(stage: Stage) -> None:
    kinds = {
        kind: flow for runtime in stage.world.cloud.cloud.runtimes.values()
        for kind, (flow, _) in runtime.kinds().items()
    }  # fmt: skip
    known = {scenario.kind for scenario in SCENARIOS}
    assert set(kinds) == known, f"kinds without a scenario: {sorted(set(kinds) - known)}"
    passed = {point.name.partition(" ")[0] for scenario in SCENARIOS for point in stage.points(scenario)}
    declared = {f"{kind}.{step}" for kind, flow in kinds.items() for step in steps(flow)}
    assert len(declared) > 20
    assert not declared - passed, f"steps that no scenario comes past: {sorted(declared - passed)}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_death_after_each_step(stage: Stage, scenario: Scenario) -> None:
    chosen = [
        point for point in stage.points(scenario)
        if point.nth == 1 and point.name.endswith(" after") and point.name not in stage.cut
        and not point.name.startswith(("driver", "call", API))
    ]  # fmt: skip
    stage.cut.update(point.name for point in chosen)
    stage.play_each(scenario, chosen)


def test_death_of_an_api(stage: Stage) -> None:
    """Its client got no answer: whatever was begun is deleted, and what was there before stays."""
    died = 0
    for scenario in SCENARIOS:
        points = [one for one in stage.points(scenario) if one.name.startswith(API)]
        stage.play_each(scenario, points, delete=True)
        died += len(points)
    assert died > 10


@pytest.mark.probe
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_death_anywhere_then_carried_on(stage: Stage, scenario: Scenario) -> None:
    stage.play_each(scenario, [one for one in stage.points(scenario) if not one.name.startswith(API)])


@pytest.mark.probe
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_death_anywhere_then_deleted(stage: Stage, scenario: Scenario) -> None:
    chosen = [one for one in stage.points(scenario) if one.nth == 1 and not one.name.startswith(API)]
    stage.play_each(scenario, chosen, delete=True)
