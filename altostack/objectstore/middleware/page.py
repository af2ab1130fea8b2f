"""Listings of containers as web pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final
from urllib.parse import quote

_STYLE: Final = (
    "<style>body{font:14px system-ui,sans-serif;margin:2em}h1{font-size:1.1em}"
    "td,th{text-align:left;padding:.1em 1em .1em 0}a{text-decoration:none}</style>"
)


def listing(
    label: str, entries: Sequence[dict[str, Any]], *, prefix: str, css: str, query: str, parent: bool
) -> bytes:
    """The page of what lies below ``prefix``. css: where its style sheet is; query: ends every link ("?...")."""
    ending = escape(query)
    rows = []
    if parent:
        rows.append(_row("item", "parent", f"../{ending}", "../"))
    for one in entries:
        if "subdir" in one:
            name = one["subdir"][len(prefix) :]
            rows.append(_row("item subdir", "", _link(name) + ending, name))
    for one in entries:
        if "name" in one:
            name = one["name"][len(prefix) :]
            kinds = " ".join(f"type-{part.lower()}" for part in one["content_type"].split("/"))
            when = one["last_modified"].partition(".")[0].replace("T", " ")
            rows.append(_row(f"item {kinds}", "", _link(name) + ending, name, size(one["bytes"]), when))
    body = (
        f'<h1 id="title">Listing of {escape(label)}</h1><table id="listing"><tr id="heading">'
        '<th class="colname">Name</th><th class="colsize">Size</th><th class="coldate">Date</th></tr>\n'
        f"{''.join(rows)}</table>"
    )
    return _page(f"Listing of {label}", css, body)


def disabled(label: str, css: str, index: str) -> bytes:
    """Why there is no listing."""
    body = (
        "<h1>Web Listing Disabled</h1><p>The owner of this web site has not enabled listings. "
        "If that is you: set X-Container-Meta-Web-Listings.</p>"
    )
    if index:
        body += (
            "<h1>Index File Not Found</h1><p>X-Container-Meta-Web-Index names "
            f"<b>{escape(index)}</b>, which is not here.</p>"
        )
    return _page(f"Listing of {label}", css, body)


def size(number: int) -> str:
    """``1Ki`` for 1024 bytes, rounded."""
    unit, value = -1, float(number)
    while value >= 1024 and unit < 7:
        value = round(value / 1024)
        unit += 1
    return f"{int(value)}{'KMGTPEZY'[unit]}i" if unit >= 0 else str(number)


def _link(name: str) -> str:
    """Relative, and never a step upwards."""
    return "./" + quote(name).replace(".", "%2E")


def _row(kind: str, mark: str, link: str, name: str, told: str = "&nbsp;", when: str = "&nbsp;") -> str:
    mark = f' id="{mark}"' if mark else ""
    return (
        f'<tr{mark} class="{escape(kind)}"><td class="colname"><a href="{link}">{escape(name)}</a></td>'
        f'<td class="colsize">{told}</td><td class="coldate">{when}</td></tr>\n'
    )


def _page(title: str, css: str, body: str) -> bytes:
    style = f'<link rel="stylesheet" type="text/css" href="{escape(css)}" />' if css else _STYLE
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{escape(title)}</title>{style}</head>\n'
        f"<body>{body}</body></html>\n"
    ).encode("utf-8", "surrogateescape")
