"""Step 3, first half: expressions saved under a name, in versions; counted whenever somebody looks.

A cohort is a question; what it selects is frozen by a run, or here for whoever needs a list (`catalog.selections`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mover import audit
from mover.catalog import factcolumns, facts, selections
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide import splits
from mover.decide.cohort import parse
from mover.decide.splits import Member, check_fractions
from mover.decide.spread import Spread
from mover.decide.vectors import DRAW
from mover.errors import NotFound, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.model.facts import SLIDE_KEYS, TAG
from mover.model.ids import is_id
from mover.randomness import new_id

# of one answer: every expression is counted
LIST_LIMIT = 100
PAGE_LIMIT = 1_000
VALUES_SHOWN = 50
# a text column with more values than this names slides; one that completes an expression has far fewer
COMPLETED_DISTINCT = 200
NEWEST_BLOCKS = 4

_Q = load(__file__)


class Cohorts:
    def __init__(self, database: Database, *, node: str) -> None:
        self._database = database
        self._node = node

    async def save(self, project: str, actor: str, body: wire.CohortRequest) -> wire.Cohort:
        """The next version of the name; the same expression again is the version that stands. Raises
        ExpressionInvalid before anything is written."""
        async with self._database.project(project) as conn:
            parse(body.expression, await facts.columns(conn))
            await conn.execute(_Q["lock_name"], {"project": project, "name": body.name})
            newest = await _Q.one(conn, "newest", name=body.name)
            if newest is not None and newest.expression == body.expression:
                return await self._view(conn, newest)
            version = newest.version + 1 if newest is not None else 1
            row = await _Q.one(conn, "add", id=new_id("cohort"), project=project, name=body.name, version=version,
                expression=body.expression, actor=actor,
            )  # fmt: skip
            answer = await self._view(conn, row)
            # the expression itself stands in the cohort's row; the record says that it was saved, and by whom
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="cohort saved", subject=answer.id,
                details={"version": version, "count": answer.count},
            )  # fmt: skip
            return answer

    async def list(self, project: str, after: str | None = None, limit: int = LIST_LIMIT) -> wire.CohortPage:
        """The newest version of every name, in the order of the names."""
        bound = min(limit, LIST_LIMIT)
        async with self._database.project(project) as conn:
            cohorts = await self._views(conn, await _Q.many(conn, "page", after=after or "", limit=bound))
        return wire.CohortPage(cohorts=[*cohorts], next=cohorts[-1].name if len(cohorts) == bound else None)

    async def get(self, project: str, ref: str) -> wire.Cohort:
        """By id, name (its newest version) or name@version."""
        async with self._database.project(project) as conn:
            return await self._view(conn, await self._find(conn, ref))

    async def columns(self, project: str, *, values: bool = False) -> wire.Columns:
        """With `values`, what the newest slides have most often."""
        async with self._database.project(project) as conn:
            known = await facts.columns(conn)
            described = facts.described(known)
            tags = [row.tag for row in await _Q.many(conn, "tags", limit=VALUES_SHOWN)] if values else None
            name = TAG if TAG not in known else f"slide.{TAG}"
            tag = wire.Column(name=name, type=TAG, table="slide", values=[*tags] if tags is not None else None)
            if not values:
                return wire.Columns(columns=[*described, tag])
            types = {_key(column): column.type for column in described if column.name not in SLIDE_KEYS}
            _, _, spreads = await selections.spreads(conn, None, types, newest=NEWEST_BLOCKS)
        told = [_with_values(column, spreads.get(_key(column))) for column in described]
        return wire.Columns(columns=[*told, tag])

    async def count(self, project: str, expression: str) -> tuple[int, int]:
        """Slides and bytes that an expression selects now; nothing is kept."""
        async with self._database.project(project) as conn:
            return await selections.count(conn, expression)

    async def explain(self, project: str, expression: str) -> wire.Explanation:
        async with self._database.project(project) as conn:
            found = await selections.explain(conn, expression)
            plan = await factcolumns.plans(conn, found.columns)
        return wire.Explanation(
            expression=expression,
            count=found.count,
            bytes=found.bytes,
            slides=found.slides,
            row_by_row=found.row_by_row,
            clauses=[wire.Clause(depth=one.depth, words=one.words, count=count) for one, count in found.clauses],
            columns=sorted({_name(key) for key in found.columns if key != DRAW}),
            plan=plan,
        )

    async def describe(self, project: str, body: wire.DescribeRequest) -> wire.Description:
        """All facts of records and what slides say of themselves, or the named columns in their order."""
        async with self._database.project(project) as conn:
            known = {column.name: column for column in facts.described(await facts.columns(conn))}
            unknown = [name for name in body.columns or () if name not in known]
            if unknown:
                raise RequestInvalid("no such column", where=unknown[0], hint="See `mover cohort columns`.")
            chosen = [known[name] for name in body.columns or known if body.columns or name not in SLIDE_KEYS]
            types = {_key(column): column.type for column in chosen}
            count, size_bytes, spreads = await selections.spreads(conn, body.expression, types)
        told = [_distribution(column, spreads[_key(column)], count) for column in chosen]
        return wire.Description(count=count, bytes=size_bytes, columns=told)

    async def freeze(self, project: str, actor: str, ref: str) -> wire.Selection:
        """The slides that a cohort selects now, written down."""
        async with self._database.project(project) as conn:
            cohort = await self._find(conn, ref)
            frozen = await selections.freeze(conn, project, expression=cohort.expression, cohort_id=cohort.id)
            answer = await self._selection(conn, frozen.selection_id)
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="cohort frozen", subject=cohort.id,
                details={"selection": frozen.selection_id, "count": frozen.count, "root": frozen.root},
            )  # fmt: skip
            return answer

    async def split(self, identity: Identity, ref: str, body: wire.SplitRequest) -> wire.CohortSplit:
        """The slides that a cohort selects now, dealt out so that no patient, block or content is in two parts; each
        part a frozen list that a run can name. Raises RequestInvalid where a slide has no patient and none may."""
        project = identity.project
        check_fractions(body.parts)
        async with self._database.project(project) as conn:
            cohort = await self._find(conn, ref)
            members, unknown = await self._members(conn, project, cohort.expression, body)
            dealt = await asyncio.to_thread(splits.split, members, body.parts, seed=body.seed)
            parts = []
            for name, numbers in dealt.numbers.items():
                frozen = await selections.freeze(conn, project, numbers=numbers, cohort_id=cohort.id)
                parts.append(
                    wire.SplitPart(
                        name=name, selection=frozen.selection_id, count=frozen.count, bytes=frozen.bytes,
                        groups=dealt.groups[name], root=frozen.root,
                    )
                )  # fmt: skip
            await audit.record(
                conn, project=project, node=self._node, actor=identity.actor, action="cohort split", subject=cohort.id,
                details={"by": body.by, "seed": body.seed, "parts": {one.name: one.selection for one in parts}},
            )  # fmt: skip
        shares = [
            wire.SplitShare(part=s.split, value=s.stratum or None, count=s.count, wanted=round(s.wanted, 3))
            for s in dealt.shares
        ]
        return wire.CohortSplit(
            cohort=cohort.id, seed=body.seed, by=body.by, parts=parts, shares=shares, unknown_patients=unknown,
            worst=max(round(abs(one.count - one.wanted), 3) for one in shares),
        )  # fmt: skip

    async def _members(
        self, conn: Connection, project: str, expression: str, body: wire.SplitRequest
    ) -> tuple[Sequence[Member], int]:
        """Every slide with what ties it to others, and how many have no patient."""
        numbers = await selections.numbers_of(conn, project, expression)
        key = await self._stratum(conn, body.by)
        patients: dict[str, list[str]] = defaultdict(list)
        for row in await _Q.many(conn, "patients", numbers=numbers):
            patients[row.number].append(f"patient|{row.patient}")
        members = [
            Member(row.number, (*patients[row.number], *(f"tie|{one}" for one in row.ties)), row.stratum or "")
            for row in await _Q.many(conn, "ties", numbers=numbers, home=key[0], fact=key[1])
        ]
        unknown = len(numbers) - sum(1 for number in numbers if patients[number])
        if unknown and body.unknown_patients == "refuse":
            raise RequestInvalid(
                f"{unknown} of {len(numbers)} slides have no patient, so that nobody can say whose other slides are "
                "in another part",
                hint="`subject is not null` in the expression leaves them out; `unknown_patients: allow` takes each "
                "for somebody of its own.",
            )
        return members, unknown

    async def _stratum(self, conn: Connection, by: str | None) -> tuple[str, str]:
        """Where the column's values stand, and what it is called there."""
        if by is None:
            return "", ""
        column = next((one for one in facts.described(await facts.columns(conn)) if one.name == by), None)
        if column is None or by in SLIDE_KEYS:
            raise RequestInvalid("no such column", where=by, hint="See `mover cohort columns`.")
        home, _, name = _key(column).partition(":")
        return home, factcolumns.FACT_KEYS.get(name, name) if home == "slide" else name

    async def selection(self, project: str, id: str, after: str | None, limit: int) -> wire.SelectionPage:
        """One frozen list, with a page of its numbers in their order."""
        bound = max(1, min(limit, PAGE_LIMIT))
        async with self._database.project(project) as conn:
            found = await self._selection(conn, id)
            rows = await _Q.many(conn, "numbers", selection=id, after=after or "", limit=bound + 1)
        numbers = [row.number for row in rows]
        more = numbers[bound - 1] if len(numbers) > bound else None
        return wire.SelectionPage(selection=found, numbers=numbers[:bound], next=more)

    async def build_columns(self) -> int:
        """What was written since the columns of any project were made goes into them; how many blocks. Any number of
        daemons may call it at once."""
        async with self._database.instance() as conn:
            projects = await factcolumns.projects_marked(conn)
        return sum([await self._build(project) for project in projects])

    async def _build(self, project: str) -> int:
        more = True
        while more:
            async with self._database.project(project) as conn:
                more = await factcolumns.place_marked(conn, project)
        total, built = 0, 1
        while built:
            async with self._database.project(project) as conn:
                built = await factcolumns.build(conn, project)
            total += built
        return total

    async def _find(self, conn: Connection, ref: str) -> Any:
        name, at, version = ref.partition("@")
        if is_id(ref, "cohort"):
            row = await _Q.one(conn, "by_id", id=ref)
        elif at and version.isdecimal() and len(version) < 10:
            row = await _Q.one(conn, "by_version", name=name, version=int(version))
        else:
            row = await _Q.one(conn, "newest", name=ref)
        if row is None:
            raise NotFound("no such cohort")
        return row

    async def _selection(self, conn: Connection, id: str) -> wire.Selection:
        row = await _Q.one(conn, "selection", id=id)
        if row is None:
            raise NotFound("no such selection")
        return wire.Selection(**row._asdict())

    async def _view(self, conn: Connection, row: Any) -> wire.Cohort:
        return (await self._views(conn, [row]))[0]

    async def _views(self, conn: Connection, rows: Sequence[Any]) -> Sequence[wire.Cohort]:
        counted = await selections.counts(conn, [row.expression for row in rows])
        return [
            wire.Cohort(**row._asdict(), count=count, bytes=size_bytes)
            for row, (count, size_bytes) in zip(rows, counted, strict=True)
        ]


