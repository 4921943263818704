"""What of a slide may pass, and why. No IO: a scan goes in, decisions come out.

The rule is an allow-list, typed (design: deidentification 1.1). A tag passes when it is listed for the family
and its value has the listed type and range; a vendor's key passes when it is listed and parses as its type.
Everything else is dropped (PS3.15 code X) or written anew from structure (D). Nobody decides by what a value
*looks* like, except to drop what is allowed but carries something that was removed elsewhere.

`Redaction.removed` is the harvest: every dropped or changed string. It is as sensitive as the source; it exists
so that the second pass can search the output for it, and goes nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import Struct

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.slides import Decision, Page, Place, SlideScan, Value

MIN_HARVEST: Final = 5
HARVEST_STRINGS: Final = 20_000
MAX_ICC_TEXT: Final = 4096

# Aperio's own thumbnails fit this box; a source's other size is kept up to the edge.
THUMBNAIL_BOX: Final = (1024, 768)
THUMBNAIL_EDGE: Final = 2048
# The level a thumbnail is drawn from is decoded whole, twice: by the writer and by the second look.
DRAWN_BYTES: Final = 128 << 20
DRAWN_PIXELS: Final = 256 << 20

# Words the writer itself puts into output, or that are a scanner's own and say nothing about anybody. A removed
# string made only of these proves nothing when it is found.
VOCABULARY: Final = (
    "Aperio Image Library", "Aperio Leica Biosystems GT450", "Aperio ScanScope", "JPEG/RGB", "J2K/YUV16", "J2K/KDU",
    "USM Filter", "COVERSLIP", "Coverslip", "AppMag", "StripeWidth", "Parmset", "LineCameraSkew", "LineAreaXOffset",
    "LineAreaYOffset", "Exposure Time", "Exposure Scale", "DisplayColor", "OriginalWidth", "OriginalHeight",
    "Originalheight", "Filtered", "Hamamatsu", "NDP.scan", "NanoZoomer", "Hamamatsu NanoZoomer Digital Pathology",
    "Hamamatsu JPEG Library, version", "Product", "system.version", "Objective.Lens.Magnificant", "ccd.width",
    "ccd.height", "target.white.intensity", "variable.exposuretime", "cube.kind", "colorfilterID", "Adobe",
    "label", "macro", "thumbnail", "slide", "Gamma", "ICC Profile", "ScanScope", "GT450 DX", "sRGB built-in",
    "No copyright, use freely", "Created by OpenJPEG version", "Creator: JasPer Version", "Kakadu-v",
    "Kdu-Layer-Info: log_2{Delta-D(squared-error)/Delta-L(bytes)}, L(bytes)", "LEAD Technologies Inc.",
    "Intel(R) JPEG Library, version",
)  # fmt: skip


class OutTag(Struct, frozen=True):
    """A tag as it will stand in the output: TIFF type and decoded value."""

    code: int
    kind: int
    value: Value


class OutPage(Struct, frozen=True):
    index: int
    tags: tuple[OutTag, ...]


class Redaction(Struct, frozen=True):
    """`pages` are the levels. `thumbnail` is the directory of a picture that is yet to be drawn from them."""

    decisions: tuple[Decision, ...]
    pages: tuple[OutPage, ...]
    removed: tuple[str, ...]
    thumbnail: OutPage | None = None


Check = Callable[[Value], bool]


# --- typed values ------------------------------------------------------------------------------------


def _among(*allowed: int) -> Check:
    return lambda value: bool(value) and all(item in allowed for item in value)


def _within(low: float, high: float) -> Check:
    return lambda value: len(value) == 1 and low <= value[0] <= high


def _resolution(value: Value) -> bool:
    """Pixels per centimetre or inch, as a fraction; a slide has at most 0.05 micrometres per pixel."""
    return len(value) == 2 and value[0] > 0 and value[1] > 0 and 0 < value[0] / value[1] <= 200_000


def _black_white(value: Value) -> bool:
    return len(value) in (6, 12) and all(0 <= item <= 255 for item in value)


def _anything(value: Value) -> bool:
    return len(value) > 0


_SAMPLES: Final = _among(1, 3, 4)
_STRUCTURAL: Final[dict[int, tuple[int, Check]]] = {
    254: (4, _among(0, 1)),  # NewSubfileType
    258: (3, _among(8, 16)),  # BitsPerSample
    259: (3, _among(7, 33003, 33005)),  # Compression
    262: (3, _among(0, 1, 2, 6)),  # PhotometricInterpretation
    274: (3, _among(1)),  # Orientation
    277: (3, _SAMPLES),  # SamplesPerPixel
    282: (5, _resolution),  # XResolution
    283: (5, _resolution),  # YResolution
    284: (3, _among(1)),  # PlanarConfiguration
    296: (3, _among(1, 2, 3)),  # ResolutionUnit
    317: (3, _among(1, 2)),  # Predictor
    339: (3, _among(1)),  # SampleFormat
    347: (7, _anything),  # JPEGTables: walked marker by marker by the scanner
    530: (3, _among(1, 2, 4)),  # YCbCrSubSampling
    531: (3, _among(1, 2)),  # YCbCrPositioning
    532: (5, _black_white),  # ReferenceBlackWhite
    32997: (4, _among(1)),  # ImageDepth
    34675: (7, _anything),  # ICC profile: judged by its own rule below
}
_ESSENTIAL: Final = frozenset({258, 259, 262, 277, 347, 65420, 65421})

_NANOMETRES: Final = _within(-200_000_000, 200_000_000)
_HAMAMATSU: Final[dict[int, tuple[int, Check]]] = {
    **{code: rule for code, rule in _STRUCTURAL.items() if code not in (254, 317, 347, 532, 32997, 34675)},
    278: (4, _within(1, 1 << 31)),  # RowsPerStrip
    532: (4, _black_white),
    65420: (3, _among(1)),  # format flag
    65421: (11, _within(0.001, 200)),  # SourceLens
    65422: (9, _NANOMETRES),  # offset from the glass's centre
    65423: (9, _NANOMETRES),
    65424: (9, _NANOMETRES),  # focal plane
    65435: (4, _within(0, 99)),  # colour multipliers
    65436: (4, _within(0, 99)),
    65437: (4, _within(0, 99)),
    65438: (4, _within(0, 99)),
    65441: (4, _within(0, 99)),  # CaptureMode: tells readers how samples are stored
    65444: (4, _within(1, 100)),  # JpegQuality
    65451: (11, _within(0, 2000)),  # emission wavelength
}

_VENDOR_NUMBERS: Final = frozenset(range(65420, 65500))

_HAMAMATSU_TEXT: Final[dict[int, re.Pattern[bytes]]] = {
    271: re.compile(rb"Hamamatsu\0?"),
    272: re.compile(rb"(C\d{4,5}(-\d{2})?|NanoZoomer [A-Z0-9]{1,5})\0?"),
    305: re.compile(rb"NDP\.scan( U\d{1,2})? \d{1,2}(\.\d{1,3}){1,3}\0?"),
}


def _decimal(digits: int, fraction: int = 6) -> re.Pattern[str]:
    return re.compile(rf"-?[0-9]{{1,{digits}}}(\.[0-9]{{1,{fraction}}})?")  # never \d: that is any script's digits


_APERIO_KEYS: Final[dict[str, re.Pattern[str]]] = {
    "AppMag": _decimal(3),
    "MPP": _decimal(2, 17),  # some writers print all digits of a double
    "StripeWidth": re.compile(r"[0-9]{1,5}"),
    "Left": _decimal(3),
    "Top": _decimal(3),
    "LineCameraSkew": _decimal(2),
    "LineAreaXOffset": _decimal(2),
    "LineAreaYOffset": _decimal(2),
    "Exposure Time": re.compile(r"[0-9]{1,4}"),
    "Exposure Scale": _decimal(2),
    "DisplayColor": re.compile(r"[0-9]{1,2}"),
    "Gamma": _decimal(2, 4),
    "OriginalWidth": re.compile(r"[0-9]{1,7}"),
    "OriginalHeight": re.compile(r"[0-9]{1,7}"),
    "Originalheight": re.compile(r"[0-9]{1,7}"),
    "Filtered": re.compile(r"[0-9]{1,2}"),
    "Parmset": re.compile(r"USM Filter|COVERSLIP|Coverslip"),
    "ICC Profile": re.compile(r"(ScanScope|AT2|GT450|GT450 DX|CS2|VERSA)( v[0-9]{1,2})?"),
}
_APERIO_VITAL: Final = frozenset({"AppMag", "MPP"})
_APERIO_SOFTWARE: Final = re.compile(
    r"Aperio (?:Image Library|Leica Biosystems GT450(?: ?DX)?) v[0-9]{1,2}(?:\.[0-9]{1,3}){1,3}"
)
_GEOMETRY: Final = re.compile(r"[0-9x\[\](),\s>;|-]*|(?:JPEG|J2K)/[A-Z0-9]{1,6}|Q=[0-9]{1,3}|->|-")
_APERIO_QUALITY: Final = re.compile(r"\bQ=([0-9]{1,3})\b")

_NDPI_KEYS: Final[dict[str, re.Pattern[str]]] = {
    "Product": re.compile(r"C[0-9]{4,5}(-[0-9]{2})?"),
    "system.version": re.compile(r"[0-9]{1,2}(\.[0-9]{1,3}){0,2}"),
    "Objective.Lens.Magnificant": _decimal(3),
    "ccd.width": re.compile(r"[0-9]{1,5}"),
    "ccd.height": re.compile(r"[0-9]{1,5}"),
    "target.white.intensity": re.compile(r"[0-9]{1,3}"),
    "variable.exposuretime": re.compile(r"[0-9]{1,2}"),
    "cube.kind": re.compile(r"[0-9]{1,2}"),
    "colorfilterID": re.compile(r"[0-9]{1,2}"),
}


# Names of standards and versions that profiles carry, and what no profile's text should hold besides.
_ICC_STANDARDS: Final = re.compile(
    r"IEC ?61966[-.]2[-.]1|ICC\.1:[0-9]{4}(-[0-9]{2})?|\b[vV](ersion )?[0-9]{1,2}(\.[0-9]{1,3}){1,3}"
)
_ICC_SUSPECT: Final = re.compile(
    r"[0-9]{5,}|@|[0-9]{4}[-/.:][0-9]{1,2}[-/.:][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{2,4}"
)


# --- the judgement -----------------------------------------------------------------------------------


def judge_slide(scan: SlideScan, *, known: Iterable[str] = ()) -> Redaction:
    """Decide about every place of a scanned slide. `known` are identifiers from outside (names, numbers of
    the case, the file's own name): they join the harvest.

    Raises PlaceUnknown when something that must be kept cannot be, or carries what was removed elsewhere.
    """
    desk = _Desk(scan, known)
    for page in scan.pages:
        if page.role == "level":
            desk.judge_level(page)
        else:
            desk.drop_page(page)
    if scan.slack:
        desk.note("file slack", "drop", "X", "bytes outside every structure are never copied", "")
    return desk.close()


class _Desk:
    """Collects decisions, output tags and the harvest of one slide."""

    def __init__(self, scan: SlideScan, known: Iterable[str]) -> None:
        self.scan = scan
        self.rules = _HAMAMATSU if scan.family == "hamamatsu-ndpi" else _STRUCTURAL
        self.decisions: dict[Decision, int] = {}
        self.tags: dict[int, list[OutTag]] = {}
        self.texts: dict[int, list[tuple[Place, str]]] = {}
        self.harvest: dict[str, None] = {}
        for text in known:
            self.remove(text)
        self.places: dict[int, list[Place]] = {}
        for place in scan.places:
            self.places.setdefault(place.page, []).append(place)

    def note(self, place: str, action: str, code: str, reason: str, value: Value | str) -> None:
        decision = Decision(place, action, code, reason, shape_of(value))  # type: ignore[arg-type]
        self.decisions[decision] = self.decisions.get(decision, 0) + 1

    def remove(self, value: Value | str) -> None:
        for text in strings_of(value):
            if len(self.harvest) >= HARVEST_STRINGS:
                raise PlaceUnknown(f"more than {HARVEST_STRINGS} removed strings")
            self.harvest.setdefault(text)

    def drop_page(self, page: Page) -> None:
        self.note(f"page {page.index} ({page.role})", "drop", "X", "only levels pass; this picture is not copied", "")
        for place in self.places.get(page.index, ()):
            if place.key or place.tag not in (270, 65449):
                self._drop_unless_structural(place)

    def judge_level(self, page: Page) -> None:
        self.tags[page.index] = [OutTag(256, 4, (page.width,)), OutTag(257, 4, (page.height,))]
        if page.tile_width:
            self.tags[page.index] += [OutTag(322, 4, (page.tile_width,)), OutTag(323, 4, (page.tile_height,))]
        self.texts[page.index] = []
        for place in self.places.get(page.index, ()):
            self._judge_place(page, place)
        missing = {258, 259, 262, 277} - {tag.code for tag in self.tags[page.index]}
        if missing:
            raise StructureInvalid(f"a level lacks tag {min(missing)}")

    def _judge_place(self, page: Page, place: Place) -> None:
        if place.tag in (256, 257, 322, 323) or (place.tag in (270, 65449) and not place.key):
            return
        if place.tag == 270 and self.scan.family == "aperio-svs":
            self._judge_aperio_key(place)
        elif place.tag == 65449 and self.scan.family == "hamamatsu-ndpi":
            self._judge_typed_key(place, _NDPI_KEYS)
        elif place.tag in _HAMAMATSU_TEXT and self.scan.family == "hamamatsu-ndpi":
            self._judge_text_tag(page, place)
        elif place.tag in self.rules:
            self._judge_tag(page, place)
        else:
            self.note(place.name, "drop", "X", "not on the allow-list", place.value)
            self._harvest_tag(place)

    def _harvest_tag(self, place: Place) -> None:
        """A vendor's numbers (focus points, lamp hours) are no identifiers, and some repeat kept positions."""
        if isinstance(place.value, bytes) or place.tag not in _VENDOR_NUMBERS:
            self.remove(place.value)

    def _judge_tag(self, page: Page, place: Place) -> None:
        kind, check = self.rules[place.tag]
        numeric = not isinstance(place.value, bytes)
        if (kind == 7) == numeric or not check(place.value):
            if place.tag in _ESSENTIAL:
                raise PlaceUnknown(f"{place.name} holds a value outside its type")
            self.note(place.name, "drop", "X", "listed, but the value is outside its type", place.value)
            self.remove(place.value)
            return
        if place.tag == 34675:
            self._check_icc(place)
        value = place.value
        if place.tag == 532:
            kind = place.kind if place.kind in (4, 5) else kind
        self.tags[page.index].append(OutTag(place.tag, kind, value))
        self.note(place.name, "keep", "K", "structure of the picture", "")

    def _judge_text_tag(self, page: Page, place: Place) -> None:
        value = place.value
        if isinstance(value, bytes) and _HAMAMATSU_TEXT[place.tag].fullmatch(value):
            self.tags[page.index].append(OutTag(place.tag, 2, value.rstrip(b"\0") + b"\0"))
            self.note(place.name, "keep", "K", "a model or program name of the known form", "")
            return
        self.note(place.name, "drop", "X", "listed, but the value is outside its type", value)
        self.remove(value)

    def _judge_aperio_key(self, place: Place) -> None:
        if place.key == "header":
            self._judge_aperio_header(place)
        else:
            self._judge_typed_key(place, _APERIO_KEYS)

    def _judge_aperio_header(self, place: Place) -> None:
        """Never kept as it stands: it is written anew from the page's own geometry."""
        text = _decode(place.value)
        self.texts[place.page].append((place, text))
        self.note(place.name, "rebuild", "D", "written anew from structure", place.value)
        rest = _APERIO_SOFTWARE.sub(" ", text)
        for word in re.split(r"[\s;]+", rest):
            if not _GEOMETRY.fullmatch(word):
                self.remove(word)

    def _judge_typed_key(self, place: Place, keys: dict[str, re.Pattern[str]]) -> None:
        text = _decode(place.value)
        named = f"{place.name} key {place.key if place.key in keys else '(unlisted)'}"
        pattern = keys.get(place.key)
        if pattern is not None and pattern.fullmatch(text):
            self.texts[place.page].append((place, text))
            self.note(named, "keep", "K", "a listed key with a value of its type", "")
            return
        reason = "not on the allow-list" if pattern is None else "listed, but the value is outside its type"
        self.note(named, "drop", "X", reason, text)
        self.remove(place.value)
        if pattern is None:
            self.remove(place.key)

    def _drop_unless_structural(self, place: Place) -> None:
        """A dropped page leaves nothing, but its texts join the harvest. Its structural numbers do not."""
        if place.tag in self.rules or place.tag in (256, 257, 278, 322, 323):
            return
        keys = _APERIO_KEYS if place.tag == 270 else _NDPI_KEYS if place.tag == 65449 else {}
        if place.tag == 270 and place.key == "header":
            words = re.split(r"[\s;]+", _APERIO_SOFTWARE.sub(" ", _decode(place.value)))
            for word in words:
                if not _GEOMETRY.fullmatch(word):
                    self.remove(word)
            return
        pattern = keys.get(place.key) or _as_text_rule(self.scan, place.tag)
        if pattern is not None and pattern.fullmatch(_decode(place.value)):
            return
        self._harvest_tag(place)
        if place.key and place.key not in keys:
            self.remove(place.key)

    def _check_icc(self, place: Place) -> None:
        value = place.value
        if not isinstance(value, bytes):
            raise PlaceUnknown("an ICC profile that is no bytes")
        for text in icc_texts(value):
            if _ICC_SUSPECT.search(_ICC_STANDARDS.sub(" ", text)):
                raise PlaceUnknown("the ICC profile's text holds a number or date")

    # -- closing: descriptions are written, and what was kept is held against what was removed

    def close(self) -> Redaction:
        small = thumbnail_size(self.scan)
        removed = tuple(text for text in self.harvest if text not in self._sizes(small) and not _is_vocabulary(text))
        folded = [text.casefold() for text in removed]
        thumbnail = self._thumbnail(small, folded) if small else None
        if small is None and self.scan.family == "aperio-svs" and len(self.scan.levels) > 1:
            self.note("thumbnail", "drop", "X", "the smallest level is too large to draw a thumbnail from", "")
        pages = []
        for page in self.scan.levels:
            text = self._description(page, folded)
            tags = self.tags[page.index] + ([text] if text is not None else [])
            pages.append(OutPage(page.index, tuple(sorted(tags, key=lambda tag: tag.code))))
        decisions = (msgspec.structs.replace(decision, times=times) for decision, times in self.decisions.items())
        return Redaction(tuple(decisions), tuple(pages), removed, thumbnail)

    def _sizes(self, small: tuple[int, int] | None) -> frozenset[str]:
        """Widths, heights and both together are written anew from structure."""
        sizes = [(page.width, page.height) for page in self.scan.levels] + ([small] if small else [])
        return frozenset(text for wide, high in sizes for text in (f"{wide}", f"{high}", f"{wide}x{high}"))

    def _thumbnail(self, size: tuple[int, int], removed: list[str]) -> OutPage:
        """A directory in Aperio's form for a picture drawn anew: structure, and what the first level's text kept."""
        wide, high = size
        place = next((f"page 1 ({page.role})" for page in self.scan.pages[1:2] if page.role != "level"), "thumbnail")
        self.note(place, "rebuild", "D", "a thumbnail is drawn anew from the de-identified pyramid", "")
        first = self.scan.levels[0]
        told = {place.key: text for place, text in self.texts[first.index]}
        kept = {key: told[key] for key in sorted(_APERIO_VITAL & told.keys())}
        kept = {key: text for key, text in kept.items() if not any(one in text.casefold() for one in removed)}
        head = f"{_software(told.get('header', ''))}\r\n{first.width}x{first.height} -> {wide}x{high} - "
        words = "|".join([head, *(f"{key} = {text}" for key, text in kept.items())])
        return OutPage(1, (
            OutTag(254, 4, (0,)), OutTag(256, 4, (wide,)), OutTag(257, 4, (high,)), OutTag(258, 3, (8, 8, 8)),
            OutTag(259, 3, (7,)), OutTag(262, 3, (6,)), OutTag(270, 2, words.encode("ascii") + b"\0"),
            OutTag(277, 3, (3,)), OutTag(278, 4, (high,)), OutTag(284, 3, (1,)), OutTag(530, 3, (1, 1)),
        ))  # fmt: skip

    def _description(self, page: Page, removed: list[str]) -> OutTag | None:
        kept: dict[str, str] = {}
        header = ""
        for place, text in self.texts[page.index]:
            if place.key == "header":
                header = text
            elif any(item in text.casefold() for item in removed):
                if place.key in _APERIO_VITAL:
                    raise PlaceUnknown("a value the picture needs repeats something removed elsewhere")
                self.note(f"{place.name} key {place.key}", "drop", "X", "repeats something removed elsewhere", text)
            else:
                kept[place.key] = text
        if self.scan.family == "aperio-svs":
            return OutTag(270, 2, _aperio_description(self.scan, page, header, kept))
        if kept:
            return OutTag(65449, 2, "".join(f"{key}={text}\r\n" for key, text in kept.items()).encode() + b"\0")
        return None


def _aperio_description(scan: SlideScan, page: Page, header: str, kept: dict[str, str]) -> bytes:
    """Aperio's own form, from structure: program, geometry, encoding, then the listed keys."""
    quality = _APERIO_QUALITY.search(header)
    first = scan.levels[0]
    encoding = {7: "JPEG/RGB", 33003: "J2K/YUV16", 33005: "J2K/KDU"}[page.compression]
    encoding += f" Q={quality.group(1)}" if quality else ""
    grid = f"({page.tile_width}x{page.tile_height})"
    size = f"{first.width}x{first.height} [0,0 {first.width}x{first.height}] {grid}"
    if page.index != first.index:
        size += f" -> {page.width}x{page.height}"
    text = f"{_software(header)}\r\n{size} {encoding}"
    return "|".join([text, *(f"{key} = {value}" for key, value in kept.items())]).encode("ascii") + b"\0"


def _software(header: str) -> str:
    found = _APERIO_SOFTWARE.match(header)
    return found.group(0) if found else "Aperio Image Library"


def thumbnail_size(scan: SlideScan) -> tuple[int, int] | None:
    """The size of the picture that must stand in an Aperio slide's second directory, None where none is needed.

    Aperio writes a thumbnail there always, and readers other than OpenSlide take whatever stands there for it: a
    slide of several levels gets one even when an earlier tool took it out, or the second level would be lost to
    them. A slide of one level gets one when it had one. The source's size is kept when it is the slide in small and
    no larger than the level to draw it from.
    """
    if scan.family != "aperio-svs":
        return None
    first, lowest = scan.levels[0], min(scan.levels, key=lambda page: page.width * page.height)
    had = next((page for page in scan.pages[1:2] if page.role == "thumbnail"), None)
    if had is None and len(scan.levels) == 1:
        return None
    if sum(lowest.pixels.counts) > DRAWN_BYTES or lowest.width * lowest.height > DRAWN_PIXELS:
        return None
    if had is not None and _is_small_of(had, first) and had.width <= lowest.width and had.height <= lowest.height:
        return had.width, had.height
    scale = min(1.0, THUMBNAIL_BOX[0] / lowest.width, THUMBNAIL_BOX[1] / lowest.height)
    return max(1, round(lowest.width * scale)), max(1, round(lowest.height * scale))


def _is_small_of(page: Page, first: Page) -> bool:
    wanted = first.height * page.width / first.width
    return max(page.width, page.height) <= THUMBNAIL_EDGE and abs(page.height - wanted) <= max(2.0, 0.02 * wanted)


def _as_text_rule(scan: SlideScan, tag: int) -> re.Pattern[str] | None:
    rule = _HAMAMATSU_TEXT.get(tag) if scan.family == "hamamatsu-ndpi" else None
    return re.compile(rule.pattern.decode(), re.ASCII) if rule else None


# --- texts -------------------------------------------------------------------------------------------


def shape_of(value: Value | str) -> str:
    """The masked form a person may see: letters become A or a, digits 9, the rest stays or turns to "?"."""
    if isinstance(value, tuple):
        return f"{len(value)} number{'s' * (len(value) != 1)}" if value else ""
    text = _decode(value)
    if value and not text.isprintable() and isinstance(value, bytes):
        return f"{len(value)} bytes"
    masked = "".join(_mask(character) for character in text[:32])
    return masked + ("…" if len(text) > 32 else "")


def _mask(character: str) -> str:
    if character.isdigit():
        return "9"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character if character in " -_./:;,^()" else "?"


def strings_of(value: Value | str) -> Iterable[str]:
    """Every string of at least five characters a removed value may say: the whole, its parts, and what it
    says when it is UTF-16, base64 or hexadecimal. Plain small measures are not identifiers."""
    texts = _numbers_as_texts(value) if isinstance(value, tuple) else _readings(value)
    for text in texts:
        whole = " ".join(text.split())
        for part in (whole, *re.split(r"[\s,;|=_/\\^<>\"&?\0]+", text)):
            part = part.strip(" .:'()[]{}\0")
            if len(part) >= MIN_HARVEST and not _is_measure(part):
                yield part[:4096]


def _numbers_as_texts(value: tuple[int, ...] | tuple[float, ...]) -> list[str]:
    """Numbers of eight digits as written, and what the list says when it is text in disguise."""
    whole = [item for item in value if isinstance(item, int) and 0 <= item < 1 << 32]
    texts = [f"{item:d}" for item in whole if item >= 10_000_000]
    for order in ("little", "big"):
        packed = b"".join(item.to_bytes(4, order) for item in whole)
        texts += _readings(packed.replace(b"\0", b""))
    return texts


def _readings(value: bytes | str) -> list[str]:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    texts = [_decode(value)] if _mostly_printable(_decode(value)) else []
    texts += [run.decode("ascii") for run in re.findall(rb"[\x20-\x7e]{5,}", raw)[:256]] if not texts else []
    for codec in ("utf-16-le", "utf-16-be"):
        if raw[:64].count(0) * 3 > len(raw[:64]):
            texts.append(raw[: len(raw) // 2 * 2].decode(codec, "ignore"))
    for token in re.findall(rb"[A-Za-z0-9+/]{8,}={0,2}", raw)[:256]:
        texts += _decoded_token(token)
    return [text for text in texts if _mostly_printable(text)]


def _decoded_token(token: bytes) -> list[str]:
    found = []
    try:
        found.append(base64.b64decode(token + b"=" * (-len(token) % 4), validate=True).decode("utf-8"))
    except (binascii.Error, ValueError):
        pass
    if re.fullmatch(rb"([0-9a-fA-F]{2}){5,}", token):
        try:
            found.append(bytes.fromhex(token.decode()).decode("utf-8"))
        except ValueError:
            pass
    return [text for text in found if _mostly_printable(text)]


def _decode(value: Value | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ""
    raw = value.rstrip(b"\0")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _mostly_printable(text: str) -> bool:
    clean = [character for character in text if character.isprintable() or character in "\r\n\t\0"]
    return len(text) >= MIN_HARVEST and len(clean) == len(text)


def _is_measure(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,4}\.\d{1,6}", text) is not None


def _is_vocabulary(text: str) -> bool:
    folded = text.casefold()
    return any(folded in word.casefold() for word in VOCABULARY)


def icc_texts(profile: bytes) -> list[str]:
    """The texts of an ICC profile (ICC.1: desc, text and mluc types). Raises PlaceUnknown when the profile
    is not a whole one: its size must be its own, its tags inside."""
    if len(profile) < 132 or profile[36:40] != b"acsp" or struct.unpack_from(">I", profile)[0] != len(profile):
        raise PlaceUnknown("an ICC profile that is not whole")
    (count,) = struct.unpack_from(">I", profile, 128)
    if count > 128 or 132 + 12 * count > len(profile):
        raise PlaceUnknown("an ICC profile with an impossible tag table")
    texts = []
    for index in range(count):
        _, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if at + size > len(profile):
            raise PlaceUnknown("an ICC profile with a tag outside itself")
        body = profile[at : at + min(size, MAX_ICC_TEXT)]
        if body[:4] == b"mluc":
            texts += [body[16:].decode("utf-16-be", "ignore"), body[17:].decode("utf-16-be", "ignore")]
        elif body[:4] in (b"desc", b"text"):
            texts.append(body[8:].decode("latin-1"))
    return texts
