"""Who may do what: one table, read by the API for every route and by the tests for every role.

viewer < operator < admin is a ladder for the ordinary work. Looking into the vault is no step of it: an admin
runs the machine and sees no names; a custodian sees names (with a purpose, audited) and runs nothing. A scheduler
is no person: it does with runs what its jobs' users ask, in the name of one of them at a time.
What a role may not even read is answered as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, get_args

from mover.model.access import Role

ROLES: tuple[Role, ...] = get_args(Role)

_LADDER: frozenset[Role] = frozenset({"viewer", "operator", "admin"})
_WORK: frozenset[Role] = frozenset({"operator", "admin"})
_ADMIN: frozenset[Role] = frozenset({"admin"})
_PEOPLE: frozenset[Role] = frozenset(ROLES) - {"scheduler"}
_RUNS: frozenset[Role] = _WORK | {"scheduler"}
_LOOK: frozenset[Role] = _LADDER | {"scheduler"}

ACTIONS: dict[str, frozenset[Role]] = {
    "status.read": frozenset(ROLES),
    "metrics.read": _PEOPLE,
    "tiers.read": _LOOK,
    "policies.read": _LADDER,
    # an operator's change waits for an admin; an admin's acts at once where nothing speaks for a second person
    "policies.change": _WORK,
    "policies.approve": _ADMIN,
    # a custodian finds the packs to reveal by their ids and reasons
    "batches.read": _PEOPLE,
    "batches.declare": _WORK,
    # says what was done and by which rules, and names nobody
    "batches.certify": frozenset({"operator", "admin", "custodian"}),
    "quarantine.read": _PEOPLE,
    "quarantine.decide": _WORK,
    "adoptions.read": _LADDER,
    "adoptions.request": _WORK,
    # a withdrawn slide comes back, or goes for good: who grants may look at the names, and is not who asked
    "rulings.read": _PEOPLE,
    "rulings.ask": _WORK,
    "rulings.decide": frozenset({"custodian"}),
    "names.reveal": frozenset({"operator", "custodian"}),
    # originals, erasure and imports: who runs the machine or the work has no part in it
    "vault.read": frozenset({"custodian"}),
    "vault.reveal": frozenset({"custodian"}),
    "vault.erase": frozenset({"custodian"}),
    "vault.import": frozenset({"custodian"}),
    # sealed, and told by ids and counts alone
    "dumps.read": _PEOPLE,
    "dumps.make": _WORK,
    "dumps.drill": _WORK,
    "scans.read": _LADDER,
    "scans.declare": _WORK,
    "slides.read": _LADDER,
    "tags.read": _LADDER,
    "tags.change": _WORK,
    "records.read": _LADDER,
    "records.declare": _WORK,
    "cohorts.read": _LADDER,
    "cohorts.save": _WORK,
    "shards.read": _LADDER,
    "runs.read": _LOOK,
    "runs.request": _RUNS,
    "runs.heartbeat": _RUNS,
    "runs.finish": _RUNS,
    "runs.clean": _RUNS,
    "runs.cancel": _RUNS,
    "archives.read": _LADDER,
    "archives.keep": _WORK,
    "folders.read": _LADDER,
    "folders.protect": _WORK,
    "snapshots.read": _LADDER,
    "snapshots.check": _WORK,
    "snapshots.rebuild": _ADMIN,
    "snapshots.hold": _WORK,
    "snapshots.turn": _WORK,
    "snapshots.keys": _ADMIN,
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
    "alarms.read": _LADDER,
    "alarms.test": _ADMIN,
    "audit.read": frozenset({"admin", "custodian"}),
    "audit.pack": frozenset({"admin", "custodian"}),
    "answers.read": frozenset({"admin", "custodian"}),
    # two of them, and the database tells who is one
    "audit.restore": frozenset({"admin", "custodian"}),
    "audit.retire": frozenset({"admin", "custodian"}),
    "service.reload": _ADMIN,
    "tokens.read": _ADMIN,
    "tokens.make": _ADMIN,
    "tokens.revoke": _ADMIN,
    "accounts.read": _ADMIN,
    "accounts.make": _ADMIN,
    "accounts.grant": _ADMIN,
    "accounts.disable": _ADMIN,
    # who one is, and what is one's own
    "session.read": frozenset(ROLES),
    "session.use": _PEOPLE,
}
# in records beside people, who did something by itself: nobody goes by these names
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,127}")
RESERVED_NAMES = frozenset({"daemon", "machine", "marker", "mover", "policy", "provider", "root", "system"})

Verdict = Literal["allowed", "denied", "hidden"]
Scopes = Collection[str] | None


def may(role: Role, action: str) -> bool:
    """An action that is not in the table is nobody's."""
    return role in ACTIONS.get(action, frozenset())


def judge(role: Role, action: str, scopes: Scopes = None) -> Verdict:
    """`denied` where the role may read the noun and so learns nothing by the refusal; else `hidden`."""
    if may(role, action) and _in(scopes, action):
        return "allowed"
    reading = f"{action.partition('.')[0]}.read"
    return "denied" if may(role, reading) and _in(scopes, reading) else "hidden"


def actions_of(role: Role, scopes: Scopes = None) -> list[str]:
    return [action for action in ACTIONS if may(role, action) and _in(scopes, action)]


def _in(scopes: Scopes, action: str) -> bool:
    """Who one is, any token may ask."""
    return scopes is None or action in scopes or action == "session.read"


def why_not_scopes(role: Role, scopes: Collection[str]) -> str:
    """Why a token of this role cannot be for these actions, or nothing: what is misspelt would silently be nobody's."""
    beyond = sorted(scope for scope in scopes if not may(role, scope))
    return f"not among what the role {role} may: {', '.join(beyond)}" if beyond else ""


def why_not_name(name: str) -> str:
    """Why nobody goes by this name, or nothing."""
    if not _NAME.fullmatch(name):
        return "a name is 1 to 128 letters, digits, '@', '.', '_' and '-'"
    return "this name stands for no person" if name.lower() in RESERVED_NAMES else ""


def why_not_here(*, sent_origin: str, sent_site: str, host: str) -> str:
    """Why an unsafe request with a cookie does not come from our own pages, or nothing. Browsers say `Sec-Fetch-Site`
    and `Origin` by themselves and no page can change either; what says neither is no browser of today, and needs the
    session's token all the same."""
    if sent_site not in ("", "same-origin"):
        return "the browser says that another site asks"
    if sent_origin and sent_origin.partition("://")[2].lower() != host.lower():
        return "the request comes from a page of another origin"
    return ""


def why_not_act_for(role: Role, uid: int, *, member: bool, own_uid: int) -> str:
    """Why a token may not act for this user, or nothing. The daemon's own user would open the paths a run names
    with the daemon's rights, and root with everybody's."""
    if role != "scheduler":
        return "only a scheduler's token acts for others"
    if uid in (0, own_uid):
        return "nobody acts for root or for the daemon's own user"
    if not member:
        return "this user is no member of the group the token stands for"
    return ""


def needs_somebody(role: Role, action: str) -> bool:
    """A scheduler asks for a run in the name of its job's user, whose the run then is. It ends it by itself: a user
    who left the group meanwhile must not keep a run from being protected."""
    return role == "scheduler" and action == "runs.request"


def may_use_socket(peer_uid: int, *, own_uid: int) -> bool:
    """On the local socket only root and the daemon's own user are known; a socket's mode is no role."""
    return peer_uid in (0, own_uid)
