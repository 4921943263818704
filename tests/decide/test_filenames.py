"""Which words of names are sought in outputs: somebody's, not everybody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.filenames import may_name, stem_of, telling, words_of_name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("D22-909549.svs", {"D22-909549", "909549"}),
        ("Quincy, Ada/D22-909549_1.ndpi", {"Quincy, Ada", "Quincy", "D22-909549_1", "909549"}),
        ("Smith.John.svs", {"Smith.John", "Smith"}),
        ("H24.123456.ome.tif", {"H24.123456.ome", "123456"}),
        ("75422863/st1/IM0001.dcm", {"75422863"}),
        ("19551231-1234_HE/st1/IM0001.dcm", {"19551231-1234"}),
        ("20040291-0075.svs", {"20040291-0075"}),
        ("Müller-Lüdenscheidt.scn", {"Müller-Lüdenscheidt", "Müller", "Lüdenscheidt"}),
    ],
)
def test_barcodes_names_and_folders_of_patients_are_sought(name: str, words: set[str]) -> None:
    """A slide's stem is its barcode, and a folder is often a patient (I2)."""
    assert words <= set(words_of_name(name))


@pytest.mark.parametrize(
    "name",
    [
        "label.dcm", "wsm1/volume2.dcm", "st0/IM0006.dcm", "slide_gt450.svs", "Scans/Batch 12/slide (3).ndpi",
        "philips.tiff", "VENTANA/overview.bif", "Originals/MR/IMG00012.dcm", "2024-11-05/thumbnail.dcm",
        "export_20241105/DICOMDIR", "csv/csv2_cases.csv", "A1_HE.svs", "IM_20241105_0012.dcm", "20241105-12/label.dcm",
    ],
)  # fmt: skip
def test_names_that_anybody_may_have_are_not(name: str) -> None:
    """An output rightly says VOLUME, LABEL or Philips: a search for these would refuse every clean file."""
    assert words_of_name(name) == ()


def test_a_name_of_bytes_that_are_no_text_has_words_too() -> None:
    assert words_of_name("Gr\udcfcnwald/x.svs") == ("Gr\udcfcnwald",)


def test_only_the_last_extension_is_none_of_the_name() -> None:
    assert stem_of("a.b.svs") == "a.b"
    assert stem_of("H24.123456") == "H24.123456"
    assert stem_of(".hidden") == ".hidden"


def test_of_a_patients_words_those_are_sought_that_tell_something() -> None:
    words = ["Ada  Quincy", "tumor", "1972-05-09", "Elm", "60338241", "slide", "19720509", "19720509-2384"]
    assert list(telling(words)) == ["Ada Quincy", "60338241", "19720509-2384"]


@given(st.text(max_size=60))
def test_any_text_is_judged_and_short_ones_never_count(text: str) -> None:
    assert isinstance(words_of_name(text), tuple)
    assert all(len(word) >= 5 for word in words_of_name(text))
    if len(text.strip()) < 5:
        assert not may_name(text)
