"""Three tables per batch in three dialects, with planted mess, and the ledger they should end in.

imagery  (CSV1)  UTF-8 with BOM, comma, ISO dates; names the original image files.
cases    (CSV2)  UTF-16, tab, US dates; keyed by case, reached from an image through imagery.
outcomes (CSV3)  cp1252, semicolon, German dates and decimal commas; keyed by case.

Every row is made together with the state it should end in, so the truth is not a second guess at
matching. The rules behind the states:

- a row whose key names an image of the batch (directly, or through a matched imagery row) is
  `matched`; identical repetitions of it are `duplicate`;
- rows of one key that disagree are all `conflict`, and so is every image they reach;
- a row that reaches no image of the batch is `row-without-image` (a misspelt extension is not guessed
  at); a row for an image of an earlier batch is `late`;
- an image that no imagery row names is `image-without-row`; a scan's second name is `duplicate`.

No table mentions a faulty pack.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Literal

import msgspec

from mover.demo.plan import BATCHES, Case, Pack, Plan

State = Literal["matched", "row-without-image", "duplicate", "conflict", "late"]
TABLES = ("imagery", "cases", "outcomes")
RECORDS = "records"  # folder of the source tier that holds one folder of tables per batch
# Further exports beside the batches' own: the first batch's outcomes with the conflict settled, and a file
# with a column that no policy lists.
VERSIONS = {"corrected": f"{BATCHES[0]}-corrected", "unlisted": f"{BATCHES[1]}-unlisted"}
COHORT = "diagnosis = 'PRAD' and gleason >= 7"

Row = tuple[str, ...]


class Dialect(msgspec.Struct, frozen=True):
    encoding: str
    delimiter: str
    date: str
    bom: bytes = b""


DIALECTS = {
    "imagery": Dialect(encoding="utf-8", bom=b"\xef\xbb\xbf", delimiter=",", date="%Y-%m-%d"),
    "cases": Dialect(encoding="utf-16-le", bom=b"\xff\xfe", delimiter="\t", date="%m/%d/%Y"),
    "outcomes": Dialect(encoding="cp1252", delimiter=";", date="%d.%m.%Y"),
}


# What becomes of each column stands in policies/records.yaml; a test holds the two together.
COLUMNS: dict[str, tuple[str, ...]] = {
    "imagery": (
        "image_file", "case_no", "block", "stain", "stain_remark", "scanner", "scanner_serial", "operator",
        "scanned_at", "magnification", "mpp",
    ),
    "cases": (
        "Case", "MRN", "Patient Name", "DOB", "Sex", "Age", "Address", "ZIP", "Phone", "E-mail", "Pathologist",
        "Received", "Clinical Note",
    ),
    "outcomes": (
        "Fallnummer", "Diagnose", "Gleason", "Stadium", "Groesse_mm", "Ereignisdatum", "Status", "Bemerkung",
    ),
}  # fmt: skip

_DIAGNOSIS_WORDS = {
    "PRAD": ("PRAD", "prostate adenocarcinoma", "Prostate Adenocarcinoma", "Adenokarzinom der Prostata"),
    "BRCA": ("BRCA", "breast invasive carcinoma", "Mammakarzinom"),
    "LUAD": ("LUAD", "lung adenocarcinoma"),
    "COAD": ("COAD", "colon adenocarcinoma", "Kolonkarzinom"),
    "SKCM": ("SKCM", "cutaneous melanoma", "Malignes Melanom"),
}
_STATUS_WORDS = {"alive": ("lebt", "alive"), "deceased": ("verstorben", "deceased")}
_SEX_WORDS = {"F": ("F", "female"), "M": ("M", "male")}
_MPP = {"gt450": "0.2631", "classic": "0.4990", "nanozoomer": "0.4565"}
_SCANNERS = {"gt450": "Aperio GT450", "classic": "Aperio AT2", "nanozoomer": "Hamamatsu S360"}


class Mess(msgspec.Struct, frozen=True):
    """Positions among the batch's good packs. Every fifth pack is the only one of its case."""

    duplicates: tuple[int, ...]
    missing: tuple[int, ...]  # images that no imagery row names
    misspelt: tuple[int, ...]  # `.sv`
    conflict: tuple[int, ...]  # single-pack cases with two diagnoses
    late: tuple[int, ...]  # positions in the batch before, whose imagery row comes only now


MESS = {
    BATCHES[0]: Mess(duplicates=(0, 1, 6), missing=(7, 10), misspelt=(4,), conflict=(5,), late=()),
    BATCHES[1]: Mess(duplicates=(0, 6), missing=(7,), misspelt=(), conflict=(), late=(10,)),
}


class Table(msgspec.Struct, frozen=True):
    """Rows in order with the state each should end in."""

    name: str
    rows: tuple[tuple[Row, State], ...]

    def states(self) -> dict[str, int]:
        return dict(sorted(Counter(state for _, state in self.rows).items()))


