"""What pages are to ask again: from what the audit says was done, and from what works now, to nouns and ids.

A noun is the first word of an action in the table of rights, so who may not read it hears nothing of it. What is told
is a hint: a page that asks once too often shows the same again, one that asks too seldom asks later by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mover.decide.access import ACTIONS, Scopes, judge
from mover.model.access import Role
from mover.model.ids import is_number

# of one noun at once; beyond it, any of them
IDS_MAX = 100
# told of with every change: a page over all rooms, and who did what
EVERY = ("status", "audit")
READING = " read"

# by noun: the ids of what changed; None is any of them
Nouns = dict[str, frozenset[str] | None]


class Touched(NamedTuple):
    """`own` is the noun whose pages ask by the id itself; pages of the others are asked again whatever they show."""

    own: str = ""
    others: tuple[str, ...] = ()


_OF_KIND: dict[str, Touched] = {
    "batch": Touched("batches", ("quarantine", "slides", "records")),
    "pack": Touched(others=("batches", "quarantine", "slides")),
    "rule": Touched(others=("quarantine", "batches")),
    "proposal": Touched(others=("quarantine",)),
    "records": Touched("records", ("batches", "cohorts", "slides", "quarantine")),
    "cohort": Touched("cohorts"),
    "selection": Touched(others=("cohorts",)),
    "run": Touched("runs", ("archives",)),
    "snapshot": Touched("snapshots"),
    "hold": Touched(others=("snapshots",)),
    "shortening": Touched("shortenings", ("snapshots",)),
    "turn": Touched(others=("snapshots", "shortenings", "archives")),
    "folder": Touched("folders", ("snapshots",)),
    "restore": Touched("restores"),
    "scan": Touched("scans", ("tiers",)),
    "transfer": Touched("transfers", ("tiers",)),
    "release": Touched(others=("transfers", "tiers")),
    "verification": Touched("verifications", ("tiers",)),
    "finding": Touched(others=("verifications",)),
    "adoption": Touched("adoptions", ("slides",)),
    "ruling": Touched("rulings", ("slides",)),
    "change": Touched(others=("policies", "tags", "slides")),
    "alarm": Touched(others=("alarms",)),
    "dump": Touched("dumps"),
    "drill": Touched(others=("dumps",)),
    "renewal": Touched(others=("tiers",)),
    "token": Touched("tokens", ("accounts",)),
    "account": Touched("accounts", ("tokens",)),
    "session": Touched(others=("accounts",)),
    "acceptance": Touched(),
    "retirement": Touched(),
}
_NUMBER = Touched("slides", ("rulings", "batches"))
# of a subject that is no id (a policy's name, a tier, a site): by the first word of what was done
_OF_WORD: dict[str, Touched] = {
    "policy": Touched(others=("policies",)),
    "protection": Touched(others=("shortenings", "snapshots")),
    "slide": Touched(others=("slides", "rulings")),
    "slides": Touched(others=("slides", "rulings", "records")),
    "quarantine": Touched(others=("quarantine", "batches")),
    "archive": Touched(others=("archives",)),
    "tag": Touched(others=("tags", "slides")),
    "locks": Touched(others=("tiers",)),
    "vault": Touched(others=("vault",)),
    "account": Touched(others=("accounts",)),
    "token": Touched(others=("tokens",)),
}


def of_record(action: str, subject: str) -> Touched:
    """What a record of the audit is about. That somebody read something concerns who reads the audit."""
    if action.endswith(READING):
        return Touched()
    if is_number(subject):
        return _NUMBER
    kind = subject.partition("-")[0] if "-" in subject else ""
    return _OF_KIND.get(kind) or _OF_WORD.get(action.partition(" ")[0].rstrip(":"), Touched())


def told(records: Iterable[tuple[str, str]], working: Iterable[str] = ()) -> Nouns:
    """`records`: action and subject of each; `working`: whose shards run, or ran when we last looked."""
    found: dict[str, set[str] | None] = {}

    def add(noun: str, id: str | None) -> None:
        known = found.setdefault(noun, set())
        if id is None:
            found[noun] = None
        elif known is not None:
            known.add(id)

    for action, subject in records:
        touched = of_record(action, subject)
        if touched.own:
            add(touched.own, subject)
        for noun in (*touched.others, *EVERY):
            add(noun, None)
    for subject in working:
        touched = of_record("", subject)
        if touched.own:
            add(touched.own, subject)
        for noun in ("shards", *(touched.others if not touched.own else ())):
            add(noun, None)
    return merged({}, {noun: None if ids is None else frozenset(ids) for noun, ids in found.items()})


def merged(known: Mapping[str, frozenset[str] | None], more: Mapping[str, frozenset[str] | None]) -> Nouns:
    """Both; so what a slow reader has not read yet grows to a line for each noun, and no further."""
    both: Nouns = dict(known)
    for noun, ids in more.items():
        before = both.get(noun, frozenset())
        together = None if before is None or ids is None else before | ids
        both[noun] = None if together is None or len(together) > IDS_MAX else together
    return both


def heard_by(role: Role, scopes: Scopes, nouns: Mapping[str, frozenset[str] | None]) -> Nouns:
    """What somebody of this role is told: nouns that they may read."""
    return {noun: ids for noun, ids in nouns.items() if judge(role, f"{noun}.read", scopes) == "allowed"}


def readable() -> frozenset[str]:
    return frozenset(action.partition(".")[0] for action in ACTIONS if action.endswith(".read"))
