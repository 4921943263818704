"""Look at one object: what it is, whom it speaks of, where its frames lie."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import Final

from blake3 import blake3

from mover.decide.dicom.harvest import NOTHING, Words, codecs_of, texts_of, words_of
from mover.decide.dicom.rules import is_retained
from mover.decide.dicom.tables import class_name, kinds
from mover.decide.patients import of_issuer, says_no_id
from mover.deid.dicom.outcome import Family, ObjectSurvey, Role
from mover.deid.identity import Identity, entity_key
from mover.deid.pixels import Box, Palette, PixelFacts, Span
from mover.errors import FormatUnknown, FormatUnsupported, StructureInvalid
from mover.model.deid import DicomRules
from mover.model.dicom import DOUBLE_PIXELS, FLOAT_PIXELS, Element, Items, ObjectScan
from mover.model.source import ByteSource, MemorySource
from scanners.dicom.walk import DEPTH, Syntax, open_items, syntax_of

WHOLE_SLIDE: Final = "1.2.840.10008.5.1.4.1.1.77.1.6"
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
# descriptor, data, segmented data of red, green and blue
_PALETTES: Final = tuple((0x00281101 + one, 0x00281201 + one, 0x00281221 + one) for one in range(3))
_REGION: Final = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)
_KEYS: Final = (("case", 0x00080050), ("slide", 0x00400512), ("block", 0x00400551))
_EQUIPMENT: Final = 0x0018A001
_MEMO: Final = 100_000
_CODECS: Final = 8
_READ: Final = 8 << 20


class Gatherer:
    """Gathers words of many objects; what it saw of an element's bytes it does not look at again. What `rules` keep
    is not gathered."""

    def __init__(self, rules: DicomRules | None = None) -> None:
        self._rules = rules
        self._memos: dict[tuple[str, ...], dict[tuple[int, str, bytes], tuple[Words, ...]]] = {}

    def words(self, look: Look) -> list[Words]:
        """Every element's words, at every depth."""
        found: list[Words] = []
        if len(self._memos) > _CODECS:
            self._memos.clear()
        memo = self._memos.setdefault(look.codecs, {})
        for element in look.scan.elements:
            raw = element.raw
            if raw is None:
                if element.items is not None or look.is_sequence(element):
                    found += self._deep(look, element, 1)
                continue
            key = (element.tag, element.vr, raw)
            known = memo.get(key)
            if known is None:
                known = tuple(one for one in self._of(look, element, 1) if one is not NOTHING)
                if len(memo) < _MEMO and len(raw) <= 4096:
                    memo[key] = known
            if known:
                found += known
        return found

    def _of(self, look: Look, element: Element, depth: int) -> list[Words]:
        if look.is_sequence(element):
            return self._deep(look, element, depth)
        if element.raw is None or (self._rules is not None and is_retained(element.tag, self._rules)):
            return []
        return [words_of(element.tag, element.vr, element.raw, look.codecs)]

    def _deep(self, look: Look, element: Element, depth: int) -> list[Words]:
        if depth > DEPTH:
            raise StructureInvalid(f"sequences nested more than {DEPTH} deep")
        try:
            items = look.items(element)
        except StructureInvalid:
            if element.tag >> 16 & 1:
                return []  # a private value that only looks like a sequence; it is dropped whole
            raise
        found = [words for item in items for one in item for words in self._of(look, one, depth + 1)]
        if element.tag == _EQUIPMENT:  # the makers of the programs that wrote the object are no hospital
            return [Words(people=one.people, loose=one.loose, uids=one.uids) for one in found]
        return found


