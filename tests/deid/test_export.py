"""The maps of a crosswalk file: written when, why and where nobody is surprised by them."""

from __future__ import annotations

import csv
import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mover.cli.deid import command
from mover.deid.crosswalk import CrosswalkEntry, FileCrosswalk
from mover.deid.oneshot.export import export_maps
from mover.deid.oneshot.publish import check_places
from mover.errors import Conflict, EntryExists, NotFound, RequestInvalid, ZoneCrossing
from mover.tiers.identity import establish

WHY = "a score by MIDI-B"


@pytest.fixture
def crosswalk(tmp_path: Path) -> Path:
    """A crosswalk of one run, whose output stands in `out`."""
    path = tmp_path / "x.json"
    with FileCrosswalk(path) as made:
        made.subjects(["patient|mrn 77", "patient| case|nobody's"])
        made.uids(["1.2.3", "1.2.4"])
        done = {"source": "a.dcm", "output": "N1/N1.dcm", "output_blake3": "ab", "status": "deidentified"}
        made.save([CrosswalkEntry(**done)])  # type: ignore[arg-type]
    (tmp_path / "out" / "N1").mkdir(parents=True)
    (tmp_path / "out" / "N1" / "N1.dcm").write_bytes(b"x")
    return path


def rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_the_maps_tie_every_original_to_what_stands_for_it(crosswalk: Path, tmp_path: Path) -> None:
    uids, patients = tmp_path / "uids.csv", tmp_path / "patients.csv"
    assert export_maps(crosswalk, {"uids": uids, "patients": patients}, purpose=WHY) == {"uids": 2, "patients": 1}
    with FileCrosswalk(crosswalk) as known:
        assert dict(rows(uids)[1:]) == known.uids(["1.2.3", "1.2.4"])
        assert rows(patients)[1:] == [["mrn 77", known.subjects(["patient|mrn 77"])["patient|mrn 77"].pseudonym]]
    assert rows(uids)[0] == rows(patients)[0] == ["id_old", "id_new"]
    assert stat.S_IMODE(uids.stat().st_mode) == 0o600


def test_why_a_map_was_made_stands_in_the_crosswalk_for_good(crosswalk: Path, tmp_path: Path) -> None:
    export_maps(crosswalk, {"uids": tmp_path / "uids.csv"}, purpose=WHY)
    with FileCrosswalk(crosswalk) as later:
        later.save([])
    [told] = json.loads(crosswalk.read_text())["exports"]
    assert (told["purpose"], told["rows"]) == (WHY, {"uids": 2}) and told["at"].endswith("Z")


def test_a_map_that_could_not_be_written_was_asked_for_all_the_same(crosswalk: Path, tmp_path: Path) -> None:
    """The record comes first: a kill between the two leaves a purpose without a map, never a map without a purpose."""
    (tmp_path / "uids.csv").write_text("mine")
    with pytest.raises(EntryExists):
        export_maps(crosswalk, {"uids": tmp_path / "uids.csv"}, purpose=WHY)
    assert (tmp_path / "uids.csv").read_text() == "mine" and not list(tmp_path.glob(".*.part"))
    assert WHY in crosswalk.with_name("x.json.journal").read_text()


@pytest.mark.parametrize("purpose", ["", "   ", "x" * 501, "a\nb"])
def test_no_map_without_a_purpose(crosswalk: Path, tmp_path: Path, purpose: str) -> None:
    with pytest.raises(RequestInvalid):
        export_maps(crosswalk, {"uids": tmp_path / "u"}, purpose=purpose)
    assert not (tmp_path / "u").exists()


def test_no_map_lies_among_the_clean_files_or_in_their_zone(crosswalk: Path, tmp_path: Path) -> None:
    (tmp_path / "archive" / "deep").mkdir(parents=True)
    establish(tmp_path / "archive", name="archive", zone="deidentified")
    with pytest.raises(ZoneCrossing):
        export_maps(crosswalk, {"uids": tmp_path / "archive" / "deep" / "u"}, purpose=WHY)
    for place in ("out/u", "out/N1/u"):
        with pytest.raises(RequestInvalid, match="clean files"):
            export_maps(crosswalk, {"uids": tmp_path / place}, purpose=WHY)
    assert not list((tmp_path / "out").rglob("u")) and not list((tmp_path / "archive").rglob("u"))


def test_no_crosswalk_and_no_list_of_names_begins_in_a_clean_zone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "archive").mkdir()
    establish(tmp_path / "archive", name="archive", zone="deidentified")
    with pytest.raises(ZoneCrossing):
        check_places(tmp_path / "in", tmp_path / "out", [tmp_path / "archive" / "x.json"])
    establish(tmp_path, name="intake", zone="identified")
    check_places(tmp_path / "in", tmp_path / "out", [tmp_path / "x.json"])


def test_a_crosswalk_in_use_or_not_there_gives_no_map(crosswalk: Path, tmp_path: Path) -> None:
    with FileCrosswalk(crosswalk), pytest.raises(Conflict):
        export_maps(crosswalk, {"uids": tmp_path / "u"}, purpose=WHY)
    with pytest.raises(NotFound):
        export_maps(tmp_path / "other.json", {"uids": tmp_path / "u"}, purpose=WHY)
    assert not (tmp_path / "other.json").exists()


def mover(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


def test_export_as_typed(crosswalk: Path, tmp_path: Path) -> None:
    said = mover("export", crosswalk, "--uids", tmp_path / "u", "--purpose", WHY)
    assert said.exit_code == 0 and said.output.startswith("uids: 2 rows") and "1.2.3" not in said.output
    assert json.loads(mover("export", crosswalk, "--patients", tmp_path / "p", "--purpose", WHY, "--json").output) == {
        "rows": {"patients": 1}
    }
    assert mover("export", crosswalk, "--purpose", WHY).exit_code == 2
    again = mover("export", crosswalk, "--uids", tmp_path / "u", "--purpose", WHY)
    assert again.exit_code == EntryExists.exit_status and "left as it is" in again.output
