"""A drawing as a short list of shapes, written as SVG or painted as PNG.

No library of plots stands behind it: what is drawn here are rectangles, lines and words, for which the most common one
would bring 170 MB and two seconds of start. Colours have the names of the pages' tokens, and their values.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

from msgspec import Struct
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

Theme = Literal["light", "dark"]
Format = Literal["svg", "png"]
Anchor = Literal["start", "middle", "end"]
FORMATS: Final = ("svg", "png")
MEDIA_TYPES: Final[dict[str, str]] = {"svg": "image/svg+xml", "png": "image/png"}
# a PNG has so many pixels for each unit, and is painted twice as large: edges are smooth, print is sharp
PNG_SCALE: Final = 2
_SMOOTH: Final = 2
_FONT: Final = Path(__file__).with_name("DejaVuSans.ttf")
_FAMILY: Final = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', 'DejaVu Sans', sans-serif"

# as in mover/web/static/style/tokens.css; a test compares
COLOURS: Final[dict[Theme, dict[str, str]]] = {
    "light": {
        "sheet": "#ffffff", "well": "#efefeb", "rule": "#dddcd6", "ink": "#1d1c21", "ink-2": "#55535c",
        "accent": "#4a3d8f", "good-area": "#00976e", "work-area": "#0072b2", "wait-area": "#9c99a5",
        "warn-area": "#e69f00", "bad-area": "#d55e00", "series-1": "#4a3d8f", "series-2": "#0072b2",
        "series-3": "#009e73", "series-4": "#e69f00", "series-5": "#cc79a7", "series-6": "#56b4e9",
    },
    "dark": {
        "sheet": "#1c1b21", "well": "#26242c", "rule": "#35333d", "ink": "#eceaf2", "ink-2": "#b5b2bf",
        "accent": "#b4a7f5", "good-area": "#1fb88b", "work-area": "#3d9fdc", "wait-area": "#6d6a77",
        "warn-area": "#e0a02a", "bad-area": "#e8743a", "series-1": "#b4a7f5", "series-2": "#56b4e9",
        "series-3": "#1fb88b", "series-4": "#e0a02a", "series-5": "#e59cc2", "series-6": "#8fd3ff",
    },
}  # fmt: skip

Point = tuple[float, float]


class Shape(Struct, frozen=True, kw_only=True):
    """Points closed to an area where `fill` is said, else a line. `mix` is how much of the colour is taken, on the
    sheet's."""

    points: tuple[Point, ...]
    fill: str = ""
    stroke: str = ""
    mix: float = 1.0
    dash: bool = False
    width: float = 1.0
    title: str = ""


class Words(Struct, frozen=True, kw_only=True):
    at: Point
    said: str
    size: float = 12
    colour: str = "ink"
    anchor: Anchor = "start"


class Canvas:
    """`title` and `told` are for whoever does not see the picture; the title also stands in it."""

    def __init__(self, width: int, height: int, *, title: str, told: str) -> None:
        self.width, self.height, self.title, self.told = width, height, clean(title), clean(told)
        self.drawn: list[Shape | Words] = []

    def box(
        self, x: float, y: float, wide: float, high: float, fill: str, *, mix: float = 1.0, title: str = ""
    ) -> None:
        corners = ((x, y), (x + wide, y), (x + wide, y + high), (x, y + high))
        self.drawn.append(Shape(points=corners, fill=fill, mix=mix, title=clean(title)))

    def area(self, points: Sequence[Point], fill: str, *, mix: float = 1.0) -> None:
        self.drawn.append(Shape(points=tuple(points), fill=fill, mix=mix))

    def line(self, points: Sequence[Point], stroke: str, *, width: float = 1.0, dash: bool = False) -> None:
        self.drawn.append(Shape(points=tuple(points), stroke=stroke, width=width, dash=dash))

    def text(
        self, x: float, y: float, said: str, *, size: float = 12, colour: str = "ink", anchor: Anchor = "start",
        most: float | None = None,
    ) -> None:  # fmt: skip
        """`y` is the line that letters stand on; what is wider than `most` is cut, with a sign."""
        said = clean(said)
        if most is not None and length(said, size) > most:
            letters = bisect_right(range(1, len(said)), most, key=lambda n: length(f"{said[:n]}…", size))
            said = f"{said[:letters]}…" if letters else ""
        if anchor == "middle":  # at the edge of an axis a word moves inside
            half = length(said, size) / 2
            x = max(half, min(x, self.width - half))
        if said:
            self.drawn.append(Words(at=(x, y), said=said, size=size, colour=colour, anchor=anchor))


