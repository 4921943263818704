"""What a compliance officer asks, answered from rows (decide/answers.py has the questions and the words)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.access import ACTIONS
from mover.decide.answers import FROM_RECORDS, QUESTIONS, Question, earlier
from mover.decide.needs import Need
from mover.errors import NotFound, RequestInvalid
from mover.model import wire

ROWS_MAX = 1000
NAMES = ("names.reveal", "vault.reveal")

SQL = load(__file__)

Verify = Callable[[str], Awaitable[wire.AuditVerdict]]
Needs = Callable[[str], Awaitable[list[Need]]]


class LogRow(NamedTuple):
    kind: str
    what: str
    count: int  # type: ignore[assignment]  # a heading; nobody counts in a row
    broken: int


class OverdueRow(NamedTuple):
    kind: str
    what: str
    count: int  # type: ignore[assignment]  # a heading; nobody counts in a row
    unverified: int
    oldest: datetime | None


class WayRow(NamedTuple):
    way: str
    persons: int
    count: int  # type: ignore[assignment]  # a heading; nobody counts in a row
    held_by: str


# What the database refuses to one person, whoever calls; the tests of each constraint stand beside it.
WAYS = (
    WayRow("remove a withdrawn slide", 2, 0, "constraint two_persons of slide_ruling"),
    WayRow(
        "forget, shorten or empty what is protected", 2, 0, "constraint two_persons of protect_request, and a delay"
    ),
    WayRow("release more sources than policy allows one person", 2, 0, "a verified copy, and a second person"),
    WayRow("clean a run off the flash", 1, 0, "the proof that what it left is protected"),
)


class Answers:
    """`verify` recomputes the audit of a project, `needs` says what waits there for a person."""

    def __init__(self, database: Database, *, verify: Verify, needs: Needs) -> None:
        self._database, self._verify, self._needs = database, verify, needs

    async def questions(self) -> wire.Questions:
        return wire.Questions(questions=[_asked(one) for one in QUESTIONS.values()])

    async def answer(self, project: str, code: str, about: str | None) -> wire.ComplianceAnswer:
        question = QUESTIONS.get(code)
        if question is None:
            raise NotFound("no such question", where=code, hint="`mover answers` lists them.")
        if question.about and not about:
            raise RequestInvalid(f"the question is about one {question.about}", where=code)
        rows = await self._rows(project, code, about or "")
        said = question.say(rows)
        earlier = await self._earlier(project, code)
        return wire.ComplianceAnswer(
            question=code, asks=question.asks, about=about, tone=said.tone,
            answer=said.answer + earlier,
            columns=[name.replace("_", " ") for name in question.columns],
            rows=[[_text(cell) for cell in row] for row in rows[:ROWS_MAX]], cut=len(rows) > ROWS_MAX,
            proof=[line.replace("{about}", about or "") for line in question.proof],
        )  # fmt: skip

    async def _rows(self, project: str, code: str, about: str) -> Sequence[Any]:
        match code:
            case "log":
                return _log_rows(await self._verify(project))
            case "overdue":
                waits = [OverdueRow("waits", one.words, one.count, 0, one.since) for one in await self._needs(project)]
                return [*await self._found(project, "overdue", about), *waits]
            case "last-copy":
                return [*await self._found(project, "last_copy", about), *WAYS]
        return await self._found(project, code, about)

    async def _earlier(self, project: str, code: str) -> str:
        """What was answered from audit records that stand here; the oldest may have left."""
        if code not in FROM_RECORDS:
            return ""
        async with self._database.project(project) as conn:
            packs = await SQL.many(conn, "earlier", project=project, about="", limit=ROWS_MAX)
        return earlier(packs)

    async def _found(self, project: str, name: str, about: str) -> list[Any]:
        """As it stood at one moment, however long it takes to read."""
        async with self._database.still(project) as conn:
            return await _asked_of(conn, project, name, about)


async def _asked_of(conn: Connection, project: str, name: str, about: str) -> list[Any]:
    roles = {right: sorted(ACTIONS[right]) for right in NAMES}
    return await SQL.many(
        conn, name, project=project, about=about, limit=ROWS_MAX + 1, names=roles["names.reveal"],
        vault=roles["vault.reveal"], rights=list(NAMES),
    )  # fmt: skip


def _log_rows(verdict: wire.AuditVerdict) -> list[LogRow]:
    broken = {node: sum(1 for link in verdict.broken if link.get("node") == node) for node in verdict.chains}
    tiers = [
        LogRow("unread" if one.unread else "tier", one.tier, one.count, len(one.problems))
        for one in verdict.checkpoints
    ]  # fmt: skip
    unread = [LogRow("unread-pack", one.pack, one.records - one.left, 0) for one in verdict.packs_unread]
    restored = [
        LogRow("restored", f"{part.node} {part.kept + 1} to {part.upto}, said by {one.asked_by} and {one.approved_by}",
               part.upto - part.kept, 0)
        for one in verdict.restored for part in one.lost
    ]  # fmt: skip
    chains = [LogRow("chain", node, n, broken[node]) for node, n in verdict.chains.items()]
    retired = [LogRow("retired", one.pack, one.records - one.left, 0) for one in verdict.retired]
    unsigned = LogRow("unsigned", "younger than the newest copy", verdict.uncovered, 0)
    return [*chains, *tiers, *retired, *unread, unsigned, *restored]


def _asked(one: Question) -> wire.Question:
    return wire.Question(code=one.code, asks=one.asks, about=one.about or None)


def _text(cell: Any) -> str:
    match cell:
        case None:
            return ""
        case datetime():
            return cell.isoformat(timespec="seconds")
        case bool():
            return "yes" if cell else "no"
        case float():
            return f"{cell:.1f}"
    return str(cell)
