"""When a file that claims to be clean is believed."""

from __future__ import annotations

import pytest

from mover.decide.adoption import (
    PLACES_MAX,
    CleanLook,
    Judged,
    adoptable,
    judge_clean,
    stands_for,
    together,
    why_not_here,
)
from mover.decide.packs import members_of
from mover.decide.survey import Fate, PlaceSeen
from mover.model.ids import make_number
from mover.model.tiers import Entry, Fingerprint

NUMBER = make_number(b"0123456789")


def place(fate: Fate, reason: str = "not on the allow-list") -> PlaceSeen:
    return PlaceSeen("level page tag 315", fate, reason, "Aaaa")


@pytest.mark.parametrize(
    ("look", "verdict"),
    [
        (CleanLook("aperio-svs", same=True, places=(place("dropped"),)), "clean"),
        (CleanLook("aperio-svs"), "clean"),
        (CleanLook("aperio-svs", places=(place("rewritten", "written anew from structure"), place("kept"))), "clean"),
        (CleanLook("aperio-svs", places=(place("rewritten", "its picture is blank"),)), "suspect"),
        (CleanLook("aperio-svs", places=(place("unknown"),)), "suspect"),
        (CleanLook("aperio-svs", removed=1), "suspect"),
        (CleanLook("aperio-svs", standing="bytes that nothing refers to"), "suspect"),
        (CleanLook("aperio-svs", same=True, standing="not asked"), "clean"),
        (CleanLook("", code="structure-invalid", what="it ends early"), "refused"),
    ],
)  # fmt: skip
def test_only_what_would_lose_nothing_is_clean(look: CleanLook, verdict: str) -> None:
    assert judge_clean(look, ["slide_1.svs"], trust_names=False).verdict == verdict


@pytest.mark.parametrize(
    ("key", "clean"),
    [
        ("slide_1.svs", True), (f"slides/{NUMBER}/1/{NUMBER}.svs", True), ("batch2024/IM0001.tif", True),
        ("7f3b2c1d-aaaa-4bbb-8ccc-0123456789ab.svs", True), ("9" * 64 + ".svs", True),
        (f"{NUMBER}-0001.dcm", True), (f"{NUMBER}.ome.tif", True), (f"{NUMBER}-Quincy.tif", False),
        ("S24-771001.svs", False), ("Quincy/slide_1.svs", False), ("48213311.svs", False),
        (f"{NUMBER[:-1]}{'0' if NUMBER[-1] != '0' else '1'}.svs", False),
    ],
)  # fmt: skip
def test_a_name_is_judged_like_the_file(key: str, clean: bool) -> None:
    """A number of ours or a random name says nothing; what could be an accession number waits for who knows it."""
    judged = judge_clean(CleanLook("aperio-svs", same=True), [key], trust_names=False)
    assert (judged.verdict == "clean") is clean
    assert not any(word in repr(judged.reasons) for word in ("771001", "Quincy", "48213311"))
    assert judge_clean(CleanLook("aperio-svs", same=True), [key], trust_names=True).verdict == "clean"


@pytest.mark.parametrize(
    ("called", "clean"),
    [
        ("", True), (NUMBER, True), (NUMBER[:16], True), ("SZPGQ9T33D2M8VKC1", True), ("patient 12", True),
        ("2.25.123456789012345678901234567890", True), ("MRN-4711-0815", False), ("Quincy^Jane", False),
        ("KRASZEWSKAMARTHA", False), ("BAKERSTEPHAN1973", False), ("S1234567890123456", False),
        ("4711", False), ("19551231", False), ("19551231-1234", False), ("Wang", False), ("WANG^LI", False),
        ("A1", True), ("0012", True), ("24S0012345A1B2HE", False), ("2024A0012B003C04", False),
    ],
)  # fmt: skip
def test_what_an_object_calls_its_patient_is_judged_like_a_name(called: str, clean: bool) -> None:
    """A pseudonym of ours says nothing; a record number is somebody's, wherever it stands."""
    look = CleanLook("dicom", same=True, called=(called,))
    judged = judge_clean(look, ["im1.dcm"], trust_names=False)
    assert (judged.verdict == "clean") is clean and not any(one and one in repr(judged) for one in called.split("-"))
    assert judge_clean(look, ["im1.dcm"], trust_names=True).verdict == "clean"


def test_somebody_may_answer_for_uids_and_days_but_not_for_places() -> None:
    uids = PlaceSeen("UIDs", "unknown", "UIDs of an organisation")
    assert judge_clean(CleanLook("dicom", same=True, vouched=(uids,)), ["a.dcm"], trust_names=False).reasons == (uids,)
    assert judge_clean(CleanLook("dicom", same=True, vouched=(uids,)), ["a.dcm"], trust_names=True).verdict == "clean"
    both = CleanLook("dicom", vouched=(uids,), places=(place("dropped"),))
    assert judge_clean(both, ["a.dcm"], trust_names=True).verdict == "suspect"


def test_files_of_one_slide_are_clean_together() -> None:
    clean, suspect = Judged("clean"), Judged("suspect", (place("unknown"),))
    assert [one.verdict for one in together([clean, clean], needed={0, 1})] == ["clean", "clean"]
    assert [one.verdict for one in together([clean, suspect, clean], needed={0, 1, 2})] == ["suspect"] * 3
    # what the slide does not need decides nothing, and is not taken
    assert [one.verdict for one in together([clean, suspect], needed={0})] == ["clean", "refused"]
    assert [one.verdict for one in together([clean], needed={0}, strange="two patients")] == ["suspect"]


def test_entries_are_grouped_folder_by_folder_and_nothing_is_lost() -> None:
    """Slides of two folders may be called the same; a table, a link, a picture, a name that is no text are no slide."""
    keys = ("a/slide.svs", "b/slide.svs", "c/x.mrxs", "c/x/Slidedat.ini", "c/x/Data0000.dat", "d/im1", "d/im2.dcm",
            "a/slide.jpg", "a/list.csv", "a/\udcff.svs", "a/note.pages")  # fmt: skip
    entries = [Entry(key, "file", Fingerprint(9, 0, "")) for key in keys]
    entries.append(Entry("a/link.svs", "symlink", Fingerprint(9, 0, "")))
    slides, left = adoptable(entries, folder="")
    found = {members_of(one.keys).files for one in slides}
    assert found == {("a/slide.svs",), ("b/slide.svs",), ("c/x.mrxs", "c/x/Slidedat.ini", "c/x/Data0000.dat"),
                     ("d/im1", "d/im2.dcm")}  # fmt: skip
    assert {key for one in found for key in one} | {key for key, _ in left} == {one.key for one in entries}
    assert len({why for _, why in left}) == 5


def test_a_place_that_holds_no_slides_is_refused_before_anything_is_read() -> None:
    assert why_not_here(zone="deidentified", role="archive") == ("", "")
    assert "deidentified" in why_not_here(zone="identified", role="source")[0]
    assert "flash" in why_not_here(zone="deidentified", role="flash")[0]
    assert stands_for(f"slides/{NUMBER}/1/{NUMBER}.svs") == NUMBER
    assert stands_for(f"broker/{NUMBER}/{NUMBER}.svs") == stands_for("slides/x/y") == ""


def test_the_reasons_of_one_file_are_bounded() -> None:
    look = CleanLook("aperio-svs", places=tuple(place("unknown", f"r{at}") for at in range(PLACES_MAX * 2)))
    assert len(judge_clean(look, ["Quincy.svs"], trust_names=False).reasons) == PLACES_MAX
