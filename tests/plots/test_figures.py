"""Figures for reports: what stands in them is what was answered, in both forms and themes, and in words besides."""

from __future__ import annotations

import hashlib
import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from mover import plots
from mover.model import wire
from mover.plots import canvas
from mover.plots.axes import moments, size, ticks
from mover.plots.canvas import COLOURS, Canvas, Theme, Words, clean, length
from mover.plots.figures import RULES, squarified

ROOT = Path(__file__).parents[2]
AT = datetime(2026, 11, 1, 8, 0, tzinfo=UTC)
GIB = 1 << 30
BOX = {"wide": 800, "high": 400}


def level(*, forecast: wire.Filling | None = None, many: int = 31) -> wire.TierLevels:
    return wire.TierLevels(
        tier="flash",
        capacity_bytes=100 * GIB,
        at=[AT + timedelta(days=n) for n in range(many)],
        used_bytes=[(50 + n) * GIB for n in range(many)],
        forecast=forecast,
    )


def usage(*names: str) -> wire.Usage:
    folders = [
        wire.UsageFolder(name=name, count=2, bytes=(n + 1) * GIB, age_s=86_400.0 * n) for n, name in enumerate(names)
    ]
    return wire.Usage(
        tier="flash",
        folder="",
        count=2 * len(names),
        bytes=10 * GIB,
        whole=True,
        sizes=[GIB, 4 * GIB],
        ages_s=[86_400, 31_536_000],
        folders=folders,
        cells=[wire.UsageCell(size=1, age=0, count=3, bytes=7 * GIB)],
    )


CUT = msgspec.structs.replace(usage("a/"), whole=False)


def snapshot(day: int, *reasons: str, doubt: Any = None) -> wire.Snapshot:
    return wire.Snapshot(
        id=f"snapshot-{day}",
        repository_id="a" * 64,
        run="run-1",
        state="checked",
        tier="protect",
        policy="protect",
        files=1,
        bytes=2,
        added_bytes=1,
        recorded_at=AT + timedelta(days=day),
        series="run:run-1",
        reasons=list(reasons),
        doubt=doubt,
    )


def spread(**more: Any) -> wire.Distribution:
    known = {
        "column": "gleason",
        "type": "integer",
        "known": 9,
        "missing": 1,
        "distinct": 2,
        "values": [wire.ValueCount(value=8, count=6), wire.ValueCount(value=7, count=3)],
    }
    return wire.Distribution(**(known | more))


FILLING = wire.Filling(rate_bytes_s=GIB / 86_400, likely_s=20 * 86_400.0, early_s=10 * 86_400.0, late_s=None)
PACES = wire.Paces(
    step_s=30,
    at=[AT, AT + timedelta(seconds=30)],
    pairs=[
        wire.PairPace(source="archive", target="flash", bytes_s=[0.0, 3.0 * (1 << 20)]),
        wire.PairPace(source="intake", target="archive", bytes_s=[5.0, 0.0]),
    ],
)
RECORDS = wire.RecordSet(
    id="records-1",
    batch="batch-1",
    version=2,
    state="aligned",
    policy="records",
    created_at=AT,
    slides_aligned=15,
    ledger={"images": {"matched": 15, "image-without-row": 3}, "cases": {"matched": 10, "conflict": 2}},
    totals={"images": 18, "cases": 12},
)
RUN = wire.Run(
    id="run-1",
    state="staging",
    tier="flash",
    policy="stage",
    created_at=AT,
    count=14,
    bytes=4 * GIB,
    staged_bytes=GIB,
    estimate=wire.Estimate(low_s=60, likely_s=300, high_s=900, based_on=4),
)
BINS = [wire.Bin(low=float(n), high=float(n + 1), count=n) for n in range(20)]

