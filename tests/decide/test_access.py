"""The table of roles, cell by cell, so that a change of it is a change of this page."""

from __future__ import annotations

import pytest

from mover.decide.access import ACTIONS, ROLES, judge, may, may_use_socket

TABLE = """
                    viewer operator admin custodian
status.read         +      +        +     +
metrics.read        +      +        +     +
tiers.read          +      +        +     .
policies.read       +      +        +     .
batches.read        +      +        +     +
batches.declare     -      +        +     -
batches.certify     -      +        +     +
dumps.read          +      +        +     +
dumps.make          -      +        +     -
dumps.drill         -      +        +     -
quarantine.read     +      +        +     +
quarantine.decide   -      +        +     -
adoptions.read      +      +        +     .
adoptions.request   -      +        +     .
rulings.read        +      +        +     +
rulings.ask         -      +        +     -
rulings.decide      -      -        -     +
names.reveal        .      +        .     +
vault.read          .      .        .     +
vault.reveal        .      .        .     +
vault.erase         .      .        .     +
vault.import        .      .        .     +
slides.read         +      +        +     .
records.read        +      +        +     .
records.declare     -      +        +     .
cohorts.read        +      +        +     .
cohorts.save        -      +        +     .
runs.read           +      +        +     .
runs.request        -      +        +     .
runs.heartbeat      -      +        +     .
runs.finish         -      +        +     .
runs.clean          -      +        +     .
runs.cancel         -      +        +     .
snapshots.read      +      +        +     .
snapshots.check     -      +        +     .
snapshots.rebuild   -      -        +     .
folders.read        +      +        +     .
folders.protect     -      +        +     .
snapshots.hold      -      +        +     .
shortenings.read    +      +        +     .
shortenings.ask     -      +        +     .
shortenings.approve -      -        +     .
restores.read       +      +        +     .
restores.request    -      +        +     .
transfers.read      +      +        +     .
transfers.request   -      +        +     .
transfers.steer     -      +        +     .
transfers.approve   -      +        +     .
transfers.restore   -      +        +     .
scans.read          +      +        +     .
scans.declare       -      +        +     .
verifications.read  +      +        +     .
verifications.request -    +        +     .
audit.read          .      .        +     +
tokens.read         .      .        +     .
tokens.make         .      .        +     .
tokens.revoke       .      .        +     .
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
    work -= {"names.reveal", "batches.certify"}
    # grants or declines what who moves bytes asks about a withdrawn slide, and asks nothing
    work -= {"rulings.decide"}
    work = {action for action in work if not action.startswith("vault.")}
    assert not any(may("custodian", action) for action in work)


def test_the_local_socket_knows_root_and_the_daemons_user_only() -> None:
    assert may_use_socket(0, own_uid=990) and may_use_socket(990, own_uid=990)
    assert not may_use_socket(1000, own_uid=990)
