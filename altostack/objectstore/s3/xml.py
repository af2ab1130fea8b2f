"""XML in and out. What comes in may have no document type, so no entities either (XXE, billion laughs)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Union
from xml.parsers import expat

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_XSI: Final = "http://www.w3.org/2001/XMLSchema-instance"
MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 50_000
_SPECIAL = re.compile('[&<>"\x00-\x08\x0b-\x1f\x7f\ufffe\uffff\ud800-\udfff]')
_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


class Malformed(ValueError):
    """Not well-formed, or with a document type, or too deep."""


@dataclass(slots=True)
class Element:
    """An element of a parsed document. ``name`` is without its namespace; ``kind`` is its xsi:type."""

    name: str
    text: str = ""
    kind: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, *path: str) -> Iterator[Element]:
        """The elements at a path of names below this one."""
        for child in self.children:
            if child.name == path[0]:
                if len(path) == 1:
                    yield child
                else:
                    yield from child.all(*path[1:])

    def find(self, *path: str) -> Element | None:
        """The first of them."""
        return next(self.all(*path), None)

    def get(self, *path: str, default: str = "") -> str:
        """The first one's text without the blanks around it."""
        found = self.find(*path)
        return default if found is None else found.text.strip()

    def has(self, *path: str) -> bool:
        return self.find(*path) is not None


def parse(content: bytes, root: str = "") -> Element:
    """The document's root element, which must be called ``root`` if that is given. Raises Malformed."""
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    top = Element("")
    stack, count = [top], 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if len(stack) > MAX_DEPTH or count > MAX_ELEMENTS:
            raise Malformed("the document is too large")
        element = Element(name.rpartition(" ")[2], kind=attributes.get(f"{_XSI} type", ""))
        stack[-1].children.append(element)
        stack.append(element)

    def end(name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(*what: Any) -> Any:
        raise Malformed("a document type is not allowed")

    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, UnicodeError, LookupError, ValueError) as error:
        raise Malformed(str(error)) from None
    found = top.children[0]
    if root and found.name != root:
        raise Malformed(f"the root element is not {root}")
    return found


# ---- out


@dataclass(frozen=True, slots=True)
class Typed:
    """Children of an element that says its xsi:type, such as a Grantee."""

    kind: str
    children: Sequence[Child]


Value = Union[str, int, float, bool, None, Typed, "Sequence[Child]"]
Child = tuple[str, Value]


def write(root: str, children: Sequence[Child], *, plain: bool = False) -> bytes:
    """A document. A child is (name, text, number, truth or its own children); None leaves it out.

    ``plain``: without S3's namespace, as errors are.
    """
    out: list[str] = ['<?xml version="1.0" encoding="UTF-8"?>\n']
    out.append(f"<{root}>" if plain else f'<{root} xmlns="{NAMESPACE}">')
    _children(out, children)
    out.append(f"</{root}>")
    return "".join(out).encode("utf-8", "replace")


def _children(out: list[str], children: Sequence[Child]) -> None:
    for name, value in children:
        if value is None:
            continue
        if isinstance(value, Typed):
            out.append(f'<{name} xmlns:xsi="{_XSI}" xsi:type="{value.kind}">')
            _children(out, value.children)
        elif isinstance(value, str):
            out.append(f"<{name}>{escaped(value)}")
        elif isinstance(value, bool):
            out.append(f"<{name}>{'true' if value else 'false'}")
        elif isinstance(value, int | float):
            out.append(f"<{name}>{value}")
        else:
            out.append(f"<{name}>")
            _children(out, value)
        out.append(f"</{name}>")


def escaped(text: str) -> str:
    """Text for a document. What XML cannot say becomes a character reference, as S3 has it."""
    if not _SPECIAL.search(text):
        return text
    return _SPECIAL.sub(_reference, text)


def _reference(found: re.Match[str]) -> str:
    letter = found[0]
    if "\ud800" <= letter <= "\udfff":
        return "\ufffd"
    return _NAMED.get(letter) or f"&#x{ord(letter):x};"
