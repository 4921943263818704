"""Whether a scan saw everything, and whether what it did not see may be called gone.

Marking an entry gone forgets nothing and removes nothing, but people and policies act on it: so an absence counts
only when the whole place was seen, and an empty place where much is known is a question first (I7).
"""

from __future__ import annotations

from msgspec import Struct


class Sight(Struct, frozen=True):
    """What a scan knows of itself at its end. `known` is what the catalog holds of the place; `part` is true when
    only a folder of the tier was walked; `sealed` when its paths are known by tags, which have no folders."""

    entries: int
    findings: int
    known: int
    part: bool
    sealed: bool
    empty_ok: bool


class Verdict(Struct, frozen=True):
    complete: bool
    judge_gone: bool
    reason: str = ""


def judge(sight: Sight) -> Verdict:
    if sight.findings:
        return Verdict(False, False, f"{sight.findings} places could not be seen, so nothing is called gone")
    if sight.entries == 0 and sight.known and not sight.empty_ok:
        return Verdict(
            False, False,
            "nothing was seen where entries are known; if it was emptied on purpose, scan again with `empty_ok`",
        )  # fmt: skip
    if sight.sealed and sight.part:
        return Verdict(True, False, "what is gone from an identified tier is judged by a scan of the whole tier")
    return Verdict(True, True)


def judge_changes(findings: int, *, known: int, left: int, empty_ok: bool) -> Verdict:
    """Of a scan of changes: `left` is what would still be known of the tier if what was not seen were called gone."""
    if findings:
        return Verdict(False, False, f"{findings} places could not be seen, so nothing is called gone")
    if known and not left and not empty_ok:
        return Verdict(
            False, False,
            "nothing would be left of what is known; if it was emptied on purpose, scan again with `empty_ok`",
        )  # fmt: skip
    return Verdict(True, True)
