"""Chance whose draws nobody takes for something else."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import pytest

from mover import randomness
from mover.decide import adoption
from mover.deid import crosswalk, vault
from mover.model.ids import make_number


def uids_without(patch: pytest.MonkeyPatch, digits: Iterable[str]) -> None:
    """A run avoids what it knows to be somebody's; the ZIP code of a hospital's address is not among that, and one of
    300 runs over the samples drew one. A search of the output would take it for what was left."""
    known = tuple(digits)

    def new_uid() -> str:
        while True:
            uid = randomness.new_uid()
            if not any(one in uid for one in known):
                return uid

    patch.setattr(crosswalk, "new_uid", new_uid)


def drawn_as_such(patch: pytest.MonkeyPatch) -> None:
    """Of the numbers that an attribute of sixteen characters cuts off, one in sixty does not look drawn, and clean data
    waits for a person. Here another is drawn instead: what a test says of the verdicts holds each time."""

    def random_bytes(count: int) -> bytes:
        while True:
            found = secrets.token_bytes(count)
            if count != 10 or adoption._drawn(make_number(found)[:16]):
                return found

    for module in (randomness, vault):
        patch.setattr(module, "random_bytes", random_bytes)
