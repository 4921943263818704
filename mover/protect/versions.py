"""Time series: the versions of a path, and what is different between two snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any

from mover.catalog.queries import load
from mover.model import wire
from mover.model.names import key_text, name_bytes, name_text, path_text, text_key
from mover.protect.layout import Layout
from mover.protect.restores import series_named
from mover.protect.site import PAGE_MAX, ProtectSite, patiently
from mover.protect.snapshots import get
from mover.repository.comparing import Difference, Side, differences
from mover.repository.tree import Node

SQL = load(__file__)
_KINDS = {"file": "file", "dir": "folder", "symlink": "symlink"}


class Versions:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def versions(
        self, project: str, path: str, *, run: str | None = None, series: str | None = None,
        as_of: datetime | None = None, every: bool = False, after: int | None = None, limit: int = 100,
    ) -> wire.VersionPage:  # fmt: skip
        """Newest on record first. Only where the content changed, came or went, unless `every`."""
        limit = min(limit, PAGE_MAX)
        known = path_text(Layout.path_in_run("/" + path.strip("/")))
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(
                conn, "versions", path=known, series=series_named(run, series), as_of=as_of, every=every, after=after,
                limit=limit + 1,
            )  # fmt: skip
        found = [_version(row) for row in rows[:limit]]
        return wire.VersionPage(versions=found, next=found[-1].sequence if len(rows) > limit else None)

    async def diff(
        self, project: str, before: str, after: str, *, path: str = "/", beyond: str | None = None, limit: int = 100
    ) -> wire.SnapshotDiff:
        """From `before` to `after`, in the order of a walk; equal folders cost nothing."""
        limit = min(limit, PAGE_MAX)
        one, other = await get(self._site, project, before), await get(self._site, project, after)
        last = name_bytes(text_key(beyond)) if beyond else b""
        found = await asyncio.to_thread(lambda: patiently(lambda: self._diff(one, other, path, last, limit + 1)))
        changes = [_change(difference) for difference in found[:limit]]
        return wire.SnapshotDiff(
            before=one.id, after=other.id, changes=changes, next=changes[-1].path if len(found) > limit else None
        )

    def _diff(self, one: Any, other: Any, path: str, beyond: bytes, limit: int) -> list[Difference]:
        repositories = self._site.repositories
        with (
            repositories.of_row(one).looking(one.repository_id) as before,
            repositories.of_row(other).looking(other.repository_id) as after,
        ):
            below = name_bytes(path.strip("/"))
            return list(islice(differences(Side(*before), Side(*after), below=below, beyond=beyond), limit))


def _version(row: Any) -> wire.Version:
    return wire.Version(
        snapshot=row.id, run=row.run_id, series=row.series, sequence=row.sequence, recorded_at=row.recorded_at,
        change=row.change, size_bytes=row.size_bytes, digest=row.digest,
    )  # fmt: skip


def _change(found: Difference) -> wire.SnapshotChange:
    before, after = found.before, found.after
    node = after or before
    assert node is not None
    return wire.SnapshotChange(
        path=key_text(name_text(found.path)), change=found.change, type=_KINDS.get(node.type, "other"),
        size_bytes_before=_size(before), size_bytes_after=_size(after), facts=_facts(before, after),
    )  # fmt: skip


def _size(node: Node | None) -> int | None:
    return node.size if node is not None and node.type == "file" else None


def _facts(before: Node | None, after: Node | None) -> list[str]:
    """Which facts differ, by name."""
    if before is None or after is None:
        return []
    return list(_different(before, after))


def _different(before: Node, after: Node) -> Iterator[str]:
    for word, is_other in (
        ("kind", before.type != after.type),
        ("mode", before.mode != after.mode),
        ("owner", (before.uid, before.gid) != (after.uid, after.gid)),
        ("time", before.mtime_ns != after.mtime_ns),
        ("xattrs", before.xattrs != after.xattrs),
    ):
        if is_other:
            yield word
