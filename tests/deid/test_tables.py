"""Tables of a release, from bytes to bytes: any dialect in, one clean table out, nothing of anybody in it."""

from __future__ import annotations

import csv
import io
import os
import random
import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.decide.drafts import draft_yaml
from mover.decide.kinship import kinship, words_by_patient
from mover.deid.identity import Aliases, Subject
from mover.deid.search import Seeker
from mover.deid.tables import Order, PreparedTable, TableSurvey, image_key, prepare_table, survey_table
from mover.deid.tables_child import draft_source, prepare_source, survey_source
from mover.errors import ChangedWhileReading, MoverError, PlaceUnknown, StructureInvalid
from mover.model.ids import make_number
from mover.model.policy import DeidPolicy, TableRule
from mover.model.source import MemorySource
from mover.policy import default_folder, load_profile
from mover.sandbox import Sandbox

YEAR = 2026
EXAMPLE = default_folder() / "deid" / "example-three-csv.yaml"

COLUMNS = {
    "Accession No": {"class": "case"},
    "MRN": {"class": "patient"},
    "Name": {"class": "drop"},
    "DOB": {"class": "date", "dates": "year", "birth": True, "format": "%d.%m.%Y"},
    "Visit": {"class": "date", "dates": "shift"},
    "Age": {"class": "age", "quasi": True},
    "Sex": {"class": "enum", "values": ["F", "M"], "quasi": True},
    "ICD10": {"class": "code", "code": "icd10"},
    "Size": {"class": "number", "decimal": "any", "minimum": 0, "maximum": 1000},
    "Note": {"class": "text"},
}
HEADER = list(COLUMNS)
ROWS = [
    ["D19-1", "99845614", "Zoë Kłos", "02.10.1951", "2019-07-11", "91", "F", "C34.1", "18.7", "Pt Zoë"],
    ["d19-1", "99845614", "Zoë Kłos", "02.10.1951", "2019-08-10", "52", "f", "C50.9", "0,5", 'says "no"'],
    ["D20-2", "64189189", "Bo Li, Jr.", "25.02.1968", "2020-01-01", "", "M", "", "", "two\nlines"],
]


def rule(**options: object) -> TableRule:
    return msgspec.convert({"name": "cases", "columns": COLUMNS, **options}, TableRule)


def as_csv(rows: list[list[str]], *, delimiter: str = ",", end: str = "\r\n", lead: str = "") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end).writerows(rows)
    return lead + out.getvalue()


class Release:
    """What a caller does between the two calls: joins what the tables say, and mints what is missing."""

    def __init__(self, *rules: TableRule, seed: int = 1) -> None:
        self.rules = rules
        self.dice = random.Random(seed)
        self.aliases = Aliases()
        self.surveys: list[TableSurvey] = []

    def survey(self, data: bytes) -> TableSurvey:
        survey = survey_source(MemorySource(data), Order(rules=self.rules))
        self.surveys.append(survey)
        kin = kinship(link for one in self.surveys for link in one.links)
        subjects, keys = dict(self.aliases.subjects), dict(self.aliases.keys)
        for key in survey.identity.entities:
            if key.startswith("patient|"):
                subjects.setdefault(key, Subject(self._number(), self.dice.randrange(-3000, 3000)))
            else:
                keys.setdefault(key, self._number())
        self.aliases = Aliases(subjects=subjects, keys=keys, links=kin.patient_of)
        return survey

    def prepare(self, data: bytes, *, minimum_k: int = 0) -> PreparedTable:
        words = words_by_patient([one.words for one in self.surveys], self.aliases.links)
        order = Order(
            rules=self.rules, aliases=self.aliases, words=words, minimum_k=minimum_k, this_year=YEAR
        )  # fmt: skip
        return prepare_source(MemorySource(data), order)

    def _number(self) -> str:
        return make_number(self.dice.randbytes(10))


def released(data: bytes, *rules: TableRule, minimum_k: int = 0) -> PreparedTable:
    release = Release(*(rules or (rule(),)))
    release.survey(data)
    return release.prepare(data, minimum_k=minimum_k)


