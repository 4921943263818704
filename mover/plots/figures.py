"""One function for each figure: an answer of the API in, a drawing out. The numbers are the answer's; nothing is
counted here that the pages do not count."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from typing import Final

from mover.model import wire
from mover.plots.axes import (
    HEAD,
    Frame,
    aged,
    along,
    count,
    duration,
    figure,
    framed,
    head,
    legend,
    moment,
    plural,
    rate,
    size,
)
from mover.plots.canvas import Canvas, length

SHOWN: Final = 12  # values of one column
WEEKS: Final = 52
_DAY_S: Final = 86_400
_OLD_S: Final = 3 * 365 * _DAY_S
_GAP: Final = 3.0

# the rule that keeps longest names the colour of a day, as on the page of snapshots
RULES: Final = (
    ("held by a person", "it is held", "bad-area"), ("a tag", "tag ", "series-6"), ("yearly", "yearly ", "series-1"),
    ("monthly", "monthly ", "series-2"), ("weekly", "weekly ", "series-3"), ("daily", "daily ", "series-4"),
    ("hourly", "hourly ", "series-5"),
    ("among the last", "(last |recorded within|the newest that counts)", "work-area"),
    ("young", "on record for less", "wait-area"), ("no rule is set", "no keep rule", "good-area"),
    ("no rule keeps it", "no rule keeps", "warn-area"),
)  # fmt: skip
_DOUBTFUL: Final = ("doubtful", "warn-area")
_NEW: Final = ("not judged yet", "good-area")
LEDGER: Final = ("matched", "image-without-row", "row-without-image", "duplicate", "conflict", "late")
_TONES: Final = {"matched": "good-area", "conflict": "bad-area", "duplicate": "warn-area"}
_STAGES: Final = ("asked", "staged", "sealed", "ready", "protected", "cleaned")
_REACHED: Final = {
    "requested": 0, "admitted": 1, "staging": 1, "sealed": 2, "ready": 3, "finishing": 4, "protecting": 4,
    "protected": 5, "cleaning": 5, "cleaned": 6,
}  # fmt: skip


# --- over time ----------------------------------------------------------------------------------------------


def fill(level: wire.TierLevels, *, wide: int, high: int) -> Canvas:
    """How full a tier was, and, dashed, where that leads: as long again as is known, at most to the day it is full."""
    used, capacity = level.used_bytes, level.capacity_bytes
    told = f"{level.tier} is used {size(used[-1])} of {size(capacity)} on {moment(level.at[-1])}; {_forecast(level)}"
    canvas = Canvas(wide, high, title=f"How full tier {level.tier} is", told=told)
    head(canvas, below=told)
    first, last = level.at[0], level.at[-1]
    ahead_s, speed = _ahead(level), level.forecast.rate_bytes_s if level.forecast else 0.0
    end = last + timedelta(seconds=ahead_s)
    near = used[-1] > capacity / 2
    frame = framed(canvas, max(*used, used[-1] + ahead_s * speed, capacity if near else 1), size, binary=True,
                   unit="used", foot=60)  # fmt: skip
    place = _over(frame, first, end)
    points = [(place(at), frame.y(value)) for at, value in zip(level.at, used, strict=True)]
    canvas.area([(points[0][0], frame.bottom), *points, (points[-1][0], frame.bottom)], "series-1", mix=0.15)
    canvas.line(points, "series-1", width=2)
    canvas.box(points[-1][0] - 2.5, points[-1][1] - 2.5, 5, 5, "series-1", title=f"now: {size(used[-1])}")
    named = [("series-1", "used")]
    if ahead_s:
        canvas.line([points[-1], (place(end), frame.y(used[-1] + ahead_s * speed))], "series-2", width=2, dash=True)
        named.append(("series-2", "forecast"))
    if near:
        canvas.line([(frame.left, frame.y(capacity)), (frame.right, frame.y(capacity))], "bad-area", dash=True)
        named.append(("bad-area", "capacity"))
    along(canvas, frame, first, end)
    legend(canvas, high - 12, named)
    return canvas


def _ahead(level: wire.TierLevels) -> float:
    if level.forecast is None or level.forecast.rate_bytes_s <= 0:
        return 0.0
    known_s = (level.at[-1] - level.at[0]).total_seconds()
    return min(known_s, math.inf if level.forecast.likely_s is None else level.forecast.likely_s)


def _forecast(level: wire.TierLevels) -> str:
    seen = level.forecast
    if seen is None:
        return "less than a day is known, so there is no forecast"
    if seen.likely_s is None:
        return "it will not be full within a year"
    early = f", between {duration(seen.early_s)} and " if seen.early_s is not None else ""
    late = (duration(seen.late_s) if seen.late_s is not None else "a year or more") if early else ""
    return f"full in {duration(seen.likely_s)}{early}{late}"


def pace(told: wire.Paces, source: str | None, target: str | None, *, wide: int, high: int) -> Canvas:
    """Bytes a second between tiers; of one pair, or of all from or to a tier."""
    pairs = [one for one in told.pairs if source in (None, one.source) and target in (None, one.target)]
    tops = [f"{one.source} to {one.target} at most {rate(max(one.bytes_s))}" for one in pairs]
    said = "; ".join(tops) or "nothing was moved in this time"
    canvas = Canvas(wide, high, title=" ".join(["How fast bytes went", *_between(source, target)]), told=said)
    head(canvas, below=said)
    frame = framed(canvas, max([1.0, *(value for one in pairs for value in one.bytes_s)]), rate, binary=True,
                   unit=f"bytes a second, mean of {duration(told.step_s)}", foot=60)  # fmt: skip
    if not told.at:
        return canvas
    end = told.at[-1] + timedelta(seconds=told.step_s)
    place = _over(frame, told.at[0], end)
    half = timedelta(seconds=told.step_s / 2)
    for at, one in enumerate(pairs):
        points = [(place(when + half), frame.y(value)) for when, value in zip(told.at, one.bytes_s, strict=True)]
        canvas.line(points, f"series-{at % 6 + 1}", width=2)
    along(canvas, frame, told.at[0], end)
    legend(canvas, high - 12, [(f"series-{at % 6 + 1}", f"{p.source} to {p.target}") for at, p in enumerate(pairs)])
    return canvas


def _between(source: str | None, target: str | None) -> list[str]:
    return [*([f"from {source}"] if source else []), *([f"to {target}"] if target else [])] or ["between tiers"]


def _over(frame: Frame, first: datetime, last: datetime) -> Callable[[datetime], float]:
    span = max(timedelta(seconds=1), last - first)
    return lambda at: frame.x((at - first) / span)


# --- what fills a tier ----------------------------------------------------------------------------------------


def treemap(seen: wire.Usage, *, wide: int, high: int) -> Canvas:
    """Folders by size, coloured by age. Only where folders may be named."""
    folders = [one for one in seen.folders or () if one.bytes > 0]
    of = f"{seen.tier}:{seen.folder}" if seen.folder else f"tier {seen.tier}"
    first = ", ".join(f"{_called(one)} {size(one.bytes)}" for one in folders[:5])
    canvas = Canvas(wide, high, title=f"What fills {of}, by folder", told=first or "no scan has seen anything there")
    head(canvas, below=_within(seen))
    top, bottom = HEAD + 10, high - 34
    for one, (x, y, w, h) in squarified(folders, wide - 32, bottom - top):
        shade = min(1.0, math.log1p(one.age_s / _DAY_S) / math.log1p(_OLD_S / _DAY_S))
        said = f"{_called(one)}: {size(one.bytes)} in {plural(one.count, 'file')}, {duration(one.age_s)} old on average"
        inside = max(0.0, w - 2), max(0.0, h - 2)
        canvas.box(16 + x + 1, top + y + 1, *inside, "accent", mix=0.12 + 0.5 * shade, title=said)
        if h > 20:
            canvas.text(16 + x + 7, top + y + 17, _called(one), most=w - 14)
        if h > 36:
            canvas.text(16 + x + 7, top + y + 32, size(one.bytes), size=11, most=w - 14)
    _ramp(canvas, high - 12, "new", "old: years since it was changed")
    return canvas


def _called(folder: wire.UsageFolder) -> str:
    return folder.name if folder.name is not None else "files right here"


def _within(seen: wire.Usage) -> str:
    first = "" if seen.whole else "the first "
    return f"{first}{plural(seen.count, 'file')}, {size(seen.bytes)}, as scans saw {'it' if seen.whole else 'them'}"


def squarified(
    folders: Sequence[wire.UsageFolder], wide: float, high: float
) -> list[tuple[wire.UsageFolder, tuple[float, float, float, float]]]:
    """Areas as near to squares as rows of them may be (Bruls, Huizing, van Wijk)."""
    total = sum(one.bytes for one in folders)
    left = sorted(((one, one.bytes / total * wide * high) for one in folders), key=lambda pair: -pair[1])
    placed = []
    x, y = 0.0, 0.0
    while left and wide > 0.01 and high > 0.01:
        side, many = min(wide, high), 1
        while many < len(left) and _worst(left[: many + 1], side) <= _worst(left[:many], side):
            many += 1
        row, left = left[:many], left[many:]
        thick, at = sum(area for _, area in row) / side, 0.0
        for one, area in row:
            long = area / thick
            placed.append((one, (x, y + at, thick, long) if wide >= high else (x + at, y, long, thick)))
            at += long
        if wide >= high:
            x, wide = x + thick, wide - thick
        else:
            y, high = y + thick, high - thick
    return placed


def _worst(row: Sequence[tuple[object, float]], side: float) -> float:
    areas = [area for _, area in row]
    total = sum(areas)
    return max(side**2 * max(areas) / total**2, total**2 / (side**2 * min(areas)))


def ages(seen: wire.Usage, *, wide: int, high: int) -> Canvas:
    """Bytes by size of file and by age."""
    rows, columns = _spans(seen.sizes, size), _spans(seen.ages_s, aged)
    cells = {(one.size, one.age): one for one in seen.cells}
    most = max(seen.cells, key=lambda one: one.bytes, default=None)
    told = "nothing was seen there"
    if most:
        told = f"most is {rows[most.size]} and {columns[most.age]}: {size(most.bytes)}"
    of = f"{seen.tier}:{seen.folder}" if seen.folder else f"tier {seen.tier}"
    canvas = Canvas(wide, high, title=f"What fills {of}, by size and age", told=f"{_within(seen)}; {told}")
    head(canvas, below=_within(seen))
    shades = [[cells[i, j].bytes if (i, j) in cells else 0 for j in range(len(columns))] for i in range(len(rows))]
    _grid(canvas, rows, columns, shades, said=size, tone=lambda j: "accent", corner=("size of file", "age"))
    return canvas


def _spans(bounds: Sequence[int], said: Callable[[float], str]) -> list[str]:
    return [f"below {said(bounds[0])}", *(f"to {said(b)}" for b in bounds[1:]), f"above {said(bounds[-1])}"]


def _ramp(canvas: Canvas, y: float, light: str, dark: str) -> None:
    canvas.text(16, y, light, size=11, colour="ink-2")
    x = 22 + length(light, 11)
    for step in range(20):
        canvas.box(x + 5 * step, y - 9, 5.2, 10, "accent", mix=0.12 + 0.5 * step / 19)
    canvas.text(x + 108, y, dark, size=11, colour="ink-2")


def _grid(
    canvas: Canvas, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *,
    said: Callable[[float], str], tone: Callable[[int], str], corner: tuple[str, str] = ("", ""),
) -> None:  # fmt: skip
    """A table whose cells are as strong as their amounts, on a scale of logarithms."""
    left = 28 + max(length(one, 11) for one in [*rows, corner[0]])
    top = HEAD + 34
    w, h = (canvas.width - left - 16) / len(columns), (canvas.height - top - 16) / len(rows)
    most = max([1.0, *(value for row in values for value in row)])
    canvas.text(16, top - 8, corner[0], size=11, colour="ink-2")
    canvas.text(canvas.width - 16, top - 24, corner[1], size=11, colour="ink-2", anchor="end")
    for j, column in enumerate(columns):
        canvas.text(left + (j + 0.5) * w, top - 8, column, size=11, colour="ink-2", anchor="middle", most=w - 4)
    for i, row in enumerate(rows):
        y = top + i * h
        canvas.text(left - 10, y + h / 2 + 4, row, size=11, anchor="end")
        for j, value in enumerate(values[i]):
            share = 0.12 + 0.6 * math.log1p(value) / math.log1p(most) if value else 0.0
            title = f"{row}, {columns[j]}: {said(value)}"
            canvas.box(left + j * w + 1, y + 1, w - 2, h - 2, tone(j) if value else "well", mix=share or 1, title=title)
            if value:
                canvas.text(left + (j + 0.5) * w, y + h / 2 + 4, said(value), size=11, anchor="middle", most=w - 6)


# --- cohorts ----------------------------------------------------------------------------------------------------


def distribution(of: wire.Distribution, total: int, expression: str, *, wide: int, high: int) -> Canvas:
    """The values of one column: bars over a scale where there are many, else a bar for each."""
    unknown = f", {count(of.missing)} unknown" if of.missing else ""
    below = f"{plural(total, 'slide')}{f' of {expression}' if expression else ''}{unknown}"
    many = len(of.histogram) > 2 and (of.distinct is None or of.distinct > SHOWN)
    said = size if of.column.endswith("_bytes") else figure
    told = ", ".join(f"{one.value} {count(one.count)}" for one in of.values[:5]) or "no slide has a value"
    if many:
        told = f"{of.column} from {said(of.low or 0)} to {said(of.high or 0)}"
    canvas = Canvas(wide, high, title=f"Slides by {of.column}", told=f"{below}; {told}")
    head(canvas, below=below)
    if many:
        _bins(canvas, of, said)
    else:
        _bars(canvas, of)
    return canvas


def _bins(canvas: Canvas, of: wire.Distribution, said: Callable[[float], str]) -> None:
    bins = of.histogram
    frame = framed(canvas, max(one.count for one in bins), count, unit="slides", binary=False, foot=48)
    w = (frame.right - frame.left) / len(bins)
    labels = max(length(said(one.low), 11) for one in bins) + 12
    step = max(1, math.ceil(labels / w))
    for at, one in enumerate(bins):
        x, y = frame.left + at * w, frame.y(one.count)
        canvas.box(x + 0.5, y, w - 1, frame.bottom - y, "series-1",
                   title=f"{said(one.low)} to {said(one.high)}: {plural(one.count, 'slide')}")  # fmt: skip
        if at % step == 0:
            canvas.text(x, frame.bottom + 17, said(one.low), size=11, colour="ink-2", anchor="middle")
    y, most = frame.bottom + 34, canvas.width - 40
    canvas.text(frame.right, y, of.column, size=11, colour="ink-2", anchor="end", most=most)


def _bars(canvas: Canvas, of: wire.Distribution) -> None:
    shown = list(of.values[:SHOWN])
    if shown and all(isinstance(one.value, int | float) and not isinstance(one.value, bool) for one in shown):
        shown.sort(key=lambda one: float(one.value))
    if not shown:
        canvas.text(16, HEAD + 40, "no slide has a value that may be shown", colour="ink-2")
        return
    left = min(canvas.width / 3, 28 + max(length(_value(one), 11) for one in shown))
    top, h = HEAD + 14, min(30.0, (canvas.height - HEAD - 40) / len(shown))
    most = max(one.count for one in shown)
    room = canvas.width - left - 28 - length(count(most), 11)
    for at, one in enumerate(shown):
        y, wide = top + at * h, max(1.0, room * one.count / most)
        canvas.text(left - 10, y + h / 2 + 4, _value(one), size=11, anchor="end", most=left - 24)
        canvas.box(left, y + 2, wide, h - 4, "series-1", title=f"{_value(one)}: {plural(one.count, 'slide')}")
        canvas.text(left + wide + 6, y + h / 2 + 4, count(one.count), size=11, colour="ink-2")
    rest = (of.distinct or len(of.values)) - len(shown)
    more = f"slides with each value; {count(rest)} more values" if rest > 0 else "slides with each value"
    canvas.text(16, canvas.height - 12, more, size=11, colour="ink-2")


def _value(one: wire.ValueCount) -> str:
    return {True: "yes", False: "no"}[one.value] if isinstance(one.value, bool) else str(one.value)


# --- snapshots ----------------------------------------------------------------------------------------------------


def calendar(snapshots: Sequence[wire.Snapshot], today: date, *, whole: bool, wide: int, high: int) -> Canvas:
    """A year of days, a week a column; each day in the colour of the rule that keeps its snapshots longest."""
    days: dict[date, tuple[int, int]] = {}
    totals: dict[int, int] = {}
    for one in snapshots:
        rule, day = _rule_of(one), one.recorded_at.date()
        totals[rule] = totals.get(rule, 0) + 1
        many, first = days.get(day, (0, rule))
        days[day] = (many + 1, min(first, rule))
    named = _named()
    newest = "" if whole else " The newest are shown."
    told = ", ".join(f"{named[rule][0]} {count(totals[rule])}" for rule in sorted(totals)) or "none in this time"
    canvas = Canvas(wide, high, title="Snapshots of each day, by the rule that keeps them", told=told)
    below = f"{plural(len(snapshots), 'snapshot')} in {WEEKS} weeks up to {today}, days of UTC.{newest}"
    head(canvas, below=below)
    left, top = 48.0, HEAD + 28.0
    cell = min((wide - left - 16) / WEEKS, (high - top - 40) / 7)
    begin = today - timedelta(days=today.weekday(), weeks=WEEKS - 1)
    for row, called in ((0, "Mon"), (2, "Wed"), (4, "Fri"), (6, "Sun")):
        canvas.text(left - 6, top + (row + 0.5) * cell + 4, called, size=10, colour="ink-2", anchor="end")
    for week in range(WEEKS):
        monday = begin + timedelta(weeks=week)
        if (monday + timedelta(days=6)).day <= 7:
            canvas.text(left + week * cell, top - 6, f"{monday + timedelta(days=6):%b}", size=10, colour="ink-2")
        for row in range(7):
            day = monday + timedelta(days=row)
            if day <= today:
                _day(canvas, days.get(day), day, left + week * cell, top + row * cell, cell - _GAP)
    legend(canvas, high - 14, [(named[rule][1], f"{named[rule][0]} {count(totals[rule])}") for rule in sorted(totals)])
    return canvas


def _day(canvas: Canvas, found: tuple[int, int] | None, day: date, x: float, y: float, edge: float) -> None:
    if found is None:
        canvas.box(x, y, edge, edge, "well")
        return
    many, rule = found
    called, colour = _named()[rule]
    canvas.box(x, y, edge, edge, colour, title=f"{day}: {plural(many, 'snapshot')}; kept: {called}")


def _named() -> list[tuple[str, str]]:
    return [*((called, colour) for called, _, colour in RULES), _DOUBTFUL, _NEW]


def _rule_of(snapshot: wire.Snapshot) -> int:
    for at, (_, form, _) in enumerate(RULES):
        if any(re.match(form, reason) for reason in snapshot.reasons):
            return at
    return len(RULES) if snapshot.doubt else len(RULES) + 1


# --- records and runs -----------------------------------------------------------------------------------------------


def ledger(of: wire.RecordSet, *, wide: int, high: int) -> Canvas:
    """Tables by what became of their rows; the images are one of them."""
    tables = ["images", *sorted(name for name in of.totals if name != "images")]
    states = [one for one in LEDGER if any(of.ledger.get(name, {}).get(one) for name in tables)] or ["matched"]
    images = of.totals.get("images", 0)
    below = f"{count(of.slides_aligned)} of {count(images)} images have their facts; version {of.version}, {of.state}"
    canvas = Canvas(wide, high, title=f"Do tables and images agree? {of.id}", told=below)
    head(canvas, below=below)
    values = [[*(of.ledger.get(name, {}).get(one, 0) for one in states), of.totals.get(name, 0)] for name in tables]
    columns = [*(one.replace("-", " ") for one in states), "in all"]
    tones = [*(_TONES.get(one, "wait-area") for one in states), "well"]
    _grid(canvas, tables, columns, values, said=count, tone=lambda j: tones[j], corner=("rows of", ""))
    return canvas


def run(of: wire.Run, *, wide: int, high: int) -> Canvas:
    """Where a run is in its life."""
    broken = of.state in ("failed", "refused", "cancelled")
    at = _REACHED.get(of.state, 5 if of.ready_at else 1 if of.staged_count else 0)
    below = f"{of.state}; {plural(of.count, 'file')}, {size(of.bytes)}, on {of.tier}"
    if of.estimate and not of.ready_at and not broken:
        seen = of.estimate
        below += (f"; ready in {duration(seen.likely_s)}, between {duration(seen.low_s)} and {duration(seen.high_s)}"
                  f" (learned from {plural(seen.based_on, 'run')})")  # fmt: skip
    canvas = Canvas(wide, high, title=f"Where run {of.id} stands", told=below)
    head(canvas, below=below)
    w, y = (wide - 32) / len(_STAGES), HEAD + 34.0
    for index, stage in enumerate(_STAGES):
        x = 16 + index * w
        done = index < at or of.state == "cleaned"
        share = 1.0 if done else _share(of) if index == at else 0.0
        state = "done" if done else "to come" if index > at else of.state if broken else "now"
        canvas.box(x, y, w - 6, 12, "well")
        colour = "good-area" if done else "bad-area" if broken else "work-area"
        if share:
            canvas.box(x, y, (w - 6) * share, 12, colour, title=f"{stage}: {state}")
        canvas.text(x, y + 32, stage, most=w - 8)
        canvas.text(x, y + 48, state, size=11, colour="ink-2", most=w - 8)
        canvas.text(x, y + 64, _note(of, stage), size=11, colour="ink-2", most=w - 8)
    return canvas


def _share(of: wire.Run) -> float:
    if of.state in ("staging", "admitted") and of.bytes:
        return max(0.02, of.staged_bytes / of.bytes)
    return {"ready": 1.0, "requested": 0.0}.get(of.state, 0.5)


def _note(of: wire.Run, stage: str) -> str:
    when = {"asked": of.created_at, "ready": of.ready_at, "cleaned": of.cleaned_at}.get(stage)
    if stage == "staged" and of.staged_bytes:
        return f"{size(of.staged_bytes)} of {size(of.bytes)}"
    if stage == "protected" and of.snapshots:
        return plural(len(of.snapshots), "snapshot")
    return f"{when:%Y-%m-%d %H:%M}" if when else ""
