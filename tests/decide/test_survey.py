"""What a survey adds up to: counts of different things, never a value, however many files there are."""

from __future__ import annotations

from collections import Counter

from mover.decide.drafts import draft_column, draft_yaml
from mover.decide.survey import PLACES_MAX, FileLook, PlaceSeen, Tally, draft_profile, masked_key, outline


def look(shape: str, place: str = "page 3 (level) tag 270 key “Aaaa”") -> FileLook:
    return FileLook("aperio-svs", places=(PlaceSeen(place, "unknown", "not on the allow-list", shape),))


def test_ten_thousand_names_are_one_line_of_the_survey() -> None:
    """Names differ in length; a line for each length would fill every bound before the interesting line came."""
    tally = Tally()
    for letters in range(3, 40):
        tally.add(look("A" + "a" * letters + " 9999"), 10)

    [family] = tally.close(profile="default", seconds=0, unlisted_folders=0).families

    [place] = family.places
    assert (place.place, place.times, family.files, family.bytes) == ("level page tag 270 key “Aaaa”", 37, 37, 370)
    assert outline("A99-999999 Aaaaaa") == "A9-9 Aa" and outline("105 bytes") == outline("9 bytes")


def test_what_is_beyond_the_bound_is_counted_and_not_forgotten() -> None:
    tally = Tally()
    for at in range(PLACES_MAX + 5):
        tally.add(look("", place=f"tag {at}"), 1)
    [family] = tally.close(profile="default", seconds=0, unlisted_folders=0).families
    assert (len(family.places), family.more, family.files) == (PLACES_MAX, 5, PLACES_MAX + 5)


def test_a_refused_file_is_counted_by_format_and_reason_and_adds_no_family() -> None:
    tally = Tally(accept=["aperio-svs"])
    tally.add(FileLook("Zeiss CZI", code="format-unsupported", what="Zeiss CZI: recognised"), 7)
    tally.add(FileLook("Zeiss CZI", code="format-unsupported", what="Zeiss CZI: recognised"), 8)
    tally.add(FileLook("generic-tiff", places=(PlaceSeen("x", "kept", "y"),)), 1)

    survey = tally.close(profile="default", seconds=0, unlisted_folders=0)

    assert [(one.family, one.files, one.bytes) for one in survey.refused] == [("Zeiss CZI", 2, 15)]
    assert [(one.family, one.accepted) for one in survey.families] == [("generic-tiff", False)]


def test_a_label_picture_that_a_rule_leaves_out_waits_for_nobody() -> None:
    tally = Tally()
    tally.add(FileLook("dicom-wsm", "VL WSM · SM · label", "instance-dropped", "it shows the label"), 7)
    survey = tally.close(profile="default", seconds=0, unlisted_folders=0)
    assert (survey.refused, list(survey.aside.values()), survey.files, survey.bytes) == ((), [1], 1, 7)
    assert [one.files for one in survey.groups] == [1]


def test_a_key_on_no_list_is_shown_as_its_shape() -> None:
    """A site may call a field by a patient's name."""
    assert masked_key("Müller 1961") == "“Aaaaaa 9999”"


def test_a_draft_says_in_clear_only_what_its_reader_must_decide_on() -> None:
    columns = [draft_column(1, "MRN", ["48213311"]), draft_column(2, "Notes", ["seen by Dr. Quincy"])]
    text = draft_profile([draft_yaml("table-1", columns)], Counter({"ACME 1.0": 3}), refused=["why\n  - name: x"])
    assert '"MRN": {class: patient}' in text and '"ACME 1.0": 3' in text and "\n#   - name: x\n" in text
    assert "48213311" not in text and "Quincy" not in text
