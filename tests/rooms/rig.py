"""The rooms of steps 1, 3, 4 and 5 on the real database, real folders and a worker without its queue.

`Rig.work` claims what is due and runs it exactly as the daemon's worker does, one shard after the other; a test
may also claim a shard itself and play a worker that was paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from blake3 import blake3
from msgspec import Struct
from psycopg.rows import namedtuple_row

from mover.catalog.database import Database
from mover.deid.vault import Vault
from mover.ingest.adoptions import Adoptions
from mover.ingest.batches import Batches
from mover.ingest.packs import Packs
from mover.ingest.quarantine import Quarantine
from mover.jobs import Shard, Worker
from mover.jobs.shards import claim_shard
from mover.model import wire
from mover.model.access import Identity
from mover.model.ids import make_number
from mover.model.policy import CleanPolicy, ImagesPolicy, ProtectPolicy, StagePolicy
from mover.policy import Loaded, PolicyBook
from mover.protect.room import Protecting
from mover.protect.site import ProtectSite, Repositories, RunPlace
from mover.runs.clean import Clean
from mover.runs.hooks import AFTER, Hooks
from mover.runs.roots import FlashRoots
from mover.runs.runs import Flash, Runs
from mover.runs.stage import Stage
from mover.sandbox import Sandbox
from mover.tiers import identity as identities
from mover.tiers.port import ReadTier
from mover.tiers.posix import PosixTier
from mover.transfer import Carrier, Transfer
from tests.support.facts import insert
from tests.support.postgres import Dsns

PROJECT, OTHER = "demo", "other"
WRITABLE = ("archive", "flash", "protect")

POLICIES = (
    ImagesPolicy(name="images", source="intake", archive="archive", require_thumbnail=False, packs_per_shard=1),
    StagePolicy(name="stage", archive="archive", flash="flash", entries_per_shard=1),
    ProtectPolicy(name="protect", flash="flash", repository="protect"),
    CleanPolicy(name="clean", flash="flash"),
)


class Space(Struct):
    """What the flash tier says of itself, when a test wants it to be small."""

    capacity: int
    free: int


class SmallRoots(FlashRoots):
    """A flash tier whose size a test sets; everything else is the real thing."""

    limit: Space | None = None

    def space(self) -> tuple[int, int]:
        return super().space() if self.limit is None else (self.limit.capacity, self.limit.free)


class Rig:
    def __init__(
        self, folder: Path, dsns: Dsns, database: Database, vault: Vault | None = None, sandbox: Sandbox | None = None
    ) -> None:
        self.folder, self.dsns, self.database = folder, dsns, database
        self.tiers: dict[str, ReadTier] = {"intake": self._tier("intake")}
        self.tiers |= {name: self._tier(name) for name in WRITABLE}
        self.book = book = PolicyBook([Loaded(policy=p, file=f"{p.name}.yaml", text="", digest="") for p in POLICIES])
        reflink = self.tiers["flash"].traits.reflink
        self.roots = SmallRoots(folder / "flash", reflink=reflink, check_identity=self.tiers["flash"].check_identity)
        flash = {"flash": Flash(self.roots, str(folder / "flash"), None)}
        self.runs = Runs(database, flash, book, node="n1")
        self.carrier = Carrier(Transfer(), processes=0)
        self.stage = Stage(database, self.tiers, flash, self.carrier, node="n1")
        self.hooks = Hooks(database, book, flash, node="n1", folder=folder / "hooks.d")
        self.clean = Clean(database, flash, self.runs, hooks=self.hooks, node="n1")
        (folder / "password").write_text("secret")
        self.protecting = Protecting(
            ProtectSite(
                database=database, tiers=self.tiers, policies=book, node="n1",
                flash={"flash": RunPlace(self.roots.root, str(folder / "flash"))},
                repositories=Repositories(self.tiers, book, folder / "password"), forbidden=(folder / "intake",),
            )
        )  # fmt: skip
        self.handlers: dict[str, Any] = {
            **self.runs.handlers(), "run-stage": self.stage.stage, "run-seal": self.stage.seal,
            "run-clean": self.clean.clean, AFTER: self.hooks.after, **self.protecting.handlers(),
        }  # fmt: skip
        self.on_failed: dict[str, Any] = {
            **self.runs.failure_handlers(), "run-stage": self.stage.failed, "run-seal": self.stage.failed,
            "run-clean": self.clean.failed, AFTER: self.hooks.failed, **self.protecting.failure_handlers(),
        }  # fmt: skip
        if vault is not None and sandbox is not None:
            self._add_ingest(vault, sandbox, book)

    def _add_ingest(self, vault: Vault, sandbox: Sandbox, book: PolicyBook) -> None:
        self.batches = Batches(self.database, vault, self.tiers, book, node="n1")
        self.packs = Packs(
            self.batches, self.database, vault, self.tiers, book, Transfer(), sandbox, site="ward", node="n1"
        )
        self.quarantine = Quarantine(self.database, book, node="n1")
        self.adoptions = Adoptions(
            self.database, self.tiers, sandbox, Transfer(), site="ward", node="n1", spool=self.folder
        )
        self.handlers |= self.adoptions.handlers()
        self.on_failed |= self.adoptions.failure_handlers()
        self.handlers |= {"batch-walk": self.packs.walk, "pack-deidentify": self.packs.deidentify}
        self.on_failed |= {"batch-walk": self.packs.failed, "pack-deidentify": self.packs.failed}

    def _tier(self, name: str) -> PosixTier:
        root = self.folder / name
        root.mkdir(exist_ok=True)
        if name == "intake":
            return PosixTier(name, "identified", root, role="source", read_only=True)
        identity = identities.establish(root, name=name, zone="deidentified")
        return PosixTier(name, "deidentified", root, role=name, identity=identity)  # type: ignore[arg-type]

    # --- rows ---------------------------------------------------------------------------------------------

    def rows(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.dsns.superuser, row_factory=namedtuple_row) as conn:
            cursor = conn.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def lapse(self) -> None:
        """The leases of whoever holds a shard run out."""
        self.rows("update mover.shard set lease_until = now() - interval '1 s' where state = 'running'")

    def due(self) -> None:
        """What waits to be tried again need not wait."""
        self.rows("update mover.shard set not_before = now() where state = 'waiting'")

    def actions(self) -> list[str]:
        found = self.rows("select body::jsonb ->> 'action' as action from mover.audit_record order by at, seq")
        return [row.action for row in found]

    def slides(self, sizes: Mapping[int, int] | list[int], *, projects: tuple[str, ...] = (PROJECT,)) -> list[str]:
        """Slides of these sizes in the archive, granted to the projects; their numbers."""
        made = []
        at = len(self.rows("select number from mover.slide"))
        for position, size in enumerate(sizes, start=at + 1):
            number = make_number(position.to_bytes(10, "big"))
            key, data = f"slides/{number}/1/{number}.svs", bytes([position]) * size
            self.tiers["archive"].put(key, [data], size_bytes=size)  # type: ignore[attr-defined]
            with psycopg.connect(self.dsns.superuser) as conn:
                digest = blake3(data).hexdigest()
                insert(conn, "slide", number=number, site="ward", family="aperio-svs", extension="svs",
                       size_bytes=size, digest=digest, tier="archive", key=key, facts="{}")  # fmt: skip
                for project in projects:
                    insert(conn, "slide_grant", project_id=project, number=number)
            made.append(number)
        return made

    # --- work ---------------------------------------------------------------------------------------------

    async def claim(self, kind: str, *, project: str = PROJECT) -> Shard:
        """Take the oldest due shard of a kind, as another worker would."""
        found = self.rows(
            "select id from mover.shard where kind = %s and project_id = %s and state in ('waiting', 'running')"
            " order by created_at, id limit 1", kind, project,
        )  # fmt: skip
        async with self.database.project(project) as conn:
            shard = await claim_shard(conn, found[0].id, holder="n2/x", lease_s=30)
        assert shard is not None
        return shard

    async def work(self, *kinds: str) -> list[str]:
        """Run what is due, until nothing is; the kinds in order."""
        worker = Worker(
            self.database, self.dsns.daemon, handlers=self.handlers, on_failed=self.on_failed, queues=[], holder="n1/x"
        )
        done = []
        while True:
            due = self.rows(
                "select id, kind, project_id from mover.shard where state = 'waiting' and not_before <= now()"
                " and (%s or kind = any(%s)) order by priority desc, created_at, id limit 1", not kinds, list(kinds),
            )  # fmt: skip
            if not due:
                return done
            await worker._run_shard(due[0].id, due[0].project_id)
            done.append(due[0].kind)

    async def crowd(self, workers: int) -> None:
        """Many workers at once, each on whatever is due, until nothing is open any more."""

        async def one(number: int) -> None:
            worker = Worker(
                self.database, self.dsns.daemon, handlers=self.handlers, on_failed=self.on_failed, queues=[],
                holder=f"n{number}/x",
            )  # fmt: skip
            while True:
                open_ = await asyncio.to_thread(
                    self.rows, "select id, project_id from mover.shard where state in ('waiting', 'running')"
                    " order by state, random() limit 1",
                )  # fmt: skip
                if not open_:
                    return
                await worker._run_shard(open_[0].id, open_[0].project_id)
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(one(number))

    # --- runs ---------------------------------------------------------------------------------------------

    async def request(self, files: list[str], *, key: str, project: str = PROJECT) -> wire.Run:
        return await self.runs.request(who(project), wire.RunRequest(files=files), key=key)

    async def manifest(self, run: str) -> bytes:
        return b"".join([piece async for piece in self.runs.manifest(PROJECT, run)])

    def run(self, run: str) -> Any:
        return self.rows("select * from mover.run where id = %s", run)[0]


def who(project: str = PROJECT) -> Identity:
    return Identity(actor="ann", role="admin", project=project)
