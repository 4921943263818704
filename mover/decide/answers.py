"""Ten questions that a compliance officer asks (docs/compliance.md): how each is asked, and what its rows mean.

The rows come from the catalog, in the columns that stand here; a sentence and its tone are made of them. `good` is said
only where rows prove it: what nobody knows yet is `warn`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from mover.model.amounts import counted

Tone = Literal["good", "warn", "bad", "plain"]
Rows = Sequence[Any]  # named tuples, in the order of `columns`


class Said(NamedTuple):
    tone: Tone
    answer: str


class Question(Struct, frozen=True):
    """`about` says what id the question is asked of, and is empty where it is of the project; `proof` are commands
    whose output an outsider can judge without believing this one."""

    code: str
    asks: str
    columns: tuple[str, ...]
    say: Callable[[Rows], Said]
    proof: tuple[str, ...]
    about: str = ""


def _day(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M") if at else "never"


def _identity(rows: Rows) -> Said:
    looks = sum(row.looks for row in rows)
    people = {row.who for row in rows if row.way != "tier"}
    places = [row.who for row in rows if row.way == "tier"]
    files = f"; files as they came stand on {', '.join(places)}" if places else ""
    who = f"{counted(len(people), 'name')} may ask for original names, each time with a purpose and a record"
    return Said("plain", f"{who}; {counted(looks, 'look')} in the last 30 days{files}")


def _clean(rows: Rows) -> Said:
    proofs = [row for row in rows if row.kind in ("deidentified", "adopted")]
    against = [row for row in rows if row.kind in ("withdrawn", "search found", "search unsearched")]
    if against:
        return Said("bad", f"No: {against[0].kind} on {_day(against[0].at)} ({against[0].what})")
    if not proofs:
        return Said("warn", "This project has no proof of it: the slide was published in another one, or is not known")
    searched = any(row.kind == "search clean" for row in rows)
    words = "and what its records say of the patient was sought and not found" if searched else "its records are not "\
            "here yet, so what they say of the patient was not sought"  # fmt: skip
    return Said("good", f"An independent second pass found none on {_day(proofs[-1].at)}; {words}")


def _history(rows: Rows) -> Said:
    if not rows:
        return Said("warn", "No record speaks of it in this project")
    return Said("plain", f"{counted(len(rows), 'record')} from {_day(rows[0].at)} to {_day(rows[-1].at)}")


def _deletions(rows: Rows) -> Said:
    if not rows:
        return Said("good", "Nothing was deleted in this project")
    two = sum(1 for row in rows if row.approved_by)
    others = f"{len(rows) - two} by a rule or where a verified copy stands elsewhere; `why` says which"
    return Said("plain", f"{counted(len(rows), 'deletion')}, {two} agreed on by a second person, {others}")


def _last_copy(rows: Rows) -> Said:
    alone = [row for row in rows if row.persons == 1 and row.count]
    single = sum(row.count for row in alone)
    if single:
        alone_there = f"{single:,} stand on one tier only, and who owns that storage is one person"
        return Said("warn", f"Not by this software; but {alone_there}: a second copy or a lock there ends it")
    both = "each way here takes two persons or leaves a verified copy"
    return Said("good", f"No: {both}, and nothing stands on one unlocked tier only")


def _drills(rows: Rows) -> Said:
    done = [row for row in rows if row.passed is not None]
    if not done:
        return Said("warn", "No restore was ever tried here")
    newest = done[0]
    took = f"{newest.seconds:,.0f} s" if newest.seconds is not None else "a time nobody wrote down"
    passed = "it passed" if newest.passed else "IT FAILED"
    when = f"The last was on {_day(newest.at)} ({newest.what})"
    return Said("good" if newest.passed else "bad", f"{when}, took {took}; {passed}")


def _overdue(rows: Rows) -> Said:
    waiting = [row for row in rows if row.kind == "waits" or row.unverified]
    if not waiting:
        return Said("good", "Everything was read again since it was written, and nothing waits")
    words = [f"{row.unverified:,} {row.what}" if row.unverified else row.what for row in waiting[:5]]
    return Said("warn", "; ".join(words))


def _places(rows: Rows) -> Said:
    inside = sorted({row.tier for row in rows if row.zone == "identified"})
    outside = sorted({row.tier for row in rows if row.zone == "deidentified"})
    if not rows:
        return Said("plain", "Nothing of this project ever stood on any tier")
    return Said("plain", f"In the identified zone on {', '.join(inside) or 'no tier'}; de-identified on "
                f"{', '.join(outside) or 'no tier'}; nowhere else")  # fmt: skip


def _made(rows: Rows) -> Said:
    if not rows:
        return Said("warn", "This project has nothing that says so: it was made in another one, or is not known")
    code = sorted({row.what for row in rows if row.kind != "policy"})
    rules = [f"{row.what} {row.digest[:10]}" for row in rows if row.kind == "policy"]
    return Said("plain", f"Code: {', '.join(code) or 'not known'}; policies: {', '.join(rules) or 'none kept'}")


def _log(rows: Rows) -> Said:
    broken = sum(row.broken for row in rows)
    chains, tiers = [row for row in rows if row.kind == "chain"], [row for row in rows if row.kind == "tier"]
    if broken:
        return Said("bad", f"{counted(broken, 'place')} where it does not fit: see `mover audit verify`")
    lost = [row for row in rows if row.kind == "restored"]
    words = f"{counted(sum(row.count for row in chains), 'record')} recomputed, each follows the one before it"
    left = sum(row.count for row in rows if row.kind == "retired")
    if left:
        words += f"; {counted(left, 'older record')} that two people let go stand in packs on tiers"
    if away := [row.what for row in rows if row.kind == "unread"]:
        words += f"; not read, because they are away: {', '.join(away)}"
    unread = sum(row.count for row in rows if row.kind == "unread-pack")
    if unread:
        return Said(
            "warn", f"{words}; of {counted(unread, 'older record')} no pack was read, so nothing is said of them"
        )
    if lost:
        return Said("warn", f"{words}; the catalog was restored, and what that lost is known: {lost[0].what}")
    if not any(row.count for row in tiers):
        return Said("warn", f"{words}; no signed copy of the ends stands on another tier")
    later = sum(row.count for row in rows if row.kind == "unsigned")
    young = f"; {counted(later, 'record')} younger than the newest copy, signed with the next" if later else ""
    return Said("good", f"{words}, and fit the signed copies on {', '.join(row.what for row in tiers)}{young}")


# what is answered from audit records, the oldest of which may have left; `log` tells of them by itself
FROM_RECORDS = ("history", "deletions")


def earlier(packs: Rows) -> str:
    """The end of an answer where the oldest records stand elsewhere."""
    if not packs:
        return ""
    names = ", ".join(row.id for row in packs[:5]) + (", …" if len(packs) > 5 else "")
    until = max(row.before for row in packs)
    return f"; records from before {_day(until)} stand in packs on tiers: {names} (`mover audit retirements`)"


_VERIFY = "mover audit verify"
QUESTIONS: dict[str, Question] = {
    one.code: one
    for one in (
        Question(
            "identity", "Who can see who a patient is?", ("who", "way", "role", "since", "may", "looks"), _identity,
            ("mover audit list --action unseal", "mover account list", "mover token list"),
        ),
        Question(
            "clean", "Show that this released slide names nobody.", ("at", "kind", "what", "id", "root"), _clean,
            ("mover slide evidence {about}", "mover audit pack --run RUN"), about="slide",
        ),
        Question(
            "history", "What happened to it?", ("at", "actor", "action", "subject", "reason", "record"), _history,
            ("mover audit export --fhir", _VERIFY), about="id",
        ),
        Question(
            "log", "Prove that the log is complete.", ("kind", "what", "count", "broken"), _log,
            (_VERIFY, "mover audit checkpoints", "mover audit export"),
        ),
        Question(
            "deletions", "Who approved this deletion?", ("at", "what", "id", "asked_by", "approved_by", "why"),
            _deletions, ("mover audit list --subject ID", _VERIFY),
        ),
        Question(
            "last-copy", "Can one person delete the last copy?", ("way", "persons", "count", "held_by"), _last_copy,
            ("mover tier list", "mover protect show", "mover archive list"),
        ),
        Question(
            "drills", "When was the last restore test, and how long did it take?",
            ("at", "what", "id", "passed", "seconds", "found"), _drills, ("mover restores list", "mover protect show"),
        ),
        Question(
            "overdue", "What is unverified or overdue?", ("kind", "what", "count", "unverified", "oldest"), _overdue,
            ("mover verification list", "mover needs"),
        ),
        Question(
            "places", "Where has this project's data physically been?",
            ("tier", "zone", "what", "count", "bytes", "first", "last"), _places,
            ("mover tier list", "mover transfer list"),
        ),
        Question(
            "made", "What version of code and policy made it?", ("at", "kind", "what", "digest", "id"), _made,
            ("mover policy list", "mover audit pack --run RUN"), about="id",
        ),
    )
}  # fmt: skip
