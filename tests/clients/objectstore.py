"""The object store's commands of ``openstack``, each with what it needs before it and with what it changes."""

from __future__ import annotations

import random

from tests.clients.tour import Tour


def account(tour: Tour) -> None:
    look = "object store account show"
    tour.change("object store account set --property Colour=blue --property Size=L", look,
                properties={"Colour": "blue", "Size": "L"})  # fmt: skip
    tour.change("object store account unset --property Colour", look, properties={"Size": "L"})
    tour("object store account unset --property Size")
    tour.expect("object store account show", "properties" in tour(look), False)


def containers(tour: Tour) -> None:
    look = "container list"
    tour.add("container create --storage-policy standard one", look, "Name", "one")
    tour.add("container create --public two", look, "Name", "two")
    tour.expect("container create", tour("container show one")["storage_policy"], "standard")
    tour.expect("container create", ".r:*" in tour("container show two")["read_acl"], True)
    tour.change("container set --property Colour=blue one", "container show one",
                container="one", properties={"Colour": "blue"})  # fmt: skip
    tour("container unset --property Colour one")
    tour.expect("container unset", "properties" in tour("container show one"), False)
    tour.expect("container list", tour.column("container list --prefix t", "Name"), ["two"])
    tour.expect("container list", tour.column("container list --limit 1", "Name"), ["one"])
    tour.expect("container list", tour.column("container list --marker one", "Name"), ["two"])
    tour.expect("container list", tour.column("container list --end-marker two --long", "Name"), ["one"])
    tour.expect("container list", tour.column("container list --all", "Name"), ["one", "two"])
    tour.remove("container delete two", look, "Name", "two")
    bits = tour.folder / "a"
    bits.write_bytes(b"a")
    tour("object create one a --name folder/a")
    tour.expect("container show", tour("container show one")["object_count"], "1")
    tour.expect("container delete", tour.works("container delete one"), False)  # it is not empty
    tour.remove("container delete --recursive one", look, "Name", "one")


def objects(tour: Tour) -> None:
    tour("container create box")
    bits, more = random.Random(1).randbytes(300_000), "Grüße".encode()
    (tour.folder / "bits").write_bytes(bits)
    (tour.folder / "more").write_bytes(more)
    look = "object list box"
    tour.add("object create box bits more", look, "Name", "bits")
    tour.add("object create box more --name 'down/a b ü'", look, "Name", "down/a b ü")
    shown = tour("object show box bits")
    tour.expect("object show", (shown["content-length"], shown["object"]), ("300000", "bits"))
    tour.expect("object list", tour.column("object list box --prefix m", "Name"), ["more"])
    tour.expect("object list", tour.column("object list box --limit 1", "Name"), ["bits"])
    tour.expect("object list", tour.column("object list box --marker down", "Name"), ["down/a b ü", "more"])
    tour.expect("object list", tour.column("object list box --end-marker c --long", "Bytes"), [300_000])
    rolled = tour("object list box --delimiter / --all")
    tour.expect("object list", len(rolled) if isinstance(rolled, list) else rolled, 3)

    tour.change(
        "object set --property Colour=blue box bits", "object show box bits", properties={"Colour": "blue"}
    )
    tour("object unset --property Colour box bits")
    tour.expect("object unset", "properties" in tour("object show box bits"), False)

    (tour.folder / "bits").unlink()
    tour("object save box bits")
    tour.expect("object save", (tour.folder / "bits").read_bytes() == bits, True)
    tour("object save --file saved/far box 'down/a b ü'")
    tour.expect("object save", (tour.folder / "saved" / "far").read_bytes(), more)
    (tour.folder / "more").unlink()
    tour("container save box")
    tour.expect("container save", (tour.folder / "more").read_bytes(), more)
    tour.expect("container save", (tour.folder / "down" / "a b ü").read_bytes(), more)

    # To others all this is as if it were not there.
    tour.expect("object show", tour.works("object show box bits", who="demo"), False)
    tour.remove("object delete box bits", look, "Name", "bits")
    tour("object delete box more 'down/a b ü'")
    tour.expect("object delete", tour.column(look, "Name"), [])
    tour("container delete box")


SCENARIOS = (account, containers, objects)
