"""Everything about the small hospital that is decided before a byte is written.

The plan is a value made from (seed, scale) alone, so two builds of the same plan are the same bytes,
and the tables, the slides, the list of planted identifiers and the expected ledger cannot disagree:
all four are read off this one value. Every person, number and address here is invented.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import product
from typing import Literal

import msgspec
import numpy as np

from mover.demo import texture

BATCHES = ("2026-11-batch-01", "2026-11-batch-02")

Fault = Literal["no-thumbnail", "truncated", "rubbish", "unsupported", "duplicate"]

# Which pack of which batch is faulty, in the order they are appended to the batch's good packs.
FAULTS: dict[str, tuple[Fault, ...]] = {
    BATCHES[0]: ("no-thumbnail", "truncated", "rubbish"),
    BATCHES[1]: ("unsupported", "duplicate"),
}

# The code a pack of that fault should be quarantined under; a duplicate is the same scan again (D19).
REASONS: dict[Fault, str] = {
    "no-thumbnail": "pack-incomplete",
    "truncated": "structure-invalid",
    "rubbish": "format-unknown",
    "unsupported": "format-unsupported",
    "duplicate": "duplicate",
}


class Person(msgspec.Struct, frozen=True):
    first: str
    last: str
    sex: Literal["F", "M"]
    mrn: str
    born: date
    address: str
    zip: str
    phone: str
    email: str

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"


class Case(msgspec.Struct, frozen=True):
    """`known` cases own packs of their batch; the others exist in the tables only."""

    number: str
    batch: str
    person: Person
    pathologist: str
    received: date
    diagnosis: str
    gleason: int | None
    stage: str
    size_mm: float
    event: date
    status: str
    known: bool


class Pack(msgspec.Struct, frozen=True):
    """One slide image with its thumbnail; `stem` is the original file name without extension."""

    index: int
    batch: str
    stem: str
    suffix: Literal[".svs", ".ndpi", ".czi"]
    look: str
    case: str
    block: str
    stain: str
    columns: int
    rows: int
    big: bool
    serial: str
    operator: str
    scanned: datetime
    fault: Fault | None = None

    @property
    def file_name(self) -> str:
        return self.stem + self.suffix


class Plan(msgspec.Struct, frozen=True):
    """`cases` stand in the tables; `unlisted` ones own faulty packs and stand in no table."""

    seed: int
    scale: float
    packs: tuple[Pack, ...]
    cases: tuple[Case, ...]
    unlisted: tuple[Case, ...]

    def packs_of(self, batch: str) -> tuple[Pack, ...]:
        return tuple(pack for pack in self.packs if pack.batch == batch)

    def good_packs_of(self, batch: str) -> tuple[Pack, ...]:
        return tuple(pack for pack in self.packs_of(batch) if pack.fault is None)

    def cases_of(self, batch: str) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.batch == batch)

    def case(self, number: str) -> Case:
        return next(case for case in (*self.cases, *self.unlisted) if case.number == number)

    def twin(self, pack: Pack) -> Pack:
        """The good pack whose bytes a duplicate repeats."""
        return self.good_packs_of(pack.batch)[1]


class Sizes(msgspec.Struct, frozen=True):
    """What `scale` means. At 1.0: 64 good packs, > 2 GB, > 5,000 rows; small scales take seconds."""

    good_per_batch: int
    unknown_cases_per_batch: int
    columns: tuple[int, int]
    big_columns: int
    big_rows: int
    variants: int


def sizes(scale: float) -> Sizes:
    whole = min(1.0, scale)
    side = whole**0.5
    return Sizes(
        good_per_batch=max(11, round(32 * whole)),
        unknown_cases_per_batch=max(60, round(820 * whole)),
        columns=(max(2, round(8 * side)), max(3, round(12 * side))),
        big_columns=max(4, round(57 * side)),
        big_rows=max(3, round(50 * side)),
        variants=max(1, round(8 * whole)),
    )


def make_plan(*, seed: int = 7, scale: float = 1.0) -> Plan:
    rng = np.random.default_rng([seed, 10])
    people = _people(rng)
    wanted = sizes(scale)
    packs: list[Pack] = []
    cases: list[Case] = []
    unlisted: list[Case] = []
    for number, batch in enumerate(BATCHES):
        mine = _cases(rng, people=people, batch=batch, first=10_000 + 40_000 * number, wanted=wanted)
        good = _packs(rng, cases=mine, batch=batch, first_index=len(packs), wanted=wanted)
        faulty = _faulty(good, batch=batch, first=90_000 + 100 * number)
        packs += [*good, *faulty]
        unlisted += [
            msgspec.structs.replace(mine[0], number=pack.case, person=people[3900 + pack.index]) for pack in faulty
        ]
        owners = {pack.case for pack in good}
        cases += [msgspec.structs.replace(case, known=case.number in owners) for case in mine]
    return Plan(seed=seed, scale=scale, packs=tuple(packs), cases=tuple(cases), unlisted=tuple(unlisted))


# --- people -----------------------------------------------------------------------------------------

_HEADS = (
    "Brinken Oldenqu Vanderm Hollowb Quistga Thornfe Marzenb Kettler Ravensk Lindquo Aldersh Fairwea "
    "Wickham Stolzen Grünewa Bergstr Castell Dunmorr Eschenb Hawthor Ivarsso Jorgens Klopsto Lansdow "
    "Mühlenb Northca Ostrowi Pemberl Rosenkr Silberh Tannenb Underwo Volkenr Westerb Yarborg Zimmert "
    "Blackth Corvinu Delacro Feuerba"
).split()
_TAILS = (
    "aard enhal orsson ingray ilovec umbold yvette wickel ulrand otheby acinth erholm iansky oldsen"
    " ackery ombeck isgard estwyn ubrook enfors ivelda onrath elgrim andcoe urbain".split()
)
_FIRST = (
    "Katarzyna Leopold Frédéric Theodora Gwendolyn Balthasar Ottilie Ferdinand Henrietta Ignatius "
    "Johanna Kasimir Ludovica Maximilian Nepomuk Octavia Philippa Quentin Rosalind Sebastian Tatjana "
    "Ulrike Valentin Wilhelmina Xaver Yolanda Zacharias Anneliese Bartholomew Cordelia"
).split()
_STREETS = "Hollowmere Fennimore Quarrybank Larchwood Osterhagen Pilgrimsway Rookhaven Sallowfield".split()


def _people(rng: np.random.Generator) -> list[Person]:
    """Surnames of at least eight letters that occur nowhere else, so that a hit is never chance."""
    lasts = [head + tail for head, tail in product(_HEADS, _TAILS)]
    rng.shuffle(lasts)
    mrns = rng.choice(39_000_000, size=4000, replace=False) + 60_000_000
    return [_person(rng, last=lasts[n % len(lasts)], mrn=f"KH{mrns[n]}") for n in range(4000)]


def _person(rng: np.random.Generator, *, last: str, mrn: str) -> Person:
    first = _FIRST[int(rng.integers(len(_FIRST)))]
    plain = last.lower().replace("ü", "ue")
    return Person(
        first=first,
        last=last,
        sex="F" if first[-1] in "aeyd" else "M",
        mrn=mrn,
        born=date(1931, 1, 1) + timedelta(days=int(rng.integers(0, 365 * 64))),
        address=f"{int(rng.integers(1000, 9999))} {_STREETS[int(rng.integers(len(_STREETS)))]} Lane",
        zip=f"{int(rng.integers(10000, 99999))}",
        phone=f"({int(rng.integers(200, 999))}) {int(rng.integers(200, 999))}-{int(rng.integers(1000, 9999))}",
        email=f"{plain}{int(rng.integers(10, 99))}@kestrelmail.example",
    )


def staff() -> dict[str, list[str]]:
    """Pathologists, scanner operators and scanner serial numbers: identifiers too."""
    rng = np.random.default_rng(11)
    lasts = [head + tail for head, tail in product(("Quaglia", "Schmied", "Tremblo", "Vasquen"), _TAILS)]
    rng.shuffle(lasts)
    return {
        "pathologist": [f"Dr. {_FIRST[n]} {lasts[n]}" for n in range(8)],
        "operator": [f"op.{lasts[10 + n].lower()}" for n in range(6)],
        "serial": [f"SS{int(rng.integers(7_000_000, 7_999_999))}" for _ in range(4)],
    }


# --- cases and packs ----------------------------------------------------------------------------------

DIAGNOSES = ("PRAD", "PRAD", "PRAD", "BRCA", "BRCA", "LUAD", "COAD", "SKCM")
_BLOCKS = ("A1", "A2", "B1", "B3", "C2")
_STAINS = ("H&E", "H&E", "H&E", "PAS")
_STAGES = ("I", "II", "IIA", "III", "IV")


def _cases(rng: np.random.Generator, *, people: list[Person], batch: str, first: int, wanted: Sizes) -> list[Case]:
    """The first cases will own packs; numbers are spread so that they do not tell the order."""
    count = wanted.good_per_batch + wanted.unknown_cases_per_batch
    numbers = first + rng.choice(30_000, size=count, replace=False)
    start = 0 if batch == BATCHES[0] else 2000
    names = staff()["pathologist"]
    return [
        _case(rng, number=f"S26-{number:06d}", batch=batch, person=people[start + n], doctor=names[n % 8], n=n)
        for n, number in enumerate(numbers)
    ]


def _case(rng: np.random.Generator, *, number: str, batch: str, person: Person, doctor: str, n: int) -> Case:
    diagnosis = DIAGNOSES[n % len(DIAGNOSES)]
    received = date(2026, 9, 1) + timedelta(days=int(rng.integers(0, 60)))
    return Case(
        number=number,
        batch=batch,
        person=person,
        pathologist=doctor,
        received=received,
        diagnosis=diagnosis,
        gleason=int(rng.integers(6, 11)) if diagnosis == "PRAD" else None,
        stage=_STAGES[int(rng.integers(len(_STAGES)))],
        size_mm=round(float(rng.uniform(2, 60)), 1),
        event=received + timedelta(days=int(rng.integers(5, 25))),
        status="alive" if rng.random() < 0.8 else "deceased",
        known=False,
    )


def _packs(rng: np.random.Generator, *, cases: list[Case], batch: str, first_index: int, wanted: Sizes) -> list[Pack]:
    """Two in five cases have a second slide; looks alternate; the first pack of batch 1 is the big one."""
    packs: list[Pack] = []
    case_at, second = 0, False
    for n in range(wanted.good_per_batch):
        big = n == 0 and batch == BATCHES[0]
        look = (texture.GT450, texture.CLASSIC, texture.NANOZOOMER)[n % 3]
        packs.append(_pack(rng, cases[case_at], n=n, index=first_index + n, look=look.name, big=big, wanted=wanted))
        second = not second and n % 5 in (1, 3)
        case_at += 0 if second else 1
    return packs


def _pack(rng: np.random.Generator, case: Case, *, n: int, index: int, look: str, big: bool, wanted: Sizes) -> Pack:
    members = staff()
    block = _BLOCKS[n % len(_BLOCKS)]
    stain = "Ki-67" if look == texture.NANOZOOMER.name else _STAINS[n % len(_STAINS)]
    low, high = wanted.columns
    return Pack(
        index=index,
        batch=case.batch,
        stem=f"{case.number}_{block}_{stain}",
        suffix=".ndpi" if look == texture.NANOZOOMER.name else ".svs",
        look=look,
        case=case.number,
        block=block,
        stain=stain,
        columns=wanted.big_columns if big else int(rng.integers(low, high + 1)),
        rows=wanted.big_rows if big else int(rng.integers(low, high + 1)),
        big=big,
        serial=members["serial"][n % 4],
        operator=members["operator"][n % 6],
        scanned=datetime(2026, 10, 5, 6, 30) + timedelta(minutes=int(rng.integers(0, 40_000)), seconds=n % 60),
    )


def _faulty(good: list[Pack], *, batch: str, first: int) -> list[Pack]:
    """Faulty packs belong to cases that no table mentions, so the ledger does not depend on them."""
    model = {"no-thumbnail": good[3], "truncated": good[4], "rubbish": good[6], "unsupported": good[6]}
    packs = []
    for n, fault in enumerate(FAULTS[batch]):
        # The same bytes under two names: everything but the name is that of the pack it repeats.
        like = good[1] if fault == "duplicate" else model[fault]
        case = f"S26-{first + 17 * n + 3:06d}"
        packs.append(
            msgspec.structs.replace(
                like,
                index=good[0].index + len(good) + n,
                stem=f"{case}_{like.block}_{like.stain}",
                suffix=".czi" if fault == "unsupported" else like.suffix,
                case=case,
                fault=fault,
            )
        )
    return packs
