"""Restores: to a new place, with the requester's rights, verified blob by blob."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mover import metrics
from mover.clock import monotonic_s
from mover.errors import IntegrityError
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import path_text
from mover.model.policy import ProtectPolicy
from mover.protect.places import restore_place
from mover.protect.site import PLAN_STEPS_MAX, ProtectSite, patiently, requester_of
from mover.protect.snapshots import get
from mover.repository.facts import RestoreResult


class Restores:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def restore(self, identity: Identity, snapshot: str, body: wire.RestoreRequest) -> wire.Restore:
        """To a new place, verified blob by blob; what stands there already is refused, never overwritten."""
        row = await get(self._site, identity.project, snapshot)
        roots = self._site.policies.default(ProtectPolicy).roots
        began_s = monotonic_s()
        result = await asyncio.to_thread(lambda: patiently(lambda: self._restore(row, body, identity, roots)))
        if not result.complete:
            raise IntegrityError(
                f"{len(result.damaged)} files could not be restored", where=row.id,
                details=[{"path": path_text(path)} for path in result.damaged[:PLAN_STEPS_MAX]],
            )  # fmt: skip
        async with self._site.database.project(identity.project) as conn:
            await self._site.record(
                conn, identity.project, "snapshot restored", row.id, actor=identity.actor, files=result.files
            )
        metrics.RESTORED_BYTES.labels(row.tier).inc(result.bytes)
        return wire.Restore(
            snapshot=row.id, to=body.to, files=result.files, bytes=result.bytes,
            seconds=round(monotonic_s() - began_s, 3),
        )  # fmt: skip

    async def plan(self, identity: Identity, snapshot: str, body: wire.RestoreRequest) -> wire.Plan:
        row = await get(self._site, identity.project, snapshot)
        roots = self._site.policies.default(ProtectPolicy).roots
        await asyncio.to_thread(self._check_place, body.to, identity, roots)
        entries = await asyncio.to_thread(
            lambda: list(self._site.repositories.of_row(row).ls(row.repository_id, body.path, recursive=True))
        )
        steps = [
            wire.PlanStep(action="restore", subject=path_text(e.path), reason=f"to {body.to}", bytes=e.size_bytes)
            for e in entries
        ]
        return wire.Plan(
            step="restore", counts={"restore": len(steps)}, bytes=sum(s.bytes for s in steps),
            steps=steps[:PLAN_STEPS_MAX], truncated=len(steps) > PLAN_STEPS_MAX,
        )  # fmt: skip

    def _restore(
        self, row: Any, body: wire.RestoreRequest, identity: Identity, roots: tuple[str, ...]
    ) -> RestoreResult:
        requester = requester_of(identity)
        with self._place(body.to, identity, roots) as target:
            return self._site.repositories.of_row(row).restore(
                row.repository_id, target, path=body.path, owner=requester
            )

    def _place(self, to: str, identity: Identity, roots: tuple[str, ...]) -> AbstractContextManager[Path]:
        return restore_place(
            to, requester=requester_of(identity), local=not identity.token_id, roots=roots,
            forbidden=self._site.forbidden,
        )  # fmt: skip

    def _check_place(self, to: str, identity: Identity, roots: tuple[str, ...]) -> None:
        with self._place(to, identity, roots):
            pass
