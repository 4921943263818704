"""Step 3, first half: expressions saved under a name, in versions; counted whenever somebody looks.

A cohort is a question; what it selects is frozen only by a run (`catalog.selections.freeze`).
"""

from __future__ import annotations

from typing import Any

from mover import audit
from mover.catalog import facts, selections
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.cohort import parse
from mover.errors import NotFound
from mover.model import wire
from mover.model.ids import is_id
from mover.randomness import new_id

LIST_LIMIT = 200

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
                return await self._view(conn, project, newest)
            version = newest.version + 1 if newest is not None else 1
            row = await _Q.one(conn, "add", id=new_id("cohort"), project=project, name=body.name, version=version,
                expression=body.expression, actor=actor,
            )  # fmt: skip
            answer = await self._view(conn, project, row)
            # the expression itself stands in the cohort's row; the record says that it was saved, and by whom
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="cohort saved", subject=answer.id,
                details={"version": version, "count": answer.count},
            )  # fmt: skip
            return answer

    async def list(self, project: str) -> list[wire.Cohort]:
        """The newest version of every name, at most LIST_LIMIT."""
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "page", limit=LIST_LIMIT)
            return [await self._view(conn, project, row) for row in rows]

    async def get(self, project: str, ref: str) -> wire.Cohort:
        """By id, name (its newest version) or name@version."""
        async with self._database.project(project) as conn:
            return await self._view(conn, project, await self._find(conn, ref))

    async def columns(self, project: str) -> wire.Columns:
        async with self._database.project(project) as conn:
            return wire.Columns(columns=facts.described(await facts.columns(conn)))

    async def count(self, project: str, expression: str) -> tuple[int, int]:
        """Slides and bytes that an expression selects now; nothing is kept."""
        async with self._database.project(project) as conn:
            return await selections.count(conn, project, expression)

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

    async def _view(self, conn: Connection, project: str, row: Any) -> wire.Cohort:
        count, size_bytes = await selections.count(conn, project, row.expression)
        return wire.Cohort(
            id=row.id,
            name=row.name,
            version=row.version,
            expression=row.expression,
            created_at=row.created_at,
            count=count,
            bytes=size_bytes,
        )
