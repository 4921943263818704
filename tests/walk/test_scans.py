"""Scans on the real catalog and real folders: what was seen, what drifted, and what an absence may mean."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mover.catalog.database import Database
from mover.deid.entrynames import EntryNames
from mover.deid.vault import Vault
from mover.errors import LeaseLost, RequestInvalid
from mover.jobs import Shard
from mover.model import wire
from mover.walk import ledger as ledgers
from mover.walk.scans import Scans
from tests.rooms.rig import OTHER, PROJECT, Rig
from tests.support.postgres import Dsns

DIGEST = "ab" * 32
# each starts a reading process of its own
pytestmark = pytest.mark.slow


class Ward(Rig):
    """The rig with walks. `flash` is a deidentified posix tier, `intake` an identified one."""

    def __init__(self, folder: Path, dsns: Dsns, database: Database, vault: Vault) -> None:
        super().__init__(folder, dsns, database)

        def names(project: str, tier: str) -> EntryNames:
            return EntryNames(vault, project, tier, actor="n1", purpose="go on with a walk")

        self.names = names
        self.scans = Scans(database, self.tiers, names, node="n1", processes=1)
        self.handlers |= {"tier-walk": self.scans.walk}
        self.on_failed |= {"tier-walk": self.scans.failed}
        self.flash, self.intake = folder / "flash", folder / "intake"

    async def scan(self, tier: str = "flash", prefix: str = "", **more: Any) -> wire.Scan:
        declared = await self.scans.declare(PROJECT, "ann", wire.ScanRequest(tier=tier, prefix=prefix, **more))
        await self.work("tier-walk")
        return await self.scans.view(PROJECT, declared.id)

    async def codes(self, scan: wire.Scan) -> list[tuple[str, str | None]]:
        page = await self.scans.findings(PROJECT, scan.id)
        return sorted((one.code, one.path) for one in page.findings)

    def entries(self, *, gone: bool = False) -> dict[bytes, Any]:
        found = self.rows("select * from mover.entry where (gone_at is not null) = %s", gone)
        return {bytes(row.key): row for row in found}

    def verify(self, *keys: str) -> None:
        """As a transfer or a verification records it."""
        assert self.rows(
            "update mover.entry set digest = %s, verified_at = now() where key = any (%s) returning id", DIGEST,
            [os.fsencode(key) for key in keys],
        )  # fmt: skip


@pytest.fixture
async def ward(
    tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, tier_rows: None
) -> AsyncIterator[Ward]:
    yield Ward(tmp_path, dsns, database, vault)


def plant(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(os.fsencode(name))


def drift(scan: wire.Scan) -> tuple[int, int, int, int | None]:
    return scan.drift.same, scan.drift.new, scan.drift.changed, scan.drift.gone


async def test_a_first_scan_brings_in_exactly_what_the_tier_lists(ward: Ward) -> None:
    """Key, kind and fingerprint are what every other room compares with the tier's own answers."""
    plant(ward.flash, "a", "b/c", "b/d/e", b"b/caf\xe9\n", b"\xff/\xfe", "wide/.hidden")
    os.symlink("a", ward.flash / "link")
    os.mkfifo(ward.flash / "b" / "pipe")
    scan = await ward.scan()
    assert (scan.state, drift(scan)) == ("complete", (0, 8, 0, 0))
    listed = {os.fsencode(entry.key): entry for entry in ward.tiers["flash"].list()}
    entries = ward.entries()
    assert set(entries) == set(listed)
    for key, row in entries.items():
        entry = listed[key]
        print_ = entry.fingerprint
        assert (row.kind, row.size_bytes, row.mtime_ns, row.mark) == (
            entry.kind, print_.size_bytes, print_.mtime_ns, print_.mark
        )  # fmt: skip
    assert (scan.entries, scan.bytes) == (8, sum(e.fingerprint.size_bytes for e in listed.values()))


async def test_a_second_scan_of_an_unchanged_tree_sends_no_entry_and_asks_for_each(ward: Ward) -> None:
    plant(ward.flash, *(f"d{number % 5}/f{number}" for number in range(60)))
    first = await ward.scan()
    before = ward.rows("select xmin::text, id from mover.entry order by id")
    again = await ward.scan()
    assert (again.entries, again.listings_same, again.listings) == (60, first.listings, first.listings)
    assert (again.state, drift(again)) == ("complete", (60, 0, 0, 0))
    assert ward.rows("select xmin::text, id from mover.entry order by id") == before