def table_of(prepared: PreparedTable) -> list[list[str]]:
    return list(csv.reader(io.StringIO(prepared.data.decode(), newline="")))


DIALECTS = [
    (encoding, delimiter, end)
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")
    for delimiter, end in ((",", "\r\n"), (";", "\n"), ("\t", "\r\n"), ("|", "\n"))
]


@pytest.mark.parametrize(("encoding", "delimiter", "end"), DIALECTS)
def test_one_table_comes_out_of_every_dialect(encoding: str, delimiter: str, end: str) -> None:
    """Three departments export three dialects; the release has one."""
    data = as_csv([HEADER, *ROWS], delimiter=delimiter, end=end).encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data
    out = released(data)
    assert out.data == released(as_csv([HEADER, *ROWS]).encode()).data
    assert not out.data.startswith(b"\xef\xbb\xbf") and out.data.endswith(b"\r\n") and b"Z" not in out.data[100:200]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (as_csv([HEADER, *ROWS[1:]]).replace("Zoë Kłos", "Zoé Weiß").encode("cp1252"), {}),
        (as_csv([HEADER, *ROWS]).replace("Zoë", "Zoé").encode("cp1250"), {"encoding": "cp1250"}),
        (as_csv([HEADER, *ROWS[1:]]).replace("Kłos", "Weiß").encode("latin-1"), {"encoding": "latin-1"}),
        (as_csv([HEADER, *ROWS], lead="# by Dr. Kowalczyk, 02/18/2017\r\n# again\r\n").encode(), {}),
        (as_csv([HEADER, *ROWS], delimiter=";", lead="sep=;\r\n").encode(), {}),
        (as_csv([HEADER, *ROWS[:1], HEADER, [""] * 10, *ROWS[1:]]).encode(), {}),
        (as_csv([[" mrn "] + [name.upper() for name in HEADER if name != "MRN"]] + [
            [row[1], row[0], *row[2:]] for row in ROWS]).encode(), {}),
    ],
)  # fmt: skip
def test_comments_repeated_headers_and_old_encodings_are_read(data: bytes, options: dict[str, object]) -> None:
    table = table_of(released(data, rule(**options)))
    assert sorted(table[0]) == sorted(name for name in HEADER if name not in ("Name", "Note"))
    assert len(table) in (3, 4) and "Kowalczyk" not in str(table)


def test_rows_joins_and_research_columns_survive() -> None:
    out = released(as_csv([HEADER, *ROWS]).encode())
    [header, *rows] = table_of(out)
    assert header == ["Accession No", "MRN", "DOB", "Visit", "Age", "Sex", "ICD10", "Size"]
    column = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    assert column["Accession No"][0] == column["Accession No"][1] != column["Accession No"][2]
    assert column["MRN"][0] == column["MRN"][1] != column["MRN"][2]
    assert column["Sex"] == ["F", "f", "M"] and column["Size"] == ["18.7", "0,5", ""]
    assert column["Age"] == ["90", "52", ""] and column["DOB"] == ["1951", "1951", "1968"]
    assert column["ICD10"] == ["C34.1", "C50.9", ""]
    assert [outcome.name for outcome in out.columns if not outcome.kept] == ["Name", "Note"]
    assert out.evidence.cells_checked == 32 and out.evidence.strings_sought > 5


def test_one_patient_is_one_pseudonym_in_all_tables() -> None:
    """Slides know the case only; the cases say whose it is; both dates move by that patient's days."""
    slides = msgspec.convert(
        {"name": "slides", "columns": {
            "file": {"class": "image"}, "scanned": {"class": "date", "dates": "shift"},
            "barcode": {"class": "block", "pattern": "(?P<case>[^;]+);(?P<block>[^;]+);(?P<slide>.+)"}}},
        TableRule,
    )  # fmt: skip
    one = as_csv(
        [["file", "scanned", "barcode"], ["a.svs", "2019-07-11", "D19-1;B6;24"], ["b.svs", "2019-07-11", "D77-7;B6;24"]]
    )
    two = as_csv([HEADER, *ROWS])
    release = Release(slides, rule())
    release.survey(one.encode())
    release.survey(two.encode())
    first, second = table_of(release.prepare(one.encode())), table_of(release.prepare(two.encode()))
    assert first[1][2].split(";")[0] == second[1][0]
    assert first[1][1] == second[1][3] != "2019-07-11"
    assert first[2][1] == "" and release.prepare(one.encode()).columns[1].emptied == {"no-patient": 1}
    assert first[1][0] == release.aliases.keys[image_key(r"X:\y\A.SVS")]


