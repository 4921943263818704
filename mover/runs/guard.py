"""The leakage guard: no slide, content, block or patient on two sides of an experiment.

Judged before anything is kept, in a transaction of its own that leaves an audit record, whatever comes of it: also
who only plans has learnt that two slides are one patient's. Whose they are nobody learns: the database answers with
groups (`mover.patient_groups`), and only for slides of the project.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct

from mover import audit
from mover.catalog import selections
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import LimitExceeded, NotFound, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.runs.site import RunSite

SQL = load(__file__)
LEAKS_MAX = 10_000  # slides that are named; the explanation says how many there are

KINDS = {
    "same-slide": "stand in two splits",
    "same-digest": "have a copy with the same content in another split",
    "same-block": "have a slide of the same block in another split",
    "same-patient": "have a slide of the same patient in another split",
    "unknown-patient": "have no patient, so that nobody can say whose other slides are in another split",
}
UNKNOWN = (
    "Where that is so on purpose, `unknown_patients: allow` in the stage policy lets them pass; "
    "`subject is not null` in an expression leaves them out."
)


class Judged(Struct, frozen=True):
    """The slides of every split, or why they may not stand so."""

    numbers: dict[str, list[str]]
    offenders: list[dict[str, Any]] = []
    explanation: str = ""

    @property
    def every(self) -> list[str]:
        return sorted(number for numbers in self.numbers.values() for number in numbers)

    @property
    def split_of(self) -> dict[str, str]:
        return {number: name for name, numbers in self.numbers.items() for number in numbers}


class Guard:
    """`cohort` finds the expression of a saved cohort."""

    def __init__(self, site: RunSite, cohort: Callable[[Connection, str], Awaitable[tuple[str, str]]]) -> None:
        self._site, self._cohort = site, cohort

    async def judge(
        self, identity: Identity, splits: dict[str, wire.SplitSource], *, subject: str, unknown: str
    ) -> Judged:
        """`unknown`: what a slide without a patient means, `refuse` or `allow`."""
        async with self._site.database.project(identity.project) as conn:
            judged = await self._members(conn, identity.project, splits)
            leaks: dict[str, int] = {}
            if not judged.offenders:
                judged, leaks = await self._leaks(conn, judged, unknown=unknown)
            await audit.record(
                conn, project=identity.project, node=self._site.node, actor=identity.actor, action="splits judged",
                subject=subject, reason="refused" if judged.offenders else "",
                details={"slides": {name: len(of) for name, of in judged.numbers.items()}, "leaks": leaks},
            )  # fmt: skip
        return judged

    async def _members(self, conn: Connection, project: str, splits: dict[str, wire.SplitSource]) -> Judged:
        numbers: dict[str, list[str]] = {}
        offenders: list[dict[str, Any]] = []
        for name, source in sorted(splits.items()):
            numbers[name], wrong = await self._of(conn, project, source)
            offenders += [{**one, "split": name} for one in wrong]
            if not numbers[name] and not wrong:
                offenders.append({"split": name, "why": "empty"})
        if sum(map(len, numbers.values())) > selections.SLIDES_LIMIT:
            raise LimitExceeded(f"more than {selections.SLIDES_LIMIT} slides in one run")
        why = f"{len(offenders)} of what the splits name cannot be used" if offenders else ""
        return Judged(numbers, offenders, why)

    async def _of(
        self, conn: Connection, project: str, source: wire.SplitSource
    ) -> tuple[list[str], list[dict[str, Any]]]:
        given = [name for name in ("cohort", "expression", "files", "selection") if getattr(source, name) is not None]
        if len(given) != 1:
            raise RequestInvalid("a split names exactly one of cohort, expression, files and selection")
        if source.files is not None:
            return await selections.resolve_numbers(conn, project, source.files)
        if source.selection is not None:
            if await SQL.one(conn, "selection", id=source.selection) is None:
                raise NotFound("no such selection", where=source.selection)
            listed = [row.number for row in await SQL.many(conn, "listed", selection=source.selection)]
            return await selections.resolve_numbers(conn, project, listed)
        expression = source.expression
        if expression is None:
            _, expression = await self._cohort(conn, source.cohort or "")
        return await selections.numbers_of(conn, project, expression), []

    async def _leaks(self, conn: Connection, judged: Judged, *, unknown: str) -> tuple[Judged, dict[str, int]]:
        pairs = [(number, name) for name, numbers in judged.numbers.items() for number in numbers]
        rows = await SQL.many(
            conn, "leaks", numbers=[number for number, _ in pairs], splits=[name for _, name in pairs],
            unknown=unknown == "refuse", limit=LEAKS_MAX,
        )  # fmt: skip
        if not rows:
            return judged, {}
        counts = {why: rows[0].counts[why] for why in KINDS if why in rows[0].counts}
        why = "; ".join(f"{count} slides {KINDS[kind]}" for kind, count in counts.items())
        if "unknown-patient" in counts:
            why += f". {UNKNOWN}"
        if sum(counts.values()) > LEAKS_MAX:
            why += f" (the first {LEAKS_MAX} are named)"
        return Judged(judged.numbers, [_told(row) for row in rows], why), counts


def _told(row: Any) -> dict[str, Any]:
    told = {"number": row.number, "split": row.split, "why": row.why}
    return told if row.other is None else {**told, "with": row.other, "with_split": row.other_split}
