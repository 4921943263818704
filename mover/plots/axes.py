"""What figures share: how amounts are said, ticks that a person would choose, a frame with two axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from mover.plots.canvas import Canvas, length

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_STEPS: Final = (
    1, 5, 15, 30, *(n * _MINUTE for n in (1, 5, 10, 15, 30)), *(n * _HOUR for n in (1, 2, 3, 6, 12)),
    *(n * _DAY for n in (1, 2, 7, 14, 30, 60, 90, 180, 365)),
)  # fmt: skip
HEAD: Final = 44
Said = Callable[[float], str]


def size(amount: float) -> str:
    """As the command line and the pages say it."""
    unit = 0
    while abs(amount) >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{amount:.0f} B"


def rate(amount: float) -> str:
    return f"{size(amount)}/s"


def count(amount: float) -> str:
    return f"{amount:,.0f}"


def plural(amount: int, one: str) -> str:
    return f"{count(amount)} {one}{'' if amount == 1 else 's'}"


def figure(amount: float) -> str:
    return count(amount) if abs(amount) >= 10_000 and amount == int(amount) else f"{amount:.4g}"


def duration(seconds: float) -> str:
    if seconds >= 2 * _DAY:
        return f"{seconds / _DAY:.0f} d"
    if seconds >= 2 * _HOUR:
        return f"{seconds / _HOUR:.0f} h"
    return f"{seconds / _MINUTE:.0f} min" if seconds >= 2 * _MINUTE else f"{seconds:.0f} s"


def aged(seconds: float) -> str:
    return f"{seconds / (365 * _DAY):.0f} y" if seconds >= 365 * _DAY else f"{seconds / _DAY:.0f} d"


def ticks(top: float, *, most: int = 5, binary: bool = False) -> list[float]:
    """From 0 to at least `top`: 1, 2, 2.5 or 5 of a power of ten; of bytes, of the unit that they are said in."""
    unit = 1.0
    while binary and top / unit >= 1024:
        unit *= 1024
    wanted = max(top / unit, 1e-9) / most
    power = 10 ** math.floor(math.log10(wanted))
    step = next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= wanted * (1 - 1e-9))
    if not binary or unit == 1:
        step = max(step, 1) if binary else step
    return [n * step * unit for n in range(math.ceil(top / unit / step - 1e-9) + 1)]


def moments(first: datetime, last: datetime, *, most: int) -> list[tuple[datetime, str]]:
    """Round moments of UTC between the two, with what they are called."""
    span_s = max(1.0, (last - first).total_seconds())
    step = next((one for one in _STEPS if span_s / one <= most), _STEPS[-1])
    begin = math.ceil(first.timestamp() / step) * step
    found = [datetime.fromtimestamp(begin + n * step, UTC) for n in range(int(span_s // step) + 2)]
    return [(at, _called(at, step)) for at in found if first <= at <= last]


def _called(at: datetime, step: int) -> str:
    if step >= _DAY:
        return f"{at.day} {at:%b}" if step < 365 * _DAY else f"{at:%b %Y}"
    if step < _MINUTE:
        return f"{at:%H:%M:%S}"
    return f"{at.day} {at:%b}" if at.hour == at.minute == 0 and step >= _HOUR else f"{at:%H:%M}"


def moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


class Frame(Struct, frozen=True):
    """Where a figure's values lie: `left` to `right`, `bottom` up to `top`; `high` stands at the top."""

    left: float
    top: float
    right: float
    bottom: float
    high: float

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * value / self.high

    def x(self, share: float) -> float:
        return self.left + (self.right - self.left) * share


def head(canvas: Canvas, *, below: str = "") -> None:
    canvas.text(16, 24, canvas.title, size=15, most=canvas.width - 32)
    if below:
        canvas.text(16, 41, below, size=11, colour="ink-2", most=canvas.width - 32)


def framed(canvas: Canvas, top: float, said: Said, *, binary: bool = False, unit: str, foot: float = 40) -> Frame:
    """The frame with lines across and their amounts; `unit` says what they are amounts of."""
    marks = ticks(top, binary=binary, most=max(2, int((canvas.height - HEAD - foot) // 44)))
    left = 24 + max(length(said(mark), 11) for mark in marks)
    frame = Frame(left, HEAD + 26, canvas.width - 20, canvas.height - foot, marks[-1] or 1)
    canvas.text(16, HEAD + 14, unit, size=11, colour="ink-2")
    for mark in marks:
        y = frame.y(mark)
        canvas.line([(frame.left, y), (frame.right, y)], "rule")
        canvas.text(frame.left - 8, y + 4, said(mark), size=11, colour="ink-2", anchor="end")
    return frame


def along(canvas: Canvas, frame: Frame, first: datetime, last: datetime) -> None:
    """The axis of time, in UTC."""
    span_s = max(1.0, (last - first).total_seconds())
    room = int((frame.right - frame.left) // 74)
    for at, called in moments(first, last, most=max(2, room)):
        x = frame.x((at - first) / timedelta(seconds=span_s))
        canvas.line([(x, frame.bottom), (x, frame.bottom + 4)], "ink-2")
        canvas.text(x, frame.bottom + 17, called, size=11, colour="ink-2", anchor="middle")
    canvas.text(frame.right, frame.bottom + 32, "time, UTC", size=11, colour="ink-2", anchor="end")


def legend(canvas: Canvas, y: float, named: Sequence[tuple[str, str]], *, x: float = 16) -> None:
    """Colours and what they mean, in a row that ends where the canvas does."""
    for colour, said in named:
        wide = 18 + length(said, 11) + 16
        if x + wide > canvas.width:
            return
        canvas.box(x, y - 9, 10, 10, colour)
        canvas.text(x + 15, y, said, size=11, colour="ink-2")
        x += wide
