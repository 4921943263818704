"""Which change of a policy acts at once and which waits for a second person, with the reason told."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from mover.decide.policies import _RULES, changes, kind_of, risks
from mover.model.policy import (
    AlarmPolicy,
    AuditPolicy,
    BudgetPolicy,
    CleanPolicy,
    DeidPolicy,
    DumpPolicy,
    FolderRule,
    HookRule,
    ImagesPolicy,
    KeepRules,
    MovePolicy,
    Policy,
    ProtectPolicy,
    RecordsPolicy,
    ReleaseRule,
    StagePolicy,
    TableRule,
)

STAGE = StagePolicy("stage", "archive", "flash")
CLEAN = CleanPolicy("clean", "flash")
PROTECT = ProtectPolicy("protect", "flash", "protect", keep=KeepRules(last=20))
MOVE = MovePolicy("cold", "archive", "cold")
DUMP = DumpPolicy("dump", ("archive", "protect"))
IMAGES = ImagesPolicy("images", "intake", "archive", reviewers=2)
ALARM = AlarmPolicy("night", ("mail", "pager"), severity="soon")


def watched(**how: Any) -> ProtectPolicy:
    return ProtectPolicy("protect", "flash", "protect", keep=KeepRules(last=20), **how)


ACTS: list[tuple[Policy | None, Policy | None]] = [
    (None, STAGE), (STAGE, StagePolicy("stage", "archive", "flash", lease_s=600)), (STAGE, None), (None, CLEAN),
    (ImagesPolicy("images", "intake", "archive", reviewers=1), None), (RecordsPolicy("r", "i"), None),
    (BudgetPolicy(name="b", read_bytes_s=5), BudgetPolicy(name="b")), (BudgetPolicy(name="b"), None),
    (None, PROTECT), (PROTECT, ProtectPolicy("protect", "flash", "protect", keep=KeepRules(last=30))),
    (CleanPolicy("clean", "flash", aside_s=86_400), CLEAN), (None, MOVE), (MOVE, None), (None, DUMP), (None, ALARM),
    (ALARM, AlarmPolicy("night", ("mail", "pager", "desk"), severity="know")), (PROTECT, PROTECT),
    (PROTECT, watched(drill_every_s=60, sample_percent=9.0, recovery_time_s=60)),
]  # fmt: skip
WAITS: list[tuple[Policy | None, Policy | None, str]] = [
    (STAGE, StagePolicy("stage", "archive", "flash-two"), "to"),
    (STAGE, StagePolicy("stage", "archive", "flash", unknown_patients="allow"), "unknown_patients"),
    (None, CleanPolicy("clean", "flash", automatic=True), "automatic"),
    (CLEAN, CleanPolicy("clean", "flash", before_clean=(HookRule(name="drain"),)), "before_clean"),
    (CLEAN, CleanPolicy("clean", "flash", aside_s=86_400), "aside_s"),
    (CleanPolicy("clean", "flash", aside_s=None), CLEAN, "aside_s"),
    (PROTECT, ProtectPolicy("protect", "flash", "protect", keep=KeepRules(last=19)), "keep.last"),
    (PROTECT, ProtectPolicy("protect", "flash", "protect", keep=KeepRules(last=20), trash_s=3600), "trash_s"),
    (PROTECT, ProtectPolicy("protect", "flash", "cold", keep=KeepRules(last=20)), "to"),
    (None, ProtectPolicy("protect", "flash", "protect", folders=(FolderRule(name="etc", path="/etc"),)), "folders"),
    (None, ProtectPolicy("protect", "flash", "protect", roots=("/srv",)), "roots"),
    (IMAGES, None, ""), (RecordsPolicy("r", "i", reviewers_of={"x": 2}), None, ""),
    (PROTECT, None, ""), (ALARM, None, ""), (DUMP, None, ""),
    (MOVE, MovePolicy("cold", "archive", "cold", release=ReleaseRule()), "release"),
    (DUMP, DumpPolicy("dump", ("archive", "protect"), keep=KeepRules(last=1)), "keep"),
    (DUMP, DumpPolicy("dump", ("archive", "protect"), max_age_s=10**6), "max_age_s"),
    (DUMP, DumpPolicy("dump", ("archive", "protect"), drill_every_s=10**6), "drill_every_s"),
    (PROTECT, watched(drill_every_s=86_400), "drill_every_s"), (PROTECT, watched(sample_percent=1.0), "sample_percent"),
    (PROTECT, watched(sample_every_s=10**6), "sample_every_s"),
    (PROTECT, watched(whole_every_s=10**7), "whole_every_s"),
    (watched(recovery_point_s=3600), PROTECT, "recovery_point_s"),
    (watched(recovery_time_s=60), watched(recovery_time_s=61), "recovery_time_s"),
    (AuditPolicy("audit", ("archive", "protect")), AuditPolicy("audit", ("archive",)), "to"),
    (AuditPolicy("audit", ("archive",)), AuditPolicy("audit", ("archive",), every_s=7200), "every_s"),
    (ALARM, AlarmPolicy("night", ("mail",), severity="soon"), "to"),
    (ALARM, AlarmPolicy("night", ("mail", "pager")), "severity"),
    (None, DeidPolicy(), ""), (RecordsPolicy("r", "intake"), RecordsPolicy("r", "intake", minimum_k=2), ""),
    (PROTECT, STAGE, ""),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), ACTS)
def test_what_takes_nothing_away_acts_at_once(before: Policy | None, after: Policy | None) -> None:
    """At night there is no second person, and a budget has to be lowered all the same."""
    assert risks(before, after) == []


@pytest.mark.parametrize(("before", "after", "field"), WAITS)
def test_what_takes_away_sends_elsewhere_or_runs_something_waits_and_says_why(
    before: Policy | None, after: Policy | None, field: str
) -> None:
    found = risks(before, after)
    assert [one.field for one in found] == [field] and found[0].words.endswith(found[0].why)


def test_every_kind_of_policy_is_judged() -> None:
    """A new kind without rules would act unseen: it fails here, and by its name when it is asked for."""
    kinds = {str(kind.__struct_config__.tag) for kind in typing.get_args(Policy)}
    assert set(_RULES) == kinds


def test_a_change_is_told_field_by_field_and_members_go_by_their_names() -> None:
    """A default that is written out changes nothing; a table that moved up is the same table."""
    one, two = TableRule("a", {}), TableRule("b", {}, delimiter=";")
    found = changes(RecordsPolicy("r", "i", (one, two)), RecordsPolicy("r", "i", (two, one), minimum_k=5))
    assert [(c.field, c.words) for c in found] == [("minimum_k", "0 → 5")]
    assert changes(STAGE, StagePolicy("stage", "archive", "flash", lease_s=86_400)) == []
    made = {c.field: c.words for c in changes(None, CLEAN)}
    assert made["from"] == "nothing → flash" and kind_of(CLEAN) == "clean"
    long = changes(STAGE, StagePolicy("stage", "archive", "flash", layout_label="x" * 500))
    assert long[0].words.endswith("…") and len(long[0].words) < 150
