"""How long what was set aside on a flash tier is held: strays of cleaned runs, and damaged content.

Nothing of it is in any manifest or snapshot, so it is nobody's promise; it is kept for people to look at. It goes
when a policy says for how long, and then on record.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

DAY_S = 86_400.0


class Aside(Struct, frozen=True):
    """Strays of one run, or one damaged file; `age_s` is its newest part's, by the server's clock."""

    what: str
    files: int
    bytes: int
    age_s: float


class Purge(Struct, frozen=True):
    what: str
    files: int
    bytes: int
    reason: str


def plan_purge(aside: Sequence[Aside], *, held_s: int | None, policy: str, most: int) -> list[Purge]:
    """The oldest first, `most` at a time; without `held_s` everything stays."""
    if held_s is None:
        return []
    due = sorted((one for one in aside if one.age_s > held_s), key=lambda one: -one.age_s)[:most]
    return [
        Purge(
            one.what, one.files, one.bytes,
            f"set aside {one.age_s / DAY_S:.1f} days ago; the policy {policy} holds it for {held_s / DAY_S:.1f}",
        )
        for one in due
    ]  # fmt: skip
