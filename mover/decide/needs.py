"""What needs a person now: facts in, needs out, the most urgent first; only what this role may read, and so may mend.

`now`: data or its protection is at stake, or work stands still. `soon`: it will be, or another person waits. `know`:
nothing is lost by reading it tomorrow. The words are for the page, the command and the mail alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from mover.decide.forecast import Forecast

Severity = Literal["now", "soon", "know"]
FULL_NOW_S = 2 * 86_400.0
FULL_SOON_S = 14 * 86_400.0
_ORDER: tuple[Severity, ...] = ("now", "soon", "know")


class Fact(Struct, frozen=True):
    """What the catalog found: how many, of what, since when. `subject` where it is one."""

    code: str
    count: int
    subject: str | None = None
    since: datetime | None = None
    tier: str = ""


class Need(Struct, frozen=True):
    code: str
    severity: Severity
    noun: str
    words: str
    hint: str
    count: int = 1
    subject: str | None = None
    since: datetime | None = None
    tier: str | None = None  # where it is dealt with on the page of one


class Rule(Struct, frozen=True):
    """`words` and `hint` speak of {n} and {tier}; the first of `words` is for one, the second for many."""

    action: str
    severity: Severity
    noun: str
    one: str
    many: str
    hint: str


RULES: dict[str, Rule] = {
    "damage-found": Rule(
        "verifications.read", "now", "verification", "a file on {tier} is damaged or missing",
        "{n} files on {tier} are damaged or missing", "Read what was found; repair from another copy.",
    ),
    "snapshot-missing": Rule(
        "snapshots.read", "now", "snapshot", "a snapshot's file left the repository",
        "{n} snapshots' files left the repository", "Somebody or something removed them there: check the repository.",
    ),
    "snapshot-doubted": Rule(
        "snapshots.read", "now", "snapshot", "a snapshot is not like the ones before it",
        "{n} snapshots are not like the ones before them",
        "Compare it with the one before: nothing older is forgotten.",
    ),
    "run-unprotected": Rule(
        "runs.read", "now", "run", "a run could not be protected whole", "{n} runs could not be protected whole",
        "Read why; mend it and finish again. Nothing is cleaned meanwhile.",
    ),
    "batch-failed": Rule(
        "batches.read", "now", "batch", "a batch failed", "{n} batches failed", "Read why, then declare it again.",
    ),
    "work-failed": Rule(
        "shards.read", "now", "shard", "a piece of work was given up this week",
        "{n} pieces of work were given up this week",
        "Their errors say why; what they belong to says what to do.",
    ),
    "work-retried": Rule(
        "shards.read", "soon", "shard", "a piece of work fails again and again",
        "{n} pieces of work fail again and again",
        "A tier may be away: they go on when it is back.",
    ),
    "lease-ending": Rule(
        "runs.read", "soon", "run", "a run's lease ends within the hour", "{n} runs' leases end within the hour",
        "Its job should call; at the end what it left is protected and the run ends.",
    ),
    "packs-quarantined": Rule(
        "quarantine.read", "soon", "quarantine", "a pack waits in quarantine", "{n} packs wait in quarantine",
        "Decide by cause: most of them wait for one thing.",
    ),
    "records-quarantined": Rule(
        "records.read", "soon", "record", "a set of tables was refused", "{n} sets of tables were refused",
        "Read the reason, mend the tables, declare them again.",
    ),
    "facts-missing": Rule(
        "records.read", "soon", "record", "slides that a batch published later have no facts yet",
        "slides that {n} batches published later have no facts yet",
        "Declare their tables again, the same ones if nothing in them changed.",
    ),
    "shortening-asked": Rule(
        "shortenings.read", "soon", "shortening", "somebody wants protection to be shorter",
        "{n} requests want protection to be shorter", "A second person approves or withdraws each.",
    ),
    "policy-asked": Rule(
        "policies.read", "soon", "policy", "a change of a policy waits for a second person",
        "{n} changes of policies wait for a second person", "Read what would be another, then approve or withdraw it.",
    ),
    "loss-asked": Rule(
        "audit.restore", "soon", "audit", "what a restored catalog lost waits for a second person",
        "{n} statements of what a restored catalog lost wait for a second person",
        "Read what would be lost for good, then approve it, or let it lapse.",
    ),
    "retirement-asked": Rule(
        "audit.retire", "soon", "audit", "whether the oldest audit records leave waits for a second person",
        "{n} requests that the oldest audit records leave wait for a second person",
        "Check the pack where it stands, then approve it, or let it lapse.",
    ),
    "quarantine-asked": Rule(
        "quarantine.read", "soon", "quarantine", "a decision about quarantine waits for a second person",
        "{n} decisions about quarantine wait for a second person", "Look at what waits, then confirm or decline.",
    ),
    "ruling-asked": Rule(
        "rulings.read", "soon", "ruling", "a withdrawn slide waits for a custodian",
        "{n} withdrawn slides wait for a custodian", "Look at what was found, then grant or decline.",
    ),
    "transfer-waits": Rule(
        "transfers.read", "soon", "transfer", "a transfer waits for a person's word",
        "{n} transfers wait for a person's word", "Approve it, or abort: what was copied stands either way.",
    ),
    "folder-unprotected": Rule(
        "folders.read", "soon", "folder", "a folder's newest attempt gave no whole snapshot",
        "{n} folders' newest attempts gave no whole snapshot", "Read the reason; protect it now when it is mended.",
    ),
    "run-failed": Rule(
        "runs.read", "know", "run", "a run failed and was not cleaned yet", "{n} runs failed and were not cleaned yet",
        "Its reason says what to mend; ask for it again.",
    ),
    "scan-incomplete": Rule(
        "scans.read", "know", "scan", "the newest scan of {tier} could not see everything",
        "{n} tiers' newest scans could not see everything", "Its findings name what could not be read.",
    ),
}  # fmt: skip


def needs(facts: Iterable[Fact], *, may: Callable[[str], bool], others: Sequence[Need] = ()) -> list[Need]:
    """`others` are known without the catalog: tiers that are away or fill up, warnings of the daemon."""
    found = [_of(RULES[fact.code], fact) for fact in facts if fact.count and may(RULES[fact.code].action)]
    return sorted([*found, *others], key=lambda need: (_ORDER.index(need.severity), need.code, need.subject or ""))


def _of(rule: Rule, fact: Fact) -> Need:
    words = (rule.one if fact.count == 1 else rule.many).format(n=f"{fact.count:,}", tier=fact.tier)
    return Need(
        fact.code, rule.severity, rule.noun, words, rule.hint, count=fact.count,
        subject=fact.subject if fact.count == 1 else None, since=fact.since, tier=fact.tier or None,
    )  # fmt: skip


def filling(tier: str, seen: Forecast | None) -> Need | None:
    """A tier that will be full within two weeks, or is."""
    if seen is None or seen.likely_s is None or seen.likely_s > FULL_SOON_S:
        return None
    severity: Severity = "now" if seen.likely_s <= FULL_NOW_S else "soon"
    days = seen.likely_s / 86_400
    words = f"{tier} is full" if not seen.likely_s else f"{tier} will be full in {days:.0f} days, as it fills now"
    if 0 < days < 1.5:
        words = f"{tier} will be full within a day or so, as it fills now"
    return Need("tier-filling", severity, "tier", words, "Clean up runs, or give the tier more room.", subject=tier)


def away(tier: str, explanation: str) -> Need:
    hint = explanation or "Mount it; nothing is lost, what needs it waits."
    return Need("tier-away", "now", "tier", f"{tier} is not there", hint, subject=tier)


# what helps where the daemon warns, by how its words begin: the noun says where people are led
_MENDS: tuple[tuple[str, Severity, str, str], ...] = (
    (
        "no policy of kind dump", "now", "policy",
        "Make keys, then add one: policies/examples/dump.yaml with tiers of yours. `mover doctor` has both commands.",
    ),
    ("the folder of policies", "now", "policy", "Mend the line that it names; until then what was followed goes on."),
    (
        "no file can be looked into", "now", "service",
        "Slides wait in quarantine until then. `mover units write` and a restart put the shipped unit back.",
    ),
    ("the policy ", "now", "policy", "Bring the text that is right to the node that lags (docs/policies.md)."),
    # as a site begins: whoever learns that `now` can be passed over passes over the next one, too
    (
        "deletion is not switched on", "know", "tier",
        "Once plans name the right things: `deletes: true` of the tier in mover.yaml, and a restart.",
    ),
)  # fmt: skip


def warned(words: str) -> Need:
    severity, noun, hint = next(
        ((severity, noun, hint) for begins, severity, noun, hint in _MENDS if words.startswith(begins)),
        ("now", "service", "mover doctor says more."),
    )
    return Need("warning", severity, noun, words, hint)