async def test_drift_is_counted_by_kind_and_what_was_verified_is_named(ward: Ward) -> None:
    """A digest must not outlive the bytes it was made of; and that a verified file changed is news."""
    plant(ward.flash, "x/same", "x/changed", "x/rewritten", "x/gone", "x/lost", "y/same", "z/whole")
    await ward.scan()
    ward.verify("x/same", "x/rewritten", "x/lost", "z/whole")
    plant(ward.flash, "x/new", "w/new")
    (ward.flash / "x" / "changed").write_text("longer than before")
    over = ward.flash / "x" / "rewritten"
    status = over.stat()
    over.write_bytes(b"R" * status.st_size)
    os.utime(over, ns=(status.st_atime_ns, status.st_mtime_ns))
    for name in ("x/gone", "x/lost", "z/whole"):
        (ward.flash / name).unlink()
    (ward.flash / "z").rmdir()
    scan = await ward.scan()
    assert (scan.state, drift(scan)) == ("complete", (2, 2, 2, 3))
    assert (scan.drift.changed_verified, scan.drift.gone_verified) == (1, 2)
    assert await ward.codes(scan) == [
        ("changed-verified", "x/rewritten"), ("gone-verified", "x/lost"), ("gone-verified", "z/whole"),
    ]  # fmt: skip
    now = ward.entries()
    assert (now[b"x/rewritten"].digest, now[b"x/rewritten"].verified_at) == (None, None)
    assert now[b"x/same"].digest == DIGEST and now[b"x/same"].verified_at is not None
    assert set(ward.entries(gone=True)) == {b"x/gone", b"x/lost", b"z/whole"}


async def test_what_comes_back_unchanged_keeps_its_digest(ward: Ward) -> None:
    plant(ward.flash, "a", "b")
    await ward.scan()
    ward.verify("a")
    aside = ward.folder / "aside"
    os.link(ward.flash / "a", aside)  # another name keeps the inode
    (ward.flash / "a").unlink()
    assert drift(await ward.scan())[3] == 1
    os.link(aside, ward.flash / "a")
    scan = await ward.scan()
    # a new name changes the inode's own time: the fingerprint says changed, and the digest is not trusted
    assert drift(scan)[:3] == (1, 0, 1)
    assert ward.entries()[b"a"].digest is None


async def test_a_place_that_could_not_be_seen_makes_nothing_gone(ward: Ward) -> None:
    """An unreadable folder looks like a folder whose files were all deleted (I7)."""
    plant(ward.flash, "a/one", "a/two", "b/one")
    await ward.scan()
    (ward.flash / "b" / "one").unlink()
    hide = ward.folder / "hidden"
    (ward.flash / "a").rename(hide)
    deep = too_deep(ward.flash)
    scan = await ward.scan()
    assert (scan.state, scan.drift.gone, scan.findings) == ("incomplete", None, 1)
    assert "could not be seen" in (scan.explanation or "")
    assert [code for code, _ in await ward.codes(scan)] == ["too-deep"]
    assert ward.entries(gone=True) == {}
    # when everything can be seen again, what went missing meanwhile is noticed, changed folder or not
    shutil.rmtree(deep)
    hide.rename(ward.flash / "a")
    scan = await ward.scan()
    assert (scan.state, scan.drift.gone) == ("complete", 1)
    assert set(ward.entries(gone=True)) == {b"b/one"}


def too_deep(root: Path) -> Path:
    """A folder whose path is longer than the kernel takes: nobody can read it by its path, whoever he is."""
    at = os.open(root, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=at)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)
    return root / ("d" * 250)


async def test_an_empty_place_where_much_is_known_is_a_question_first(ward: Ward) -> None:
    """Whatever emptied it (a wrong mount, a mistaken rm), the catalog does not follow by itself."""
    plant(ward.flash, "a/one", "a/two")
    await ward.scan()
    shutil.rmtree(ward.flash / "a")
    scan = await ward.scan()
    assert (scan.state, scan.drift.gone) == ("incomplete", None)
    assert "empty_ok" in (scan.explanation or "")
    assert len(ward.entries()) == 2
    scan = await ward.scan(empty_ok=True)
    assert (scan.state, scan.drift.gone, len(ward.entries())) == ("complete", 2, 0)


