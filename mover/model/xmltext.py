"""Words about XML that a vendor wrote into a file: elements, their attributes and text. What stands there is as it
was found, identifiers included."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct


class Element(Struct, frozen=True):
    """`text` is all character data directly inside, outer blanks gone. Names keep their prefixes."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    text: str = ""
    children: tuple[Element, ...] = ()

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.attributes if key == name), default)

    def named(self, name: str) -> tuple[Element, ...]:
        return tuple(child for child in self.children if child.name == name)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            yield from child.walk()


class XmlText(Struct, frozen=True):
    """One document of one tag: `page` and `tag` say where it stood; `strays` are its comments and processing
    instructions."""

    page: int
    tag: int
    root: Element
    strays: tuple[str, ...] = ()
