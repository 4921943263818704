"""How often what is kept is locked anew, how long for, and what a lock probe's answer means for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

HOUR_S, DAY_S = 3600, 86_400

State = Literal["immutable", "not immutable", "unknown"]


def renewal_every_s(retain_s: int) -> int:
    """Eight chances within a lock's life, at least an hour and at most a day apart. Immutable files, which never run
    out, are looked at once a day for those that a killed writer left open."""
    return min(DAY_S, max(HOUR_S, retain_s // 8)) if retain_s else DAY_S


def renewal_due(retain_s: int, *, age_s: float | None, running: bool, failed: bool) -> bool:
    if running or age_s is None:
        return not running
    return age_s >= (HOUR_S if failed else renewal_every_s(retain_s))


def enough_s(retain_s: int) -> int:
    """A lock that holds for so long yet is not touched: each is extended about twice in its life."""
    return retain_s // 2


def changed(before: State, now: State, succeeded: Sequence[str]) -> str:
    """The audit record's words when the state of a tier changed, or nothing."""
    if before == now:
        return ""
    if now == "not immutable":
        return "tier found not immutable"
    return "tier found immutable" if now == "immutable" else ""
