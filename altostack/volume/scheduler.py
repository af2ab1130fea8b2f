"""Which storage node keeps a new volume: filters with how many nodes each leaves, then the most free space."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from altostack.kit.service import Runtime
from altostack.volume.node import StorageNode, capabilities, settings


class NoNode(Exception):
    """No storage node fits. ``soon``: none is up at all, which may pass."""

    def __init__(self, reason: str, *, soon: bool) -> None:
        self.soon = soon
        super().__init__(reason)


def place(
    runtime: Runtime,
    session: Session,
    *,
    gib: int,
    specs: Mapping[str, str],
    promised: Mapping[str, int],
    only: str | None = None,
    like: Iterable[str | None] = (),
    unlike: Iterable[str | None] = (),
) -> StorageNode:
    """The node for a volume of ``gib`` GiB.

    promised: GiB that the database has given out, by node. only: where the volume's source is. like / unlike: nodes
    of volumes that it shall be with or away from. Raises NoNode, whose message names each filter.
    """
    nodes = list(session.scalars(sa.select(StorageNode)))
    chosen = settings(runtime)
    story = [f"{len(nodes)} storage nodes"]

    def keep(word: str, good: Callable[[StorageNode], bool]) -> None:
        nodes[:] = [node for node in nodes if good(node)]
        story.append(f"{len(nodes)} {word}")

    def free(node: StorageNode) -> float:
        taken = max(node.provisioned_gib, promised.get(node.host, 0))
        return node.total_gib * chosen.overcommit - taken

    keep("up", lambda node: runtime.clock() - node.seen_at <= chosen.node_timeout)
    up = bool(nodes)
    keep("enabled", lambda node: not node.disabled)
    if only is not None:
        keep(f"with the source (on {only})", lambda node: node.host == only)
    together, apart = set(like), set(unlike)
    if together or apart:
        keep(
            "as the hints say",
            lambda node: node.host not in apart and (not together or node.host in together),
        )
    keep("of the volume type", lambda node: _able(capabilities(runtime, node), specs))
    most = max((free(node) for node in nodes), default=0.0)
    keep(f"with {gib} GiB to promise (the most is {max(0, int(most))} GiB)", lambda node: free(node) >= gib)
    if not nodes:
        raise NoNode("No storage node fits: " + ", ".join(story) + ".", soon=not up)
    return max(nodes, key=lambda node: (min(node.free_gib, free(node)), free(node), node.host))


def _able(able: Mapping[str, Any], specs: Mapping[str, str]) -> bool:
    """Whether capabilities meet a type's extra specs; scoped ones ("a:b") are not for the scheduler."""
    for name, wanted in specs.items():
        scope, colon, rest = name.partition(":")
        if colon and scope != "capabilities":
            continue
        value = able.get(rest if colon else name)
        word, _, operand = wanted.partition(" ")
        if word == "<is>":
            if bool(value) != (operand.strip().lower() in ("true", "1", "yes")):
                return False
        elif word == "<in>":
            if operand.strip() not in str(value):
                return False
        elif str(value) != wanted:
            return False
    return True