def render(canvas: Canvas, format: Format, theme: Theme) -> bytes:
    return _svg(canvas, theme) if format == "svg" else _png(canvas, theme)


def clean(text: str) -> str:
    """XML has no sign for most control characters (XML 1.0, 2.2), and a figure none for any."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def length(said: str, size: float) -> float:
    """How wide words are at most: the font of PNGs is wider than those that browsers choose."""
    return float(_font(100).getlength(said)) * size / 100


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(_FONT), size)


def _mixed(name: str, share: float, theme: Theme) -> str:
    """A colour on the sheet, as one that needs no transparency."""
    colours = COLOURS[theme]
    if share >= 1:
        return colours[name]
    over, under = (bytes.fromhex(colours[one][1:]) for one in (name, "sheet"))
    return "#" + bytes(round(u + (o - u) * share) for o, u in zip(over, under, strict=True)).hex()


# --- SVG ----------------------------------------------------------------------------------------------------


def _svg(canvas: Canvas, theme: Theme) -> bytes:
    wide, high = canvas.width, canvas.height
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{high}" viewBox="0 0 {wide} {high}" role="img"'
        f' aria-labelledby="title desc" font-family={quoteattr(_FAMILY)}>',
        f'<title id="title">{escape(canvas.title)}</title>',
        f'<desc id="desc">{escape(canvas.told)}</desc>',
        f'<rect width="{wide}" height="{high}" fill="{COLOURS[theme]["sheet"]}"/>',
    ]
    lines += [_svg_shape(one, theme) if isinstance(one, Shape) else _svg_words(one, theme) for one in canvas.drawn]
    return "\n".join([*lines, "</svg>", ""]).encode()


def _svg_shape(shape: Shape, theme: Theme) -> str:
    points = " ".join(f"{_number(x)},{_number(y)}" for x, y in shape.points)
    if shape.fill:
        title = f"<title>{escape(shape.title)}</title>" if shape.title else ""
        return f'<polygon points="{points}" fill="{_mixed(shape.fill, shape.mix, theme)}">{title}</polygon>'
    dash = ' stroke-dasharray="6 4"' if shape.dash else ""
    colour = COLOURS[theme][shape.stroke]
    width = _number(shape.width)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'


def _svg_words(words: Words, theme: Theme) -> str:
    x, y = (_number(one) for one in words.at)
    anchor = "" if words.anchor == "start" else f' text-anchor="{words.anchor}"'
    colour, size = COLOURS[theme][words.colour], _number(words.size)
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{anchor}>{escape(words.said)}</text>'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


# --- PNG ----------------------------------------------------------------------------------------------------


def _png(canvas: Canvas, theme: Theme) -> bytes:
    times = PNG_SCALE * _SMOOTH
    image = Image.new("RGB", (canvas.width * times, canvas.height * times), COLOURS[theme]["sheet"])
    pen = ImageDraw.Draw(image)
    for one in canvas.drawn:
        if isinstance(one, Words):
            at = (one.at[0] * times, one.at[1] * times)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[one.anchor]
            pen.text(at, one.said, font=_font(round(one.size * times)), fill=COLOURS[theme][one.colour], anchor=anchor)
            continue
        points = [(x * times, y * times) for x, y in one.points]
        if one.fill:
            pen.polygon(points, fill=_mixed(one.fill, one.mix, theme))
            continue
        width = max(1, round(one.width * times))
        for piece in _dashes(points, times) if one.dash else [points]:
            pen.line(piece, fill=COLOURS[theme][one.stroke], width=width, joint="curve")
    said = PngInfo()
    said.add_itxt("Title", canvas.title)
    said.add_itxt("Description", canvas.told)
    out = io.BytesIO()
    image.reduce(_SMOOTH).save(out, "PNG", pnginfo=said, dpi=(96 * PNG_SCALE, 96 * PNG_SCALE))
    return out.getvalue()


def _dashes(points: Sequence[Point], times: float) -> list[list[Point]]:
    """Six on, four off, along each part of the line."""
    pieces: list[list[Point]] = []
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        whole = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        at = 0.0
        while at < whole:
            to = min(at + 6 * times, whole)
            pieces.append([(x0 + (x1 - x0) * one / whole, y0 + (y1 - y0) * one / whole) for one in (at, to)])
            at += 10 * times
    return pieces
