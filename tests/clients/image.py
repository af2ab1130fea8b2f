"""Image's commands, each with what it needs before it and with what it changes."""

from __future__ import annotations

import random
import time
from typing import Any

from tests.clients.tour import Tour, said

DESCRIBED = "--disk-format raw --container-format bare"


def images(tour: Tour) -> None:
    bits = tour.folder / "bits"
    bits.write_bytes(random.Random(1).randbytes(100_000))
    image = tour.add(f"image create {DESCRIBED} --file {bits} one", "image list", "ID", said("id"))["id"]
    tour.expect("image create", tour(f"image show {image}")["status"], "active")
    saved = tour.folder / "saved"
    tour(f"image save --file {saved} {image}")
    tour.expect("image save", saved.exists() and saved.read_bytes() == bits.read_bytes(), True)
    tour.change(
        f"image set --name uno --tag blue --property a=b --min-ram 7 {image}", "image show uno",
        name="uno", tags=["blue"], min_ram=7,
    )  # fmt: skip
    tour.expect("image set", tour("image show uno")["properties"].get("a"), "b")
    tour.expect("image list", tour.column("image list --tag blue --property a=b", "Name"), ["uno"])
    tour.change("image unset --tag blue uno", "image show uno", tags=[])
    tour("image unset --property a uno")
    tour.expect("image unset", tour("image show uno")["properties"].get("a"), None)
    tour("image set --deactivate uno")
    tour.expect("image set", tour("image show uno")["status"], "deactivated")
    tour("image set --activate uno")
    tour.expect("image set", tour("image show uno")["status"], "active")
    tour.remove(f"image delete {image}", "image list", "ID", image)


def sharing(tour: Tour) -> None:
    image = tour(f"image create {DESCRIBED} --shared lent")["id"]
    demo = tour("project show demo")["id"]
    tour.add(f"image add project {image} {demo}", f"image member list {image}", "Member ID", demo)
    tour.expect("image member get", tour(f"image member get {image} {demo}")["status"], "pending")
    accepted = f"image member get {image} {demo}"
    tour.change(f"image set --accept {image}", accepted, who="demo", status="accepted")
    tour.expect("image list", tour.column("image list --shared", "ID", who="demo"), [image])
    tour.remove(f"image remove project {image} {demo}", f"image member list {image}", "Member ID", demo)
    tour(f"image delete {image}")


def imports(tour: Tour) -> None:
    tour.expect("image import info", "glance-direct" in str(tour("image import info")), True)
    tour.expect("image stores list", "files" in str(tour("image stores list")), True)
    bits = tour.folder / "staged"
    bits.write_bytes(b"staged" * 1000)
    image = tour(f"image create {DESCRIBED} come")["id"]
    tour.change(f"image stage --file {bits} {image}", f"image show {image}", status="uploading")
    tour(f"image import --method glance-direct {image}")
    tour.expect("image import", _settled(tour, f"image show {image}", "active"), "active")
    tour.expect("image import", tour(f"image show {image}")["size"], 6000)
    task = next(iter(tour.column("image task list", "ID")), "")
    tour.expect("image task show", _settled(tour, f"image task show {task}", "success"), "success")
    tour(f"image delete {image}")


def cache(tour: Tour) -> None:
    bits = tour.folder / "cached"
    bits.write_bytes(b"cached")
    image = tour(f"image create {DESCRIBED} --file {bits} near")["id"]
    look = "cached image list"
    tour.add(f"cached image queue {image}", look, "ID", image)
    tour.remove(f"cached image delete {image}", look, "ID", image)
    tour(f"cached image queue {image}")
    tour.remove("cached image clear", look, "ID", image)
    tour(f"image delete {image}")


def _settled(tour: Tour, look: str, wanted: str) -> Any:
    """The status, once it is the wanted one or has had its time."""
    until = time.monotonic() + 20
    while (status := tour(look)["status"]) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    return status


def definitions(tour: Tour) -> None:
    service, token = tour.cloud.client("image"), tour.cloud.token("admin")
    base = "/v2/metadefs/namespaces/ours"
    spaces = "image metadef namespace list"
    tour.add("image metadef namespace create --description one --public ours", spaces, "namespace", "ours")
    tour.change("image metadef namespace set --description other --tag blue --public ours",
                "image metadef namespace show ours", description="other")  # fmt: skip
    tags = service.call("GET", f"{base}/tags", token=token)["tags"]
    tour.expect("image metadef namespace set", [tag["name"] for tag in tags], ["blue"])
    tour("image metadef namespace unset --tag blue ours")
    tags = service.call("GET", f"{base}/tags", token=token)["tags"]
    tour.expect("image metadef namespace unset", tags, [])

    objects = "image metadef object list ours"
    tour.add("image metadef object create --namespace ours thing", objects, "name", "thing")
    tour.change("image metadef object update --name that ours thing", "image metadef object show ours that",
                name="that")  # fmt: skip
    # The client makes objects without properties alone.
    body = {"name": "that", "properties": {"size": {"title": "Size", "type": "integer"}}}
    service.call("PUT", f"{base}/objects/that", body, token=token)
    shown = tour("image metadef object property show ours that size")
    tour.expect("image metadef object property show", shown["title"], "Size")
    tour.remove("image metadef object delete ours that", objects, "name", "that")

    properties = "image metadef property list ours"
    line = "image metadef property create --name size --title Size --type integer --schema '{}' ours"
    tour.add(line, properties, "name", "size")
    tour.change("image metadef property set --title Length ours size", "image metadef property show ours size",
                title="Length", type="integer")  # fmt: skip
    tour.remove("image metadef property delete ours size", properties, "name", "size")

    kinds = "image metadef resource type association list ours"
    tour.add("image metadef resource type association create ours OS::Ours", kinds, "Name", "OS::Ours")
    known = tour.column("image metadef resource type list", "Name")
    tour.expect("image metadef resource type list", "OS::Ours" in known, True)
    tour.remove("image metadef resource type association delete ours OS::Ours", kinds, "Name", "OS::Ours")
    tour.remove("image metadef namespace delete ours", spaces, "namespace", "ours")


SCENARIOS = (images, sharing, imports, cache, definitions)