def make_tables(plan: Plan, batch: str) -> dict[str, Table]:
    reached = reached_cases(plan, batch)
    return {
        "imagery": Table(name="imagery", rows=_imagery(plan, batch)),
        "cases": Table(name="cases", rows=_cases(plan, batch, reached)),
        "outcomes": Table(name="outcomes", rows=_outcomes(plan, batch, reached)),
    }


def reached_cases(plan: Plan, batch: str) -> set[str]:
    """Cases with at least one image that a well-spelt imagery row names."""
    lost = {*MESS[batch].missing, *MESS[batch].misspelt}
    return {pack.case for n, pack in enumerate(plan.good_packs_of(batch)) if n not in lost}


def write_tables(source: Path, plan: Plan) -> dict[str, dict[str, Table]]:
    """All tables of all batches under `source/records/`; the truth about them."""
    truth = {}
    for batch in BATCHES:
        folder = source / RECORDS / batch
        folder.mkdir(parents=True, exist_ok=True)
        truth[batch] = make_tables(plan, batch)
        for table in truth[batch].values():
            (folder / f"{table.name}.csv").write_bytes(encode(table))
    _write_corrected(source / RECORDS / VERSIONS["corrected"], truth[BATCHES[0]]["outcomes"], plan)
    _write_unlisted(source / RECORDS / VERSIONS["unlisted"], truth[BATCHES[1]]["outcomes"])
    return truth


def encode(table: Table, *, extra: str = "") -> bytes:
    """RFC 4180 in the table's own dialect; `extra` appends a column of that name."""
    dialect = DIALECTS[table.name]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=dialect.delimiter)
    writer.writerow([*COLUMNS[table.name], *([extra] if extra else [])])
    writer.writerows([*row, "see chart"] if extra else row for row, _ in table.rows)
    return dialect.bom + stream.getvalue().encode(dialect.encoding)


# --- imagery ------------------------------------------------------------------------------------------


def _imagery(plan: Plan, batch: str) -> tuple[tuple[Row, State], ...]:
    mess, rows = MESS[batch], list[tuple[Row, State]]()
    for n, pack in enumerate(plan.good_packs_of(batch)):
        if n in mess.missing:
            continue
        state: State = "row-without-image" if n in mess.misspelt else "matched"
        row = _imagery_row(pack, name=_spelling(pack, n, misspelt=n in mess.misspelt), case=plan.case(pack.case))
        rows.append((row, state))
        if n in mess.duplicates:
            rows.append((row, "duplicate"))
    rows += [(_unknown_image(plan, case, n), "row-without-image") for n, case in enumerate(_unknown(plan, batch))]
    for n in mess.late:
        pack = plan.good_packs_of(BATCHES[BATCHES.index(batch) - 1])[n]
        rows.append((_imagery_row(pack, name=pack.file_name, case=plan.case(pack.case)), "late"))
    return tuple(rows)


def _spelling(pack: Pack, n: int, *, misspelt: bool) -> str:
    """How people type file names. All but the misspelt extension are the same canonical name."""
    if misspelt:
        return pack.stem + ".sv"
    spellings = {2: "C:\\Scans\\2026\\" + pack.file_name, 3: pack.file_name.upper(), 6: f" {pack.file_name} "}
    return spellings.get(n, pack.file_name)


def _imagery_row(pack: Pack, *, name: str, case: Case) -> Row:
    # The identifier in the neighbour of an enumerated column: somebody's name where a remark should be.
    remark = f"recut for {case.pathologist}" if pack.index % 6 == 0 else ""
    return (
        name,
        pack.case,
        pack.block,
        pack.stain,
        remark,
        _SCANNERS[pack.look],
        pack.serial,
        pack.operator,
        f"{pack.scanned:%Y-%m-%d %H:%M:%S}",
        "40" if pack.look == "gt450" else "20",
        _MPP[pack.look],
    )


def _unknown(plan: Plan, batch: str) -> list[Case]:
    return [case for case in plan.cases_of(batch) if not case.known]


def _unknown_image(plan: Plan, case: Case, n: int) -> Row:
    like = plan.good_packs_of(case.batch)[n % 11]
    stem = f"{case.number}_{like.block}_{like.stain}"
    return _imagery_row(
        msgspec.structs.replace(like, stem=stem, case=case.number, index=n), name=stem + like.suffix, case=case
    )


# --- cases and outcomes -------------------------------------------------------------------------------


def _case_state(case: Case, reached: set[str]) -> State:
    return "matched" if case.number in reached else "row-without-image"


def _repeated(plan: Plan, batch: str, reached: set[str]) -> set[str]:
    """The first two reached cases come twice, word for word."""
    return {case.number for case in [c for c in plan.cases_of(batch) if c.number in reached][:2]}


