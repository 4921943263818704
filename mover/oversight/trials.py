"""What a policy would do that nobody follows yet, by what stands, what waits and what was done in the last thirty days.

Kinds whose rooms plan for themselves (move, protect, records) are not here. Where nothing can be known before, the plan
says that, in a sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, Final

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.alarms import receivers_of
from mover.decide.needs import Need
from mover.decide.policies import kind_of
from mover.decide.quarantine import NO_THUMBNAIL
from mover.model import wire
from mover.model.policy import (
    AlarmPolicy,
    ArchivePolicy,
    AuditPolicy,
    BudgetPolicy,
    CleanPolicy,
    DeidPolicy,
    DumpPolicy,
    ImagesPolicy,
    Policy,
    StagePolicy,
    VerifyPolicy,
)

DAYS: Final = 30
SHOWN: Final = 100
DAY_S: Final = 86_400

SQL = load(__file__)


async def trial(conn: Connection, policy: Policy, *, needs: Sequence[Need], paces: wire.Paces) -> wire.Plan:
    """Nothing is changed. `needs` are those of this moment, `paces` of the last hour."""
    rows = await _facts(conn, policy)
    steps = _steps(policy, rows, needs, paces)
    counts: dict[str, int] = {}
    for step in steps:
        if step.action != "know":
            counts[step.action] = counts.get(step.action, 0) + 1
    shown = steps[:SHOWN]
    return wire.Plan(
        step=f"{kind_of(policy)} as it is now", counts=counts, bytes=sum(step.bytes or 0 for step in steps),
        steps=shown, truncated=len(steps) > SHOWN,
    )  # fmt: skip


async def _facts(conn: Connection, policy: Policy) -> list[Any]:
    if isinstance(policy, ImagesPolicy):
        return await SQL.many(conn, "packs_that_wait", policy=policy.name)
    if isinstance(policy, DeidPolicy):
        return await SQL.many(conn, "packs_that_wait", policy=None)
    if isinstance(policy, StagePolicy):
        return await SQL.many(conn, "runs_of_policy", policy=policy.name, days=DAYS)
    if isinstance(policy, CleanPolicy):
        return await SQL.many(conn, "runs_to_clean", tier=policy.flash, limit=SHOWN + 1)
    if isinstance(policy, VerifyPolicy | ArchivePolicy):
        return await SQL.many(conn, "slides_on", tier=policy.tier)
    return []


# --- by kind -------------------------------------------------------------------------------------------------


@singledispatch
def _steps(policy: Policy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    return [_know(policy, "what it would do is not known before it is followed")]


@_steps.register
def _(policy: ImagesPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    found = []
    for row in rows:
        bare = not policy.require_thumbnail or row.kind in policy.without_thumbnail
        if row.code == "pack-incomplete" and row.explanation == NO_THUMBNAIL and bare:
            found.append(_step("pass on", row, "would no longer wait for a thumbnail, once they are judged again"))
        else:
            found.append(_step("wait", row, f"wait for {row.code}; judging them again tells more"))
    return found or [_know(policy, "no pack of its batches waits; batches that are declared from now on go by it")]


@_steps.register
def _(policy: DeidPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    found = [_step("may be judged again", row, f"wait for {row.code}; only reading them by it tells") for row in rows]
    return [*found, _know(policy, "slides that are published stay as they are; what comes from now on goes by it")]


@_steps.register
def _(policy: StagePolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    [row] = rows
    words = f"{row.runs} runs of the last {DAYS} days went by it; {row.standing} of them stand and end as they began"
    return [wire.PlanStep(action="know", subject=policy.name, reason=words, bytes=row.bytes)]


@_steps.register
def _(policy: CleanPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    if not rows:
        return [_know(policy, "no run on this tier is protected and not cleaned yet")]
    later = "runs that finish from now on go by themselves" if policy.automatic else "nobody else does"
    words = f"it is protected, and a person cleans it; {later}"
    return [wire.PlanStep(action="stay", subject=row.id, reason=words, bytes=row.bytes) for row in rows]


@_steps.register
def _(policy: BudgetPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    found = []
    for word, end, limit in (
        ("read", "source", policy.read_bytes_s), ("written", "target", policy.write_bytes_s)
    ):  # fmt: skip
        pairs = [p for p in paces.pairs if policy.tier in (None, getattr(p, end))]
        most = max((sum(at) for at in zip(*(p.bytes_s for p in pairs), strict=True)), default=0)
        if isinstance(limit, int):
            slower = most > limit
            words = f"in the last hour at most {most:,.0f} bytes a second were {word}; {limit:,} may be"
            found.append(wire.PlanStep(action="slow down" if slower else "let go", subject=policy.name, reason=words))
    return found or [_know(policy, "it limits no bytes a second outside of its windows; other work waits its turn")]


@_steps.register(VerifyPolicy)
@_steps.register(ArchivePolicy)
def _(
    policy: VerifyPolicy | ArchivePolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces
) -> list[wire.PlanStep]:
    [row] = rows
    words = (
        f"{row.slides} slides stand on {policy.tier}; each is read again about every"
        f" {1 / policy.share_per_day:.0f} days, {row.bytes * policy.share_per_day:,.0f} bytes a day"
    )
    found = [wire.PlanStep(action="read again", subject=policy.tier, reason=words, bytes=row.bytes)]
    if isinstance(policy, ArchivePolicy) and policy.second_copy:
        words = f"{row.slides - row.copied} of them have no whole copy on {policy.second_copy} yet"
        found.append(wire.PlanStep(action="copy", subject=policy.second_copy, reason=words))
    return found


@_steps.register
def _(policy: AlarmPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    told = [
        wire.PlanStep(action="tell", subject=", ".join(policy.receivers), reason=f"{need.severity}: {need.words}")
        for need in needs
        if receivers_of([policy], need)
    ]
    return told or [_know(policy, "nothing of now would be told by it")]


@_steps.register
def _(policy: DumpPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    return [_know(policy, "nothing now: dumps that stand are judged by it after the next one was made and read back")]


@_steps.register
def _(policy: AuditPolicy, rows: list[Any], needs: Sequence[Need], paces: wire.Paces) -> list[wire.PlanStep]:
    words = f"the ends of all chains are signed and written to {', '.join(policy.targets)} at the next turn"
    return [_know(policy, words)]


def _know(policy: Policy, words: str) -> wire.PlanStep:
    return wire.PlanStep(action="know", subject=policy.name, reason=words)


def _step(action: str, row: Any, words: str) -> wire.PlanStep:
    told = f"{row.count} packs {words}"
    return wire.PlanStep(action=action, subject=row.kind or row.code, reason=told, bytes=row.bytes)
