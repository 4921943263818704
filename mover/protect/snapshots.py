"""What can be gone back to: snapshots, what they hold, and whether the repository is whole."""

from __future__ import annotations

import asyncio
from typing import Any

from mover.catalog.queries import load
from mover.errors import NotFound, RequestInvalid
from mover.model import wire
from mover.model.names import path_text
from mover.model.policy import ProtectPolicy
from mover.protect.layout import Layout
from mover.protect.retention import series_of
from mover.protect.site import PAGE_MAX, PLAN_STEPS_MAX, ProtectSite, patiently

SQL = load(__file__)
LAST = (1 << 63) - 1
Found = list[Any]  # in a class that has a method `list`, the word means that method


class Snapshots:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def list(
        self, project: str, run: str | None = None, state: str | None = None, after: str | None = None,
        limit: int = PAGE_MAX,
    ) -> wire.SnapshotPage:  # fmt: skip
        """Newest first, of all, of one run, or of the default policy's in one state. What a page costs does not
        depend on how many there are: each question has its index."""
        if run is not None and state is not None:
            raise RequestInvalid("a run's snapshots are listed whole: name the run or the state", where="state")
        limit = min(limit, PAGE_MAX)
        before = LAST if after is None else (await get(self._site, project, after)).sequence
        values: dict[str, object] = {"before": before, "limit": limit + 1}
        name = "page"
        if run is not None:
            name, values["series"] = "page_of_series", series_of(run)
        elif state is not None:
            policy = self._site.policies.default(ProtectPolicy).name
            name, values["policy"], values["state"] = "page_of_state", policy, state
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, name, **values)
        seen = [_snapshot(row) for row in rows[:limit]]
        return wire.SnapshotPage(snapshots=seen, next=seen[-1].id if len(rows) > limit else None)

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
        return wire.Check(
            whole=check.ok, tier=policy.repository, snapshots=check.snapshots, blobs=check.blobs,
            bytes=check.bytes_read, problems=check.errors[:PLAN_STEPS_MAX],
        )  # fmt: skip


async def get(site: ProtectSite, project: str, snapshot: str) -> Any:
    """The row of a snapshot, by our id or by the repository's. Raises NotFound."""
    async with site.database.project(project) as conn:
        row = await SQL.one(conn, "get", id=snapshot)
    if row is None:
        raise NotFound("no such snapshot", where=snapshot)
    return row


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