def test_a_cell_of_another_class_becomes_a_hole_that_a_person_sees() -> None:
    rows = [["D1", "1", "A", "", "", "", "Kowalczyk", "", "", ""], *ROWS]
    out = released(as_csv([HEADER, *rows]).encode())
    assert table_of(out)[1][5] == ""
    [line] = out.review
    assert (line.line, line.column, line.reason, line.shape) == (2, "Sex", "misfit", "Aaaaaaaaa")


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (as_csv([[*HEADER, "Remark"], *([*row, "x"] for row in ROWS)]), PlaceUnknown, "column 11 (shape Aaaaaa)"),
        (as_csv([HEADER, ROWS[0][:-1]]), StructureInvalid, "line 2"),
        (as_csv([HEADER, [*ROWS[0], "more"]]), StructureInvalid, "line 2"),
        (as_csv([HEADER]) + '"open', StructureInvalid, "line 2"),
        ("", StructureInvalid, "no header"),
        (as_csv([["a", "b"], ["1", "2"]]), PlaceUnknown, "no table of the profile"),
        (as_csv([HEADER, *([*ROWS[0][:6], "Kowalczyk", *ROWS[0][7:]] for _ in range(9))]), PlaceUnknown, "9 of 9"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused_and_never_quoted(data: str, error: type[MoverError], words: str) -> None:
    with pytest.raises(error) as refused:
        released(data.encode())
    said = f"{refused.value.what} {refused.value.where} {refused.value.details}"
    assert words in said and "Kowalczyk" not in said and "99845614" not in said


def test_a_table_that_changed_after_it_was_surveyed_is_refused() -> None:
    """A name nobody asked the crosswalk for has no pseudonym; writing none would lose the join silently."""
    release = Release(rule())
    release.survey(as_csv([HEADER, *ROWS[:2]]).encode())
    with pytest.raises(ChangedWhileReading):
        release.prepare(as_csv([HEADER, *ROWS]).encode())


def test_rare_combinations_lose_their_quasi_identifiers_below_k() -> None:
    rows = [[f"D{n}", str(n), "", "", "", "52", "F", "", "", ""] for n in range(5)]
    rows += [["D9", "9", "", "", "", "17", "M", "C61", "3", ""], ["D8", "8", "", "", "", "18", "M", "C61", "3", ""]]
    out = released(as_csv([HEADER, *rows]).encode(), minimum_k=2)
    assert out.anonymity.k == 5 and out.anonymity.suppressed == 2 and out.anonymity.columns == ("Age", "Sex")
    assert [row[4:7] for row in table_of(out)[-2:]] == [["", "", "C61"]] * 2


FORMULAS = ("=cmd|'/c calc'!A0", "@SUM(1+1)", "+1+1", "-2+3", "\t=1")


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_begins_a_formula(cell: str) -> None:
    """A spreadsheet would run it on the machine of whoever opens the release."""
    scrubbed = {**COLUMNS, "Note": {"class": "text", "text": "scrub"}}
    rows = [[*ROWS[0][:-1], cell], [*ROWS[1][:6], cell, *ROWS[1][7:]], [*ROWS[2][:8], cell, ""]]
    out = released(as_csv([HEADER, *rows]).encode(), rule(columns=scrubbed))
    for row in table_of(out)[1:]:
        assert not any(text.startswith(("=", "@", "+", "-", "\t")) for text in row)


# --- planted, fuzzed, bounded ------------------------------------------------------------------------------


def _word(dice: random.Random) -> str:
    return "".join(dice.choice(string.ascii_lowercase + "éäłø") for _ in range(dice.randrange(6, 11))).title()


def _planted(dice: random.Random) -> str:
    digits = "".join(dice.choice(string.digits) for _ in range(dice.randrange(7, 11)))
    first, last = _word(dice), _word(dice)
    return dice.choice(
        [f"{first} {last}", f"{last}^{first}", digits, f"D{digits[:2]}-{digits[2:]}", f"{first}.{last}@mail.example",
         f"({digits[:3]}) {digits[3:6]}-{digits[6:]}", f"{digits[:4]} {last} Street", f"{last}\n{first}", f'"{last}"']
    )  # fmt: skip


@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_identifiers_planted_anywhere_are_never_in_the_output(seed: int) -> None:
    """Any cell of any column, comments, any encoding and delimiter, in any of the ways the search knows."""
    dice = random.Random(seed)
    scrubbed = {**COLUMNS, "Note": {"class": "text", "text": dice.choice(["scrub", "drop"])}}
    rows, planted = [], []
    for _ in range(dice.randrange(1, 8)):
        row = list(dice.choice(ROWS))
        for place in range(len(row)):
            if dice.random() < 0.35:
                row[place] = _planted(dice) if dice.random() < 0.8 or place > 8 else f"{row[place]} {_planted(dice)}"
                planted.append(row[place])
        rows.append(row)
    comment = _planted(dice).replace("\n", " ")
    encoding, delimiter, end = dice.choice(DIALECTS[:12])
    data = as_csv([HEADER, *rows], delimiter=delimiter, end=end, lead=f"# {comment}{end}").encode(encoding)
    out = released(data, rule(columns=scrubbed, misfits_percent=100))
    assert len(table_of(out)) == len(rows) + 1
    sought = [text for one in [*planted, comment] for text in (one, *one.replace("^", " ").split()) if len(text) >= 6]
    names = [text for text in sought if text.casefold().strip(",;") not in ("street", "lines") and _tells(text)]
    assert Seeker(names).find(_without_pseudonyms(out)) == 0


def _tells(text: str) -> bool:
    """Six digits of a telephone stand in some shifted date now and then."""
    return sum(c.isalpha() for c in text) >= 4 or sum(c.isdigit() for c in text) >= 7


def _without_pseudonyms(out: PreparedTable) -> bytes:
    """Sixteen random characters hold any five now and then; they are checked for what they are elsewhere."""
    [header, *rows] = table_of(out)
    kept = [place for place, name in enumerate(header) if name not in ("Accession No", "MRN")]
    return "\n".join(cell for row in rows for cell in (row[place] for place in kept)).encode()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_damaged_tables_are_refused_or_clean(seed: int) -> None:
    """Cut, doubled, with bytes changed: a refusal of the house or a table whose every cell is of its class."""
    dice = random.Random(seed)
    data = bytearray(
        as_csv([HEADER, *ROWS], delimiter=dice.choice(",;\t|")).encode(dice.choice(["utf-8", "utf-16", "utf-8-sig"]))
    )
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(data) + 1)
        damage = dice.choice(["cut", "byte", "double", "quote", "line"])
        if damage == "cut":
            del data[at:]
        elif damage == "byte":
            data[at : at + 1] = bytes([dice.randrange(256)])
        elif damage == "double":
            data[at:at] = data[: dice.randrange(200)]
        else:
            data[at:at] = b'"' if damage == "quote" else b"\r\n"
    try:
        out = released(bytes(data), rule(misfits_percent=100))
    except MoverError as error:
        assert "Kłos" not in f"{error.what}{error.where}{error.details}"
    else:
        assert b"K\xc5\x82os" not in out.data and b"Bo Li" not in out.data


