"""What can be gone back to: snapshots, what they hold, and whether the repository is whole."""

from __future__ import annotations

import asyncio
from typing import Any

from mover.catalog.queries import load
from mover.errors import NotFound
from mover.model import wire
from mover.model.names import path_text
from mover.model.policy import ProtectPolicy
from mover.protect.layout import Layout
from mover.protect.site import PAGE_MAX, PLAN_STEPS_MAX, ProtectSite, patiently

SQL = load(__file__)
Found = list[Any]  # in a class that has a method `list`, the word means that method


class Snapshots:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def list(self, project: str, run: str | None = None) -> wire.SnapshotPage:
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "list", run=run, limit=PAGE_MAX)
        return wire.SnapshotPage(snapshots=[_snapshot(row) for row in rows])

    async def view(self, project: str, snapshot: str) -> wire.Snapshot:
        return _snapshot(await get(self._site, project, snapshot))

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


def _snapshot(row: Any) -> wire.Snapshot:
    return wire.Snapshot(
        id=row.id, repository_id=row.repository_id, run=row.run_id, state=row.state, tier=row.tier,
        policy=row.policy, files=row.files, bytes=row.bytes, added_bytes=row.added_bytes,
        missing=list(row.missing), reasons=list(row.reasons), recorded_at=row.recorded_at,
    )  # fmt: skip
