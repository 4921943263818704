"""Tags of slides: put on and taken off by changes, each of which can be taken back as a whole.

A change turns round what is not yet as it says and keeps its id there. Taking it back turns round what still carries
that id: what somebody changed since stays, and is told. Taking back is a change as well, and can be taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from mover import audit
from mover.catalog import selections
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.tags import HINT, SLIDES_MAX, TAGS_MAX, told_apart, why_not_tag
from mover.errors import Conflict, Denied, LimitExceeded, NotFound, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.oversight.cold import DAY_S, cold_slides
from mover.randomness import new_id

SQL = load(__file__)
STEPS_SHOWN = 50
SINCE_SHOWN = 5

Action = Literal["add", "remove"]


class Tags:
    def __init__(self, database: Database, *, node: str) -> None:
        self._database, self._node = database, node

    async def list(self, project: str) -> wire.Tags:
        async with self._database.project(project) as conn:
            rows = await SQL.planned(conn, "tags", limit=TAGS_MAX)
        return wire.Tags(tags=[wire.TagUse(**row._asdict()) for row in rows])

    async def changes(self, project: str, *, tag: str | None, after: str | None, limit: int) -> wire.TagChangePage:
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "page", tag=tag, after=after, limit=limit)
        found = [wire.TagChange(**row._asdict()) for row in rows]
        return wire.TagChangePage(changes=found, next=found[-1].id if len(found) == limit else None)

    # --- putting on and taking off -----------------------------------------------------------------------------

    async def plan_change(self, identity: Identity, body: wire.TagChangeRequest) -> wire.Plan:
        async with self._database.project(identity.project) as conn:
            numbers = await self._chosen(conn, identity, body)
            seen = await self._would(conn, body, numbers)
        verb = "tag" if body.action == "add" else "untag"
        reason = f"{'gets' if body.action == 'add' else 'loses'} {body.tag}"
        already = len(numbers) - seen.count
        counts = {verb: seen.count, "as they are already": already}
        steps = [wire.PlanStep(action=verb, subject=number, reason=reason) for number in numbers[:STEPS_SHOWN]]
        return wire.Plan(
            step=f"tags: {body.action}", counts={name: n for name, n in counts.items() if n}, bytes=seen.bytes,
            steps=steps if seen.count else [], truncated=len(numbers) > STEPS_SHOWN,
        )  # fmt: skip

    async def change(self, identity: Identity, body: wire.TagChangeRequest, *, request: str = "") -> wire.TagChange:
        async with self._database.project(identity.project) as conn:
            numbers = await self._chosen(conn, identity, body)
            of = {"project": identity.project, "tag": body.tag}
            await conn.execute(SQL["lock"], of)
            seen = await self._would(conn, body, numbers)
            made = await self._write(
                conn, identity, tag=body.tag, action=body.action, chosen=_told(body), count=seen.count,
                bytes=seen.bytes, reason=body.reason,
            )  # fmt: skip
            await conn.execute(
                SQL["put" if body.action == "add" else "take"], {**of, "change": made.id, "numbers": " ".join(numbers)},
                prepare=False,
            )  # fmt: skip
            await self._record(conn, identity, made, "tag put" if body.action == "add" else "tag taken off", request)
        return made

    async def _chosen(self, conn: Connection, identity: Identity, body: wire.TagChangeRequest) -> Sequence[str]:
        """The slides that are meant, in order. None at all is refused, too: how slides were chosen stays for ever, and
        a place that holds none may be any text."""
        if why := why_not_tag(body.tag):
            raise RequestInvalid(why, where="tag", hint=HINT)
        if body.action == "add":
            await self._check_word(conn, identity, body.tag)
        numbers = await self._meant(conn, identity.project, body)
        if not numbers:
            raise RequestInvalid("no slide is chosen by this: nothing would be tagged")
        return numbers

    async def _check_word(self, conn: Connection, identity: Identity, tag: str) -> None:
        known = await SQL.one(conn, "known", tag=tag)
        if known.used:
            return
        if identity.role != "admin":
            raise Denied(
                "no slide has this tag yet, and a new word is an admin's to say: it may be somebody's name",
                hint="`mover tag list` has the words that are used here.",
            )
        if known.others >= TAGS_MAX:
            raise LimitExceeded(f"a project has at most {TAGS_MAX} tags", hint="Take one off its last slide.")

    async def _meant(self, conn: Connection, project: str, body: wire.TagChangeRequest) -> Sequence[str]:
        """An unknown one refuses the whole: it may be a misprint of another."""
        if sum(one is not None for one in (body.expression, body.numbers, body.cold)) != 1:
            raise RequestInvalid("say which slides: one of `expression`, `numbers` and `cold`")
        if body.cold is not None:
            cold, most = body.cold, SLIDES_MAX
            numbers = await cold_slides(conn, cold.tier, older_s=cold.older_s, folder=cold.folder, most=most)
        elif body.expression is not None:
            numbers = await selections.numbers_of(conn, project, body.expression)
        else:
            return await _named(conn, body.numbers or ())
        if len(numbers) > SLIDES_MAX:
            raise LimitExceeded(f"one change is of at most {SLIDES_MAX} slides")
        return numbers

    async def _would(self, conn: Connection, body: wire.TagChangeRequest, numbers: Sequence[str]) -> Any:
        """As one text: a million of them as a list are dumped one by one, for seconds in which nothing else runs."""
        [row] = await SQL.planned(conn, "would", tag=body.tag, numbers=" ".join(numbers), present=body.action == "add")
        return row

    # --- taking back -------------------------------------------------------------------------------------------

    async def plan_undo(self, project: str, id: str) -> wire.Plan:
        async with self._database.project(project) as conn:
            found = await self._undoable(conn, id)
            [still] = await SQL.planned(conn, "still", id=id)
            since = await SQL.many(conn, "since", tag=found.tag, id=id, limit=SINCE_SHOWN)
        left = found.count - still.count
        verb = "untag" if found.action == "add" else "tag"
        steps = [wire.PlanStep(action=verb, subject=id, reason=f"takes {found.tag} back", bytes=still.bytes)]
        if left:
            said = told_apart(changed=found.count, still=still.count)
            steps.append(wire.PlanStep(action="leave", subject=found.tag, reason=said))
            steps += [
                wire.PlanStep(action="leave", subject=one.id, reason=f"changed since, by {one.created_by}")
                for one in since
            ]
        counts = {verb: still.count, "leave": left}
        return wire.Plan(
            step="tags: undo", counts={name: n for name, n in counts.items() if n}, bytes=still.bytes, steps=steps
        )

    async def undo(self, identity: Identity, id: str, *, request: str = "") -> wire.TagChange:
        """Of a change that was taken back already, that taking back: twice is once."""
        async with self._database.project(identity.project) as conn:
            found = await self._undoable(conn, id, again=True)
            await conn.execute(SQL["lock"], {"project": identity.project, "tag": found.tag})
            found = await self._undoable(conn, id, again=True)
            if found.undone_by is not None:
                return await self._found(conn, found.undone_by)
            [still] = await SQL.planned(conn, "still", id=id)
            action: Action = "remove" if found.action == "add" else "add"
            made = await self._write(
                conn, identity, tag=found.tag, action=action, chosen=f"what {id} changed", count=still.count,
                bytes=still.bytes, reason=told_apart(changed=found.count, still=still.count), undoes=id,
            )  # fmt: skip
            await conn.execute(SQL["undo"], {"change": made.id, "id": id}, prepare=False)
            await self._record(conn, identity, made, "tag change taken back", request)
        return made

    async def _undoable(self, conn: Connection, id: str, *, again: bool = False) -> wire.TagChange:
        found = await self._found(conn, id)
        if found.undone_by is not None and not again:
            raise Conflict("this change was taken back already", where=found.undone_by)
        return found

    async def _found(self, conn: Connection, id: str) -> wire.TagChange:
        row = await SQL.one(conn, "by_id", id=id)
        if row is None:
            raise NotFound("no such change of tags", where=id)
        return wire.TagChange(**row._asdict())

    # --- what both write ---------------------------------------------------------------------------------------

    async def _write(
        self, conn: Connection, identity: Identity, *, tag: str, action: Action, chosen: str, count: int, bytes: int,
        reason: str, undoes: str | None = None,
    ) -> wire.TagChange:  # fmt: skip
        id = new_id("change")
        await conn.execute(SQL["change"], {
            "project": identity.project, "id": id, "tag": tag, "action": action, "chosen": chosen, "count": count,
            "bytes": bytes, "reason": reason, "undoes": undoes, "actor": identity.actor,
        })  # fmt: skip
        return await self._found(conn, id)

    async def _record(
        self, conn: Connection, identity: Identity, made: wire.TagChange, action: str, request: str
    ) -> None:
        details = {"tag": made.tag, "count": made.count, "bytes": made.bytes, "chosen": made.chosen}
        if made.undoes:
            details["undoes"] = made.undoes
        await audit.record(
            conn, project=identity.project, node=self._node, actor=identity.actor, action=action, subject=made.id,
            reason=made.reason, request=request, details=details,
        )  # fmt: skip


async def _named(conn: Connection, numbers: Sequence[str]) -> list[str]:
    found = await selections.resolve(conn, numbers)
    wrong = [one for one in found.offenders if one["why"] != "duplicate"]
    if wrong:
        raise RequestInvalid(
            f"{len(wrong)} of {len(numbers)} slides cannot be tagged", where="numbers",
            hint="Leave out what is unknown or withdrawn; nothing was changed.",
            details=msgspec.to_builtins(selections.storable(wrong[:100])),
        )  # fmt: skip
    return sorted(row.number for row in found.rows)


def _told(body: wire.TagChangeRequest) -> str:
    """What was chosen, in words that stay: an expression holds no identifier, and a folder here names none."""
    if body.expression is not None:
        return f"where {body.expression}"
    if body.cold is not None:
        below = f" below {body.cold.folder}" if body.cold.folder else ""
        return f"not used for {body.cold.older_s / DAY_S:g} days on {body.cold.tier}{below}"
    return "a list"
