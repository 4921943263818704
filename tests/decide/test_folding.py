"""Foldings that are sealed in vaults never change, and a list of words is met by whole words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.dicom.vocabulary import TERMS
from mover.decide.folding import Vocabulary, canonical_name, fold, plain
from mover.decide.redaction.texts import SCANNER_WORDS, SCANNERS

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=9)


@given(TEXTS)
def test_folding_twice_is_folding_once(text: str) -> None:
    """A key that is folded again, by a table or an import, must stay the key."""
    assert fold(fold(text)) == fold(text)
    assert plain(plain(text)) == plain(text)


@given(TEXTS)
def test_fold_is_what_stands_in_crosswalks_since_the_first(text: str) -> None:
    """The fast way for ASCII says what the long way says: sealed keys are found again."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    assert fold(text) == " ".join(folded.split())


@pytest.mark.parametrize(
    ("left", "right"),
    [("  Müller\t Änne", "mu\u0308ller änne"), ("ŁÓDŹ", "łódź")],
)
def test_one_word_typed_two_ways_folds_alike(left: str, right: str) -> None:
    assert fold(left) == fold(right)


@pytest.mark.parametrize(("typed", "spelt"), [("Łódź", "lodz"), ("Grünwald-Øster", "grunwald-oster"), ("ĐẠT", "dat")])
def test_plain_is_how_a_name_is_typed_without_accents(typed: str, spelt: str) -> None:
    assert plain(typed) == plain(spelt) == spelt


def test_a_file_has_one_name_on_every_system() -> None:
    assert canonical_name("C:\\Scans\\ S24-1.SVS ") == canonical_name("/data/s24-1.svs") == "s24-1.svs"


# --- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phrase", SCANNER_WORDS)
def test_every_listed_phrase_and_each_of_its_words_is_met(phrase: str) -> None:
    """Or the writer's own words would be sought in what the writer wrote, and no slide passed."""
    assert phrase in SCANNERS and phrase.upper() in SCANNERS
    assert all(word in SCANNERS for word in phrase.split() if any(map(str.isalnum, word)))


@pytest.mark.parametrize("name", ["White", "Matsu", "Cover", "Perio", "Scope", "ilter", "Image Li", "Hamamatsu-White"])
def test_a_name_inside_a_longer_word_is_no_vocabulary(name: str) -> None:
    """Mr White is sought although a scanner writes target.white.intensity, Ms Matsu although Hamamatsu made it."""
    assert name not in SCANNERS


@pytest.mark.parametrize("text", ["Ré", "山田 yes", "M\u00fc", "original primary Quincy", "", " - "])
def test_letters_beside_a_listed_word_are_not_overlooked(text: str) -> None:
    """Of "Ré" nothing but the listed "r" was looked at, and the name passed as a term."""
    assert text not in TERMS


@pytest.mark.parametrize("text", ["ORIGINAL\\PRIMARY\\AXIAL", "T1", "Head/Neck", "chest-pelvis"])
def test_terms_of_the_standard_are_met_however_they_are_joined(text: str) -> None:
    assert text in TERMS


@given(st.lists(LETTERS, min_size=1, max_size=6), LETTERS, st.sampled_from([" ", "_", "/", ", "]))
def test_a_text_is_met_only_when_each_of_its_words_is_listed(listed: list[str], other: str, gap: str) -> None:
    words = Vocabulary([gap.join(listed)])
    assert gap.join(listed) in words
    assert (gap.join([*listed, other]) in words) == (other in listed)


@given(LETTERS, LETTERS, LETTERS, st.sampled_from(["", " ", "=", "|"]))
def test_a_removed_name_is_told_from_the_longer_word_it_is_part_of(
    before: str, name: str, after: str, gap: str
) -> None:
    """In the listed word it is no trace; as soon as it stands anywhere else, it is."""
    listed = before + name + after
    words = Vocabulary([listed])
    assert not words.repeats(f"= {listed.upper()} |", [name])
    assert words.repeats(f"{listed} {gap}{name}", [name])
    assert set(words.around([name])) == {listed}
