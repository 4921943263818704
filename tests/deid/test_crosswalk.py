"""The one-shot command's crosswalk: what was given once is given again, whatever is killed in between."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mover.deid import crosswalk as home
from mover.deid.crosswalk import CrosswalkEntry, FileCrosswalk
from mover.deid.identity import Identity, entity_key
from mover.errors import Conflict, RequestInvalid
from mover.model.ids import is_number

DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.json"


def everything(crosswalk: FileCrosswalk) -> tuple[object, ...]:
    return (
        crosswalk.numbers([DIGEST, OTHER]),
        crosswalk.subjects(["patient|1", "patient|2"]),
        crosswalk.keys(["case|a", "slide|b"]),
        crosswalk.uids(["1.2.3", "1.2.4"]),
        crosswalk.place({DIGEST: "N/N-0001.dcm"}),
    )


def test_every_verb_gives_the_same_again_after_a_kill_and_after_a_whole_run(path: Path) -> None:
    """A kill leaves the journal, a whole run the file; both are read."""
    with FileCrosswalk(path) as first:
        given = everything(first)
    assert not path.exists() and path.with_name("x.json.journal").exists()
    with FileCrosswalk(path) as second:
        assert everything(second) == given
        second.save([])
    assert not path.with_name("x.json.journal").exists()
    with FileCrosswalk(path) as third:
        assert everything(third) == given
    assert not path.with_name("x.json.journal").exists()  # nothing new, nothing written


def test_a_patient_is_one_however_a_table_wrote_the_gaps(path: Path) -> None:
    """A table's MRN_77 and an image's MRN 77 are one patient, here as in the vault."""
    spelt = [entity_key("patient", text) for text in ("MRN_77", "mrn 77", "MRN _ 77")]
    with FileCrosswalk(path) as crosswalk:
        assert len(set(crosswalk.subjects([*spelt, "patient|mrn_77"]).values())) == 1
        crosswalk.save([])
    with FileCrosswalk(path) as again:
        assert again.subjects(["patient|MRN_77".casefold()]) and len(json.loads(path.read_bytes())["subjects"]) == 1


@pytest.mark.parametrize("written", [["a_b"], ["a_b", "a b"], ["a b", "a_b"]])
def test_keys_of_older_crosswalks_are_found_again(path: Path, written: list[str]) -> None:
    """They told underscores from spaces. What one run published under a pseudonym the next run must find; of two
    that one patient got, both stay in the file, and the one that images had is used from now on."""
    old = {f"patient|{key}": {"pseudonym": "S" + key.upper(), "offset_days": at + 1} for at, key in enumerate(written)}
    path.write_text(json.dumps({"files": [], "subjects": old}))
    with FileCrosswalk(path) as crosswalk:
        found = crosswalk.subjects([entity_key("patient", "A_B"), entity_key("patient", "a b")])
        crosswalk.save([])
    assert {subject.pseudonym for subject in found.values()} == {"SA B" if "a b" in written else "SA_B"}
    assert json.loads(path.read_bytes())["subjects"] == old


def test_what_it_gives_is_random_and_of_the_right_shape(path: Path) -> None:
    with FileCrosswalk(path) as crosswalk:
        numbers = crosswalk.numbers([DIGEST, OTHER])
        subjects = crosswalk.subjects([f"patient|{at}" for at in range(50)])
        uids = crosswalk.uids(["1.2.3"])
    assert len(set(numbers.values())) == 2 and all(map(is_number, numbers.values()))
    assert len({subject.pseudonym for subject in subjects.values()}) == 50
    offsets = {subject.offset_days for subject in subjects.values()}
    assert len(offsets) > 20 and 0 not in offsets and max(map(abs, offsets)) <= 365
    assert uids["1.2.3"].startswith("2.25.") and len(uids["1.2.3"]) <= 64


def test_the_journal_is_on_the_disk_before_a_verb_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or an output could carry a replacement that no crosswalk knows."""

    def lost(*_: object) -> None:
        raise KeyboardInterrupt

    with FileCrosswalk(path) as crosswalk:
        monkeypatch.setattr(home, "append_synced", lost)
        with pytest.raises(KeyboardInterrupt):
            crosswalk.uids(["1.2.3"])
        monkeypatch.undo()
        first = crosswalk.uids(["1.2.3"])
    with FileCrosswalk(path) as again:
        assert again.uids(["1.2.3"]) == first


def test_a_torn_last_line_swallows_nothing(path: Path) -> None:
    with FileCrosswalk(path) as crosswalk:
        given = crosswalk.uids(["1.2.3"])
    journal = path.with_name("x.json.journal")
    journal.write_bytes(journal.read_bytes() + b'{"uids":{"1.2.9"')
    with FileCrosswalk(path) as crosswalk:
        more = crosswalk.uids(["1.2.4"])
    with FileCrosswalk(path) as crosswalk:
        assert crosswalk.uids(["1.2.3", "1.2.4"]) == given | more


