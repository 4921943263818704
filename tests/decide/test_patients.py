"""Whose number a patient's number is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.patients import at_home, claims, issued, of_issuer, one_patient, says_no_id

A, B = "patient|4711^^^hospital a", "patient|4711^^^hospital b"


@pytest.mark.parametrize(
    "text",
    ["", " ", "UNKNOWN", "Unknown^Unknown", "anon", "ANONYMOUS^PATIENT", "NONE", "N/A", "n.a.", "0", "0000000", "--",
     "TEST", "Test^Patient", "xxxx", "000-000", "null", "No_ID", "(none)", "<unknown>", "[REDACTED]", "'n/a'"],
)  # fmt: skip
def test_a_placeholder_is_nobodys_number(text: str) -> None:
    """Programs write it where they have none: as a number it would make one patient of all of them."""
    assert says_no_id(text)


@pytest.mark.parametrize(
    "text",
    ["4711", "00012", "A0", "Quincy^Jane", "TEST4711", "UNKNOWN-4711", "X9", "None Jane", "0A", "(7)", "<Quincy>"],
)
def test_a_number_is_somebodys(text: str) -> None:
    assert not says_no_id(text)


def test_equal_numbers_of_two_issuers_are_two_patients() -> None:
    """What has no issuer joins the one that came first; the other keeps to itself, whatever comes later."""
    homes = claims([B, A, "patient|4711", "patient|1"])
    assert homes == {"patient|4711": "hospital a"}
    assert at_home([A, B, "patient|4711"], homes) == {A: "patient|4711", B: B, "patient|4711": "patient|4711"}
    assert at_home([B], {"patient|4711": "hospital a"}) == {B: B}


def test_an_issuer_that_says_nothing_is_none() -> None:
    assert of_issuer("patient|1", "") == of_issuer("patient|1", "UNKNOWN") == "patient|1"
    assert of_issuer("patient|4711", " Hospital  A ") == A and issued(A) == ("patient|4711", "hospital a")


@pytest.mark.parametrize(
    ("keys", "one"),
    [
        ([A], True), ([A, "patient|4711"], True), ([], True), ([A, B], False), (["patient|1", "patient|2"], False),
        ([A, "patient|4712"], False),
    ],
)  # fmt: skip
def test_objects_of_one_patient_may_say_the_issuer_or_not(keys: list[str], one: bool) -> None:
    assert one_patient(keys) is one


@given(st.lists(st.sampled_from([A, B, "patient|4711", "patient|9^^^hospital b"])))
def test_claims_do_not_ask_in_which_order_they_come(keys: list[str]) -> None:
    assert claims(keys) == claims(reversed(keys))
    settled = at_home(keys, claims(keys))
    assert len({settled[key] for key in {A, B} & set(keys)}) == len({A, B} & set(keys))
