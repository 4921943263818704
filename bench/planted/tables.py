"""Three tables of one hospital in other dialects: separators, encodings, quotes, comments, dates, and people in every
cell that a person types."""

from __future__ import annotations

import csv
import datetime
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.planted.people import Person

CATEGORIES = {
    "slide_file": "C4",
    "accession no": "C4",
    "barcode": "C1",
    "scanned_by": "C1",
    "mrn": "C1",
    "patient name": "C1",
    "address": "C1",
    "phone": "C1",
    "e-mail": "C1",
    "ssn": "C1",
    "scan_date": "C2",
    "dob": "C2",
    "zip": "C2",
    "age": "C2",
    "event_date": "C2",
    "clinical_note": "C3",
}
KEPT = {
    "csv1": ["stain", "AppMag", "mpp", "file_kb"],
    "csv2": ["Sex", "ICD10", "Grade", "TumourSize_mm"],
    "csv3": ["status", "days_from_scan", "risk_score"],
}
DATES = ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y%m%d", "%d-%b-%Y", "%Y/%m/%d")
STAINS = ("H&E", "HE", "PAS", "Ki-67", "HER2", "PD-L1", "ER", "PR", "CK7", "p53", "CD20", "TTF-1", "S100")
CODES = ("C34.1", "C50.9", "C61", "D05.1", "C18.7", "C43.5", "C64", "D12.6", "C56", "C73", "N40", "K51.9")
NOTES = (
    "Pt {name} (MRN {mrn}) seen by {doctor} on {when}; call {phone}.",
    "e-mail {email}; lives at {street}, {town} {post}. Stage IIA.",
    "{family} geb. {birth}; Tel. {phone}; siehe {accession}",
    'Discussed with {doctor} at {hospital}. "{given}" to return; Grade 2, ER+.',
    "{NAME}\nsecond line {mrn} {insurance}",
    "no change",
)


@dataclass
class Dialect:
    encoding: str
    delimiter: str
    newline: str
    quoting: Literal[0, 1]
    comments: bool


def dialect(rng: random.Random) -> Dialect:
    return Dialect(
        rng.choice(["utf-8", "utf-8-sig", "utf-16", "utf-8"]),
        rng.choice([",", ";", "\t", "|"]),
        rng.choice(["\n", "\r\n"]),
        rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        rng.random() < 0.5,
    )


@dataclass
class Planted:
    data: bytes
    atoms: dict[str, str]
    truth: dict[str, object]


def slides(people: Sequence[Person], rng: random.Random) -> Planted:
    head = ["slide_file", "barcode", "stain", "AppMag", "mpp", "scan_date", "scanned_by", "file_kb"]
    rows: list[list[str]] = []
    atoms: dict[str, str] = {}
    way = rng.choice(DATES)
    for who in people:
        for number in range(rng.choice([1, 1, 2])):
            name = f"{who.accession.replace('/', '_')}_{who.family}_{number + 1}"
            name = rng.choice(
                [name, name.upper(), f"D:\\export\\{who.mrn.replace('/', '_')}\\{name}", f"/mnt/x/{name}", f" {name} "]
            )
            when = f"{who.visit:{way}}"
            rows.append(
                [
                    name + rng.choice([".svs", ".ndpi", ".SVS", ".mrxs", ""]),
                    who.barcode,
                    rng.choice(STAINS),
                    rng.choice(["20", "40", "40x"]),
                    rng.choice(["0.2500", "0.499", "0.2525"]),
                    when,
                    who.login,
                    str(rng.randint(10**4, 10**7)),
                ]
            )
            atoms |= {who.accession: "id", who.barcode: "id", who.login: "staff", when: "date", who.family: "person"}
    return _planted("csv1", head, rows, atoms, people, rng)


def cases(people: Sequence[Person], rng: random.Random) -> Planted:
    head = [
        "Accession No",
        "MRN",
        "Patient Name",
        "DOB",
        "Age",
        "Sex",
        "Address",
        "ZIP",
        "Phone",
        "E-mail",
        "SSN",
        "ICD10",
        "Grade",
        "TumourSize_mm",
    ]
    rows: list[list[str]] = []
    atoms: dict[str, str] = {}
    way = rng.choice(DATES[:2])
    for who in people:
        born = f"{who.birth:{way}}"
        rows.append(
            [
                who.accession,
                who.mrn,
                who.full,
                born,
                str(rng.choice([45, 67, 88, 89, 90, 91, 101])),
                rng.choice("FM"),
                f"{who.street}, {who.town}",
                who.postcode,
                who.phone,
                who.email,
                who.insurance,
                rng.choice(CODES),
                rng.choice(["1", "2", "3", "G2", ""]),
                rng.choice(["12.5", "7", "33.1", ""]),
            ]
        )
        atoms |= who.words() | {born: "date", who.postcode: "contact"}
        for staff in (who.doctor, who.login, who.hospital, who.serial, who.station):
            atoms.pop(staff, None)
    return _planted("csv2", head, rows, atoms, people, rng, age="Age", mrn="MRN")


def outcomes(people: Sequence[Person], rng: random.Random) -> Planted:
    head = ["mrn", "event_date", "status", "days_from_scan", "clinical_note", "risk_score"]
    rows: list[list[str]] = []
    atoms: dict[str, str] = {}
    way = rng.choice(DATES)
    for who in people:
        when = who.visit + datetime.timedelta(days=rng.randint(20, 900))
        note = rng.choice(NOTES).format(
            name=who.full,
            NAME=who.full.upper(),
            mrn=who.mrn,
            doctor=who.doctor,
            when=f"{when:%B %d, %Y}",
            phone=who.phone,
            email=who.email,
            street=who.street,
            town=who.town,
            post=who.postcode,
            family=who.family,
            given=who.given,
            birth=f"{who.birth:%d.%m.%Y}",
            accession=who.accession,
            hospital=who.hospital,
            insurance=who.insurance,
        )
        rows.append(
            [
                who.mrn,
                f"{when:{way}}",
                rng.choice(["alive", "deceased", "lost to follow-up"]),
                str(rng.randint(1, 4000)),
                note,
                f"{rng.random():.3f}",
            ]
        )
        atoms |= {who.mrn: "id", f"{when:{way}}": "date"}
        atoms |= {word: kind for word, kind in who.words().items() if word in note}
    return _planted("csv3", head, rows, atoms, people, rng, mrn="mrn")


def _planted(
    name: str,
    head: list[str],
    rows: list[list[str]],
    atoms: dict[str, str],
    people: Sequence[Person],
    rng: random.Random,
    *,
    age: str | None = None,
    mrn: str | None = None,
) -> Planted:
    way = dialect(rng)
    if rng.random() < 0.4:  # a column that nobody declared
        head = [*head, "remark"]
        rows = [[*row, f"ask {who.full}"] for row, who in zip(rows, [*people, *people], strict=False)]
        atoms |= {who.family: "person" for who in people[: len(rows)]}
    stream = io.StringIO()
    if way.comments:
        stream.write(f"# exported by {people[0].login} at {people[0].hospital}{way.newline}")
        atoms |= {people[0].login: "staff"}
    writer = csv.writer(stream, delimiter=way.delimiter, lineterminator=way.newline, quoting=way.quoting)
    writer.writerows([head, *rows])
    truth: dict[str, object] = {
        "encoding": way.encoding,
        "delimiter": way.delimiter,
        "keep_columns": KEPT[name],
        "rows": len(rows),
        "age_column": age,
        "colcat": CATEGORIES,
        "mrn_column": mrn,
    }
    return Planted(stream.getvalue().encode(way.encoding), atoms, truth)