def test_a_crosswalk_of_the_first_form_still_opens(path: Path) -> None:
    """Made by the command when it knew slides alone."""
    entry = {
        "source": "a.svs", "output": "7ZZ/7ZZ.svs", "number": "0123456789ABCDEF" + "X", "status": "deidentified",
        "source_blake3": DIGEST, "output_blake3": OTHER,
    }  # fmt: skip
    with FileCrosswalk(path.with_name("other")) as crosswalk:
        entry["number"] = crosswalk.numbers([DIGEST])[DIGEST]
    path.write_text(json.dumps({"files": [entry]}))
    path.with_name("x.json.journal").write_text(
        json.dumps({"source_blake3": OTHER, "number": entry["number"]}) + "\n"
    )
    with FileCrosswalk(path) as crosswalk:
        assert crosswalk.numbers([DIGEST, OTHER]) == {DIGEST: entry["number"], OTHER: entry["number"]}
        assert crosswalk.outputs == {"7ZZ/7ZZ.svs": OTHER}
        assert entry["number"] in crosswalk.folders()


def test_a_slide_and_the_table_that_names_it_share_a_number_whichever_came_first(path: Path) -> None:
    with FileCrosswalk(path) as crosswalk:
        number = crosswalk.tie(DIGEST, "slide|d22-1")
        assert crosswalk.keys(["slide|d22-1"]) == {"slide|d22-1": number}
        shown = crosswalk.keys(["slide|d22-2"])["slide|d22-2"]
        assert crosswalk.tie(OTHER, "slide|d22-2") == shown
        assert crosswalk.numbers([OTHER]) == {OTHER: shown}


def test_two_scans_of_one_name_never_share_a_number(path: Path) -> None:
    """I6: a key that stands for another scan already keeps what it has."""
    with FileCrosswalk(path) as crosswalk:
        first, second = crosswalk.tie(DIGEST, "slide|d22-1"), crosswalk.tie(OTHER, "slide|d22-1")
        assert first != second
        assert crosswalk.keys(["slide|d22-1"]) == {"slide|d22-1": first}
        assert crosswalk.tie(OTHER, "slide|d22-1") == second


def test_new_uids_hold_no_run_of_digits_that_is_somebodys(path: Path) -> None:
    """39 random digits hold a given ZIP code once in 3,000 UIDs; a search of the output would stumble over it."""
    zips = [f"{at:05d}" for at in range(10_000, 99_999, 450)]
    with FileCrosswalk(path) as crosswalk:
        crosswalk.avoid(zips)
        uids = crosswalk.uids([f"1.2.{at}" for at in range(400)])
    assert not [uid for uid in uids.values() if any(one in uid for one in zips)]
    assert len(set(uids.values())) == 400


def test_a_dry_run_writes_nothing(path: Path) -> None:
    with FileCrosswalk(path, dry=True) as crosswalk:
        everything(crosswalk)
    assert list(path.parent.iterdir()) == []


def test_file_and_journal_are_for_their_owner_alone(path: Path) -> None:
    with FileCrosswalk(path) as crosswalk:
        everything(crosswalk)
        assert stat.S_IMODE(path.with_name("x.json.journal").stat().st_mode) == 0o600
        crosswalk.save([CrosswalkEntry(source="a", status="dropped", reason="sidecar")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_next_months_folder_does_not_make_this_months_names_forgotten(path: Path) -> None:
    """One crosswalk serves many runs: whose number it was must be found years later."""
    old = CrosswalkEntry(source="a.svs", output="A/A.svs", number="A", status="deidentified", source_blake3=DIGEST)
    waits = CrosswalkEntry(source="b.svs", status="quarantined", reason="format-unknown")
    new = CrosswalkEntry(source="a.svs", output="B/B.svs", number="B", status="deidentified", source_blake3=OTHER)
    for files in ([old, waits], [new], [new]):
        with FileCrosswalk(path) as crosswalk:
            crosswalk.save(files)
    listed = json.loads(path.read_text())["files"]
    assert [(one["source"], one["number"]) for one in listed] == [("a.svs", "A"), ("a.svs", "B")]


def test_a_file_that_is_no_crosswalk_is_refused(path: Path) -> None:
    path.write_text("[]")
    with pytest.raises(RequestInvalid):
        FileCrosswalk(path)


def test_two_runs_never_share_a_crosswalk(path: Path) -> None:
    """Each would give the same patient another pseudonym, and the later end would forget what the first gave."""
    with FileCrosswalk(path) as first:
        with pytest.raises(Conflict, match="another run"):
            FileCrosswalk(path)
        with FileCrosswalk(path, dry=True) as looking:
            looking.subjects(["patient|1"])
        given = first.subjects(["patient|1"])
        first.save([])
    with FileCrosswalk(path) as second:
        assert second.subjects(["patient|1"]) == given


def test_equal_numbers_of_two_hospitals_are_two_patients_for_ever(path: Path) -> None:
    """Whoever came first is who tables mean; in the next run, too, whichever comes first then."""
    ours, theirs = "patient|4711^^^hospital b", "patient|4711^^^hospital a"
    with FileCrosswalk(path) as first:
        given = first.subjects([ours, "patient|4711"])
        assert given[ours] == given["patient|4711"]
    with FileCrosswalk(path) as second:
        again = second.subjects([theirs, ours, "patient|4711"])
        second.save([])
    with FileCrosswalk(path) as third:
        assert third.subjects([theirs]) == {theirs: again[theirs]}
        assert third.known_by(Identity(entities=(ours, "case|a"))).entities == ("patient|4711", "case|a")
    assert again[ours] == again["patient|4711"] == given[ours] and again[theirs] != again[ours]
