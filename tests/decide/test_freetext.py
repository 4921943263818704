"""Free text: what is known goes, what looks like somebody goes, and only listed words stay."""

from __future__ import annotations

import random
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.decide.folding import plain
from mover.decide.freetext import MAX_TEXT_CHARS, dictionary, scrub
from mover.decide.vocabulary import ONLY_SMALL, WORDS

KNOWN = dictionary(
    [
        "Zoë Kłosowski",
        "40918273",
        "(555) 010-7788",
        "17 Harbour Crescent",
        "D21-40404",
        "b.marlowe",
        "Dr. Ines Abendroth",
    ]
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Zoë Kłosowski has carcinoma, grade 2.", "[name] has carcinoma, grade 2."),
        ("ZOE KLOSOWSKI, invasive ductal carcinoma", "[name], invasive ductal carcinoma"),
        ("klosowskis tumor", "[name] tumor"),
        ("patient 40918273 stable", "patient [name] stable"),
        ("block D21-40404-B6 with necrosis", "block [name]-B6 with necrosis"),
        ("seen by Dr. Ines Abendroth", "seen by [name]"),
        ("seen by Dr. Somebody Unknown-Else on 3 March 2019", "seen by Dr. [name] on [date]"),
        ("biopsy on 11.07.2019 and 2019-07-11 and 7/11/19", "biopsy on [date] and [date] and [date]"),
        ("July 11, 2019; 11th of July; Jul 2019; in 2019", "[date]; [date]; [date]; in [date]"),
        ("call +49 30 123 45 67 or (212) 555-0199", "call [number] or [number]"),
        ("mail x.y@z.example or www.z.example/abc", "mail [address] or [address]"),
        ("at 14:18 in 5 Elm Street, Oldtown 12345", "at [time] in [place]"),
        ("SSN 254-14-9076, MRN 7654321", "SSN [date], MRN [number]"),
        ("k l o s o w s k i", "[word]"),
        ("4 0 9 1 8 2 7 3", "[number]"),
        ("seen by somebodyelse", "seen by [word]"),
        ("Carcinoma, ER+ PR- HER2 2+, Ki-67 20%, pT2 N0.", "Carcinoma, ER+ PR- HER2 2+, Ki-67 20%, pT2 N0."),
        ("Adenokarzinom der Prostata, Gleason 3+4=7", "Adenokarzinom der Prostata, Gleason 3+4=7"),
        ("at Example General Hospital", "at [place]"),
    ],
)  # fmt: skip
def test_what_is_known_or_looks_like_somebody_goes(text: str, left: str) -> None:
    assert scrub(text, KNOWN).text == left


@pytest.mark.parametrize(
    "text",
    [
        "Houseman to return.", "May to return", "Fisher has carcinoma", "Tumor of Rivertown", "Ångström noted",
        "田中 noted", "a\x00b", "tumor \u202e olleh",
    ],
)  # fmt: skip
def test_a_capital_that_nobody_knows_holds_the_cell_back(text: str) -> None:
    """It may be a name that no table holds: a person looks, nothing passes."""
    assert scrub(text, KNOWN).text is None


def test_no_list_of_words_holds_a_name_that_could_stand_alone() -> None:
    """`Fisher` as fish with an ending, `Wells` as well: names of people must not pass by grammar."""
    for name in (
        "Fisher",
        "Wells",
        "Banks",
        "Rivers",
        "Fields",
        "Lynch",
        "Barrett",
        "Grant",
        "Rose",
        "Will",
        "May",
        "Young",
    ):
        assert scrub(f"{name} has carcinoma", dictionary(())).text is None, name
    assert WORDS >= ONLY_SMALL & WORDS and all(word == plain(word) for word in WORDS)


def test_a_long_text_is_held_back_and_not_read_for_ever() -> None:
    assert scrub("tumor " * MAX_TEXT_CHARS, KNOWN).text is None
    for text in ("1-" * 4900, "Dr. " * 2400, "A " * 4900, "a.b@" * 2400, "12 " * 3300, "x" * 9_900):
        scrub(text, KNOWN)


TEMPLATES = (
    "Pt {} (MRN {}) seen by Dr. {}; stable.", "{} has carcinoma, grade {}", "tumor;{}|{}|{}", "discussed with {}/{}",
    "({}) {}, {}: margins clear", "{}{} metastasis", "biopsy_{}_{}", "x{}x", "{}'s tumor, {}-positive",
)  # fmt: skip


@given(seed=st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_planted_identifiers_never_survive(seed: int) -> None:
    """Random names, numbers and mails in random surroundings, case and accents; half of them known to no table."""
    dice = random.Random(seed)
    planted = [_identifier(dice) for _ in range(3)]
    known = dictionary(planted if dice.random() < 0.5 else planted[:1])
    text = dice.choice(TEMPLATES).format(
        *(dice.choice([str, str.upper, str.lower, str.title])(one) for one in planted * 2)
    )
    left = scrub(text, known).text
    for one in planted:
        for part in one.replace("@", " ").replace(".", " ").replace("-", " ").split():
            if left is not None and len(part) >= 4 and plain(part) not in WORDS:
                assert plain(part) not in plain(left), (text, left, part)


def _identifier(dice: random.Random) -> str:
    letters = string.ascii_lowercase + "äéłøñ"
    word = "".join(dice.choice(letters) for _ in range(dice.randrange(5, 11)))
    number = "".join(dice.choice(string.digits) for _ in range(dice.randrange(5, 11)))
    return dice.choice(
        [word.title(), f"{word.title()} {word[::-1].title()}", number, f"D{number[:2]}-{number}", f"{word}@q.example"]
    )


def test_a_known_text_that_reads_like_our_own_mark_is_replaced_once() -> None:
    """A repeated header puts "Name" among the known texts. Sought again in the mark itself, it never ended."""
    known = dictionary(["Name", "Date"])
    assert scrub("Name given: tumour, name", known).text == "[name] given: tumour, [name]"


@pytest.mark.parametrize("text", ["A." * 5000, "a." * 5000, "A" * 9999], ids=["A.", "a.", "A"])
def test_one_long_word_costs_no_minute(text: str) -> None:
    """Forty seconds a cell is a table that never ends."""
    started = time.process_time()
    scrub(text, KNOWN)
    assert time.process_time() - started < 3


def test_names_of_two_letters_go_where_they_are_written_as_names() -> None:
    """Ng, Do and An are surnames of millions; small, they are a unit and two words."""
    known = dictionary(["Ng", "DO^An"])
    assert scrub("Ng has 4 ng; NG and Do to do an excision, AN", known).text == (
        "[name] has 4 ng; [name] and [name] to do an excision, [name]"
    )


@pytest.mark.parametrize("mark", ["'", "/", "_", "’"])
def test_letters_apart_are_a_word_whatever_parts_them(mark: str) -> None:
    """Single letters pass as words, so a name spelt out must go as one."""
    assert scrub(mark.join("klosowski"), KNOWN).text == "[word]"
