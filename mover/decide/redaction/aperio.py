"""What of an Aperio slide may pass, and the thumbnail its readers expect."""

from __future__ import annotations

import re
from typing import Final

from mover.decide.redaction.desk import Desk, OutPage, OutTag, decimal
from mover.decide.redaction.texts import decode_text
from mover.model.slides import Page, Place, SlideScan

# Aperio's own thumbnails fit this box; a source's other size is kept up to the edge.
THUMBNAIL_BOX: Final = (1024, 768)
THUMBNAIL_EDGE: Final = 2048
# The level a thumbnail is drawn from is decoded whole, twice: by the writer and by the second look.
DRAWN_BYTES: Final = 128 << 20
DRAWN_PIXELS: Final = 256 << 20

_APERIO_KEYS: Final[dict[str, re.Pattern[str]]] = {
    "AppMag": decimal(3),
    "MPP": decimal(2, 17),  # some writers print all digits of a double
    "StripeWidth": re.compile(r"[0-9]{1,5}"),
    "Left": decimal(3),
    "Top": decimal(3),
    "LineCameraSkew": decimal(2),
    "LineAreaXOffset": decimal(2),
    "LineAreaYOffset": decimal(2),
    "Exposure Time": re.compile(r"[0-9]{1,4}"),
    "Exposure Scale": decimal(2),
    "DisplayColor": re.compile(r"[0-9]{1,2}"),
    "Gamma": decimal(2, 4),
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


class AperioDesk(Desk):
    keys = {270: _APERIO_KEYS}
    vital = _APERIO_VITAL

    def judge_own(self, page: Page, place: Place) -> bool:
        """The header is never kept as it stands: it is written anew from the page's own geometry."""
        if place.tag != 270 or place.key != "header":
            return False
        text = decode_text(place.value)
        self.texts[place.page].append((place, text))
        self.note(place.name, "rebuild", "D", "written anew from structure", place.value)
        self._remove_words(text)
        return True

    def drop_unless_structural(self, place: Place) -> None:
        if place.tag == 270 and place.key == "header":
            self._remove_words(decode_text(place.value))
        else:
            super().drop_unless_structural(place)

    def _remove_words(self, header: str) -> None:
        for word in re.split(r"[\s;]+", _APERIO_SOFTWARE.sub(" ", header)):
            if not _GEOMETRY.fullmatch(word):
                self.remove(word)

    def own_words(self) -> frozenset[str]:
        small = thumbnail_size(self.scan)
        if small is None:
            return super().own_words()
        wide, high = small
        return super().own_words() | {f"{wide}", f"{high}", f"{wide}x{high}"}

    def describe(self, page: Page, kept: dict[str, str], header: str) -> OutTag | None:
        return OutTag(270, 2, _description(self.scan, page, header, kept))

    def thumbnail(self, removed: list[str]) -> OutPage | None:
        """A directory in Aperio's form for a picture drawn anew: structure, and what the first level's text kept."""
        size = thumbnail_size(self.scan)
        if size is None:
            if len(self.scan.levels) > 1:
                self.note("thumbnail", "drop", "X", "the smallest level is too large to draw a thumbnail from", "")
            return None
        wide, high = size
        place = next((f"page 1 ({page.role})" for page in self.scan.pages[1:2] if page.role != "level"), "thumbnail")
        self.note(place, "rebuild", "D", "a thumbnail is drawn anew from the de-identified pyramid", "")
        first = self.scan.levels[0]
        told = {place.key: text for place, text in self.texts[first.index]}
        kept = {key: told[key] for key in sorted(_APERIO_VITAL & told.keys())}
        kept = {key: text for key, text in kept.items() if not self.vocabulary.repeats(text, removed)}
        head = f"{_software(told.get('header', ''))}\r\n{first.width}x{first.height} -> {wide}x{high} - "
        words = "|".join([head, *(f"{key} = {text}" for key, text in kept.items())])
        return OutPage(1, (
            OutTag(254, 4, (0,)), OutTag(256, 4, (wide,)), OutTag(257, 4, (high,)), OutTag(258, 3, (8, 8, 8)),
            OutTag(259, 3, (7,)), OutTag(262, 3, (6,)), OutTag(270, 2, words.encode("ascii") + b"\0"),
            OutTag(277, 3, (3,)), OutTag(278, 4, (high,)), OutTag(284, 3, (1,)), OutTag(530, 3, (1, 1)),
        ))  # fmt: skip


def _description(scan: SlideScan, page: Page, header: str, kept: dict[str, str]) -> bytes:
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
