"""Transfers on the real database and real folders, with a worker without its queue (see `rig.Rig`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from mover.catalog.database import Database
from mover.jobs import Shard, Worker
from mover.jobs.shards import claim_shard
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import MovePolicy
from mover.moving.move import Move
from mover.moving.places import Ends, Place
from mover.moving.plan import Planner
from mover.moving.release import Releases
from mover.moving.transfers import Transfers
from mover.moving.trash import Trash
from mover.policy import Loaded, PolicyBook
from mover.tiers import identity as identities
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
from mover.transfer.carrier import Carrier
from tests.support.postgres import Dsns

PROJECT = "demo"
ANN = Identity(actor="ann", role="admin", project=PROJECT)
# name -> zone, role, read-only
TIERS: dict[str, tuple[str, str, bool]] = {
    "nas": ("deidentified", "source", False),
    "cold": ("deidentified", "archive", False),
    "shelf": ("deidentified", "source", True),
    "intake": ("identified", "source", True),
    "flash": ("deidentified", "flash", False),
    "protect": ("deidentified", "protect", False),
}


class MovingRig:
    """Tiers `nas` and `cold` can be written, `shelf` and `intake` only read."""

    def __init__(
        self, folder: Path, dsns: Dsns, database: Database, policies: tuple[MovePolicy, ...] = (), carrier: Any = None
    ) -> None:
        self.folder, self.dsns, self.database = folder, dsns, database
        self.tiers = {name: self._tier(name) for name in TIERS}
        self.carrier = carrier or Carrier(Transfer(), processes=0)
        self.book = PolicyBook([Loaded(policy=p, file=f"{p.name}.yaml", text="", digest="") for p in policies])
        self._put_together()

    def _put_together(self) -> None:
        """A new process, as far as rooms can tell: nothing is remembered but the catalog and the tiers."""
        places = {n: Place(role, only, self.folder / n) for n, (_, role, only) in TIERS.items()}  # type: ignore[arg-type]
        self.ends = Ends(self.tiers, places)
        trash = {
            name: Trash(self.folder / name, tier=name, check_identity=self.tiers[name].check_identity)
            for name, (zone, _, only) in TIERS.items() if zone == "deidentified" and not only
        }  # fmt: skip
        planner = Planner(self.ends)
        self.releases = Releases(self.database, self.ends, trash, node="n1")
        self.move = Move(self.database, self.ends, self.carrier, planner, self.releases, node="n1")
        self.transfers = Transfers(self.database, self.ends, self.book, planner, self.move, self.releases, node="n1")
        self.handlers: dict[str, Any] = {
            "transfer-plan": self.move.plan, "transfer-move": self.move.move,
            "transfer-release": self.releases.release, "transfer-restore": self.releases.bring_back,
            "transfer-purge": self.releases.purge,
        }  # fmt: skip
        self.on_failed: dict[str, Any] = {
            "transfer-plan": self.move.failed, "transfer-move": self.move.failed,
            "transfer-release": self.releases.failed, "transfer-restore": self.releases.failed,
            "transfer-purge": self.releases.failed,
        }  # fmt: skip

    def _tier(self, name: str) -> PosixTier:
        zone, role, read_only = TIERS[name]
        root = self.folder / name
        root.mkdir(exist_ok=True)
        identity = None if read_only else identities.establish(root, name=name, zone=zone)  # type: ignore[arg-type]
        with psycopg.connect(self.dsns.superuser) as conn:
            conn.execute(
                "insert into mover.tier (name, kind, zone, role, identity, traits)"
                " values (%s, 'posix', %s, %s, 'x', '{}') on conflict do nothing", [name, zone, role],
            )  # fmt: skip
        return PosixTier(name, zone, root, role=role, read_only=read_only, identity=identity)  # type: ignore[arg-type]

    def add(self, name: str, tier: Any, role: Any) -> None:
        """A further tier, such as a bucket."""
        self.rows(
            "insert into mover.tier (name, kind, zone, role, identity, traits) values (%s, %s, %s, %s, 'x', '{}')",
            name, tier.kind, tier.zone, role,
        )  # fmt: skip
        self.ends.tiers[name] = tier  # type: ignore[index]
        self.ends.places[name] = Place(role)  # type: ignore[index]

    # --- files and rows -------------------------------------------------------------------------------------

    def fill(self, tier: str, files: Mapping[str, bytes], *, age_s: float = 0) -> None:
        for key, data in files.items():
            path = self.folder / tier / os.fsencode(key).decode("utf-8", "surrogateescape")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            if age_s:
                mtime = path.stat().st_mtime - age_s
                os.utime(path, (mtime, mtime))

    def files(self, tier: str, *, hidden: bool = False) -> dict[str, bytes]:
        root = self.folder / tier
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        return {key: data for key, data in found.items() if hidden or not key.startswith(".mover/")}

    def trash(self, tier: str) -> dict[str, bytes]:
        """By the name it had."""
        found = self.files(tier, hidden=True).items()
        return {key.split("/", 3)[3]: data for key, data in found if key.startswith(".mover/trash/")}

    def rows(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.dsns.superuser, row_factory=namedtuple_row) as conn:
            cursor = conn.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def entries(self, transfer: str) -> dict[str, str]:
        found = self.rows("select source, state from mover.transfer_entry where transfer_id = %s", transfer)
        return {os.fsdecode(bytes(row.source)): row.state for row in found}

    def actions(self) -> list[str]:
        found = self.rows("select body::jsonb ->> 'action' as action from mover.audit_record order by at, seq")
        return [row.action for row in found]

    # --- work -----------------------------------------------------------------------------------------------

    def due(self) -> None:
        self.rows("update mover.shard set not_before = now() where state = 'waiting'")

    def lapse(self) -> None:
        self.rows("update mover.shard set lease_until = now() - interval '1 s' where state = 'running'")

    async def claim(self, kind: str) -> Shard:
        found = self.rows(
            "select id from mover.shard where kind = %s and state in ('waiting', 'running') order by id limit 1", kind
        )
        return await self._claimed(found)

    async def claim_of(self, subject: str) -> Shard:
        return await self._claimed(self.rows("select id from mover.shard where subject_id = %s", subject))

    async def _claimed(self, found: list[Any]) -> Shard:
        async with self.database.project(PROJECT) as conn:
            shard = await claim_shard(conn, found[0].id, holder="n2/x", lease_s=30)
        assert shard is not None
        return shard

    async def work(self, *kinds: str, once: bool = False, patient: bool = False) -> list[str]:
        """Run what is due until nothing is; with `patient` also what waits for its next round."""
        worker = Worker(
            self.database, self.dsns.daemon, handlers=self.handlers, on_failed=self.on_failed, queues=[], holder="n1/x"
        )
        done: list[str] = []
        while True:
            if patient:
                self.due()
            found = await asyncio.to_thread(
                self.rows,
                "select id, kind, project_id from mover.shard where (%s or kind = any(%s)) and"
                " ((state = 'waiting' and not_before <= now()) or (state = 'running' and lease_until < now()))"
                " order by priority desc, created_at, id limit 1", not kinds, list(kinds),
            )  # fmt: skip
            if not found or (once and done):
                return done
            await worker._run_shard(found[0].id, found[0].project_id)
            done.append(found[0].kind)

    # --- transfers --------------------------------------------------------------------------------------------

    async def ask(self, key: str = "k1", **said: Any) -> wire.Transfer:
        return await self.transfers.request(ANN, request(**said), key=key)

    async def view(self, transfer: str) -> wire.Transfer:
        return await self.transfers.view(PROJECT, transfer)

    async def moved(self, key: str = "k1", **said: Any) -> wire.Transfer:
        """Asked for and worked on until nothing is due."""
        asked = await self.ask(key, **said)
        await self.work(patient=True)
        return await self.view(asked.id)

    async def report(self, transfer: str, format_: Any = "jsonl") -> bytes:
        return b"".join([piece async for piece in self.transfers.report(PROJECT, transfer, format_)])


def request(
    source: str = "nas", to: str = "cold", *, prefix: str = "", to_prefix: str = "", **said: Any
) -> wire.TransferRequest:
    """`nas:prefix` to `cold:to_prefix`, unless `sources` says more."""
    of_source = {name: said.pop(name) for name in ("keys", "where", "catalog", "limits") if name in said}
    sources = said.pop("sources", None) or [wire.TransferSource(tier=source, prefix=prefix, **of_source)]
    return wire.TransferRequest(sources=sources, to=to, prefix=to_prefix, **said)
