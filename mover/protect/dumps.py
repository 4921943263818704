"""The vault is the smallest and least replaceable data: it and the catalog are dumped every night, sealed, twice.

Order for one dump (shard `dump-make`, on the process that holds the vault), and what a crash between leaves:
  1. one consistent dump is sealed and streamed to the first tier     -> a temporary name; or a file that no row names
  2. it is read back cold; row with digest and facts, first copy      -> the next attempt goes on with 3
  3. copied to the second tier, read back cold; second copy           -> likewise
  4. sidecars on both tiers, which make the copies count              -> likewise
  5. proof and `verified`, in one transaction
Files of attempts that came to nothing are removed by the next one. What no rule keeps goes, by what the signed sidecars
on the tiers say: a row that no sidecar vouches for keeps nothing from being kept, and makes no file go.

The dump is sealed for the two key files, which are not on this machine; the everyday key is not in it. A drill
(`dump-drill`) reads both copies whole; only where both key files are given it also restores and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct
from psycopg.types.json import Jsonb

from mover import __version__, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection
from mover.catalog.dumping import Dumper, Moment, TableFacts
from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.catalog.releases import dump_ages, release
from mover.decide.dumps import DumpFacts, Release, is_due, judge
from mover.deid.sealedstream import seal
from mover.deid.vaultkeys import PublicKey, VaultKey
from mover.errors import Conflict, MoverError, NotFound, SettingsInvalid, TierError
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import DumpPolicy
from mover.policy import PolicyBook
from mover.protect import dumpfiles
from mover.protect.dumpfiles import SEALED, Told, Written
from mover.protect.site import ProtectSite
from mover.randomness import new_id, random_bytes
from mover.tiers.locking import freeing
from mover.tiers.port import PruneTier, prunable

SQL = load(__file__)
# served by the process that holds the vault and its keys
QUEUE = "vault"
PAGE_MAX = 200
DRILLS_TOLD = 1000

log = get_logger("dumps")


class Means(Struct, frozen=True):
    """What only the process of the identified zone has. `public` seals, `key` signs, `drill_keys` open."""

    dumper: Dumper
    key: Callable[[], VaultKey]
    public: Callable[[], PublicKey | None]
    site: str
    drill_keys: tuple[Path, Path] | None = None


class Dumps:
    def __init__(self, site: ProtectSite, means: Means | None) -> None:
        self._site, self._means = site, means

    @property
    def means(self) -> Means:
        if self._means is None:
            raise SettingsInvalid("this process holds no vault, and makes no dumps of it")
        return self._means

    # --- what begins ------------------------------------------------------------------------------------------

    async def request(self, identity: Identity, body: wire.DumpRequest, *, request: str = "") -> wire.Dump:
        """One that is being made already is that one."""
        policy = self._policy(body.policy)
        why = "somebody asked for it"
        dump = await self._begin(identity.project, policy, why=why, by=identity.actor, request=request)
        if dump is None:
            async with self._site.database.project(identity.project) as conn:
                row = await SQL.one(conn, "making", policy=policy.name)
            dump = row.id if row is not None else await self._begin(
                identity.project, policy, why=why, by=identity.actor, request=request
            )  # fmt: skip
        return await self.view(identity.project, str(dump))

    def _policy(self, name: str | None) -> DumpPolicy:
        if name is not None:
            return self._site.policies.get(name, DumpPolicy)
        return self._site.policies.default(DumpPolicy)

    async def begin_due(self, project: str) -> int:
        """Dumps and drills whose time has come; how many began."""
        began = 0
        for policy in dump_policies(self._site.policies):
            why = await self._due(project, policy)
            if why:
                began += await self._begin(project, policy, why=why, by=f"policy:{policy.name}") is not None
            began += await self._begin_drill_due(project, policy)
        return began

    async def _due(self, project: str, policy: DumpPolicy) -> str:
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "newest", policy=policy.name)
        zone = ZoneInfo(policy.time_zone)
        newest = _facts(row, zone) if row.id is not None else None
        return is_due(policy, newest, now=row.now.astimezone(zone))

    async def _begin(self, project: str, policy: DumpPolicy, *, why: str, by: str, request: str = "") -> str | None:
        """None when another daemon was faster."""
        dump = new_id("dump")
        async with self._site.database.project(project) as conn:
            await conn.execute(SQL["lock_policy"], {"policy": policy.name})
            values = {"id": dump, "project": project, "policy": policy.name, "why": why, "by": by}
            if await SQL.one(conn, "insert", **values) is None:
                return None
            await add_shards(conn, project, [NewShard(QUEUE, "dump-make", dump)])
            await self._site.record(conn, project, "dump begun", dump, actor=by, reason=why, policy=policy.name)
        return dump

    # --- making -----------------------------------------------------------------------------------------------

    async def make(self, shard: Shard) -> None:
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "get", id=shard.subject_id)
            copies = {c.tier: c.key for c in await SQL.many(conn, "copies", ids=[row.id])}
            if row.state != "making":
                await finish_shard(conn, shard)
                return
        policy = self._policy(row.policy)
        tiers = self._tiers(policy)
        first, second = tiers
        if first.name not in copies:
            await self._take(shard, policy, first)
            async with self._site.database.project(shard.project) as conn:
                row = await SQL.one(conn, "get", id=shard.subject_id)
                copies = {c.tier: c.key for c in await SQL.many(conn, "copies", ids=[row.id])}
        if second.name not in copies:
            await self._copy(shard, policy, row, source=first, source_key=copies[first.name], target=second)
        await in_thread(self._vouch, policy, row, copies[first.name])
        await self._prove(shard, policy, row)
        await self.rotate(shard.project, policy)

    def _tiers(self, policy: DumpPolicy) -> tuple[PruneTier, PruneTier]:
        one, other = (freeing(prunable(self._site.tiers[name])) for name in policy.targets)
        return one, other

    async def _take(self, shard: Shard, policy: DumpPolicy, tier: PruneTier) -> None:
        key = dumpfiles.file_key(policy.prefix, shard.subject_id, _new_name(shard))
        await in_thread(self._clear, tier, policy.prefix, shard.subject_id)
        moment, written, pair = await in_thread(self._write, shard.subject_id, tier, key)
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            values = {
                "id": shard.subject_id, "taken_at": moment.taken_at, "pair": pair, "schema": moment.schema,
                "facts": Jsonb(msgspec.to_builtins(moment.facts)), **msgspec.structs.asdict(written),
            }  # fmt: skip
            await conn.execute(SQL["taken"], values)
            await self._copied(conn, shard, tier.name, key)

    def _clear(self, tier: PruneTier, prefix: str, dump: str) -> None:
        """Blocking. What earlier attempts left goes. Conflict where a signed sidecar says that the dump was finished: a
        catalog that was restored from this very dump still has it as being made, and so may a forged row."""
        if any(dumpfiles.is_signed(one, self.means.key()) for one in dumpfiles.listed(tier, prefix, dump)):
            raise Conflict("this dump stands already, and is not made over", where=dump)
        dumpfiles.remove(tier, prefix, dump, unfinished=True)

    def _write(self, dump: str, tier: PruneTier, key: str) -> tuple[Moment, Written, str]:
        """Blocking. The stream is never whole in memory, and never plain anywhere but in pipes."""
        public = self.means.public()
        if public is None:
            raise SettingsInvalid(
                "there is no pair of key files to seal a dump for", hint="`mover vault keys new` makes it."
            )
        with self.means.dumper.moment() as moment:
            sealed = seal(
                self.means.dumper.stream(moment), public, dump=dump, site=self.means.site, schema=moment.schema,
                taken_at=moment.taken_at.isoformat(), software=f"mover {__version__}",
            )  # fmt: skip
            written = dumpfiles.write(tier, key, sealed)
        dumpfiles.read_back(tier, key, written)
        return moment, written, public.pair.hex()

    async def _copy(
        self, shard: Shard, policy: DumpPolicy, row: Any, *, source: PruneTier, source_key: str, target: PruneTier
    ) -> None:
        wanted = Written(row.digest, row.size_bytes)
        key = dumpfiles.file_key(policy.prefix, row.id, source_key.rsplit("/", 1)[-1])

        def copy() -> None:
            self._clear(target, policy.prefix, row.id)
            dumpfiles.copy(source, source_key, target, key, wanted)
            dumpfiles.read_back(target, key, wanted)

        await in_thread(copy)
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await self._copied(conn, shard, target.name, key)

    async def _copied(self, conn: Connection, shard: Shard, tier: str, key: str) -> None:
        values = {"project": shard.project, "dump": shard.subject_id, "tier": tier, "key": key}
        await conn.execute(SQL["copied"], values)

    def _vouch(self, policy: DumpPolicy, row: Any, key: str) -> None:
        """Blocking."""
        told = Told(
            dump=row.id, site=self.means.site, file=key.rsplit("/", 1)[-1], digest=row.digest,
            size_bytes=row.size_bytes, taken_at=row.taken_at.isoformat(), software=f"mover {__version__}",
            schema=row.newest_migration, pair=row.pair, tables=msgspec.convert(row.facts, dict[str, TableFacts]),
        )  # fmt: skip
        sidecar = dumpfiles.sign(told, self.means.key())
        for tier in self._tiers(policy):
            dumpfiles.vouch(tier, policy.prefix, sidecar)

    async def _prove(self, shard: Shard, policy: DumpPolicy, row: Any) -> None:
        async with self._site.database.project(shard.project) as conn:
            proof = await proofs.add(
                conn, project=shard.project, kind="verified", subject=row.id, count=len(policy.targets),
                bytes=row.size_bytes, root=row.digest, verifier=f"mover.protect {__version__}",
                details={"tiers": list(policy.targets), "pair": row.pair},
            )  # fmt: skip
            await conn.execute(SQL["verified"], {"id": row.id, "proof": proof})
            await finish_shard(conn, shard)
            await self._site.record(
                conn, shard.project, "dump verified", row.id, digest=row.digest, bytes=row.size_bytes, pair=row.pair,
                tiers=list(policy.targets),
            )  # fmt: skip
        metrics.DUMPS.labels("verified").inc()
        log.info("dump verified", subject=row.id, size_bytes=row.size_bytes)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        await conn.execute(SQL["fail"], {"id": shard.subject_id, "reason": error.code, "explanation": error.what})
        metrics.DUMPS.labels("failed").inc()
        log.error("dump failed", subject=shard.subject_id, code=error.code, what=error.what)
        await self._site.record(conn, shard.project, "dump failed", shard.subject_id, reason=error.code)

    # --- what goes --------------------------------------------------------------------------------------------

    async def _judge(self, project: str, policy: DumpPolicy) -> list[str]:
        """Reasons onto rows; the ids of what no rule keeps."""
        async with self._site.database.project(project) as conn:
            rows, now = await SQL.many(conn, "standing", policy=policy.name), await server_now(conn)
        facts = await in_thread(self._vouched, policy, {row.id: row.state for row in rows})
        doomed = []
        async with self._site.database.project(project) as conn:
            for verdict in judge(policy, facts, now=now):
                await conn.execute(SQL["reasons"], {"id": verdict.id, "reasons": list(verdict.reasons)})
                doomed += [] if verdict.keep else [verdict.id]
        return doomed

    def _vouched(self, policy: DumpPolicy, states: Mapping[str, str]) -> list[DumpFacts]:
        """Blocking. Order and time are the signed ones. What does not stand on every tier counts as a damaged one:
        half removed, or half destroyed."""
        key, site = self.means.key(), self.means.site
        places = [dumpfiles.vouched(tier, policy.prefix, key=key, site=site) for tier in self._tiers(policy)]
        moments = {dump: datetime.fromisoformat(told.taken_at) for place in places for dump, told in place.items()}
        known = sorted((taken_at, dump) for dump, taken_at in moments.items() if dump in states)
        return [
            DumpFacts(dump, number, states[dump] if all(dump in place for place in places) else "damaged", at, at)
            for number, (at, dump) in enumerate(known)
        ]

    async def rotate(self, project: str, policy: DumpPolicy) -> int:
        """Copies of what no rule keeps go; the row says `gone` when both have. One that the tier holds on to (a lock, a
        full stop) stays and is tried after the next dump."""
        try:
            doomed = await self._judge(project, policy)
        except TierError as error:
            log.info("dumps not judged yet", policy=policy.name, code=error.code)
            return 0
        gone = 0
        for dump in doomed:
            left = [tier.name for tier in self._tiers(policy) if not await self._remove(project, policy, tier, dump)]
            if not left:
                async with self._site.database.project(project) as conn:
                    await conn.execute(SQL["gone"], {"id": dump})
                    await self._site.record(conn, project, "dump removed", dump, reason="no rule keeps it")
                gone += 1
        return gone

    async def _remove(self, project: str, policy: DumpPolicy, tier: PruneTier, dump: str) -> bool:
        try:
            await in_thread(dumpfiles.remove, tier, policy.prefix, dump)
        except TierError as error:
            log.info("dump not removed yet", subject=dump, tier=tier.name, code=error.code)
            return False
        async with self._site.database.project(project) as conn:
            await conn.execute(SQL["copy_gone"], {"dump": dump, "tier": tier.name})
        return True

    # --- drills -----------------------------------------------------------------------------------------------

    async def request_drill(self, identity: Identity, dump: str, *, request: str = "") -> wire.Dump:
        async with self._site.database.project(identity.project) as conn:
            row = await SQL.one(conn, "get", id=dump)
        if row is None or row.state not in ("verified", "damaged"):
            raise NotFound("there is no such dump that stands", where=dump)
        await self._begin_drill(identity.project, dump, by=identity.actor)
        return await self.view(identity.project, dump)

    async def _begin_drill_due(self, project: str, policy: DumpPolicy) -> bool:
        async with self._site.database.project(project) as conn:
            await conn.execute(SQL["lock_policy"], {"policy": policy.name})
            row = await SQL.one(conn, "drill_due", policy=policy.name, every_s=policy.drill_every_s)
            if row is None:
                return False
            await self._add_drill(conn, project, row.id, by=f"policy:{policy.name}")
        return True

    async def _begin_drill(self, project: str, dump: str, *, by: str) -> None:
        async with self._site.database.project(project) as conn:
            await self._add_drill(conn, project, dump, by=by)

    async def _add_drill(self, conn: Connection, project: str, dump: str, *, by: str) -> None:
        """`read` until it is known that keys are at hand: the process that drills says what it could do."""
        drill = new_id("drill")
        values = {"id": drill, "project": project, "dump": dump, "kind": "read", "by": by}
        await conn.execute(SQL["begin_drill"], values)
        await add_shards(conn, project, [NewShard(QUEUE, "dump-drill", drill)])

    # --- what is told -----------------------------------------------------------------------------------------

    async def view(self, project: str, dump: str) -> wire.Dump:
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "get", id=dump)
            if row is None:
                raise NotFound("there is no such dump", where=dump)
            [seen] = await self._views(conn, [row])
        return seen

    async def list(self, project: str) -> wire.Dumps:
        """Newest first."""
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "page", limit=PAGE_MAX)
            seen = await self._views(conn, rows)
            stopped = await release(conn, dump_policies(self._site.policies))
        return wire.Dumps(dumps=seen, release_stopped=stopped.why or None)

    async def _views(self, conn: Connection, rows: Sequence[Any]) -> Views:
        ids = [row.id for row in rows]
        copies = await SQL.many(conn, "copies", ids=ids)
        drills = await SQL.many(conn, "drills", ids=ids, limit=DRILLS_TOLD)
        troubles = {row.id: await SQL.one(conn, "trouble", id=row.id) for row in rows if row.state == "making"}
        return [
            _view(row, [c for c in copies if c.dump_id == row.id], [d for d in drills if d.dump_id == row.id],
                  troubles.get(row.id))
            for row in rows
        ]  # fmt: skip

    async def release(self) -> Release:
        async with self._site.database.instance() as conn:
            return await release(conn, dump_policies(self._site.policies))

    async def measure(self) -> None:
        policies = dump_policies(self._site.policies)
        async with self._site.database.instance() as conn:
            ages, verdict = await dump_ages(conn), await release(conn, policies)
        metrics.DUMP_AGE.clear()
        for policy in policies:
            if policy.name in ages:
                metrics.DUMP_AGE.labels(policy.name).set(ages[policy.name])
        metrics.RELEASE_STOPPED.set(not verdict.allowed)


Views = list[wire.Dump]  # in a class that has a method `list`, the word means that method


def dump_policies(policies: PolicyBook) -> list[DumpPolicy]:
    return [one.policy for one in policies.all() if isinstance(one.policy, DumpPolicy)]


def _new_name(shard: Shard) -> str:
    return f"{shard.epoch}-{random_bytes(4).hex()}{SEALED}"


def _facts(row: Any, zone: ZoneInfo | None) -> DumpFacts:
    started = row.started_at.astimezone(zone) if zone is not None else row.started_at
    return DumpFacts(row.id, row.sequence, row.state, started, row.taken_at)


def _view(row: Any, copies: Sequence[Any], drills: Sequence[Any], trouble: Any) -> wire.Dump:
    rows = [one[0] for one in (row.facts or {}).values()]
    return wire.Dump(
        id=row.id, policy=row.policy, state=row.state, reason=row.reason or (trouble.code if trouble else None),
        explanation=row.explanation or (trouble.error if trouble else None), why=row.why, pair=row.pair,
        digest=row.digest, size_bytes=row.size_bytes, tables=len(rows), rows=sum(rows),
        copies=[wire.DumpCopy(tier=c.tier, key=c.key, state=c.state, read_at=c.read_at) for c in copies],
        drills=[_drill(one) for one in drills], reasons=list(row.reasons), created_by=row.created_by,
        started_at=row.started_at, taken_at=row.taken_at, verified_at=row.verified_at,
    )  # fmt: skip


def _drill(row: Any) -> wire.DumpDrill:
    return wire.DumpDrill(
        id=row.id, kind=row.kind, passed=row.passed, explanation=row.explanation, tables=row.tables,
        rows=row.row_count, seconds=row.seconds, started_at=row.started_at, finished_at=row.finished_at,
    )  # fmt: skip
