"""Who may do what: one table, read by the API for every route and by the tests for every role.

viewer < operator < admin is a ladder for the ordinary work. Looking into the vault is no step of it: an admin
runs the machine and sees no names; a custodian sees names (with a purpose, audited) and runs nothing.
What a role may not even read is answered as if it were not there.
"""

from __future__ import annotations

from typing import Literal, get_args

from mover.model.access import Role

ROLES: tuple[Role, ...] = get_args(Role)

_LADDER: frozenset[Role] = frozenset({"viewer", "operator", "admin"})
_WORK: frozenset[Role] = frozenset({"operator", "admin"})
_ADMIN: frozenset[Role] = frozenset({"admin"})
_ALL: frozenset[Role] = frozenset(ROLES)

ACTIONS: dict[str, frozenset[Role]] = {
    "status.read": _ALL,
    "metrics.read": _ALL,
    "tiers.read": _LADDER,
    "policies.read": _LADDER,
    # a custodian finds the packs to reveal by their ids and reasons
    "batches.read": _ALL,
    "batches.declare": _WORK,
    # says what was done and by which rules, and names nobody
    "batches.certify": frozenset({"operator", "admin", "custodian"}),
    "quarantine.read": _ALL,
    "quarantine.decide": _WORK,
    "adoptions.read": _LADDER,
    "adoptions.request": _WORK,
    # a withdrawn slide comes back, or goes for good: who grants may look at the names, and is not who asked
    "rulings.read": _ALL,
    "rulings.ask": _WORK,
    "rulings.decide": frozenset({"custodian"}),
    "names.reveal": frozenset({"operator", "custodian"}),
    # originals, erasure and imports: who runs the machine or the work has no part in it
    "vault.read": frozenset({"custodian"}),
    "vault.reveal": frozenset({"custodian"}),
    "vault.erase": frozenset({"custodian"}),
    "vault.import": frozenset({"custodian"}),
    # sealed, and told by ids and counts alone
    "dumps.read": _ALL,
    "dumps.make": _WORK,
    "dumps.drill": _WORK,
    "scans.read": _LADDER,
    "scans.declare": _WORK,
    "slides.read": _LADDER,
    "records.read": _LADDER,
    "records.declare": _WORK,
    "cohorts.read": _LADDER,
    "cohorts.save": _WORK,
    "runs.read": _LADDER,
    "runs.request": _WORK,
    "runs.heartbeat": _WORK,
    "runs.finish": _WORK,
    "runs.clean": _WORK,
    "runs.cancel": _WORK,
    "folders.read": _LADDER,
    "folders.protect": _WORK,
    "snapshots.read": _LADDER,
    "snapshots.check": _WORK,
    "snapshots.rebuild": _ADMIN,
    "snapshots.hold": _WORK,
    # asking is one person's, approving another's: the database tells who is one
    "shortenings.read": _LADDER,
    "shortenings.ask": _WORK,
    "shortenings.approve": _ADMIN,
    "restores.read": _LADDER,
    "restores.request": _WORK,
    "transfers.read": _LADDER,
    "transfers.request": _WORK,
    "transfers.steer": _WORK,
    "transfers.approve": _WORK,
    "transfers.restore": _WORK,
    "verifications.read": _LADDER,
    "verifications.request": _WORK,
    # who did what is itself about people: those who answer for it read it
    "audit.read": frozenset({"admin", "custodian"}),
    "tokens.read": _ADMIN,
    "tokens.make": _ADMIN,
    "tokens.revoke": _ADMIN,
}

Verdict = Literal["allowed", "denied", "hidden"]


def may(role: Role, action: str) -> bool:
    """An action that is not in the table is nobody's."""
    return role in ACTIONS.get(action, frozenset())


def judge(role: Role, action: str) -> Verdict:
    """`denied` where the role may read the noun and so learns nothing by the refusal; else `hidden`."""
    if may(role, action):
        return "allowed"
    noun = action.partition(".")[0]
    return "denied" if may(role, f"{noun}.read") else "hidden"


def may_use_socket(peer_uid: int, *, own_uid: int) -> bool:
    """On the local socket only root and the daemon's own user are known; a socket's mode is no role."""
    return peer_uid in (0, own_uid)
