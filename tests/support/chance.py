"""Chance whose draws nobody takes for something else."""

from __future__ import annotations

import secrets

import pytest

from mover import randomness
from mover.decide import adoption
from mover.deid import vault
from mover.model.ids import make_number


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
