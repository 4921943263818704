"""What may pass of a slide's words, decided by type and never by looks."""

from __future__ import annotations

import base64
from array import array

import pytest

import scanners
from mover.decide.redaction import Redaction, icc, judge_slide, shape_of, strings_of, thumbnail_size
from mover.errors import PlaceUnknown
from mover.model.slides import Page, Pixels, SlideScan
from mover.model.source import MemorySource
from tests.support import slides

ICC = 34675


def judge(data: bytes, suffix: str = ".svs", **options: tuple[str, ...]) -> Redaction:
    return judge_slide(scanners.identify(MemorySource(data), suffix), **options)


def description(redaction: Redaction, page: int = 0, tag: int = 270) -> str:
    value = next(out.value for out in redaction.pages[page].tags if out.code == tag)
    assert isinstance(value, bytes)
    return value.decode("ascii")


KEPT = [
    ("AppMag", "20"), ("AppMag", "40.000000"), ("MPP", "0.25280000000000002"), ("StripeWidth", "2040"),
    ("Left", "-1.5"),
    ("Top", "23.449873"), ("LineCameraSkew", "-0.000424"), ("LineAreaXOffset", "0.019265"), ("Exposure Time", "109"),
    ("Exposure Scale", "0.000001"), ("DisplayColor", "0"), ("Gamma", "1.80"), ("OriginalWidth", "46000"),
    ("Originalheight", "32914"), ("Filtered", "5"), ("Parmset", "USM Filter"), ("ICC Profile", "ScanScope v1"),
]  # fmt: skip

DROPPED = [
    ("ScanScope ID", "SS7719"), ("Filename", "S24-771001 Quincy"), ("Title", "Quincy, Ada"), ("Date", "03/04/24"),
    ("Time", "11:22:33"), ("Time Zone", "GMT-05:00"), ("User", "b414003d-95c6"), ("Barcode", "S24-771001;A1"),
    ("ImageID", "1004486"), ("DSR ID", "resc3-dsr2"), ("Rack", "1"), ("Slide", "4"), ("Patient Name", "Quincy"),
    ("CustomField.1", "x"), ("appmag", "20"),
    # listed keys with values that are not of their type
    ("AppMag", "Quincy"), ("MPP", "0.4990 Quincy"), ("Left", "50293241"), ("Exposure Time", "60338241"),
    ("Filtered", "S24"), ("Parmset", "Quincy's filter"), ("ICC Profile", "Quincy v1"),
    ("OriginalWidth", "46000;A1"), ("Gamma", "1.8e5"),
    ("Top", "٢٣"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), KEPT)
def test_a_listed_key_with_a_value_of_its_type_is_kept_as_it_stands(key: str, value: str) -> None:
    assert f"|{key} = {value}" in description(judge(slides.svs(keys=f"{key} = {value}")))


@pytest.mark.parametrize(("key", "value"), DROPPED)
def test_everything_else_is_dropped(key: str, value: str) -> None:
    """An allow-list: what nobody listed is nobody's to keep."""
    redaction = judge(slides.svs(keys=f"StripeWidth = 2040|{key} = {value}"))
    assert description(redaction).endswith("|StripeWidth = 2040\0")


def test_the_header_line_is_written_from_structure_and_never_copied() -> None:
    """A name can stand there as well as anywhere."""
    data = slides.svs().replace(b"Aperio Image Library v12.0.15", b"Aperio Quincy, Ada ID771001 x", 1)
    redaction = judge(data)
    assert description(redaction).startswith("Aperio Image Library\r\n320x256 [0,0 320x256] (64x64) JPEG/RGB Q=80|")
    assert "ID771001" in redaction.removed


def test_pages_that_are_no_levels_have_no_output() -> None:
    redaction = judge(slides.svs())
    assert [page.index for page in redaction.pages] == [0, 2]
    dropped = [decision.place for decision in redaction.decisions if decision.action == "drop"]
    assert {"page 1 (thumbnail)", "page 3 (label)", "page 4 (overview)"} <= set(dropped)


def test_the_thumbnails_directory_is_written_from_structure_for_a_picture_drawn_anew() -> None:
    """The source's repeats every key of the first; the output's says what readers need to know it by."""
    redaction = judge(slides.svs())
    assert redaction.thumbnail is not None
    words = next(tag.value for tag in redaction.thumbnail.tags if tag.code == 270)
    assert words == b"Aperio Image Library v12.0.15\r\n320x256 -> 80x64 - |AppMag = 20|MPP = 0.4990\0"
    anew = [one for one in redaction.decisions if one.action == "rebuild" and "drawn anew" in one.reason]
    assert [(one.place, one.code) for one in anew] == [("page 1 (thumbnail)", "D")]