def _key(column: wire.Column) -> str:
    """What the column is called in blocks."""
    return f"slide:{column.name.removeprefix('slide.')}" if column.table == "slide" else f"record:{column.name}"


def _name(key: str) -> str:
    """What a column of a block is called in an expression."""
    home, _, name = key.partition(":")
    return {"slide": f"slide.{name}", "tag": TAG}.get(home, name)


def _with_values(column: wire.Column, spread: Spread | None) -> wire.Column:
    if spread is None or spread.counts is None or len(spread.counts) > COMPLETED_DISTINCT:
        return column
    top = [value for value, _ in spread.values(VALUES_SHOWN)]
    return wire.Column(name=column.name, type=column.type, table=column.table, allowed=column.allowed, values=top)


def _distribution(column: wire.Column, spread: Spread, count: int) -> wire.Distribution:
    shown = [] if column.name in SLIDE_KEYS else spread.values(VALUES_SHOWN)
    return wire.Distribution(
        column=column.name,
        type=column.type,
        known=count - spread.missing,
        missing=spread.missing,
        distinct=len(spread.counts) if spread.counts is not None else None,
        values=[wire.ValueCount(value=value, count=n) for value, n in shown],
        low=spread.low,
        high=spread.high,
        histogram=[wire.Bin(low=one.low, high=one.high, count=one.count) for one in spread.histogram()],
    )