class Look:
    """One scanned object and its values by tag."""

    def __init__(self, source: ByteSource, scan: ObjectScan) -> None:
        self.scan = scan
        self.source = MemorySource(scan.inflated) if scan.inflated is not None else source
        self.syntax: Syntax = syntax_of(scan)
        self._by_tag = {one.tag: one for one in scan.elements}
        self._opened: dict[int, Items] = {}
        self.codecs = codecs_of(self.raw(0x00080005))

    def raw(self, tag: int) -> bytes:
        element = self._by_tag.get(tag)
        return element.raw or b"" if element is not None else b""

    def text(self, tag: int) -> str:
        return self.raw(tag).decode("latin-1").strip(" \0")

    def number(self, tag: int, default: int = 0) -> int:
        """A US value, or an IS one."""
        raw = self.raw(tag)
        if kinds().get(tag) == "IS":
            told = raw.decode("latin-1").split("\\")[0].strip(" \0")
            return int(told) if told.isascii() and told.isdigit() and len(told) <= 10 else default
        sizes = {2: "H", 4: "I"}
        if len(raw) not in sizes:
            return default
        return int(struct.unpack((">" if self.scan.big_endian else "<") + sizes[len(raw)], raw)[0])

    def element(self, tag: int) -> Element | None:
        return self._by_tag.get(tag)

    def is_sequence(self, element: Element) -> bool:
        return element.vr == "SQ" or element.items is not None or (
            element.vr in ("", "UN") and kinds().get(element.tag) == "SQ"
        )

    def items(self, element: Element) -> Items:
        return open_items(self.source, element, self.syntax)

    def fetch(self, element: Element) -> bytes:
        return self.source.read(element.value_at, element.length)

    # --- what it is ------------------------------------------------------------------------------------

    @cached_property
    def sop_class(self) -> str:
        """The dataset's own word; the file meta information repeats it. A picture with neither, as programs wrote them
        before there were classes, is what any picture may be."""
        meta = next((one.raw or b"" for one in self.scan.meta if one.tag == 0x00020002), b"")
        told = self.text(0x00080016) or meta.decode("latin-1").strip(" \0")
        return told or (SECONDARY_CAPTURE if self._is_picture else "")

    @property
    def _is_picture(self) -> bool:
        return self.scan.pixels is not None and self.number(0x00280010) > 0 and self.number(0x00280011) > 0

    @property
    def family(self) -> Family:
        return "dicom-wsm" if self.sop_class == WHOLE_SLIDE else "dicom"

    @property
    def image_type(self) -> tuple[str, ...]:
        return tuple(one.strip().upper() for one in self.text(0x00080008).split("\\"))

    @property
    def role(self) -> Role:
        """PS3.3 C.8.12.4.1.1: value 3 of Image Type, and what says of itself that the label is in it."""
        if self.scan.pixels is None:
            return "other"
        if self.family == "dicom-wsm" or "LABEL" in self.image_type[2:3]:
            third = self.image_type[2] if len(self.image_type) > 2 else ""
            if third == "LABEL":
                return "label"
            # (0048,0010) Specimen Label in Image
            if third == "OVERVIEW" or self.text(0x00480010).upper() == "YES":
                return "overview"
        return "image"

    @cached_property
    def instance(self) -> str:
        """The object's own UID; where it has none, one made of all it says, so that it gets the same alias again."""
        meta = next((one.raw or b"" for one in self.scan.meta if one.tag == 0x00020003), b"")
        told = self.text(0x00080018) or meta.decode("latin-1").strip(" \0")
        return told or (self._made_up() if self._is_picture else "")

    def _made_up(self) -> str:
        digest = blake3()
        for one in self.scan.elements:
            digest.update(struct.pack("<IQ", one.tag, one.length) + (one.raw or b""))
        place = self.scan.pixels
        if place is not None:
            for at in range(0, place.length, _READ):
                digest.update(self.source.read(place.value_at + at, min(_READ, place.length - at)))
        return f"2.25.{int.from_bytes(digest.digest(16), 'big')}"

    @property
    def patient(self) -> str:
        """The key of the patient: by the number and who issued it, without one by the name, without both by the study,
        and without that by the object: objects that say nothing are no one's together."""
        number, name = self.decoded(0x00100020), self.decoded(0x00100010)
        if not says_no_id(number):
            return of_issuer(entity_key("patient", number), self.decoded(0x00100021))
        named = "" if says_no_id(name) else name
        return entity_key("patient", named or f"study {self.text(0x0020000D) or self.instance}")

    def decoded(self, tag: int) -> str:
        found = texts_of(self.raw(tag), self.codecs)
        return found[0] if found else ""

    def check_known(self) -> None:
        """Raises for a file that is no object of a class that PS3.3 describes."""
        if not self.scan.elements or not self.sop_class:
            raise FormatUnknown("no DICOM object: it neither says of what class it is nor holds a picture")
        if not class_name(self.sop_class):
            raise FormatUnsupported("DICOM of a class that no rule knows")

    def times(self) -> tuple[str, ...]:
        """Study, series, acquisition and content time, to the second."""
        told = (self.raw(tag)[:6].decode("latin-1") for tag in range(0x00080030, 0x00080034))
        return tuple(dict.fromkeys(one for one in told if len(one) == 6 and one.isascii() and one.isdigit()))

    def entities(self) -> tuple[str, ...]:
        found = [self.patient]
        for kind, tag in _KEYS:
            texts = [self.decoded(tag)] if tag != 0x00400551 else list(self.specimens())
            found += [entity_key(kind, text) for text in texts if text]  # type: ignore[arg-type]
        return tuple(dict.fromkeys(found))

    def specimens(self) -> Iterator[str]:
        """Identifiers of specimens, which are blocks and parts of them."""
        element = self.element(0x00400560)
        for item in self.items(element) if element is not None else ():
            for one in item:
                if one.tag == 0x00400551 and one.raw:
                    yield one.raw.decode("utf-8" if _utf8(one.raw) else "latin-1").strip(" \0")

    # --- pixels ----------------------------------------------------------------------------------------

    def pixel_facts(self, frames: tuple[tuple[Span, ...], ...]) -> PixelFacts:
        tag = self.scan.pixels.tag if self.scan.pixels else 0
        return PixelFacts(
            rows=self.number(0x00280010),
            columns=self.number(0x00280011),
            frames=frames,
            transfer_syntax=self.scan.syntax,
            sop_class=self.sop_class,
            samples=self.number(0x00280002, 1),
            photometric=self.text(0x00280004) or "MONOCHROME2",
            planar=self.number(0x00280006),
            bits_allocated=self.bits,
            bits_stored=self.number(0x00280101, self.bits),
            signed=self.number(0x00280103) == 1,
            modality=self.text(0x00080060),
            image_type=self.image_type,
            burned_in=self.text(0x00280301).upper(),
            regions=self._regions(),
            palettes=self._palettes(),
            kind={FLOAT_PIXELS: "float", DOUBLE_PIXELS: "double"}.get(tag, "pixels"),
        )

    @property
    def bits(self) -> int:
        default = {FLOAT_PIXELS: 32, DOUBLE_PIXELS: 64}.get(self.scan.pixels.tag if self.scan.pixels else 0, 8)
        return self.number(0x00280100, default)

    def _regions(self) -> tuple[Box, ...]:
        element = self.element(0x00186011)
        found = []
        for item in self.items(element) if element is not None else ():
            numbers = {one.tag: self._long(one.raw) for one in item if one.tag in _REGION}
            if len(numbers) == len(_REGION):
                found.append(Box(*(numbers[tag] for tag in _REGION)))
        return tuple(found)

    def _long(self, raw: bytes | None) -> int:
        if raw is None or len(raw) != 4:
            return 0
        return int.from_bytes(raw, "big" if self.scan.big_endian else "little")

    def _palettes(self) -> tuple[Palette, ...]:
        found = []
        for descriptor, plain, segmented in _PALETTES:
            told = self.raw(descriptor)
            element = self.element(plain) or self.element(segmented)
            if len(told) != 6 or element is None:
                return ()
            entries, first, bits = struct.unpack((">" if self.scan.big_endian else "<") + "3H", told)
            data = element.raw if element.raw is not None else self.fetch(element)
            found.append(Palette(entries or 65536, first, bits, data, segmented=element.tag == segmented))
        return tuple(found)

    def frames(self) -> tuple[tuple[Span, ...], ...]:
        """The spans of each frame. Raises StructureInvalid where pixels and attributes contradict each other."""
        place = self.scan.pixels
        if place is None:
            return ()
        count = self.number(0x00280008, 1) or 1
        if place.fragments is None:
            return self._native(place.value_at, place.length, count)
        return _encapsulated(self, place.fragments, count)

    def _native(self, at: int, length: int, count: int) -> tuple[tuple[Span, ...], ...]:
        samples = self.number(0x00280002, 1)
        pixels = self.number(0x00280010) * self.number(0x00280011)
        bits = pixels * samples * self.bits
        if self.text(0x00280004) in ("YBR_FULL_422", "YBR_PARTIAL_422") and samples == 3:
            bits = bits * 2 // 3
        if not bits or count * bits > length * 8:
            raise StructureInvalid("fewer pixels than the object says it has")
        if bits % 8:
            return ((Span(at, (count * bits + 7) // 8),),)
        return tuple((Span(at + number * bits // 8, bits // 8),) for number in range(count))


def _utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encapsulated(look: Look, fragments: tuple[tuple[int, int], ...], count: int) -> tuple[tuple[Span, ...], ...]:
    """PS3.5 A.4: one fragment a frame, or as the offset tables say."""
    if not fragments:
        raise StructureInvalid("encapsulated pixels without an offset table")
    table, rest = fragments[0], [Span(at, length) for at, length in fragments[1:]]
    if len(rest) == count:
        return tuple((one,) for one in rest)
    if count == 1 and rest:
        return (tuple(rest),)
    starts = _offsets(look, table)
    if len(starts) != count or not rest:
        raise StructureInvalid("fragments that belong to no frame for certain")
    base = rest[0].offset - 8
    where = {one.offset - 8 - base: number for number, one in enumerate(rest)}
    if starts[0] != 0 or any(one not in where for one in starts) or list(starts) != sorted(set(starts)):
        raise StructureInvalid("an offset table that points beside the fragments")
    firsts = [where[one] for one in starts]
    return tuple(tuple(rest[a:b]) for a, b in zip(firsts, [*firsts[1:], len(rest)], strict=True))


def _offsets(look: Look, table: tuple[int, int]) -> tuple[int, ...]:
    extended = look.element(0x7FE00001)
    if table[1] == 0 and extended is not None:
        raw = extended.raw if extended.raw is not None else look.fetch(extended)
        return struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8])
    raw = look.source.read(table[0], table[1])
    return struct.unpack(f"<{len(raw) // 4}I", raw[: len(raw) // 4 * 4])


def survey_of(look: Look, gatherer: Gatherer) -> ObjectSurvey:
    """What one look says of an object. Raises FormatUnsupported for classes that are never taken."""
    look.check_known()
    words = gatherer.words(look)
    people = dict.fromkeys(word for one in words for word in one.people)
    uids = dict.fromkeys(uid for one in words for uid in one.uids)
    uids |= dict.fromkeys(one for one in (look.instance,) if one)
    return ObjectSurvey(
        identity=Identity(look.entities(), tuple(uids), tuple(people), look.times()),
        family=look.family,
        role=look.role,
        study=look.text(0x0020000D),
        series=look.text(0x0020000E),
        instance=look.instance,
        sop_class=look.sop_class,
        class_name=class_name(look.sop_class),
        modality=look.text(0x00080060),
        rows=look.number(0x00280010),
        columns=look.number(0x00280011),
        frames=look.number(0x00280008, 1) if look.scan.pixels is not None else 0,
        instance_number=look.number(0x00200013),
        matrix_columns=look.number(0x00480006),
        matrix_rows=look.number(0x00480007),
    )