async def test_an_unmounted_tier_is_waited_for_and_nothing_is_gone(ward: Ward) -> None:
    plant(ward.flash, "a", "b")
    await ward.scan()
    aside = ward.flash.rename(ward.folder / "aside")
    ward.flash.mkdir()
    scan = await ward.scan()
    assert scan.state == "waiting" or scan.state == "walking"
    assert "tier-unavailable" in (scan.explanation or "")
    assert len(ward.entries()) == 2
    ward.flash.rmdir()
    aside.rename(ward.flash)
    ward.due()
    await ward.work("tier-walk")
    scan = await ward.scans.view(PROJECT, scan.id)
    assert (scan.state, drift(scan)) == ("complete", (2, 0, 0, 0))


async def test_a_root_that_was_exchanged_in_mid_walk_ends_the_try(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """The readers go on in the old root; what they saw must not be taken for the new one's."""
    plant(ward.flash, "a", "b")
    from mover.walk import sources

    real = sources.Readers

    def exchanged(*args: Any, **kwargs: Any) -> Any:
        ward.flash.rename(ward.folder / "aside")
        (ward.flash / ".mover").mkdir(parents=True)
        identity = (ward.folder / "aside" / ".mover" / "tier.json").read_bytes()
        (ward.flash / ".mover" / "tier.json").write_bytes(identity)
        return real(*args, **kwargs)

    monkeypatch.setattr(sources, "Readers", exchanged)
    scan = await ward.scan()
    assert "tier-unavailable" in (scan.explanation or "")
    assert ward.entries() == {}


async def test_a_folder_is_scanned_without_touching_its_neighbours(ward: Ward) -> None:
    plant(ward.flash, "a/one", "a/b/two", "ab/three", "a.d/four", "five")
    await ward.scan()
    for name in ("a/b/two", "ab/three", "a.d/four", "five"):
        (ward.flash / name).unlink()
    plant(ward.flash, "a/new", "ab/new")
    scan = await ward.scan(prefix="/a/")
    assert (scan.prefix, scan.state, drift(scan)) == ("a", "complete", (1, 1, 0, 1))
    assert set(ward.entries(gone=True)) == {b"a/b/two"}
    scan = await ward.scan()
    assert drift(scan) == (2, 1, 0, 3)


async def test_a_folder_that_is_not_there_is_an_error_and_not_an_empty_scan(ward: Ward) -> None:
    plant(ward.flash, "a")
    scan = await ward.scan(prefix="nowhere")
    assert (scan.state, scan.error_code) == ("failed", "entry-missing")


@pytest.mark.parametrize("prefix", ["../x", "a/../../b", "a\0b", "bad\\escape"])
async def test_a_prefix_stays_below_the_root(ward: Ward, prefix: str) -> None:
    with pytest.raises(RequestInvalid):
        await ward.scans.declare(PROJECT, "ann", wire.ScanRequest(tier="flash", prefix=prefix))


async def test_the_same_place_again_is_the_scan_that_runs(ward: Ward) -> None:
    body = wire.ScanRequest(tier="flash")
    first = await ward.scans.declare(PROJECT, "ann", body)
    assert (await ward.scans.declare(PROJECT, "bob", body)).id == first.id
    other = await ward.scans.declare(OTHER, "eve", body)
    assert other.id != first.id
    await ward.work("tier-walk")
    assert (await ward.scans.declare(PROJECT, "ann", body)).id != first.id


async def test_a_worker_that_lost_its_shard_commits_nothing_more(ward: Ward) -> None:
    """Two walks of one scan at once would each believe the other's frontier."""
    plant(ward.flash, "a", "b")
    await ward.scans.declare(PROJECT, "ann", wire.ScanRequest(tier="flash"))
    slow: Shard = await ward.claim("tier-walk")
    ward.lapse()
    await ward.claim("tier-walk")
    with pytest.raises(LeaseLost):
        await ward.scans.walk(slow)
    assert ward.rows("select count(*) from mover.entry_stage")[0].count == 0


async def test_an_entry_that_a_transfer_recorded_belongs_to_the_next_walk(ward: Ward) -> None:
    """A transfer writes its row when the file stands; a walk that began earlier must not call it gone."""
    plant(ward.flash, "old", "moved")
    entry = ward.tiers["flash"].stat("moved").fingerprint
    ward.rows(
        "insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, digest, verified_at)"
        " values ('demo', 'flash', 'moved', 'file', %s, %s, %s, %s, now()),"
        " ('demo', 'flash', 'never', 'file', 1, 1, 'x', %s, now())",
        entry.size_bytes, entry.mtime_ns, entry.mark, DIGEST, DIGEST,
    )  # fmt: skip
    scan = await ward.scan()
    assert (drift(scan), scan.drift.gone_verified) == ((1, 1, 0, 1), 1)
    assert ward.entries()[b"moved"].digest == DIGEST


async def test_what_stands_in_one_project_is_not_seen_by_another(ward: Ward) -> None:
    """COPY knows no row level security, so the staging table has its own way of keeping projects apart (D18)."""
    with psycopg.connect(ward.dsns.daemon) as conn:
        copy = "copy mover.entry_stage (scan_id, folder, part, digest, entries, whole) from stdin"
        for project in (PROJECT, OTHER):
            conn.execute("select set_config('mover.project', %s, true)", [project])
            with conn.cursor().copy(copy) as lines:
                lines.write_row([f"scan-{project}", b"SMITH", 0, b"", 0, False])
            conn.commit()
        conn.execute("select set_config('mover.project', %s, true)", [PROJECT])
        assert conn.execute("select scan_id from mover.staged").fetchall() == [("scan-demo",)]
        assert conn.execute("delete from mover.staged where scan_id = 'scan-other'").rowcount == 0
        conn.commit()
        for attack in (
            "select * from mover.entry_stage",
            "insert into mover.entry_stage (staged_for, scan_id, folder, part, digest, entries, whole)"
            " values ('other', 's', '', 0, '', 0, false)",
            "update mover.staged set scan_id = 'scan-demo'",
            "truncate mover.entry_stage",
        ):
            conn.execute("select set_config('mover.project', %s, true)", [PROJECT])
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(attack)
            conn.rollback()


# --- identified tiers ----------------------------------------------------------------------------------------


async def test_names_of_an_identified_tier_stand_in_the_vault_only(ward: Ward) -> None:
    """A path is a patient's name more often than not (D10)."""
    plant(ward.intake, "SMITH, JANE/S26-10482.svs", "SMITH, JANE/S26-10482.jpg", "JONES/x.svs")
    scan = await ward.scan("intake")
    assert (scan.state, drift(scan), scan.entries) == ("complete", (0, 3, 0, 0), 3)
    dumped = "\n".join(
        str(row) for table in ("scan", "scan_folder", "scan_finding", "listing", "entry", "entry_stage", "shard",
                               "audit_record")
        for row in ward.rows(f"select t::text from mover.{table} t")
    )  # fmt: skip
    for name in (b"SMITH", b"S26-10482", b"JONES", b".svs"):
        assert name.decode() not in dumped and name.hex() not in dumped
    tags = sorted(ward.entries())
    assert all(len(tag) == 32 for tag in tags)
    names = ward.names(PROJECT, "intake")
    opened = await asked(names.open, tags)
    assert set(opened) == {b"SMITH, JANE/S26-10482.svs", b"SMITH, JANE/S26-10482.jpg", b"JONES/x.svs"}
    assert "unseal" in ward.actions()


async def asked(call: Any, *args: Any) -> Any:
    import asyncio

    return await asyncio.to_thread(call, *args)


async def test_drift_of_an_identified_tier_is_told_without_names(ward: Ward) -> None:
    plant(ward.intake, "SMITH/a.svs", "SMITH/b.svs", "JONES/c.svs")
    await ward.scan("intake")
    ward.rows("update mover.entry set digest = %s, verified_at = now()", DIGEST)
    (ward.intake / "SMITH" / "a.svs").unlink()
    plant(ward.intake, "JONES/d.svs")
    again = await ward.scan("intake")
    assert (again.state, drift(again), again.drift.gone_verified) == ("complete", (2, 1, 0, 1), 1)
    assert await ward.codes(again) == [("gone-verified", None)]
    part = await ward.scan("intake", prefix="JONES")
    assert (part.prefix, part.state, drift(part)) == (None, "complete", (2, 0, 0, None))


# --- speed ---------------------------------------------------------------------------------------------------


async def test_hot_questions_use_their_indexes(ward: Ward) -> None:
    plant(ward.flash, *(f"d{number % 9}/f{number}" for number in range(40)))
    await ward.scan()
    with psycopg.connect(ward.dsns.daemon) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        conn.execute("set local enable_seqscan = off")
        for name, values in {
            "known": {"tier": "flash", "folders": [b"d1", b"d2"]},
            "load": {"scan": "scan-x", "limit": 5},
        }.items():
            plan = str(conn.execute(f"explain (format json) {ledgers.SQL[name]}", values).fetchone())
            assert "Index" in plan and "Seq Scan" not in plan, (name, plan)
