"""What became of every command, as a page of the documentation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.clients.tour import Kind, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
_HEAD = """# Commands of the official clients

Every identity, image, object store and placement command of the unmodified `openstack` client, and every command of
`swift` (those whose options make another command of them twice), as it was run against a simulated cloud by
`tests/clients`. A command *works* when it ended well and what it is for was found done; it is *refused* when the
service answered with an error of its own, which stands beside it; everything else *fails*. The table is written by
`ALTOSTACK_GOLDEN=write pytest tests/clients`, and the tests hold the cloud to it.
"""


def section(title: str, outcomes: Mapping[str, Outcome]) -> str:
    """One service's table."""
    counts = {kind: sum(one.kind is kind for one in outcomes.values()) for kind in Kind}
    counted = ", ".join(f"{count} {kind.name.lower()}" for kind, count in counts.items() if count)
    lines = [f"## {title}", "", f"{len(outcomes)} commands: {counted}.", ""]
    lines += ["| command | what happens | |", "| --- | --- | --- |"]
    for name, one in sorted(outcomes.items()):
        words = one.words.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{name}` | {one.kind.name.lower()} |{f' {words}' if words else ''} |")
    return "\n".join(lines) + "\n"


def compare(title: str, found: str) -> None:
    """Hold a section against the page, or write it there (ALTOSTACK_GOLDEN=write)."""
    heading = f"\n## {title.split(',')[0]},"
    page = PAGE.read_text() if PAGE.exists() else _HEAD
    _, *sections = page.split("\n## ")
    kept = [f"\n## {text}".removesuffix("\n") + "\n" for text in sections]
    mine = [text for text in kept if text.startswith(heading)]
    if os.environ.get("ALTOSTACK_GOLDEN") == "write":
        others = [text for text in kept if not text.startswith(heading)]
        PAGE.write_text(_HEAD + "".join(sorted([*others, f"\n{found}"])))
        return
    assert mine, f"{PAGE.name} has no section {title}: renew it with ALTOSTACK_GOLDEN=write"
    expected, now = mine[0].strip().splitlines(), found.strip().splitlines()
    gone = [f"- {line}" for line in expected if line not in now]
    new = [f"+ {line}" for line in now if line not in expected]
    assert expected == now, f"{PAGE.name} differs:\n" + "\n".join([*gone, *new])
