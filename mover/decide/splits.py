"""Splits: which slides stand on which side of an experiment, so that nobody learns from whom he is judged by.

Slides that share a patient, a block or a digest are one *group*, however long the chain of what they share, and a
group is never torn. Groups are dealt out after Sechidis, Tsoumakas and Vlahavas (2011, iterative stratification),
for groups in the place of examples: the rarest stratum first, its largest group first, each to the split that still
wants the most of that stratum. What is dealt depends on the seed and on what the slides are, never on their order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from msgspec import Struct

from mover.errors import LimitExceeded, RequestInvalid

SPLITS_MAX = 16
STRATA_MAX = 1000  # more values than this name slides, and stratify nothing


class Member(Struct, frozen=True, gc=False):
    """One slide. `keys`: what it shares with others of its group, such as `patient|7`; none: a group of its own."""

    number: str
    keys: tuple[str, ...] = ()
    stratum: str = ""


class Share(Struct, frozen=True):
    """Of one stratum in one split: how many slides it has, and how many its fraction would be."""

    split: str
    stratum: str
    count: int
    wanted: float


class Splitting(Struct, frozen=True):
    """Every slide in exactly one split; numbers in their order. `groups`: how many are in each."""

    numbers: dict[str, list[str]]
    groups: dict[str, int]
    shares: list[Share]


class _Group(Struct, frozen=True, gc=False):
    numbers: list[str]
    strata: dict[str, int]
    draw: bytes


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raises RequestInvalid unless they are all of the whole."""
    if not 2 <= len(fractions) <= SPLITS_MAX:
        raise RequestInvalid(f"a cohort is split in 2 to {SPLITS_MAX} parts")
    if any(not 0 < fraction < 1 for fraction in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise RequestInvalid("the fractions of splits are above 0 and 1 together")


def split(members: Sequence[Member], fractions: Mapping[str, float], *, seed: int) -> Splitting:
    """Deals every group to one split. Raises RequestInvalid where a split would stay empty."""
    check_fractions(fractions)
    groups = _groups(members, seed)
    strata = Counter(member.stratum for member in members)
    if len(strata) > STRATA_MAX:
        raise LimitExceeded(f"{len(strata)} values are no strata; {STRATA_MAX} are the most")
    wanted = {name: {s: fraction * strata[s] for s in sorted(strata)} for name, fraction in sorted(fractions.items())}
    dealt = _deal(groups, wanted)
    empty = [name for name, part in dealt.items() if not part]
    if empty:
        raise RequestInvalid(
            f"{len(groups)} groups are too few: the split {empty[0]} would be empty",
            hint="A group is all slides that share a patient, a block or their content; it is never torn.",
        )
    counted = {name: _counted(part) for name, part in dealt.items()}
    return Splitting(
        numbers={name: sorted(n for group in dealt[name] for n in group.numbers) for name in fractions},
        groups={name: len(dealt[name]) for name in fractions},
        shares=[Share(name, s, counted[name][s], wanted[name][s]) for name in fractions for s in sorted(strata)],
    )


def _deal(groups: Sequence[_Group], wanted: Mapping[str, Mapping[str, float]]) -> dict[str, list[_Group]]:
    """The stratum with the fewest slides left first: who comes late finds no room, and the rare have the least."""
    left = {name: dict(of) for name, of in wanted.items()}
    room = {name: sum(of.values()) for name, of in wanted.items()}
    rest = _counted(groups)
    having: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        for stratum in group.strata:
            having[stratum].append(group)
    dealt: dict[str, list[_Group]] = {name: [] for name in wanted}
    done: set[str] = set()
    while rest:
        rarest = min(rest, key=lambda stratum: (rest[stratum], stratum))
        for group in sorted(having[rarest], key=lambda g: (-g.strata[rarest], -len(g.numbers), g.draw)):
            if group.numbers[0] in done:
                continue
            done.add(group.numbers[0])
            to = max(left, key=lambda name: (left[name][rarest], room[name], name))
            dealt[to].append(group)
            room[to] -= len(group.numbers)
            for stratum, count in group.strata.items():
                left[to][stratum] -= count
                rest[stratum] -= count
        del rest[rarest]
    return dealt


def _counted(groups: Iterable[_Group]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for group in groups:
        counted.update(group.strata)
    return counted


def _groups(members: Iterable[Member], seed: int) -> list[_Group]:
    """Slides that are tied to each other by any chain of keys; each group called by its smallest number."""
    roots = _Roots()
    by_number: dict[str, Member] = {}
    for member in members:
        if member.number in by_number:
            raise RequestInvalid("a slide is named twice", where=member.number)
        by_number[member.number] = member
        for key in member.keys:
            roots.join(member.number, f"|{key}")  # no number begins so
    together: dict[str, list[str]] = defaultdict(list)
    for number in sorted(by_number):
        together[roots.of(number)].append(number)
    return [
        _Group(
            numbers,
            dict(Counter(by_number[number].stratum for number in numbers)),
            sha256(f"{seed}|{numbers[0]}".encode()).digest(),
        )
        for numbers in together.values()
    ]


class _Roots:
    """Union-find, with the path halved at every look."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, one: str) -> str:
        above = self._above
        while (parent := above.get(one, one)) != one:
            above[one] = above.get(parent, parent)
            one = above[one]
        return one

    def join(self, one: str, other: str) -> None:
        first, second = self.of(one), self.of(other)
        if first != second:
            self._above[max(first, second)] = min(first, second)
