"""A repository with snapshots whose rows are as old as a test wants, and persons with tokens that are old enough."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from mover.access import Access
from mover.catalog.database import Database
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import KeepRules, ProtectPolicy
from mover.policy import Loaded
from mover.protect.site import ProtectSite
from mover.repository.facts import Folder, MemoryFile
from mover.repository.repository import Repository
from tests.rooms.rig import PROJECT, Rig
from tests.support.postgres import Dsns

DAY = timedelta(days=1)


class Keeping(Rig):
    def __init__(self, folder: Path, dsns: Dsns, database: Database) -> None:
        super().__init__(folder, dsns, database)
        self.upkeep, self.shortenings = self.protecting.upkeep, self.protecting.shortenings
        self.holds, self.retention = self.protecting.holds, self.protecting.retention
        self.access = Access(database, project=PROJECT, node="n1", own_uid=990)
        self._made = 0

    @property
    def site(self) -> ProtectSite:
        return self.upkeep._site

    @property
    def repository(self) -> Repository:
        return self.site.repositories.of(self.policy())

    def policy(self, **changes: Any) -> ProtectPolicy:
        """The policy as its file says; with changes, somebody edited the file."""
        book = self.site.policies
        policy = book.get("protect", ProtectPolicy)
        if changes:
            policy = msgspec.structs.replace(policy, **changes)
            book._by_name["protect"] = Loaded(policy=policy, file="protect.yaml", text="", digest="")
        return policy

    async def in_force(self) -> dict[str, Any]:
        async with self.database.project(PROJECT) as conn:
            return msgspec.to_builtins(await self.retention.terms(conn, self.policy()))

    # --- snapshots ------------------------------------------------------------------------------------------------

    def snapshot(self, series: str = "run:r1", *, age: timedelta = timedelta(), **row: Any) -> str:
        """A real snapshot in the repository, and its row, checked `age` ago."""
        self._made += 1
        content = b"%d" % self._made * 1000
        result = self.repository.snapshot(
            Folder({"model.pt": MemoryFile(content)}), hostname="h", username="u", tags=[series],
            time=datetime(2001, 1, 1, tzinfo=UTC), paths=["/x"],
        )  # fmt: skip
        return self.row(series, age=age, repository_id=result.snapshot_id, **row)

    def row(self, series: str = "run:r1", *, age: timedelta = timedelta(), **row: Any) -> str:
        """Only the row."""
        [id_] = self.rows_of([age], series, **row)
        return id_

    def rows_of(self, ages: Sequence[timedelta], series: str = "run:r1", **row: Any) -> list[str]:
        first = self.rows("select coalesce(max(sequence), 0) as n from mover.snapshot")[0].n + 1
        given = {"state": "checked", "files": 1, "bytes": 1000, "added_bytes": 1, "tier": "protect",
                 "policy": "protect", "project_id": PROJECT, "series": series, **row}  # fmt: skip
        ids = [f"snapshot-{first + at}" for at in range(len(ages))]
        with psycopg.connect(self.dsns.superuser) as conn:
            conn.execute(
                "insert into mover.snapshot_series values (%s, 'protect', %s, 1, 1000) on conflict do nothing",
                [PROJECT, series],
            )
            now = conn.execute("select now()").fetchone()
            assert now is not None
            rows = [
                {"repository_id": _hex(id_), **given, "id": id_, "recorded_at": now[0] - age}
                for id_, age in zip(ids, ages, strict=True)
            ]
            names, values = list(rows[0]), [list(one.values()) for one in rows]
            marks = ", ".join(["%s"] * len(names))
            conn.cursor().executemany(
                f"insert into mover.snapshot ({', '.join(names)}) values ({marks})",
                values,
            )
        return ids

    def states(self) -> dict[str, str]:
        return {row.id: row.state for row in self.rows("select id, state from mover.snapshot order by sequence")}

    async def turn(self, kind: str = "keep") -> Any:
        """A turn of the upkeep, now; its row."""
        self.rows("delete from mover.protect_turn where kind = %s", kind)
        await self.upkeep.begin_due(PROJECT)
        await self.work(f"protect-{kind}")
        return self.rows("select * from mover.protect_turn where kind = %s", kind)[0]

    def restic(self, *arguments: str) -> str:
        """Stock restic on the same repository."""
        command = ["restic", "-r", str(self.folder / "protect"), "--password-file", str(self.folder / "password"),
                   "--no-cache", *arguments]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        return told.stdout

    # --- persons --------------------------------------------------------------------------------------------------

    async def person(
        self, name: str, *, role: str = "admin", maker: Identity | None = None, old: bool = True
    ) -> Identity:
        """Somebody whose token the machine made, or `maker`; a month ago when `old`."""
        made = await self.access.make_token(
            maker or MACHINE,
            wire.TokenRequest(actor=name, role=role),  # type: ignore[arg-type]
        )
        assert made.secret is not None
        if old:
            self.rows("update mover.token set created_at = now() - interval '30 days' where id = %s", made.id)
        return await self.access.authenticate(made.secret)

    async def agree(self, kind: str, *subjects: str, by: tuple[Identity, Identity], **more: Any) -> wire.Shortening:
        """Ask, approve, let the delay pass and carry it out."""
        body = wire.ShorteningRequest(kind=kind, reason="we said so", subjects=[*subjects], **more)  # type: ignore[arg-type]
        asked = await self.shortenings.ask(by[0], body)
        await self.shortenings.approve(by[1], asked.id)
        self.let_pass(asked.id)
        await self.shortenings.apply_due(PROJECT)
        return await self.shortenings.view(PROJECT, asked.id)

    def let_pass(self, shortening: str) -> None:
        self.rows(
            "update mover.protect_request set requested_at = requested_at - interval '10 days',"
            " not_before = not_before - interval '10 days' where id = %s", shortening,
        )  # fmt: skip


MACHINE = Identity(actor="uid:0", role="admin", project=PROJECT)
KEEP_ONE = KeepRules(last=1)


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