def _conflicting(plan: Plan, batch: str) -> set[str]:
    return {plan.good_packs_of(batch)[n].case for n in MESS[batch].conflict}


def _cases(plan: Plan, batch: str, reached: set[str]) -> tuple[tuple[Row, State], ...]:
    rows, repeated = list[tuple[Row, State]](), _repeated(plan, batch, reached)
    for n, case in enumerate(plan.cases_of(batch)):
        rows.append((_case_row(case, n), _case_state(case, reached)))
        if case.number in repeated:
            rows.append((rows[-1][0], "duplicate"))
    return tuple(rows)


def _case_row(case: Case, n: int) -> Row:
    who = case.person
    note = f"Pt {who.name} (MRN {who.mrn}) seen by {case.pathologist}; call {who.phone}." if n % 4 == 0 else ""
    if n % 40 == 1:
        note = f"Family history, see letter.\nContact {who.email}"
    return (
        case.number,
        who.mrn,
        who.name,
        f"{who.born:%m/%d/%Y}",
        _SEX_WORDS[who.sex][n % 2],
        str(2026 - who.born.year),
        who.address,
        who.zip,
        who.phone,
        who.email,
        case.pathologist,
        f"{case.received:%m/%d/%Y}",
        note,
    )


def _outcomes(plan: Plan, batch: str, reached: set[str]) -> tuple[tuple[Row, State], ...]:
    rows, repeated = list[tuple[Row, State]](), _repeated(plan, batch, reached)
    conflicting = _conflicting(plan, batch)
    for n, case in enumerate(plan.cases_of(batch)):
        if case.number in conflicting:
            other = "LUAD" if case.diagnosis != "LUAD" else "COAD"
            twice = (case.diagnosis, other)
            rows += [(_outcome_row(case, n, diagnosis=diagnosis), "conflict") for diagnosis in twice]
            continue
        rows.append((_outcome_row(case, n, diagnosis=case.diagnosis), _case_state(case, reached)))
        if case.number in repeated:
            rows.append((rows[-1][0], "duplicate"))
    return tuple(rows)


def _outcome_row(case: Case, n: int, *, diagnosis: str) -> Row:
    words, status = _DIAGNOSIS_WORDS[diagnosis], _STATUS_WORDS[case.status]
    note = f"Rücksprache mit {case.pathologist} wegen {case.person.name}" if n % 7 == 0 else ""
    return (
        case.number,
        words[n % len(words)],
        "" if case.gleason is None else str(case.gleason),
        case.stage,
        f"{case.size_mm:.1f}".replace(".", ","),
        f"{case.event:%d.%m.%Y}",
        status[n % 2],
        note,
    )


# --- later versions and refused files -----------------------------------------------------------------


def _write_corrected(folder: Path, outcomes: Table, plan: Plan) -> None:
    """The same cumulative export again, one diagnosis settled: the conflict is resolved by its file."""
    settled, seen = list[tuple[Row, State]](), set[str]()
    conflicting = _conflicting(plan, BATCHES[0])
    for row, state in outcomes.rows:
        if row[0] in conflicting and row[0] in seen:
            continue
        seen.add(row[0])
        settled.append((row, "matched" if state == "conflict" else state))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcomes.csv").write_bytes(encode(Table(name="outcomes", rows=tuple(settled))))


def _write_unlisted(folder: Path, outcomes: Table) -> None:
    """A file with one column that no policy lists: it must be stopped, whatever the column holds."""
    folder.mkdir(parents=True, exist_ok=True)
    table = Table(name="outcomes", rows=outcomes.rows[:40])
    (folder / "outcomes.csv").write_bytes(encode(table, extra="Notiz2"))


# --- the expected ledger --------------------------------------------------------------------------------


def images_ledger(plan: Plan, batch: str) -> dict[str, int]:
    """States of the batch's images once its own tables are in. Packs in quarantine are images no row names;
    the second name of a scan is a duplicate of the first."""
    mess, good = MESS[batch], plan.good_packs_of(batch)
    faults = [pack.fault for pack in plan.packs_of(batch) if pack.fault]
    without = len({*mess.missing, *mess.misspelt})
    repeated = faults.count("duplicate")
    counts = {
        "matched": len(good) - without - len(mess.conflict),
        "image-without-row": without + len(faults) - repeated,
        "conflict": len(mess.conflict),
        "duplicate": repeated,
    }
    return {state: count for state, count in counts.items() if count}


def cohort(plan: Plan) -> list[Pack]:
    """Matched images that `COHORT` selects, before late rows and corrections."""
    chosen = []
    for batch in BATCHES:
        mess = MESS[batch]
        lost = {*mess.missing, *mess.misspelt, *mess.conflict}
        for n, pack in enumerate(plan.good_packs_of(batch)):
            case = plan.case(pack.case)
            if n not in lost and case.diagnosis == "PRAD" and (case.gleason or 0) >= 7:
                chosen.append(pack)
    return chosen
