"""Parse the XML that vendors put into a tag, without any of XML's dangers.

A document type, and with it every entity of its own, is refused; depth, number of elements and size are bounded.
The result is a plain tree: nobody judges here.
"""

from __future__ import annotations

from typing import Final
from xml.parsers import expat

from msgspec import Struct

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.xmltext import Element, XmlText

XML_BYTES: Final = 64 << 20
ELEMENTS: Final = 400_000
DEPTH: Final = 48
STRAYS: Final = 1000


class _Open(Struct):
    name: str
    attributes: tuple[tuple[str, str], ...]
    texts: list[str]
    children: list[Element]


def parse(data: bytes, *, page: int, tag: int) -> XmlText:
    """Raises StructureInvalid for what is no XML or too much of it, PlaceUnknown for a document type or entity."""
    data = data.rstrip(b"\0 \r\n\t").lstrip(b" \r\n\t")
    if len(data) > XML_BYTES:
        raise StructureInvalid(f"XML above {XML_BYTES} bytes")
    builder = _Builder()
    try:
        builder.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise StructureInvalid("a tag's XML is not well formed") from error
    except (ValueError, LookupError) as error:
        raise StructureInvalid("a tag's XML is in an unknown encoding") from error
    if builder.root is None:
        raise StructureInvalid("a tag's XML holds no element")
    return XmlText(page, tag, builder.root, tuple(builder.strays))


class _Builder:
    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.ordered_attributes = True
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.EntityDeclHandler = self._refuse
        self.parser.ExternalEntityRefHandler = self._refuse
        self.parser.SkippedEntityHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.CommentHandler = self._stray
        self.parser.ProcessingInstructionHandler = self._stray
        self.root: Element | None = None
        self.strays: list[str] = []
        self._open: list[_Open] = []
        self._elements = 0

    def _refuse(self, *_: object) -> int:
        raise PlaceUnknown("a tag's XML declares a document type or an entity")

    def _start(self, name: str, flat: list[str]) -> None:
        self._elements += 1
        if self._elements > ELEMENTS or len(self._open) >= DEPTH:
            raise StructureInvalid("a tag's XML has too many or too deep elements")
        self._open.append(_Open(name, tuple(zip(flat[::2], flat[1::2], strict=True)), [], []))

    def _end(self, _: str) -> None:
        done = self._open.pop()
        element = Element(done.name, done.attributes, "".join(done.texts).strip(), tuple(done.children))
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element

    def _text(self, text: str) -> None:
        if self._open:
            self._open[-1].texts.append(text)

    def _stray(self, *texts: str) -> None:
        if len(self.strays) >= STRAYS:
            raise StructureInvalid("a tag's XML has too many comments")
        self.strays.append(" ".join(texts))