# --- drafts ------------------------------------------------------------------------------------------------


def test_a_draft_of_an_unknown_table_is_a_profile_that_a_person_can_edit(tmp_path: Path) -> None:
    """Before anything moves: the draft loads, keeps only what typed classes hold, and quotes no cell."""
    header = ["MRN", "Patient Name", "Born: #1", "DOB", "visited", "Dx", "size", "ref", "stain", "Notes"]
    rows = [
        [f"{n:08d}", "Ann Lee", "x", "01.02.1950", "2019-07-11", "C50.9", f"{n}.5", f"{n * 7919:09d}", "HE", "Pt Ann"]
        for n in range(1, 31)
    ]
    drafted = draft_source(MemorySource(as_csv([header, *rows]).encode()))
    text = "kind: deid\nname: drafted\ntables:\n" + draft_yaml("cases", drafted.columns)
    (tmp_path / "p.yaml").write_text(text)
    profile = load_profile(tmp_path / "p.yaml").policy
    assert isinstance(profile, DeidPolicy)
    classes = {name: rule.rule for name, rule in profile.tables[0].columns.items()}
    assert classes == {
        "MRN": "patient", "Patient Name": "drop", "Born: #1": "drop", "DOB": "date", "visited": "date", "Dx": "code",
        "size": "number", "ref": "drop", "stain": "drop", "Notes": "text",
    }  # fmt: skip
    assert "Ann" not in text and "7919" not in text and drafted.rows == 30
    again = draft_source(MemorySource(as_csv([[name.upper() for name in header]], delimiter=";").encode()))
    assert again.signature == drafted.signature


