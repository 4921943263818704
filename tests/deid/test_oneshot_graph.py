"""One folder is one graph: a patient, a case and a slide are the same in images, objects and tables."""

from __future__ import annotations

import csv
import io
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.deid.certificate import verify
from mover.deid.identity import Identity, entity_key
from mover.deid.oneshot import Options, Signing, deidentify_folder
from mover.deid.oneshot.graph import WORDS_PER_FILE, Graph
from mover.deid.oneshot.walk import Found, sort_out, walk
from mover.deid.search import Seeker
from mover.policy import load_profile
from mover.signing import load_key, new_key
from tests.support import dicoms, mirax, slides

PROFILE = """
kind: deid
name: graph
basis: expert-determination
determination: "invented"
tables:
  - name: cases
    columns:
      Slide: {class: image}
      Accession: {class: case}
      MRN: {class: patient}
      Name: {class: drop}
      Seen: {class: date, dates: shift}
      Sex: {class: enum, values: [F, M], quasi: true}
  - name: scans
    columns:
      File: {class: image}
      Case: {class: case}
      Scanned: {class: date, dates: shift}
"""


# --- the graph -----------------------------------------------------------------------------------------


def graph_of(*identities: Identity) -> Graph:
    graph = Graph()
    for identity in identities:
        graph.add(identity)
    graph.settle()
    return graph


def test_what_one_table_knows_of_a_patient_is_sought_in_each_of_the_patients_files() -> None:
    """The name stands in a table of cases alone; the slide is tied to it through its case."""
    slide, case, patient = entity_key("slide", "D1_A"), entity_key("case", "D1-77"), entity_key("patient", "60338241")
    graph = graph_of(
        Identity((patient, case), words=("Harrington", "60338241")),
        Identity((slide, case)),
        Identity((entity_key("patient", "70000001"),), words=("Oberlechner",)),
    )
    words = graph.words([slide])
    assert {"Harrington", "60338241"} <= set(words)
    assert graph.patient_of[slide] == graph.patient_of[case] == patient


def test_a_case_that_two_patients_claim_is_nobodys_and_one_nobody_claims_is_its_own() -> None:
    """A wrong row must not move another patient's dates; dates of an unknown one still move together."""
    torn, free, slide = entity_key("case", "torn"), entity_key("case", "free"), entity_key("slide", "free 1")
    graph = graph_of(Identity(("patient|a", torn)), Identity(("patient|b", torn)), Identity((free, slide)))
    assert torn not in graph.patient_of
    assert graph.patient_of[free] == graph.patient_of[slide]
    assert graph.patient_of[free].startswith("patient| ")


def test_a_knot_of_wrong_rows_is_not_followed_to_its_end() -> None:
    """A list in memory has a bound with a name (I10)."""
    graph = Graph()
    for at in range(3000):
        graph.add(Identity((f"patient|{at}", "case|same"), words=(f"Surname{at:07d}", f"Address{at:07d}")))
    graph.settle()
    assert 0 < len(graph.words(["case|same"])) <= WORDS_PER_FILE


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz")), max_size=12))
def test_whose_case_it_is_does_not_depend_on_the_order_of_rows(rows: list[tuple[str, str]]) -> None:
    identities = [Identity((f"patient|{patient}", f"case|{case}")) for patient, case in rows]
    assert graph_of(*identities).patient_of == graph_of(*reversed(identities)).patient_of


# --- what belongs together -----------------------------------------------------------------------------


def test_parts_of_a_slide_go_with_it_and_sidecars_are_dropped_with_their_reason(tmp_path: Path) -> None:
    for name in ("a.mrxs", "a/Index.dat", "a/Data0000.dat", "b.svs", "b.jpg", "b_label.png", "bc.jpg", "c.dcm",
                 "t.csv", "Thumbs.db", "b.svs.md5"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "noname").write_bytes(bytes(128) + b"DICM")
    found = list(walk(tmp_path))
    sorted_ = sort_out(found, lambda one: one.path.read_bytes()[:132])

    def names(items: Any) -> set[str]:
        return {one.relative for one in items}

    assert {one.main.relative: names(part for _, part in one.companions) for one in sorted_.slides} == {
        "a.mrxs": {"a/Index.dat", "a/Data0000.dat"}, "b.svs": set(), "bc.jpg": set()
    }  # fmt: skip
    assert names(sorted_.objects) == {"c.dcm", "noname"}
    assert names(sorted_.tables) == {"t.csv"}
    assert {one.found.relative: (one.status, one.reason) for one in sorted_.aside} == {
        "b.jpg": ("dropped", "sidecar"), "b_label.png": ("dropped", "sidecar"), "b.svs.md5": ("dropped", "sidecar"),
        "Thumbs.db": ("dropped", "system-file"),
    }  # fmt: skip
    taken = [*sorted_.objects, *sorted_.tables, *(one.found for one in sorted_.aside)]
    taken += [file for one in sorted_.slides for file in (one.main, *(part for _, part in one.companions))]
    assert sorted(one.position for one in taken) == [one.position for one in found]
    assert all(isinstance(one, Found) for one in taken)


