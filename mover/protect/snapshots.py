"""What can be gone back to: snapshots, what they hold, and whether the repository is whole."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from mover.catalog.queries import load
from mover.errors import NotFound, RequestInvalid
from mover.model import wire
from mover.model.names import path_text
from mover.model.policy import ProtectPolicy
from mover.protect.damage import hits_told
from mover.protect.layout import Layout
from mover.protect.retention import series_of
from mover.protect.site import PAGE_MAX, PLAN_STEPS_MAX, ProtectSite, patiently

SQL = load(__file__)
BEGIN, END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
Found = list[Any]  # in a class that has a method `list`, the word means that method


class Snapshots:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def list(
        self, project: str, *, run: str | None = None, series: str | None = None, tag: str | None = None,
        state: str | None = None, policy: str | None = None, since: datetime | None = None,
        until: datetime | None = None, after: str | None = None, limit: int = PAGE_MAX,
    ) -> wire.SnapshotPage:  # fmt: skip
        """Newest on record first, from `since` to before `until`: all, those of a run, a series or a tag, or a policy's
        in one state. What a page costs does not depend on how many there are: each question has its index."""
        name, values = self._question(run=run, series=series, tag=tag, state=state, policy=policy)
        bounds = [(_zoned("until", until) or END, 0)]
        if after is not None:
            row = await get(self._site, project, after)
            bounds.append((row.recorded_at, row.sequence))
        at, before = min(bounds)
        limit = min(limit, PAGE_MAX)
        values |= {"at": at, "before": before, "since": _zoned("since", since) or BEGIN, "limit": limit + 1}
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, name, **values)
        seen = [_snapshot(row) for row in rows[:limit]]
        return wire.SnapshotPage(snapshots=seen, next=seen[-1].id if len(rows) > limit else None)

    def _question(
        self, *, run: str | None, series: str | None, tag: str | None, state: str | None, policy: str | None
    ) -> tuple[str, dict[str, object]]:
        asked = [name for name, value in (("run", run), ("series", series), ("tag", tag), ("state", state)) if value]
        if len(asked) > 1:
            raise RequestInvalid(f"snapshots are listed by one of run, series, tag and state, not by {len(asked)}",
                                 where=" ".join(asked))  # fmt: skip
        if policy is not None and state is None:
            raise RequestInvalid("a policy is named beside a state, as the trash of one policy", where="policy")
        if state is not None:
            chosen = self._site.policies.default(ProtectPolicy) if policy is None else self._named(policy)
            return "page_of_state", {"policy": chosen.name, "state": state}
        if tag is not None:
            return "page_of_tag", {"tag": tag}
        series = series_of(run) if run is not None else series
        return ("page", {}) if series is None else ("page_of_series", {"series": series})

    def _named(self, policy: str) -> ProtectPolicy:
        return self._site.policies.get(policy, ProtectPolicy)

    async def view(self, project: str, snapshot: str) -> wire.Snapshot:
        row = await get(self._site, project, snapshot)
        async with self._site.database.project(project) as conn:
            holds = await SQL.many(conn, "holds", snapshot=row.id)
        return _snapshot(row, holds)

    async def files(
        self, project: str, snapshot: str, path: str = "/", after: str | None = None, limit: int = PAGE_MAX
    ) -> wire.SnapshotFiles:
        """Everything below a folder of a snapshot, in order of path, as the repository's trees tell it."""
        row = await get(self._site, project, snapshot)
        bound = min(limit, PAGE_MAX)
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "digests", snapshot=row.id)
        digests = {r.path: r.digest for r in rows}
        found = await asyncio.to_thread(self._ls, row, path, after or "", bound)
        files = [
            wire.SnapshotFile(path=path_text(e.path), type=e.kind, size_bytes=e.size_bytes,
                              digest=digests.get(path_text(Layout.path_in_run(e.path))))
            for e in found
        ]  # fmt: skip
        return wire.SnapshotFiles(files=files, next=files[-1].path if len(files) == bound else None)

    def _ls(self, row: Any, path: str, after: str, bound: int) -> Found:
        repository = self._site.repositories.of_row(row)
        entries = (e for e in repository.ls(row.repository_id, path, recursive=True) if e.path > after)
        return sorted(entries, key=lambda e: e.path)[:bound]

    async def check(self, project: str) -> wire.Check:
        """Read every object of the repository and compare it with its name."""
        policy = self._site.policies.default(ProtectPolicy)
        check = await asyncio.to_thread(lambda: patiently(lambda: self._site.repositories.of(policy).check(True)))
        async with self._site.database.project(project) as conn:
            problems = [*await hits_told(conn, check), *check.errors]
        return wire.Check(
            whole=check.ok, tier=policy.repository, snapshots=check.snapshots, blobs=check.blobs,
            bytes=check.bytes_read, problems=problems[:PLAN_STEPS_MAX],
        )  # fmt: skip


async def get(site: ProtectSite, project: str, snapshot: str) -> Any:
    """The row of a snapshot, by our id or by the repository's. Raises NotFound."""
    async with site.database.project(project) as conn:
        row = await SQL.one(conn, "get", id=snapshot)
    if row is None:
        raise NotFound("no such snapshot", where=snapshot)
    return row


def _zoned(name: str, time: datetime | None) -> datetime | None:
    if time is not None and time.tzinfo is None:
        raise RequestInvalid(f"{name} needs an offset, such as Z", where=name)
    return time


def _snapshot(row: Any, holds: Found | None = None) -> wire.Snapshot:
    return wire.Snapshot(
        id=row.id, repository_id=row.repository_id, run=row.run_id, state=row.state, tier=row.tier,
        policy=row.policy, files=row.files, bytes=row.bytes, added_bytes=row.added_bytes,
        missing=list(row.missing), reasons=list(row.reasons), recorded_at=row.recorded_at, series=row.series,
        tags=list(row.tags), held=row.held, doubt=row.doubt, missing_at=row.missing_at, trash_until=row.trash_until,
        holds=[
            wire.Hold(id=h.id, snapshot=h.snapshot_id, reason=h.reason, until=h.until, placed_by=h.placed_by,
                      placed_at=h.placed_at)
            for h in holds or ()
        ],
    )  # fmt: skip
