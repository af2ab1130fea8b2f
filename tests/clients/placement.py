"""Placement's commands, each with what it needs before it and with what it changes."""

from __future__ import annotations

from uuid import uuid4

from tests.clients.tour import Tour, said


def names(tour: Tour) -> None:
    tour.add("resource class create CUSTOM_ONE", "resource class list", "name", "CUSTOM_ONE")
    tour.add("resource class set CUSTOM_TWO", "resource class list", "name", "CUSTOM_TWO")
    tour.expect("resource class show", tour("resource class show CUSTOM_ONE")["name"], "CUSTOM_ONE")
    tour.remove("resource class delete CUSTOM_ONE", "resource class list", "name", "CUSTOM_ONE")
    tour("resource class delete CUSTOM_TWO")
    tour.add("trait create CUSTOM_FAST", "trait list --name startswith:CUSTOM_", "name", "CUSTOM_FAST")
    tour.expect("trait show", tour("trait show CUSTOM_FAST")["name"], "CUSTOM_FAST")
    tour.remove("trait delete CUSTOM_FAST", "trait list", "name", "CUSTOM_FAST")


def providers(tour: Tour) -> None:
    look = "resource provider list"
    root = tour.add("resource provider create root", look, "uuid", said("uuid"))["uuid"]
    child = tour(f"resource provider create --parent-provider {root} child")["uuid"]
    tour.expect(
        "resource provider create", tour(f"resource provider show {child}")["root_provider_uuid"], root
    )
    tour.change(f"resource provider set --name kid --parent-provider {root} {child}",
                f"resource provider show {child}", name="kid")  # fmt: skip
    tour.remove(f"resource provider delete {child}", look, "uuid", child)

    aggregate = str(uuid4())
    generation = tour(f"resource provider show {root}")["generation"]
    line = f"resource provider aggregate set --aggregate {aggregate} --generation {generation} {root}"
    tour.add(line, f"resource provider aggregate list {root}", "uuid", aggregate)
    tour("trait create CUSTOM_FAST")
    traits = f"resource provider trait list {root}"
    tour.add(f"resource provider trait set --trait CUSTOM_FAST {root}", traits, "name", "CUSTOM_FAST")

    inventory = f"resource provider inventory list {root}"
    line = f"resource provider inventory set {root} --resource VCPU=8 --resource MEMORY_MB=1024"
    tour.add(line, inventory, "resource_class", "MEMORY_MB")
    tour.change(f"resource provider inventory class set --total 16 {root} VCPU",
                f"resource provider inventory show {root} VCPU", total=16)  # fmt: skip
    line = f"resource provider inventory delete --resource-class MEMORY_MB {root}"
    tour.remove(line, inventory, "resource_class", "MEMORY_MB")

    candidates = tour.column(
        "allocation candidate list --resource VCPU=2 --required CUSTOM_FAST", "resource provider"
    )
    tour.expect("allocation candidate list", candidates, [root])
    tour.remove(f"resource provider trait delete {root}", traits, "name", "CUSTOM_FAST")

    consumer, project, user = str(uuid4()), uuid4().hex, uuid4().hex
    owner = f"--project-id {project} --user-id {user} --consumer-type INSTANCE"
    held = f"resource provider allocation show {consumer}"
    line = f"resource provider allocation set {consumer} {owner} --allocation rp={root},VCPU=2"
    tour.add(line, held, "resources", {"VCPU": 2})
    used = tour(f"resource provider usage show {root}")
    tour.expect("resource provider usage show", used, [{"resource_class": "VCPU", "usage": 2}])
    used = tour(f"resource usage show {project}")
    tour.expect("resource usage show", "VCPU" in str(used) and "2" in str(used), True)
    line = f"resource provider allocation unset --provider {root} {consumer}"
    tour.remove(line, held, "resources", {"VCPU": 2})
    tour(f"resource provider allocation set {consumer} {owner} --allocation rp={root},VCPU=3")
    tour.remove(f"resource provider allocation delete {consumer}", held, "resources", {"VCPU": 3})
    tour(f"resource provider delete {root}")


SCENARIOS = (names, providers)
