"""Which packs of a snapshot repository may go, and when: two phases, with reasons.

A pack that no snapshot needs is *marked* first: new snapshots lean on it no more. Only when its mark is older than
the grace, which is longer than any snapshot runs, and still no snapshot needs it, it is *swept*. Whoever began
before the mark has ended by then, and its snapshot file would have said what it needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Literal

from msgspec import Struct

# live: an index file names it. marked: to go, by its mark. stray: no index file names it, a killed writer left it.
PackState = Literal["live", "marked", "stray"]
PackAction = Literal["keep", "repack", "mark", "unmark", "wait", "sweep"]


class PackFacts(Struct, frozen=True):
    """`used_bytes`: of the blobs that some snapshot needs and that count as this pack's, if several hold them."""

    pack_id: str
    size_bytes: int
    used_bytes: int
    state: PackState
    marked_at: datetime | None = None


class PruneRules(Struct, frozen=True):
    """`repack_bytes` bounds what one prune rewrites; the rest waits for the next."""

    grace: timedelta
    waste_share: float
    repack_bytes: int


class PackVerdict(Struct, frozen=True):
    pack_id: str
    action: PackAction
    reason: str
    size_bytes: int
    used_bytes: int


def plan_prune(packs: Iterable[PackFacts], rules: PruneRules, *, now: datetime) -> list[PackVerdict]:
    """A verdict for each pack; the most wasteful are repacked first."""
    verdicts: list[PackVerdict] = []
    wasteful: list[PackFacts] = []
    for pack in packs:
        if pack.state == "live" and pack.used_bytes > 0 and _waste(pack) >= rules.waste_share:
            wasteful.append(pack)
        else:
            verdicts.append(_verdict(pack, *_judge(pack, rules.grace, now)))
    return verdicts + _share_of_work(wasteful, rules)


def _judge(pack: PackFacts, grace: timedelta, now: datetime) -> tuple[PackAction, str]:
    if pack.state == "live":
        return _judge_live(pack)
    if pack.used_bytes:
        return "unmark", "a snapshot that ran while it was marked needs it"
    if pack.state == "stray" or pack.marked_at is None:
        return "mark", "no index file names it: what a killed writer left, or somebody dropped"
    if now - pack.marked_at < grace:
        return "wait", "marked; the grace is not over"
    return "sweep", "marked, the grace is over, no snapshot needs it"


def _judge_live(pack: PackFacts) -> tuple[PackAction, str]:
    if not pack.used_bytes:
        return "mark", "no snapshot needs a blob of it, or other packs hold them"
    return "keep", "snapshots need it; what they do not need is below the share worth rewriting"


def _share_of_work(wasteful: list[PackFacts], rules: PruneRules) -> list[PackVerdict]:
    verdicts = []
    left = rules.repack_bytes
    for pack in sorted(wasteful, key=lambda pack: (-_waste(pack), pack.pack_id)):
        if pack.used_bytes <= left:
            left -= pack.used_bytes
            verdicts.append(_verdict(pack, "repack", "partly needed: what is needed is copied, then it is marked"))
        else:
            verdicts.append(_verdict(pack, "keep", "partly needed; this prune's share of rewriting is used up"))
    return verdicts


def _waste(pack: PackFacts) -> float:
    return 1 - pack.used_bytes / pack.size_bytes


def _verdict(pack: PackFacts, action: PackAction, reason: str) -> PackVerdict:
    return PackVerdict(pack.pack_id, action, reason, pack.size_bytes, pack.used_bytes)
