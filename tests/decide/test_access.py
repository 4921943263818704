"""The table of roles, cell by cell, so that a change of it is a change of this page."""

from __future__ import annotations

import pytest

from mover.decide.access import ACTIONS, ROLES, judge, may, may_use_socket, needs_somebody, why_not_act_for

TABLE = """
                    viewer operator admin custodian scheduler
status.read         +      +        +     +         +
metrics.read        +      +        +     +         .
tiers.read          +      +        +     .         +
policies.read       +      +        +     .         .
policies.change     -      +        +     .         .
policies.approve    -      -        +     .         .
batches.read        +      +        +     +         .
batches.declare     -      +        +     -         .
batches.certify     -      +        +     +         .
dumps.read          +      +        +     +         .
dumps.make          -      +        +     -         .
dumps.drill         -      +        +     -         .
quarantine.read     +      +        +     +         .
quarantine.decide   -      +        +     -         .
adoptions.read      +      +        +     .         .
adoptions.request   -      +        +     .         .
rulings.read        +      +        +     +         .
rulings.ask         -      +        +     -         .
rulings.decide      -      -        -     +         .
names.reveal        .      +        .     +         .
vault.read          .      .        .     +         .
vault.reveal        .      .        .     +         .
vault.erase         .      .        .     +         .
vault.import        .      .        .     +         .
slides.read         +      +        +     .         .
records.read        +      +        +     .         .
records.declare     -      +        +     .         .
cohorts.read        +      +        +     .         .
cohorts.save        -      +        +     .         .
shards.read         +      +        +     .         .
runs.read           +      +        +     .         +
runs.request        -      +        +     .         +
runs.heartbeat      -      +        +     .         +
runs.finish         -      +        +     .         +
runs.clean          -      +        +     .         +
runs.cancel         -      +        +     .         +
snapshots.read      +      +        +     .         .
snapshots.check     -      +        +     .         .
snapshots.rebuild   -      -        +     .         .
snapshots.turn      -      +        +     .         .
snapshots.keys      -      -        +     .         .
archives.read       +      +        +     .         .
archives.keep       -      +        +     .         .
folders.read        +      +        +     .         .
folders.protect     -      +        +     .         .
snapshots.hold      -      +        +     .         .
shortenings.read    +      +        +     .         .
shortenings.ask     -      +        +     .         .
shortenings.approve -      -        +     .         .
restores.read       +      +        +     .         .
restores.request    -      +        +     .         .
transfers.read      +      +        +     .         .
transfers.request   -      +        +     .         .
transfers.steer     -      +        +     .         .
transfers.approve   -      +        +     .         .
transfers.restore   -      +        +     .         .
scans.read          +      +        +     .         .
scans.declare       -      +        +     .         .
tags.read           +      +        +     .         .
tags.change         -      +        +     .         .
verifications.read  +      +        +     .         .
verifications.request -    +        +     .         .
alarms.read         +      +        +     .         .
alarms.test         -      -        +     .         .
audit.read          .      .        +     +         .
audit.pack          .      .        +     +         .
answers.read        .      .        +     +         .
audit.restore       .      .        +     +         .
audit.retire        .      .        +     +         .
service.reload      .      .        +     .         .
tokens.read         .      .        +     .         .
tokens.make         .      .        +     .         .
tokens.revoke       .      .        +     .         .
accounts.read       .      .        +     .         .
accounts.make       .      .        +     .         .
accounts.grant      .      .        +     .         .
accounts.disable    .      .        +     .         .
session.read        +      +        +     +         +
session.use         +      +        +     +         -
"""
VERDICTS = {"+": "allowed", "-": "denied", ".": "hidden"}
CELLS = [
    (role, action, VERDICTS[mark])
    for action, *marks in (line.split() for line in TABLE.strip().splitlines()[1:])
    for role, mark in zip(ROLES, marks, strict=True)
]


@pytest.mark.parametrize(("role", "action", "verdict"), CELLS)
def test_each_role_may_what_the_table_says(role: str, action: str, verdict: str) -> None:
    assert judge(role, action) == verdict  # type: ignore[arg-type]


def test_the_table_here_and_the_table_there_name_the_same_actions() -> None:
    assert {action for _, action, _ in CELLS} == set(ACTIONS)


def test_an_unknown_action_is_nobodys() -> None:
    """A route with a misspelt action is closed, not open."""
    assert not any(may(role, "runs.dance") for role in ROLES)


def test_who_runs_the_machine_and_who_sees_names_are_two_people() -> None:
    """An admin cannot look into the vault and a custodian cannot move a byte (D10)."""
    assert not may("admin", "names.reveal")
    work = {action for action in ACTIONS if not action.endswith(".read")}
    # a certificate names nobody and moves nothing: it is what a compliance officer asks for
    work -= {"names.reveal", "batches.certify", "audit.pack", "audit.restore", "audit.retire"}
    # grants or declines what who moves bytes asks about a withdrawn slide, and asks nothing
    work -= {"rulings.decide"}
    # one's own password and tokens
    work -= {"session.use"}
    work = {action for action in work if not action.startswith("vault.")}
    assert not any(may("custodian", action) for action in work)


def test_the_local_socket_knows_root_and_the_daemons_user_only() -> None:
    assert may_use_socket(0, own_uid=990) and may_use_socket(990, own_uid=990)
    assert not may_use_socket(1000, own_uid=990)


def test_a_scheduler_acts_for_members_of_its_group_and_for_nobody_who_could_open_everything() -> None:
    """Paths that a run names are opened with its user's rights: root's or the daemon's would open everybody's."""
    assert why_not_act_for("scheduler", 1000, member=True, own_uid=990) == ""
    assert "no member" in why_not_act_for("scheduler", 1000, member=False, own_uid=990)
    assert all("root" in why_not_act_for("scheduler", uid, member=True, own_uid=990) for uid in (0, 990))
    people = set(ROLES) - {"scheduler"}
    assert all("scheduler" in why_not_act_for(role, 1000, member=True, own_uid=990) for role in people)


def test_a_scheduler_asks_for_somebody_and_ends_by_itself() -> None:
    """A user who left the group must not keep a run from being protected and cleaned."""
    assert [action for action in ACTIONS if needs_somebody("scheduler", action)] == ["runs.request"]
    assert not needs_somebody("operator", "runs.request")