# --- a whole folder ------------------------------------------------------------------------------------


class Ward:
    """Two visits of one patient, her slide under its case's number, two tables that name her, a slide of several
    files, a whole slide in DICOM with its label."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "ward"
        self.visits = [dicoms.plant(dicoms.Order(kind="CT", seed=5, visit=visit)) for visit in (0, 1)]
        first = self.visits[0].dataset
        self.patient, self.case = str(first.PatientID), str(first.AccessionNumber)
        self.put("CT/visit one/IM0001", self.visits[0].data)
        self.put("CT/visit two/IM0001", self.visits[1].data)
        self.put(f"slides/{self.case}_1.svs", slides.svs())
        main, parts = mirax.mirax(stem="S24-881001")
        for name, data in {"S24-881001.mrxs": main, **parts}.items():
            self.put(f"slides/{name}", data)
        for at, kind in enumerate(("VOLUME", "LABEL")):
            self.put(f"wsm/{at}.dcm", dicoms.plant(dicoms.Order(kind=kind, seed=9)).data)  # type: ignore[arg-type]
        seen = datetime.strptime(str(first.StudyDate), "%Y%m%d").strftime("%Y-%m-%d")
        self.seen = seen
        self.put("cases.csv", f"Slide,Accession,MRN,Name,Seen,Sex\r\n{self.case}_1.svs,{self.case},{self.patient},"
                              f"Xerxes Quibblethwaite,{seen},F\r\n".encode())  # fmt: skip
        named = f"C:\\Scans\\{self.case.lower()}_1.SVS"
        self.put("scans.csv", f"File,Case,Scanned\r\n{named},{self.case},{seen}\r\n".encode())
        (folder / "profile.yaml").write_text(PROFILE)
        new_key(folder / "key")
        loaded = load_profile(folder / "profile.yaml")
        self.options = Options(
            profile=loaded.policy, profile_text_blake3=loaded.digest, map_path=folder / "map.csv", thumbnails=True,  # type: ignore[arg-type]
            signing=Signing(folder / "certificate.json", load_key(folder / "key")),
        )  # fmt: skip

    def put(self, name: str, data: bytes) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def shoot(self) -> None:
        self.report = deidentify_folder(
            self.source, self.folder / "out", self.folder / "x.json", options=self.options
        )  # fmt: skip

    def entries(self) -> dict[str, dict[str, Any]]:
        return {one["source"]: one for one in json.loads((self.folder / "x.json").read_text())["files"]}

    def output(self, source: str) -> Path:
        return self.folder / "out" / self.entries()[source]["output"]

    def row(self, source: str) -> dict[str, str]:
        (row,) = csv.DictReader(io.StringIO(self.output(source).read_text()))
        return row


# in one process: the folder is worked on once for all of them
whole_folder = pytest.mark.xdist_group("a whole folder")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    made = Ward(tmp_path_factory.mktemp("graph"))
    made.shoot()
    return made


@pytest.mark.slow
@whole_folder
def test_everything_of_the_folder_has_an_output_or_a_reason(ward: Ward) -> None:
    states = {source: (one["status"], one["reason"]) for source, one in ward.entries().items()}
    assert states.pop("wsm/1.dcm") == ("dropped", "instance-dropped")
    assert set(states.values()) == {("deidentified", None)}, states
    assert ward.report.quarantined == 0 and ward.report.dropped == 1


@pytest.mark.slow
@whole_folder
def test_a_patient_and_a_case_have_one_pseudonym_in_objects_and_tables(ward: Ward) -> None:
    visits = [pydicom.dcmread(ward.output(f"CT/visit {which}/IM0001")) for which in ("one", "two")]
    row = ward.row("cases.csv")
    assert {visit.PatientID for visit in visits} == {row["MRN"]}
    assert row["Accession"] == ward.row("scans.csv")["Case"]
    assert visits[0].AccessionNumber == row["Accession"][:16]
    assert ward.patient not in row.values() and ward.case not in row.values()


@pytest.mark.slow
@whole_folder
def test_a_slide_stands_in_tables_under_the_number_it_has_on_the_disk(ward: Ward) -> None:
    number = ward.entries()[f"slides/{ward.case}_1.svs"]["number"]
    assert ward.row("cases.csv")["Slide"] == ward.row("scans.csv")["File"] == number
    assert ward.output(f"slides/{ward.case}_1.svs").parent.name == number


@pytest.mark.slow
@whole_folder
def test_all_dates_of_a_patient_move_by_the_same_days_also_where_only_the_case_is_named(ward: Ward) -> None:
    """The table of scans knows no patient; the table of cases says whose case it is."""
    moved = []
    for which, planted in zip(("one", "two"), ward.visits, strict=True):
        old = datetime.strptime(str(planted.dataset.StudyDate), "%Y%m%d")
        new = datetime.strptime(str(pydicom.dcmread(ward.output(f"CT/visit {which}/IM0001")).StudyDate), "%Y%m%d")
        moved.append((new - old).days)
    seen = datetime.fromisoformat(ward.seen)
    moved += [(datetime.fromisoformat(ward.row("cases.csv")["Seen"]) - seen).days]
    moved += [(datetime.fromisoformat(ward.row("scans.csv")["Scanned"]) - seen).days]
    assert len(set(moved)) == 1 and moved[0] != 0


@pytest.mark.slow
@whole_folder
def test_nothing_of_anybody_is_found_in_any_output_or_beside(ward: Ward) -> None:
    secrets = [one.value for planted in ward.visits for one in planted.secrets]
    secrets += ["Quibblethwaite", "Quincy", "S24-881001", ward.patient, ward.case]
    seeker = Seeker([secret for secret in secrets if len(secret) >= 6])
    paths = [path for path in (ward.folder / "out").rglob("*") if path.is_file()]
    for path in [*paths, ward.folder / "certificate.json"]:
        assert seeker.find(str(path.relative_to(ward.folder)).encode()) == 0
        assert seeker.find(path.read_bytes()) == 0, path.suffix
    assert seeker.find(repr(ward.report).encode()) == 0


@pytest.mark.slow
@whole_folder
def test_the_certificate_fits_what_lies_there(ward: Ward) -> None:
    checked = verify((ward.folder / "certificate.json").read_bytes(), folder=ward.folder / "out")
    assert checked.problems == () and checked.certificate is not None
    made = checked.certificate
    names = [output.name for one in made.files for output in one.outputs]
    assert checked.files_checked == len(names) and checked.strangers == 0
    thumbnails = [name for name in names if name.endswith(".jpg")]
    assert len(thumbnails) == 2
    assert len(names) - len(thumbnails) == made.inventory.published == ward.report.deidentified
    assert made.inventory.dropped == {"instance-dropped": 1}
    assert made.profile.basis == "expert-determination"
    assert {one.kind for one in made.files} == {"slide", "dicom", "table"}
    assert [(one.table, one.smallest) for one in made.anonymity] == [("cases", 1)]


@pytest.mark.slow
@whole_folder
def test_a_second_run_changes_nothing_and_names_the_certificate_before(ward: Ward, tmp_path: Path) -> None:
    from blake3 import blake3

    before = {path: os.stat(path).st_ino for path in (ward.folder / "out").rglob("*")}
    first, entries = (ward.folder / "certificate.json").read_bytes(), ward.entries()
    ward.shoot()
    assert ward.entries() == entries
    assert {path: os.stat(path).st_ino for path in (ward.folder / "out").rglob("*")} == before
    checked = verify((ward.folder / "certificate.json").read_bytes(), folder=ward.folder / "out")
    assert checked.problems == () and checked.certificate is not None
    assert checked.certificate.custody.previous.replace(" ", "") == blake3(first).hexdigest()


@pytest.mark.slow
def test_two_slides_of_one_name_are_told_apart_and_no_row_is_guessed_to_either(tmp_path: Path) -> None:
    """PathSafe's manifest cannot tell two `slide.svs` of two folders apart; a table that names one means neither."""
    made = Ward(tmp_path)
    made.put(f"elsewhere/{made.case}_1.svs", slides.svs(size=(384, 256)))
    made.shoot()
    entries = made.entries()
    numbers = {entries[f"{folder}/{made.case}_1.svs"]["number"] for folder in ("slides", "elsewhere")}
    assert len(numbers) == 2
    assert made.row("cases.csv")["Slide"] not in numbers
    assert made.report.ambiguous_names == 1
