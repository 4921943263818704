"""An allow-list for XML: which elements, attributes and texts of a vendor's document may pass, each by its type.

`prune` walks a document beside a `Shape` and returns what passes. Everything else goes to `dropped`: values, the
texts of whole unlisted branches. Names are the format's own words and are not harvested.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct

from mover.errors import PlaceUnknown
from mover.model.xmltext import Element

_NUMBERED: Final = re.compile(r"(?<=[A-Za-z])[0-9]{1,4}$")

# (a path of listed names, what stood there, why) for each thing that does not pass
Dropped = Callable[[str, str, str], None]

UNLISTED: Final = "not on the allow-list"
OUTSIDE: Final = "listed, but the value is outside its type"


class Shape(Struct, frozen=True):
    """What of one element may pass. A child's name may end in "#" for any number of up to four digits ("AOI#" lists
    AOI0, AOI1 and so on). An element whose attribute or text of `vital` is absent or outside its type
    cannot be kept: the document is refused. `empty` says whether it may stand when nothing of it is left."""

    attributes: Mapping[str, re.Pattern[str]] = {}
    text: re.Pattern[str] | None = None
    children: Mapping[str, Shape] = {}
    vital: frozenset[str] = frozenset()
    empty: bool = True


def prune(element: Element, shape: Shape, dropped: Dropped, path: str = "") -> Element | None:
    """The element with what its shape lists. Raises PlaceUnknown where something vital cannot be kept."""
    here = f"{path}/{element.name}"
    attributes = tuple(_attributes(element, shape, dropped, here))
    text = ""
    if element.text and shape.text is not None and shape.text.fullmatch(element.text):
        text = element.text
    elif element.text:
        dropped(here, element.text, OUTSIDE if shape.text is not None else UNLISTED)
    missing = shape.vital - {name for name, _ in attributes} - ({"text"} if text else set())
    if missing:
        raise PlaceUnknown(f"{here} lacks {min(missing)} or holds a value outside its type")
    children = tuple(_children(element, shape, dropped, here))
    if not (shape.empty or attributes or text or children):
        return None
    return Element(element.name, attributes, text, children)


def _attributes(element: Element, shape: Shape, dropped: Dropped, here: str) -> Iterator[tuple[str, str]]:
    for name, value in element.attributes:
        pattern = shape.attributes.get(name)
        if pattern is not None and pattern.fullmatch(value):
            yield name, value
        elif pattern is not None:
            dropped(f"{here}@{name}", value, OUTSIDE)
        else:
            dropped(f"{here}@(unlisted)", value, UNLISTED)


def _children(element: Element, shape: Shape, dropped: Dropped, here: str) -> Iterator[Element]:
    for child in element.children:
        inner = shape.children.get(child.name, shape.children.get(_NUMBERED.sub("#", child.name)))
        if inner is None:
            _drop_branch(child, dropped, f"{here}/(unlisted)")
            continue
        kept = prune(child, inner, dropped, here)
        if kept is not None:
            yield kept


def _drop_branch(element: Element, dropped: Dropped, here: str) -> None:
    for one in element.walk():
        if one.text:
            dropped(here, one.text, UNLISTED)
        for _, value in one.attributes:
            dropped(here, value, UNLISTED)


def without(element: Element, shape: Shape, unwanted: frozenset[str]) -> Element:
    """A pruned element without the attributes and leaves a profile does not want (names case-folded); what is vital
    stays."""
    attributes = tuple(
        (name, value) for name, value in element.attributes if name in shape.vital or name.casefold() not in unwanted
    )
    children = []
    for child in element.children:
        inner = shape.children.get(child.name, shape.children.get(_NUMBERED.sub("#", child.name)))
        if inner is not None and (child.children or inner.vital or child.name.casefold() not in unwanted):
            children.append(without(child, inner, unwanted))
    return Element(element.name, attributes, element.text, tuple(children))


def values_of(element: Element) -> Iterator[str]:
    """Every text and attribute value of a document."""
    for one in element.walk():
        if one.text:
            yield one.text
        yield from (value for _, value in one.attributes)


def names_of(shape: Shape) -> Iterator[str]:
    """Every name a shape lists: words of the format that say nothing about anybody."""
    yield from shape.attributes
    for name, inner in shape.children.items():
        yield name
        yield from names_of(inner)


def render(element: Element) -> str:
    """The document as text, without any blank between elements."""
    attributes = "".join(f" {name}={quoteattr(value)}" for name, value in element.attributes)
    inner = escape(element.text) + "".join(render(child) for child in element.children)
    return f"<{element.name}{attributes}>{inner}</{element.name}>" if inner else f"<{element.name}{attributes}/>"
