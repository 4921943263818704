"""Plain folders that a protect policy names: protected by the clock, after a change that settled, or on demand.

A turn of the daemon looks at each folder (names, sizes and times, no content), writes what it saw, and begins an
attempt when one is due (shard `folder-protect`). Order of an attempt: the folder's mark read again -> snapshot written,
equal files by fingerprint not read again -> row -> every blob read back and hashed -> row `checked`, proof, the
folder's mark, retention, in one transaction. What changed after the mark was read makes the mark differ at the next
turn, so that it is protected then. Killed anywhere, the folder is protected again; equal blobs are stored once.

The daemon reads with its own rights what an administrator named in a policy; nothing of an identified tier (I2).
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from datetime import UTC, tzinfo
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from blake3 import blake3

from mover import metrics
from mover.catalog import proofs
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.clock import monotonic_s
from mover.decide.schedules import FolderState, due, next_time, unprotected_since
from mover.errors import Denied, MoverError, NotFound, RequestInvalid
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import path_text
from mover.model.policy import FolderRule, ProtectPolicy
from mover.protect import taking
from mover.protect.retention import Retention
from mover.protect.site import ProtectSite, patiently
from mover.protect.taking import (
    EARLIER_FILES_MAX,
    VERIFIER,
    check_fresh,
    insert_artifacts,
    insert_snapshot,
    links_of,
    root_of,
)
from mover.randomness import new_id
from mover.repository.facts import CheckResult, Disk, Folder, SnapshotResult
from mover.tiers.zones import overlap

SQL = load(__file__)
LOOK_S = 900.0
ENTRIES_MAX = 5_000_000  # of one folder that is watched for changes: a mark costs a stat each

log = get_logger("protect")


class Folders:
    def __init__(self, site: ProtectSite, retention: Retention) -> None:
        self._site, self._retention = site, retention
        self._seen: dict[tuple[str, str], tuple[float, str]] = {}  # when a folder was looked at, and its mark

    # --- what is due ------------------------------------------------------------------------------------------

    async def begin_due(self, project: str) -> int:
        """Look at every folder that is looked at again by now, and begin what is due; how many began."""
        return sum([await self._turn_one(project, policy, rule) for policy, rule in self._rules()])

    def _rules(self) -> Iterator[tuple[ProtectPolicy, FolderRule]]:
        for one in self._site.policies.all():
            if isinstance(one.policy, ProtectPolicy):
                for rule in one.policy.folders:
                    yield one.policy, rule

    async def _turn_one(self, project: str, policy: ProtectPolicy, rule: FolderRule) -> bool:
        mark = await self._look(policy, rule)
        values = {"id": new_id("folder"), "project": project, "policy": policy.name, "name": rule.name, "mark": mark}
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "look", **values)
            cause = due(rule, _state(row), now=row.now, zone=_zone(rule)) if row.state == "idle" else None
            if cause is None or await SQL.one(conn, "begin", id=row.id) is None:
                return False
            await add_shards(conn, project, [NewShard(tier_queue(policy.repository), "folder-protect", row.id)])
            await self._site.record(conn, project, "folder protection begun", row.id, reason=cause)
        return True

    async def _look(self, policy: ProtectPolicy, rule: FolderRule) -> str:
        """The folder's mark, read anew every third of the time that it has to stand still: a mark costs a stat for each
        of its entries."""
        place, now_s = (policy.name, rule.name), monotonic_s()
        every_s = min(LOOK_S, rule.settled_s / 3) if rule.settled_s else LOOK_S
        seen = self._seen.get(place)
        if seen is None or now_s - seen[0] >= every_s:
            seen = self._seen[place] = (now_s, await in_thread(_mark_or_none, rule.path))
        return seen[1]

    # --- one attempt -----------------------------------------------------------------------------------------

    async def protect(self, shard: Shard) -> None:
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "lock", id=shard.subject_id)
        found = next(((p, r) for p, r in self._rules() if (p.name, r.name) == (row.policy, row.name)), None)
        if found is None:
            await self._give_up(shard, "not-found", "the policy no longer names this folder")
            return
        policy, rule = found
        earlier, digests = await self._earlier(shard, policy)
        try:
            mark = await in_thread(mark_of, rule.path)
            write = partial(self._write, policy, rule, row, earlier, digests, resuming=shard.claims > 1)
            result = await in_thread(write)
            repository = self._site.repositories.of(policy)
            check = await in_thread(check_fresh, repository, result.snapshot_id)
            links = await in_thread(links_of, repository, result.snapshot_id)
        except (Denied, RequestInvalid, NotFound) as error:
            await self._give_up(shard, error.code, error.what)
            return
        await self._keep(shard, policy, result, links, check, mark)

    async def _earlier(self, shard: Shard, policy: ProtectPolicy) -> tuple[str | None, dict[str, str]]:
        """What the newest whole snapshot stored."""
        series = {"series": series_of(shard.subject_id), "policy": policy.name, "tier": policy.repository}
        async with self._site.database.project(shard.project) as conn:
            found = await SQL.one(conn, "earlier", **series, most=EARLIER_FILES_MAX)
            rows = await taking.SQL.many(conn, "digests", snapshot=found.id) if found else []
        return found and found.repository_id, {f"/{row.path}": row.digest for row in rows}

    def _write(
        self, policy: ProtectPolicy, rule: FolderRule, row: Any, earlier: str | None, digests: dict[str, str], *,
        resuming: bool,
    ) -> SnapshotResult:  # fmt: skip
        """Blocking. The tree's root is the folder's name, as the policy has it."""
        if any(overlap(Path(rule.path), tier) for tier in self._site.forbidden):
            raise Denied("the folder lies in an identified tier, or holds one", where=rule.name)
        return patiently(
            lambda: self._site.repositories.of(policy).snapshot(
                Folder({rule.name: Disk(Path(rule.path))}),
                hostname=socket.gethostname(),
                username="mover",
                tags=[series_of(row.id), f"project:{row.project_id}", f"name:{rule.name}"],
                time=self._site.clock.now(),
                paths=[rule.path],
                parent=earlier,
                parent_digests=digests,
                resuming=resuming,
            )
        )

    async def _keep(
        self, shard: Shard, policy: ProtectPolicy, result: SnapshotResult, links: list[tuple[str, int, str]],
        check: CheckResult, mark: str,
    ) -> None:  # fmt: skip
        series = series_of(shard.subject_id)
        async with self._site.database.project(shard.project) as conn:
            snapshot = await insert_snapshot(
                conn, policy, project=shard.project, series=series, repository_id=result.snapshot_id,
                files=result.files, bytes_=result.bytes, added=result.added_bytes,
            )  # fmt: skip
            held = [(e.path, e.size_bytes, e.blake3) for e in result.entries] + links
            files = [(path_text(path).lstrip("/"), size, digest) for path, size, digest in held]
            await insert_artifacts(conn, shard.project, snapshot, files)
            if result.complete:
                await self._prove(conn, shard, snapshot, result, check, mark)
            else:
                lost = len(result.torn) + len(result.unreadable)
                await conn.execute(taking.SQL["incomplete"], {"id": snapshot})
                await conn.execute(SQL["gave_up"], {
                    "id": shard.subject_id, "reason": "protection-incomplete",
                    "explanation": f"{lost} files changed while read or cannot be read",
                })  # fmt: skip
            await self._retention.retain(conn, policy, series)
            await finish_shard(conn, shard)
        metrics.SNAPSHOTS.labels(policy.repository).inc()
        metrics.SNAPSHOT_ADDED_BYTES.labels(policy.repository).inc(result.added_bytes)
        log.info("folder protected", subject=shard.subject_id, snapshot=snapshot, count=result.files,
                 bytes=result.bytes)  # fmt: skip

    async def _prove(
        self, conn: Connection, shard: Shard, snapshot: str, result: SnapshotResult, check: CheckResult, mark: str
    ) -> None:
        await conn.execute(taking.SQL["checked"], {"id": snapshot})
        await conn.execute(taking.SQL["cut_off"], {"series": series_of(shard.subject_id)})
        await proofs.add(
            conn, project=shard.project, kind="protected", subject=snapshot, count=result.files, bytes=result.bytes,
            root=root_of(result), verifier=VERIFIER,
            details={"repository": result.snapshot_id, "blobs": check.blobs, "bytes_read": check.bytes_read},
        )  # fmt: skip
        await conn.execute(SQL["protected"], {"id": shard.subject_id, "mark": mark, "snapshot": snapshot})
        await self._site.record(
            conn, shard.project, "folder protected", shard.subject_id, snapshot=snapshot, files=result.files
        )

    async def _give_up(self, shard: Shard, code: str, what: str) -> None:
        async with self._site.database.project(shard.project) as conn:
            await conn.execute(SQL["gave_up"], {"id": shard.subject_id, "reason": code, "explanation": what})
            await finish_shard(conn, shard)
            await self._site.record(conn, shard.project, "folder not protected", shard.subject_id, reason=code)
        log.warning("folder not protected", subject=shard.subject_id, code=code)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """The attempts are used up; the next turn decides anew, and says why until then."""
        await conn.execute(SQL["gave_up"], {"id": shard.subject_id, "reason": error.code, "explanation": error.what})
        await self._site.record(conn, shard.project, "folder not protected", shard.subject_id, reason=error.code)

    # --- ask and look -----------------------------------------------------------------------------------------

    async def ask(self, identity: Identity, folder: str) -> wire.ProtectedFolder:
        """Protect it at the next turn, whatever its schedule says."""
        async with self._site.database.project(identity.project) as conn:
            row = await SQL.one(conn, "ask", id=folder)
            if row is None:
                raise NotFound("no such folder", where=folder, hint="`mover folder list` names them.")
            await self._site.record(conn, identity.project, "folder protection asked for", row.id, actor=identity.actor)
        return next(one for one in (await self.list(identity.project)).folders if one.id == row.id)

    async def list(self, project: str) -> wire.ProtectedFolders:
        rules = {(policy.name, rule.name): rule for policy, rule in self._rules()}
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "list")
        return wire.ProtectedFolders(
            folders=[_folder(row, rules[row.policy, row.name]) for row in rows if (row.policy, row.name) in rules]
        )


def series_of(folder: str) -> str:
    return f"folder:{folder.removeprefix('folder-')}"


def _state(row: Any) -> FolderState:
    return FolderState(
        started_at=row.started_at, asked_at=row.asked_at, protected_mark=row.protected_mark, seen_mark=row.seen_mark,
        seen_since=row.seen_since,
    )  # fmt: skip


def _zone(rule: FolderRule) -> tzinfo:
    return ZoneInfo(rule.time_zone) if rule.time_zone else UTC


def _folder(row: Any, rule: FolderRule) -> wire.ProtectedFolder:
    state = _state(row)
    comes = next_time(rule.cron, row.started_at, _zone(rule)) if rule.cron and row.started_at else None
    return wire.ProtectedFolder(
        id=row.id, policy=row.policy, name=row.name, path=rule.path, state=row.state, cron=rule.cron,
        settled_s=rule.settled_s, protected_at=row.protected_at, snapshot=row.snapshot_id, files=row.files,
        bytes=row.bytes, unprotected_since=unprotected_since(state), next_at=comes, reason=row.reason,
        explanation=row.explanation,
    )  # fmt: skip


# --- marks ------------------------------------------------------------------------------------------------------


def _mark_or_none(path: str) -> str:
    """'' for a folder that cannot be looked at now: its attempt says why."""
    try:
        return mark_of(path)
    except MoverError:
        return ""


def mark_of(path: str) -> str:
    """A digest over every entry's name, kind, size and times; equal marks mean that nothing changed that a file
    system tells. Raises NotFound or Denied where the folder cannot be read, RequestInvalid beyond ENTRIES_MAX."""
    hasher, count, waiting = blake3(), 0, [os.fsencode(path)]
    try:
        while waiting:
            folder = waiting.pop()
            for name in sorted(os.listdir(folder)):
                entry = os.path.join(folder, name)
                facts = os.lstat(entry)
                kind = stat.S_IFMT(facts.st_mode)
                told = (kind, facts.st_ino, 0 if kind == stat.S_IFDIR else facts.st_size, facts.st_mtime_ns,
                        facts.st_ctime_ns)  # fmt: skip
                hasher.update(entry + b"\0" + b" ".join(b"%d" % number for number in told) + b"\n")
                count += 1
                if kind == stat.S_IFDIR:
                    waiting.append(entry)
            if count > ENTRIES_MAX:
                raise RequestInvalid(f"the folder holds more than {ENTRIES_MAX} entries", hint="Name parts of it.")
    except PermissionError as error:
        raise Denied("the daemon may not read all of the folder") from error
    except FileNotFoundError as error:
        if not os.path.isdir(path):
            raise NotFound("the folder is not there") from error
        raise NotFound("the folder changed while it was looked at") from error
    except NotADirectoryError as error:
        raise NotFound("it is no folder") from error
    return hasher.hexdigest()
