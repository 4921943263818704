"""The catalog is lost, or an older one came back: its snapshots are found again in the repositories alone.

One turn for each policy (shard `protect-rebuild`). Every snapshot file of ours that the catalog does not know is read
whole, blob by blob: its files' digests, which only the catalog had, are taken anew, and so it is proved that all of it
comes back. What the catalog then says is what it says of fresh snapshots, because the time inside a snapshot file is
whatever its writer's clock said: recorded now, in the order of those times. So many at once are doubtful to the rules
and displace nothing (`mover.snapshot_checked`): nothing is forgotten before somebody looked.

Snapshots that other clients made bear no series of ours and are left alone. Of another project's, nothing is told.
"""

from __future__ import annotations

import os
import re

from blake3 import blake3
from msgspec import Struct

from mover import metrics
from mover.catalog import proofs
from mover.catalog.queries import load
from mover.errors import EntryMissing, IntegrityError, RepositoryLocked, TierError
from mover.jobs import Shard, in_thread
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import path_text
from mover.model.policy import ProtectPolicy
from mover.protect import taking
from mover.protect.layout import Layout
from mover.protect.site import ProtectSite, patiently
from mover.protect.taking import VERIFIER, insert_artifacts, insert_snapshot, link_digest, root_of_files
from mover.protect.upkeep import Upkeep
from mover.repository.facts import SnapshotFacts
from mover.repository.reader import BlobReader, walk
from mover.repository.repository import INCOMPLETE_TAG, Repository
from mover.repository.tree import Node

SQL = load(__file__)
SERIES = re.compile(r"(run|folder):\S{1,100}")

log = get_logger("protect")


class Reread(Struct, frozen=True):
    """A snapshot as it was read again: (path as text, size, digest) of its files and links, and whether all came."""

    files: list[tuple[str, int, str]]
    bytes: int
    damaged: int


class Rebuild:
    def __init__(self, site: ProtectSite, upkeep: Upkeep) -> None:
        self._site, self._upkeep = site, upkeep

    async def request(self, identity: Identity) -> wire.Rebuilds:
        """A turn for each policy; one that runs already is that one."""
        began = []
        for policy in self._upkeep.policies():
            if await self._upkeep.begin(identity.project, policy, "rebuild", every_s=0):
                began.append(policy.name)
        async with self._site.database.project(identity.project) as conn:
            await self._site.record(
                conn, identity.project, "rebuild requested", identity.project, actor=identity.actor, policies=began
            )
        return wire.Rebuilds(policies=[policy.name for policy in self._upkeep.policies()])

    async def rebuild(self, shard: Shard) -> None:
        policy = await self._upkeep.policy_of(shard)
        if policy is None:
            return
        counts = {"found": 0, "known": 0, "recorded": 0, "damaged": 0}
        try:
            repository = self._site.repositories.of(policy)
            found = await in_thread(lambda: patiently(repository.snapshots))
            for facts in sorted(found, key=lambda one: one.time):
                counts[await self._take(shard, policy, repository, facts)] += 1
        except (RepositoryLocked, TierError) as error:
            await self._upkeep.end(shard, policy, "waiting", error.what, {}, counts)
            return
        counts["found"] = len(found)
        why = f"{counts['damaged']} snapshots cannot be read whole; `mover snapshot check` names what is lost"
        await self._upkeep.end(shard, policy, "done", why if counts["damaged"] else None, {}, counts)

    async def _take(self, shard: Shard, policy: ProtectPolicy, repository: Repository, facts: SnapshotFacts) -> str:
        """`known`, `recorded` or `damaged`; `known` too for what is none of ours."""
        series = next((tag for tag in facts.tags if SERIES.fullmatch(tag)), None)
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            known = await SQL.one(conn, "known", tier=policy.repository, repository_id=facts.snapshot_id)
            run = await SQL.one(conn, "run", series=series)
        if known is not None or series is None or f"project:{shard.project}" not in facts.tags:
            return "known"
        read = await in_thread(_reread, repository, facts, series.startswith("run:"))
        whole = not read.damaged and INCOMPLETE_TAG not in facts.tags
        async with self._site.database.project(shard.project) as conn:
            snapshot = await insert_snapshot(
                conn, policy, project=shard.project, series=series, run=run and run.id,
                repository_id=facts.snapshot_id, files=len(read.files), bytes_=read.bytes,
            )  # fmt: skip
            await insert_artifacts(conn, shard.project, snapshot, read.files)
            await conn.execute(taking.SQL["checked" if whole else "incomplete"], {"id": snapshot})
            if whole:
                await proofs.add(
                    conn, project=shard.project, kind="protected", subject=snapshot, count=len(read.files),
                    bytes=read.bytes, root=root_of_files(read.files), verifier=VERIFIER,
                    details={"repository": facts.snapshot_id, "rebuilt": True},
                )  # fmt: skip
            await self._site.record(
                conn, shard.project, "snapshot found again", snapshot, whole=whole, files=len(read.files)
            )
        metrics.SNAPSHOTS.labels(policy.repository).inc()
        log.info("snapshot found again", snapshot=snapshot, policy=policy.name, count=len(read.files))
        return "damaged" if read.damaged else "recorded"


def _reread(repository: Repository, facts: SnapshotFacts, of_run: bool) -> Reread:
    """Blocking. Every file's content by its blobs, each opened and held against its name. Beyond a tree that cannot be
    read nobody knows what there was."""
    files: list[tuple[str, int, str]] = []
    size_bytes = damaged = 0
    with repository.looking(facts.snapshot_id) as (reader, root):
        try:
            for raw, node in walk(reader, root):
                digest = _digest(reader, node)
                if digest is not None:
                    path = os.fsdecode(raw)
                    size = node.size if node.type == "file" else 0
                    files.append((path_text(Layout.path_in_run(path) if of_run else path), size, digest))
                    size_bytes += size
                damaged += digest == ""
        except (IntegrityError, EntryMissing):
            damaged += 1
    return Reread([one for one in files if one[2]], size_bytes, damaged)


def _digest(reader: BlobReader, node: Node) -> str | None:
    """As `runs` and `folders` write it down: BLAKE3 of a file, the target of a link. None for what holds nothing, empty
    for what cannot be read."""
    if node.type == "symlink":
        return link_digest(os.fsdecode(node.target))
    if node.type != "file":
        return None
    hasher = blake3()
    try:
        for blob_id in node.content or ():
            hasher.update(reader.load("data", blob_id))
    except (IntegrityError, EntryMissing):
        return ""
    return hasher.hexdigest()