def test_a_hamamatsu_slide_has_no_directory_for_a_thumbnail() -> None:
    assert judge(slides.ndpi(), ".ndpi").thumbnail is None


@pytest.mark.parametrize(
    ("had", "lowest", "expected"),
    [
        ((1024, 732), (2875, 2057), (1024, 732)),
        (None, (2875, 2057), (1024, 733)),
        ((387, 463), (2875, 2057), (1024, 733)),  # a label in the thumbnail's place
        ((4096, 2930), (11500, 8228), (1024, 733)),  # beyond the bound
        ((1024, 732), (575, 411), (575, 411)),  # nothing is enlarged
        ((1024, 732), (46000, 32914), None),  # more than anybody should decode for a thumbnail
    ],
)
def test_a_thumbnail_keeps_the_sources_size_when_it_was_the_slide_in_small(
    had: tuple[int, int] | None, lowest: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    pixels = Pixels(array("Q", [100]), array("Q", [10]))
    pages = [Page(0, "level", 46000, 32914, 256, 256, 7, pixels, array("Q"))]
    pages += [Page(1, "thumbnail", *had, 0, 0, 7, pixels, array("Q"))] if had else []
    pages += [Page(len(pages), "level", *lowest, 256, 256, 7, pixels, array("Q"))]
    scan = SlideScan("aperio-svs", "aperio", "svs", "classic", "<", 1000, tuple(pages), ())
    assert thumbnail_size(scan) == expected


@pytest.mark.parametrize("code", [269, 285, 305, 306, 315, 316, 33432, 700, 33723, 34377, 34665, 37510, 65123])
def test_a_tag_that_is_not_listed_is_dropped_and_harvested(code: int) -> None:
    kind = 1 if code == 700 else 2 if code < 34000 else 7
    redaction = judge(slides.svs(extra=[slides.raw(code, b"Quincy 771001\0", kind)]))
    assert code not in {tag.code for tag in redaction.pages[0].tags}
    assert {"Quincy 771001", "Quincy", "771001"} <= set(redaction.removed)


def test_a_listed_tag_of_the_wrong_type_is_dropped() -> None:
    """Text under a structural tag's number is still text."""
    redaction = judge(slides.svs(extra=[slides.text(282, "Quincy 771001"), slides.entry(283, 5, 60338241, 1)]))
    assert not {282, 283} & {tag.code for tag in redaction.pages[0].tags}
    assert "771001" in redaction.removed
    assert "60338241" in redaction.removed


def test_decisions_show_the_shape_and_never_the_value() -> None:
    """They go to the catalog, the certificate and the screen."""
    redaction = judge(slides.svs(keys="Barcode = S24-771001;A1|Title = Quincy, Ada"))
    shapes = {decision.shape for decision in redaction.decisions}
    assert {"A99-999999;A9", "Aaaaaa, Aaa"} <= shapes
    assert "Quincy" not in repr(redaction.decisions)
    assert "771001" not in repr(redaction.decisions)


@pytest.mark.parametrize(
    ("value", "shape"),
    [("S24-771001", "A99-999999"), ("Łukasz Øster", "Aaaaaa Aaaaa"), (b"\1\2\3", "3 bytes"), ((1, 2), "2 numbers"),
     ("x" * 50, "a" * 32 + "…"), ("a@b", "a?a"), ("", "")],
)  # fmt: skip
def test_a_shape_masks_letters_and_digits(value: str, shape: str) -> None:
    assert shape_of(value) == shape


@pytest.mark.parametrize("coded", ["utf-16-le", "utf-16-be", "base64", "hex"])
def test_the_harvest_reads_what_is_packed(coded: str) -> None:
    """A private tag can hold a name in any dress; undressed it is what the output is searched for."""
    words = "Quincy 771001"
    data = {
        "utf-16-le": words.encode("utf-16-le"), "utf-16-be": words.encode("utf-16-be"),
        "base64": base64.b64encode(words.encode()), "hex": words.encode().hex().encode(),
    }[coded]  # fmt: skip
    assert "771001" in set(strings_of(data))


def test_the_harvest_leaves_out_measures_and_scanner_words() -> None:
    """They would be found in every output and prove nothing."""
    redaction = judge(slides.svs(keys="Focus Offset = 0.000000|Note = USM Filter|Scanner = Aperio"))
    assert not {"0.000000", "USM Filter", "Aperio", "Filter"} & set(redaction.removed)


def test_a_kept_value_that_repeats_something_removed_is_dropped_after_all() -> None:
    """A number of seven digits under OriginalWidth may be a width, unless it is somebody's number elsewhere."""
    redaction = judge(slides.svs(keys="AppMag = 20|Barcode = 7710012|OriginalWidth = 7710012"))
    assert "7710012" not in description(redaction)


def test_a_value_the_picture_needs_that_repeats_something_removed_stops_the_slide() -> None:
    with pytest.raises(PlaceUnknown):
        judge(slides.svs(keys="MPP = 12.771001|Barcode = 771001"))


def test_identifiers_from_outside_join_the_harvest() -> None:
    assert "Quincy" in judge(slides.svs(), known=("Quincy",)).removed


@pytest.mark.parametrize("text", ["Quincy 771001", "Quincy", "at 2024-03-04", "a@b.example", "11:22:33", "04 03 24"])
def test_words_of_an_icc_profile_that_are_not_colour_managements_are_blanked(text: str) -> None:
    """The colour must stay, and a scanner's service man can have written his name there."""
    profile = slides.icc(text[:13])
    redaction = judge(slides.svs(extra=[slides.raw(ICC, profile)]))
    value = next(tag.value for tag in redaction.pages[0].tags if tag.code == ICC)
    assert isinstance(value, bytes)
    assert len(value) == len(profile) and text[:13].encode("utf-16-be") not in value
    assert value[396:] == profile[396:], "the colour is the same"
    assert text[:13] in redaction.removed
    assert any(one.action == "rebuild" and one.place.endswith("34675") for one in redaction.decisions)


@pytest.mark.parametrize("text", ["IEC61966-2.1", "GT450 v1.0.1", "D65 adapted"])
def test_an_icc_profile_that_names_standards_and_versions_passes(text: str) -> None:
    """The commonest profile of all is called sRGB IEC61966-2.1."""
    assert judge(slides.svs(extra=[slides.raw(ICC, slides.icc(text))])).pages


def test_a_profile_named_in_the_description_does_not_stop_the_slide_that_carries_it() -> None:
    """Scanners write its name into both places."""
    data = slides.svs(
        keys="AppMag = 20|MPP = 0.5|ICC Profile = ScanScope v1", extra=[slides.raw(ICC, slides.icc("ScanScope v1"))]
    )
    redaction = judge(data)
    assert not any("ScanScope" in removed for removed in redaction.removed)


def test_an_ordinary_icc_profile_is_kept_byte_for_byte() -> None:
    profile = slides.icc()
    redaction = judge(slides.svs(extra=[slides.raw(ICC, profile)]))
    assert next(tag.value for tag in redaction.pages[0].tags if tag.code == ICC) == profile
    assert any("sRGB built-in" in text for text in icc.known_texts(profile))


@pytest.mark.parametrize("damage", [lambda p: p[:-9], lambda p: p[:100], lambda p: p[:128] + b"\xff" * 8])
def test_an_icc_profile_that_is_not_whole_stops_the_slide(damage: object) -> None:
    with pytest.raises(PlaceUnknown):
        judge(slides.svs(extra=[slides.raw(ICC, damage(slides.icc()))]))  # type: ignore[operator]


def test_hamamatsu_property_maps_are_rebuilt_line_by_line_over_both_line_ends() -> None:
    """Real maps end lines in CR LF, and in CR alone inside the shading block with its dates and serials."""
    words = (
        "Created=2024/03/04\r\nProduct=C13210\r\nNDP.S/N=770011\r\nccd.width=4096\r\nOperator=quincy\r\n"
        ";NDP Shading Data\r;Date=2024/03/04\r;SerialNumber=770011\r;BarcodeNo=S24-771001\r"
    )
    redaction = judge(slides.ndpi(properties=words), ".ndpi")
    assert description(redaction, tag=65449) == "Product=C13210\r\nccd.width=4096\r\n\0"
    assert {"2024/03/04", "770011", "S24-771001", "quincy"} <= set(redaction.removed)


def test_hamamatsu_model_and_program_names_pass_by_pattern_only() -> None:
    kept = {tag.code for tag in judge(slides.ndpi(), ".ndpi").pages[0].tags}
    assert {271, 272, 305} <= kept
    assert not {306, 65427, 65442, 65468} & kept
    odd = slides.ndpi().replace(b"NDP.scan 3.2.15", b"Quincy's scanne")
    assert 305 not in {tag.code for tag in judge(odd, ".ndpi").pages[0].tags}