# what is drawn, and words that must stand in the picture or in its description
FIGURES: dict[str, tuple[Callable[..., Canvas], tuple[str, ...]]] = {
    "fill": (
        lambda **box: plots.fill(level(forecast=FILLING), **box),
        (
            "How full tier flash is",
            "80.0 GiB of 100.0 GiB",
            "full in 20 d, between 10 d and a year",
            "forecast",
            "capacity",
        ),
    ),
    "fill of one look": (lambda **box: plots.fill(level(many=1), **box), ("less than a day is known",)),
    "pace": (
        lambda **box: plots.pace(PACES, None, None, **box),
        ("archive to flash at most 3.0 MiB/s", "intake to archive", "MiB/s"),
    ),
    "pace of a pair": (lambda **box: plots.pace(PACES, "archive", "flash", **box), ("from archive to flash",)),
    "pace of none": (lambda **box: plots.pace(PACES, "protect", None, **box), ("nothing was moved",)),
    "treemap": (lambda **box: plots.treemap(usage("runs/", "data/"), **box), ("runs/", "data/", "2.0 GiB", "4 files")),
    "treemap of the first": (lambda **box: plots.treemap(CUT, **box), ("the first 2 files, ",)),
    "treemap of none": (lambda **box: plots.treemap(usage(), **box), ("no scan has seen anything",)),
    "ages": (lambda **box: plots.ages(usage("runs/"), **box), ("to 4.0 GiB", "below 1 d", "above 1 y", "7.0 GiB")),
    "distribution": (
        lambda **box: plots.distribution(spread(), 10, "gleason >= 7", **box),
        ("Slides by gleason", "10 slides of gleason >= 7, 1 unknown", "6", "3"),
    ),
    "distribution over a scale": (
        lambda **box: plots.distribution(spread(distinct=None, low=0.0, high=20.0, histogram=BINS), 190, "", **box),
        ("190 slides", "gleason from 0 to 20", "slides"),
    ),
    "distribution of names": (lambda **box: plots.distribution(spread(values=[]), 10, "", **box), ("may be shown",)),
    "calendar": (
        lambda **box: plots.calendar(
            [snapshot(0, "daily 2"), snapshot(0, "yearly 1"), snapshot(3), snapshot(4, doubt="flood")],
            date(2026, 11, 22),
            whole=True,
            **box,
        ),
        ("yearly 1", "daily 1", "not judged yet 1", "doubtful 1", "4 snapshots"),
    ),
    "ledger": (
        lambda **box: plots.ledger(RECORDS, **box),
        ("15 of 18 images", "image without row", "conflict", "cases", "12"),
    ),
    "run": (
        lambda **box: plots.run(RUN, **box),
        ("1.0 GiB of 4.0 GiB", "ready in 5 min, between 60 s and 15 min", "learned from 4 runs", "staged"),
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_its_numbers_to_who_sees_it_and_to_who_does_not(name: str) -> None:
    draw, words = FIGURES[name]
    canvas = draw(**BOX)
    found = ET.fromstring(plots.render(canvas, "svg", "light"))
    said = " ".join("".join(one.itertext()) for one in found.iter())
    for word in words:
        assert word in said, word
    space = "{http://www.w3.org/2000/svg}"
    title, told = (found.find(f"{space}{tag}") for tag in ("title", "desc"))
    assert title is not None and told is not None and title.text and told.text
    assert found.get("role") == "img" and found.get("aria-labelledby") == "title desc"
    for one in canvas.drawn:
        places = [one.at] if isinstance(one, Words) else list(one.points)
        assert all(-1 <= x <= canvas.width + 1 and -1 <= y <= canvas.height + 1 for x, y in places), one
        if isinstance(one, Words):
            wide = length(one.said, one.size)
            left = one.at[0] - {"start": 0, "middle": wide / 2, "end": wide}[one.anchor]
            assert left >= -1 and left + wide <= canvas.width + 1, one.said
    assert plots.render(draw(**BOX), "svg", "light") == plots.render(canvas, "svg", "light")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_png_is_twice_as_fine_in_the_themes_colours_and_carries_its_words(theme: Theme) -> None:
    """A report's reader prints it; a screen reader of the report finds what it shows."""
    canvas = FIGURES["run"][0](wide=400, high=240)
    picture = Image.open(io.BytesIO(plots.render(canvas, "png", theme)))
    assert picture.size == (800, 480) and picture.info["Title"] == canvas.title
    assert picture.info["Description"] == canvas.told
    colours = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in picture.convert("RGB").getcolors(1 << 20)}  # type: ignore[union-attr,misc]
    assert {COLOURS[theme][name] for name in ("sheet", "well", "good-area", "work-area")} <= colours


def test_words_from_outside_stay_words() -> None:
    """A folder may be called anything; an SVG that somebody opens must not run it."""
    hostile = '</text><script>alert(1)</script>&"\x00\x1b[2J\ufffe'
    drawn = plots.render(plots.treemap(usage(hostile, "x/"), **BOX), "svg", "light")
    found = ET.fromstring(drawn)
    assert not [one for one in found.iter() if one.tag.endswith("script")]
    assert b"<script" not in drawn and b"\x00" not in drawn and b"\x1b" not in drawn
    assert clean("a\u202eb\nc") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert plots.render(plots.treemap(usage(hostile), **BOX), "png", "dark")[:4] == b"\x89PNG"


def test_a_word_is_cut_where_the_next_letter_would_be_too_much_in_a_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An expression of 4,000 letters held the whole daemon for a second, letter by letter."""
    looks: list[str] = []

    def counted(said: str, size: float) -> float:
        looks.append(said)
        return length(said, size)

    monkeypatch.setattr(canvas, "length", counted)
    said = "grade = 'W' and il " * 210
    drawn = Canvas(800, 400, title="", told="")
    drawn.text(16, 24, said, most=700)
    drawn.text(16, 48, said, most=1)
    [cut] = drawn.drawn
    assert isinstance(cut, Words) and cut.said.endswith("…") and said.startswith(cut.said[:-1])
    assert length(cut.said, 12) <= 700 < length(said[: len(cut.said)] + "…", 12)
    assert len(looks) < 40


def test_the_forecast_is_a_line_that_goes_on_where_the_known_one_ends() -> None:
    """At most to the day it is full, and never past the frame."""
    canvas = plots.fill(level(forecast=FILLING), **BOX)
    lines = [one for one in canvas.drawn if not isinstance(one, Words) and one.stroke in ("series-1", "series-2")]
    known, ahead = lines
    assert known.points[-1] == ahead.points[0] and ahead.dash and not known.dash
    assert (ahead.points[1][0] - ahead.points[0][0]) / (known.points[-1][0] - known.points[0][0]) == pytest.approx(
        20 / 30
    )
    flat = msgspec.structs.replace(FILLING, rate_bytes_s=0.0, likely_s=None)
    assert "forecast" not in [
        one.said for one in plots.fill(level(forecast=flat), **BOX).drawn if isinstance(one, Words)
    ]


def test_colours_and_rules_are_those_of_the_pages() -> None:
    """One figure in the browser and in the report is one figure."""
    sheet = (ROOT / "mover/web/static/style/tokens.css").read_text()
    light, dark = sheet.split(':root[data-theme="dark"]')
    for theme, text in (("light", light), ("dark", dark)):
        said = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", text))
        assert {name: said[name] for name in COLOURS[theme]} == COLOURS[theme]  # type: ignore[index]
    page = (ROOT / "mover/web/static/pages/snapshots.js").read_text()
    told = re.findall(r'of: /\^([^/]+)/, (?:tone: "(\w+)"|series: (\d))', page)
    theirs = [(form, f"{tone}-area" if tone else f"series-{int(series) + 1}") for form, tone, series in told]
    assert [(form, colour) for _, form, colour in RULES] == theirs


def test_the_font_is_the_one_that_was_published() -> None:
    """DejaVu Sans 2.37, from the npm package dejavu-fonts-ttf 2.37.3."""
    font = (ROOT / "mover/plots/DejaVuSans.ttf").read_bytes()
    assert hashlib.sha256(font).hexdigest() == "7da195a74c55bef988d0d48f9508bd5d849425c1770dba5d7bfc6ce9ed848954"


def test_folders_fill_the_map_whole_and_each_by_its_share() -> None:
    folders = usage(*(f"f{n}/" for n in range(37))).folders or []
    placed = squarified(folders, 700, 300)
    total = sum(one.bytes for one in folders)
    assert sum(w * h for _, (_, _, w, h) in placed) == pytest.approx(700 * 300)
    for one, (x, y, w, h) in placed:
        assert w * h == pytest.approx(700 * 300 * one.bytes / total)
        assert x >= 0 and y >= 0 and x + w <= 700.001 and y + h <= 300.001


@pytest.mark.parametrize("top", [1, 7, 999, 1025, 3 * (1 << 20), 5.9 * GIB, 990 * GIB])
def test_ticks_are_round_in_the_unit_that_they_are_said_in(top: float) -> None:
    for binary in (True, False):
        found = ticks(top, binary=binary)
        assert found[0] == 0 and found[-1] >= top * 0.999 and 2 <= len(found) <= 7
        assert all(math.isclose(b - a, found[1]) for a, b in zip(found, found[1:], strict=False))
    assert len({size(mark) for mark in ticks(top, binary=True)}) == len(ticks(top, binary=True))


def test_moments_are_round_and_inside() -> None:
    for span in (timedelta(seconds=40), timedelta(hours=1), timedelta(days=1), timedelta(days=30), timedelta(days=700)):
        found = moments(AT, AT + span, most=8)
        assert 2 <= len(found) <= 9 and all(AT <= at <= AT + span for at, _ in found)
        assert len({called for _, called in found}) == len(found)
    assert moments(AT, AT, most=5)[0][1] == "08:00:00"
