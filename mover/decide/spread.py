"""How the values of a column are spread over chosen slides: counts of values, a histogram of numbers, what is missing.

Bounded whatever the column holds: values are counted while there are at most DISTINCT_MAX of them. Beyond it a number
has its lowest and highest value, and a second look counts between them (`Spread.again`).
"""

from __future__ import annotations

from collections import Counter
from math import ceil, floor, log10, ulp
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mover.decide.vectors import NUMERIC, Mask, Vector

DISTINCT_MAX = 10_000
BINS = 20


class Bin(Struct, frozen=True):
    """From `low`, included, to `high`, which belongs to the next one."""

    low: float
    high: float
    count: int


class Spread:
    def __init__(self, type_: str) -> None:
        self.type = type_
        self.missing = 0
        self.counts: Counter[Any] | None = Counter()
        self.low: float | None = None
        self.high: float | None = None
        self._fine: NDArray[np.int64] | None = None

    def add(self, vector: Vector | None, chosen: Mask) -> None:
        """The rows of one block that are chosen."""
        if vector is None:
            self.missing += int(chosen.sum())
            return
        values, counts = _counted(vector, chosen)
        self.missing += int(chosen.sum()) - int(counts.sum())
        if len(values) and self.type in NUMERIC:
            self.low = min(float(values.min()), self.low if self.low is not None else np.inf)
            self.high = max(float(values.max()), self.high if self.high is not None else -np.inf)
        if self.counts is not None:
            self.counts.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            if len(self.counts) > DISTINCT_MAX:
                self.counts = None

    @property
    def again(self) -> bool:
        """Whether a second look is needed for the histogram."""
        return self.counts is None and self.low is not None

    def add_again(self, vector: Vector | None, chosen: Mask) -> None:
        """What was written in between and lies outside is counted at the ends."""
        edges = self._edges()
        if self._fine is None:
            self._fine = np.zeros(len(edges) - 1, np.int64)
        if vector is not None:
            values, counts = _counted(vector, chosen)
            clipped = np.clip(values, edges[0], np.nextafter(edges[-1], -np.inf))
            self._fine += np.histogram(clipped, edges, weights=counts)[0].astype(np.int64)

    def values(self, most: int) -> list[tuple[Any, int]]:
        """The most frequent ones with their counts; equally frequent ones by their order."""
        return sorted((self.counts or Counter()).items(), key=lambda one: (-one[1], one[0]))[:most]

    def histogram(self) -> list[Bin]:
        """Of numbers; empty where there are none."""
        if self.low is None:
            return []
        edges = self._edges()
        if self.counts is not None:
            values, counts = np.array(list(self.counts), float), np.array(list(self.counts.values()))
            heights = np.histogram(values, edges, weights=counts)[0].astype(np.int64)
        else:
            heights = self._fine if self._fine is not None else np.zeros(len(edges) - 1, np.int64)
        ends = edges.astype(float).tolist()
        return [Bin(low, high, n) for low, high, n in zip(ends[:-1], ends[1:], heights.tolist(), strict=True)]

    def _edges(self) -> NDArray[Any]:
        """At most BINS and one, at round numbers."""
        assert self.low is not None and self.high is not None
        near = 4 * ulp(max(abs(self.low), abs(self.high)))  # closer together than this, edges would fall into one
        least = self.high / BINS - self.low / BINS or 1.0
        step = _round_step(max(least, near), whole=self.type != "number")
        digits = max(12, 3 - floor(log10(step)))
        first, last = floor(self.low / step), floor(self.high / step) + 1
        first -= round(first * step, digits) > self.low
        last += round(last * step, digits) <= self.high
        return np.array([round(n * step, digits) for n in range(first, last + 1)])


def _counted(vector: Vector, chosen: Mask) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct values of the chosen rows, and how many rows have each."""
    if vector.codes is None:
        values, counts = np.unique(vector.values[chosen], return_counts=True)
        return values, counts
    counts = np.bincount(vector.codes[chosen], minlength=len(vector.values) + 1)[1:]
    met = np.flatnonzero(counts)
    return vector.values[met], counts[met]


def _round_step(least: float, *, whole: bool) -> float:
    """1, 2 or 5 times a power of ten, at least that."""
    power = 10.0 ** floor(log10(least))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= least * (1 - 1e-9))
    return float(max(1, ceil(step))) if whole else float(step)