# --- the front, and the sample pack ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_child_answers_and_refuses_like_the_house(sandbox: Sandbox, tmp_path: Path) -> None:
    """The same work behind the fence: descriptors in, values out, refusals as errors of the house."""
    (tmp_path / "t").write_bytes(as_csv([HEADER, *ROWS]).encode())
    (tmp_path / "bad").write_bytes(b"a;b\n1\n")
    profile = DeidPolicy(tables=(rule(),))
    release = Release(rule())
    fd, bad = os.open(tmp_path / "t", os.O_RDONLY), os.open(tmp_path / "bad", os.O_RDONLY)
    try:
        survey = survey_table(sandbox, fd, profile)
        assert survey == release.survey((tmp_path / "t").read_bytes())
        out = prepare_table(sandbox, fd, profile=profile, rule=survey.rule, aliases=release.aliases, this_year=YEAR)
        assert out.rows == 3 and out.recipe.copied_bytes == 0 and len(table_of(out)) == 4
        with pytest.raises(StructureInvalid):
            survey_table(sandbox, bad, profile)
        with pytest.raises(PlaceUnknown, match="declares no table"):
            survey_table(sandbox, fd, DeidPolicy())
    finally:
        os.close(fd)
        os.close(bad)


def samples() -> Path:
    folder = Path(os.environ.get("MOVER_SAMPLES", "")) / "planted_dev" / "originals" / "csv"
    if not os.environ.get("MOVER_SAMPLES") or not folder.is_dir():
        pytest.skip("MOVER_SAMPLES is not set")
    return folder


@pytest.mark.parametrize("text", ["drop", "scrub"])
def test_the_sample_hospitals_tables_come_out_clean_and_whole(text: str) -> None:
    """The yardstick's three files by the shipped profile: every planted identifier gone, every research cell kept, with
    the notes dropped as shipped and with the notes scrubbed."""
    folder = samples()
    truth = msgspec.json.decode((folder.parent.parent / "truth.json").read_bytes())["files"]
    profile = load_profile(EXAMPLE).policy
    assert isinstance(profile, DeidPolicy)
    rules = msgspec.json.decode(
        msgspec.json.encode(profile.tables).replace(b'"text":"drop"', b'"text":"%s"' % text.encode())
    )
    release = Release(*msgspec.convert(rules, tuple[TableRule, ...]))
    files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}
    for data in files.values():
        release.survey(data)
    planted = [atom for name in files for atom in truth[f"csv/{name}"]["atoms"]]
    for name, data in files.items():
        out = release.prepare(data)
        said = truth[f"csv/{name}"]
        assert out.rows == said["rows"] and not out.data.startswith(b"\xef\xbb\xbf")
        assert all(not outcome.emptied for outcome in out.columns if outcome.rule != "text")
        header = table_of(out)[0]
        assert set(said["keep_columns"]) <= set(header)
        kept = set(said["keep_columns"])
        rest = [row[place] for row in table_of(out)[1:] for place, word in enumerate(header) if word not in kept]
        assert Seeker([atom for atom in planted if len(atom) >= 5]).find("\n".join(rest).encode()) == 0
