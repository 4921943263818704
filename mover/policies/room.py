"""Policies as people see and change them: a text in, its mistakes, its plan, the change; versions and who made them.

The text is the policy: what a person typed, comments and all, is what stands in the file, in the catalog and in the
audit. Who is a person, and whether another one agreed, is the database's to say (migration 0039).
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mover.catalog.database import refusals
from mover.catalog.queries import load
from mover.decide import policies as decide
from mover.errors import ConfigError, Conflict, Denied, NotFound, PolicyInvalid, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import DeidPolicy, Policy, ProtectPolicy
from mover.policies.follow import Following
from mover.policy import Loaded, PolicyBook, digest_of, json_schema, parse, templates
from mover.randomness import new_id

SQL = load(__file__)
PAGE_MAX = 1000
# lines of a difference; beyond it the texts are there to be compared
DIFF_MAX = 2000

# what a policy would do that nobody follows yet; or, in a sentence, that nothing can be known before
WhatIf = Callable[[Identity, Policy], Awaitable[wire.Plan]]


class Choices(Struct, frozen=True):
    """What the settings have for policies to name."""

    tiers: Callable[[], Sequence[tuple[str, str, str]]] = tuple  # name, zone, role; they may become more
    receivers: tuple[str, ...] = ()


class Wanted(Struct, frozen=True):
    """A change that could be carried out now. `base` is the digest of what stands in the file."""

    name: str
    kind: str
    place: Path
    base: str | None
    text: str | None
    before: Policy | None
    after: Policy | None

    @property
    def risks(self) -> list[decide.Risk]:
        return decide.risks(self.before, self.after)


class Policies:
    def __init__(self, following: Following, *, what_if: WhatIf, choices: Choices) -> None:
        self._following, self._what_if, self._choices = following, what_if, choices
        self._database, self._node = following.database, following.node

    async def all(self) -> wire.Policies:
        return wire.Policies(
            policies=[
                wire.PolicyView(name=one.name, kind=one.kind, digest=one.digest, text=one.text)
                for one in self._following.book.all()
            ]
        )

    async def schema(self) -> wire.PolicySchema:
        profiles = self._following.declared.of(DeidPolicy)
        return wire.PolicySchema(
            document=json.loads(json_schema()), receivers=list(self._choices.receivers),
            tiers=[{"name": name, "zone": zone, "role": role} for name, zone, role in self._choices.tiers()],
            profiles=[one.name for one in profiles], templates=await asyncio.to_thread(templates),
        )  # fmt: skip

    async def view(self, project: str, name: str) -> wire.PolicyDetail:
        one = self._named(name)
        folder, place = self._following.folder, Path(one.file)
        text = await asyncio.to_thread(folder.text, place)
        async with self._database.project(project) as conn:
            nodes = await SQL.many(conn, "nodes", name=name)
            waiting = await SQL.many(conn, "page", name=name, waiting=True, after=None, limit=PAGE_MAX)
            shorter = await SQL.one(conn, "shorter", name=name) if isinstance(one.policy, ProtectPolicy) else None
        standing = one.text if text is None else text
        return wire.PolicyDetail(
            name=name, kind=one.kind, digest=digest_of(standing), followed=one.digest, text=standing, file=place.name,
            value=_values(one.text), holds=self._holds(one, shorter.words if shorter else ()),
            trouble=self._following.trouble or None,
            unwritable=await asyncio.to_thread(folder.why_not, place) or None,
            nodes=[wire.PolicyStand(node=row.node, digest=row.digest, at=row.at) for row in nodes],
            waiting=[_change(row) for row in waiting],
        )  # fmt: skip

    def _holds(self, one: Loaded, shorter: Iterable[str]) -> list[str]:
        """Where what is followed is more than its file says, in words."""
        held = self._following.book.loaded(one.name).policy
        told = [f"{change.field}: {change.words}" for change in decide.changes(one.policy, held)]
        return told + [f"{word}: what held before goes on until two persons agreed" for word in shorter]

    async def versions(self, name: str, after: str | None, limit: int) -> wire.PolicyVersionPage:
        """Newest first; one more row is read, to say what the last one changed."""
        before = int(after) if after and after.isdigit() else None
        async with self._database.project(self._following.project) as conn:
            rows = await SQL.many(conn, "versions", name=name, after=before, limit=min(limit, PAGE_MAX) + 1)
        if not rows and after is None:
            raise NotFound(f"there is no policy {name}", where=name)
        told = await asyncio.to_thread(lambda: [_version(row, rows[at + 1 :]) for at, row in enumerate(rows[:limit])])
        return wire.PolicyVersionPage(versions=told, next=told[-1].id if len(rows) > limit else None)

    async def check(self, body: wire.PolicyCheckRequest) -> wire.PolicyChecked:
        """Never fails by what was typed."""
        try:
            value = parse(body.text, file="policy").value
        except PolicyInvalid as error:
            return wire.PolicyChecked(mistakes=_mistakes(error, Path("policy")))
        said = value if isinstance(value, dict) else {}
        name, kind = said.get("name"), said.get("kind")
        known = body.name or (name if isinstance(name, str) and name.replace("-", "").isalnum() else "unnamed")
        place = self._following.place(known, kind if isinstance(kind, str) else "")
        mistakes: list[wire.PolicyMistake] = []
        try:
            await self._following.candidate(place, body.text)
        except ConfigError as error:
            mistakes = _mistakes(error, place)
        stands = self._following.stands(known)
        if body.name not in (None, name):
            mistakes.append(wire.PolicyMistake(line=1, column=1, what=f"its name is {name}, not {body.name}"))
        return wire.PolicyChecked(
            mistakes=mistakes, name=name if isinstance(name, str) else None,
            kind=kind if isinstance(kind, str) else None, value=said or None,
            diff=_diff(stands.text, body.text) if stands else [],
        )  # fmt: skip

    # --- changes -------------------------------------------------------------------------------------------------

    async def plan(self, identity: Identity, name: str, text: str | None, digest: str | None) -> wire.Plan:
        """What would be another, who has to agree and why, and what it would do where that can be known."""
        wanted = await self._wanted(identity, name, text, digest)
        steps = [wire.PlanStep(action="agree first", subject=one.field or name, reason=one.why) for one in wanted.risks]
        if not steps and identity.role != "admin":
            steps = [wire.PlanStep(action="agree first", subject=name, reason="an operator asks: an admin agrees")]
        counts = {"to agree on": len(steps)}
        found = decide.changes(wanted.before, wanted.after) if wanted.after else []
        steps += [wire.PlanStep(action="change", subject=one.field, reason=one.words) for one in found]
        if wanted.after is None:
            steps.append(wire.PlanStep(action="remove", subject=wanted.place.name, reason="the policy goes"))
        counts |= {"changed": len(found)}
        shown = await self._what_if(identity, wanted.after) if wanted.after else None
        if shown is None:
            return wire.Plan(step=f"policy {name}", counts=counts, bytes=0, steps=steps)
        return wire.Plan(
            step=f"policy {name}, then {shown.step}", counts=counts | shown.counts, bytes=shown.bytes,
            steps=steps + shown.steps, truncated=shown.truncated,
        )  # fmt: skip

    async def change(
        self, identity: Identity, name: str, text: str | None, digest: str | None, reason: str
    ) -> wire.PolicyChange:
        """It acts at once, or waits for another person. Raises Conflict when the file is not what was edited."""
        wanted = await self._wanted(identity, name, text, digest)
        values = {
            "id": new_id("change"), "name": name, "kind": wanted.kind, "base": wanted.base, "text": wanted.text,
            "digest": None if text is None else digest_of(text), "reason": reason,
            "risks": [one.words for one in wanted.risks],
        }  # fmt: skip
        async with self._database.project(identity.project) as conn:
            with refusals():
                row = await SQL.one(conn, "ask", **values, **self._who(identity))
        return await self._done(identity.project, row.id)

    async def approve(self, identity: Identity, change: str) -> wire.PolicyChange:
        await self._say("approve", identity, change)
        return await self._done(identity.project, change)

    async def withdraw(self, identity: Identity, change: str) -> wire.PolicyChange:
        await self._say("withdraw", identity, change)
        return await self.view_change(identity.project, change)

    async def view_change(self, project: str, change: str) -> wire.PolicyChange:
        async with self._database.project(project) as conn:
            row = await SQL.one(conn, "get", id=change)
        if row is None:
            raise NotFound("no such change of a policy", where=change)
        return _change(row)

    async def changes(
        self, project: str, name: str | None, waiting: bool, after: str | None, limit: int
    ) -> wire.PolicyChangePage:
        limit = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "page", name=name, waiting=waiting, after=after, limit=limit + 1)
        seen = [_change(row) for row in rows[:limit]]
        return wire.PolicyChangePage(changes=seen, next=seen[-1].id if len(rows) > limit else None)

    async def told(self) -> list[str]:
        """What a person should see to."""
        async with self._database.instance() as conn:
            rows = await SQL.many(conn, "drift", node=self._node)
        found = [f"the policy {row.name} is another on {', '.join(row.nodes)} than on {self._node}" for row in rows]
        trouble = self._following.trouble
        return found + ([f"the folder of policies is not followed as it is now: {trouble}"] if trouble else [])

    # --- steps ---------------------------------------------------------------------------------------------------

    async def _wanted(self, identity: Identity, name: str, text: str | None, digest: str | None) -> Wanted:
        if identity.project != self._following.project:
            raise Denied("policies are the whole machine's", hint="They are changed in the daemon's own project.")
        await self._following.turn()
        known = self._following.stands(name)
        kind = _kind(text) if text is not None else (known.kind if known else "")
        if known is None and text is None:
            raise NotFound(f"there is no policy {name}", where=name)
        place = self._following.place(name, kind)
        folder = self._following.folder
        if problem := await asyncio.to_thread(folder.why_not, place):
            raise Conflict(problem, where=place.name, hint="Set `policies` in the settings to a folder of your own.")
        stands = await asyncio.to_thread(folder.digest, place)
        if stands != digest:
            raise Conflict("the file is not the one that was edited", where=place.name)
        after = _the_one(await self._following.candidate(place, text), name) if text is not None else None
        if text is None:
            await self._following.candidate(place, None)
        before = known.policy if known else None
        if before == after and stands is not None and text is not None and digest_of(text) == stands:
            raise RequestInvalid("this changes nothing", where=name)
        return Wanted(name, kind, place, stands, text, before, after)

    async def _say(self, word: str, identity: Identity, change: str) -> None:
        async with self._database.project(identity.project) as conn:
            with refusals():
                await SQL.one(conn, word, id=change, **self._who(identity))

    async def _done(self, project: str, change: str) -> wire.PolicyChange:
        await self._following.turn()
        return await self.view_change(project, change)

    def _who(self, identity: Identity) -> dict[str, object]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._node}

    def _named(self, name: str) -> Loaded:
        found = self._following.stands(name)
        if found is None:
            raise NotFound(f"there is no policy {name}", where=name, hint="`mover policy list` names them.")
        return found


def _kind(text: str) -> str:
    value = parse(text, file="policy").value
    return str(value.get("kind", "")) if isinstance(value, dict) else ""


def _the_one(book: PolicyBook, name: str) -> Policy:
    found = next((one for one in book.all() if one.name == name), None)
    if found is None:
        raise RequestInvalid(
            f"the text is of another policy than {name}", where="$.text", hint="A policy keeps its name."
        )
    return found.policy


def _values(text: str) -> dict[str, Any]:
    value = parse(text, file="policy").value
    return value if isinstance(value, dict) else {}


def _mistakes(error: ConfigError, place: Path) -> list[wire.PolicyMistake]:
    return [_mistake(str(one["where"]), str(one["what"]), place) for one in error.details] or [
        wire.PolicyMistake(line=1, column=1, what=f"{error.what}. {error.advice}", file=None)
    ]


def _mistake(where: str, what: str, place: Path) -> wire.PolicyMistake:
    file, line, column = where.rsplit(":", 2)
    other = None if file == str(place) else Path(file).name
    return wire.PolicyMistake(line=int(line), column=int(column), what=what, file=other)


def _version(row: Any, older: list[Any]) -> wire.PolicyVersion:
    before = next((one for one in older if one.node == row.node), None)
    return wire.PolicyVersion(
        id=str(row.seq), node=row.node, digest=row.digest, at=row.at, text=row.text,
        diff=_diff(before.text if before else None, row.text), change=row.change, changed_by=row.requested_by,
        approved_by=row.approved_by, reason=row.reason,
    )  # fmt: skip


def _diff(old: str | None, new: str | None) -> list[str]:
    lines = difflib.unified_diff((old or "").splitlines(), (new or "").splitlines(), "before", "after", lineterm="")
    return [line for line, _ in zip(lines, range(DIFF_MAX), strict=False)]


def _change(row: Any) -> wire.PolicyChange:
    return wire.PolicyChange(
        id=row.id, node=row.node, name=row.name, kind=row.kind, state=_state(row), base=row.base, digest=row.digest,
        text=row.text, diff=_diff(row.before, row.text), risks=list(row.risks), reason=row.reason,
        requested_by=row.requested_by, requested_at=row.requested_at, lapses_at=row.lapses_at,
        approved_by=row.approved_by, withdrawn_by=row.withdrawn_by, applied_at=row.applied_at, explanation=row.refused,
    )  # fmt: skip


def _state(row: Any) -> Any:
    for at, word in ((row.applied_at, "applied"), (row.refused_at, "refused"), (row.withdrawn_at, "withdrawn")):
        if at is not None:
            return word
    if row.lapses_at <= row.now:
        return "lapsed"
    return "asked" if row.agreed_at is None else "approved"
