"""What every landed state left behind opens under today's software.

The fixtures were made by each state's own software from its own demo (`tests/upgrade/make.py`).
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import zstandard
from psycopg import sql
from psycopg.types.json import Jsonb

from mover import audit
from mover.audit.packcheck import check_pack
from mover.catalog import migrate as module
from mover.catalog.database import Database
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import landing_of, migrate, read_migrations, schema_state
from mover.catalog.postgres import EmbeddedServer
from mover.deid import certificate
from mover.deid.vault import Vault, VaultKey, copy_place
from mover.deid.vaultkeys import RevealKey
from mover.ingest.outcomes import slide_row
from mover.model.names import decode_names
from mover.model.policy import AuditPolicy
from mover.model.sidecar import Sidecar, decode_sidecar
from mover.protect import dumpdrills
from mover.repository.repository import open_repository
from mover.sdk import check
from mover.tiers.posix import PosixTier
from tests.support.postgres import Dsns, fresh_database
from tests.upgrade.make import PASSWORD

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dumping")]

FIXTURES = sorted((Path(__file__).parent / "landed").glob("*.tar.zst"))
# the first state whose fixture has what its daemon gave away: an audit pack, a sealed dump, checkpoints on a tier
GIVEN_SINCE = 7
LANDED = (module.MIGRATIONS / "landed.txt").read_text("utf-8").split()


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name[:2])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return unpacked(request.param, tmp_path)


def unpacked(fixture: Path, folder: Path) -> Path:
    """One landed state; `landing` is its number."""
    left = folder / "left"
    packed = zstandard.ZstdDecompressor().decompress(fixture.read_bytes(), max_output_size=64 << 20)
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(left, filter="data")
    (left / "landing").write_text(fixture.name[:2])
    return left


@pytest.fixture
def older(server: EmbeddedServer, left: Path) -> Iterator[Dsns]:
    """Its database, not migrated yet."""
    with fresh_database(server, template="template1") as made:
        words = [
            str(server.bin_dir / "psql"),
            "--quiet",
            "--no-psqlrc",
            "-v",
            "ON_ERROR_STOP=1",
            "--single-transaction",
        ]
        subprocess.run(
            [*words, "--output=/dev/null", "--file", str(left / "catalog.sql"), "--dbname", made.superuser],
            check=True, capture_output=True,
        )  # fmt: skip
        yield made


def test_every_landed_state_has_a_fixture() -> None:
    assert [path.name for path in FIXTURES] == [f"{n:02}.tar.zst" for n in range(1, len(LANDED) + 1)]
    assert all(path.stat().st_size < 400_000 for path in FIXTURES)


async def test_what_stood_there_stands_there_after_the_migrations_and_opens(
    left: Path, older: Dsns, tmp_path: Path
) -> None:
    """Rows are carried column by column; then today's own readers go over them."""
    before = rows(older.superuser)
    assert sum(len(one) for one in before.values()) > 100
    landing = int((left / "landing").read_text())
    assert (state := schema_state(older.superuser)).landing == landing or landing < 6, "the sixth first wrote it down"
    missing = [one.file for one in read_migrations() if landing_of(one.file) > landing]
    assert migrate(older.superuser) == missing == list(state.missing) and migrate(older.superuser) == []
    after = rows(older.superuser)
    gone = {
        table: [row for row in kept if not is_among(row, after.get(table, []))][:2] for table, kept in before.items()
    }
    assert {table: rows for table, rows in gone.items() if rows} == {}
    assert {table for table, kept in before.items() if len(after[table]) < len(kept)} == set()

    sidecars = [decode_sidecar(path.read_bytes()) for path in (left / "archive").rglob("sidecar.json")]
    database = await Database.open(older.daemon, name="test", max_size=2)
    own = await Database.open(older.vault, name="test-vault", max_size=2)
    try:
        async with database.still("demo") as conn:
            verdict = await audit.verify(conn, "demo")
            assert verdict.whole and verdict.records > 50
        await assert_the_catalog_is_what_sidecars_say(database, sidecars)
        await assert_names_open(own, older, left)
        await assert_the_manifest_is_the_catalogs(database, left)
    finally:
        await database.close()
        await own.close()


async def assert_the_catalog_is_what_sidecars_say(database: Database, sidecars: list[Sidecar]) -> None:
    """A catalog that was lost is rebuilt from the archive alone (D15): from today's reading of yesterday's sidecars."""
    async with database.project("demo") as conn:
        found = {
            row.number: row._asdict() for row in await (await conn.execute("select * from mover.slide")).fetchall()
        }
    assert len(sidecars) == len(found) > 5
    for sidecar in sidecars:
        told = slide_row(sidecar, "archive")
        said = {name: value.obj if isinstance(value, Jsonb) else value for name, value in told.items()}
        kept = {name: found[sidecar.number][name] for name in said}
        # rules say with which profile a slide was made: nobody wrote that down before there were profiles
        assert {**said, "rules": ""} == {**kept, "rules": ""}


async def assert_names_open(own: Database, older: Dsns, left: Path) -> None:
    with psycopg.connect(older.superuser) as conn:
        query = "select id from vault.sealed where project_id = 'demo' order by id limit 100"
        ids = [str(name) for (name,) in conn.execute(query).fetchall()]
    (left / "vault.key").chmod(0o600)
    vault = Vault(own, VaultKey.newest(left / "vault.key"), site="demo-hospital", node="n1")
    names = await vault.unseal("demo", ids, purpose="an upgrade", actor="ann")
    # a body may be empty; one that does not open raises
    assert len(names) == len(ids) and sum(map(bool, names.values())) > 20


async def assert_the_manifest_is_the_catalogs(database: Database, left: Path) -> None:
    """The bytes of its slides are not in the fixture: they are missing, and nothing else is wrong. What was written
    after the seal is found in roots, too, that do not say when that was."""
    [root] = (left / "runs").iterdir()
    checked = check(root)
    async with database.project("demo") as conn:
        row = await (await conn.execute("select * from mover.run where id = %s", [checked.run])).fetchone()
    assert row is not None and row.state == "ready" and checked.manifest_root == row.manifest_root
    slides = {finding.path for finding in checked.findings if finding.path.startswith("data/")}
    assert checked.found == len(slides) == sum(one.startswith("data/") for one in listed(root)) > 0
    assert {finding.why for finding in checked.findings} == {"missing"}
    os.utime(root / "records.parquet", (4_102_444_800, 4_102_444_800))
    late = {finding.path: finding.why for finding in check(root).findings if finding.path not in slides}
    assert late == {"records.parquet": "changed"}


def listed(root: Path) -> list[str]:
    lines = (root / "manifest.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["path"] for line in lines[1:]]


def test_its_repository_is_whole_for_us_and_for_stock_restic(left: Path, tmp_path: Path) -> None:
    opened = open_repository(PosixTier("protect", "deidentified", left), PASSWORD, prefix="repository")
    assert opened.check(read_data=True).errors == []
    [snapshot] = opened.snapshots()
    opened.restore(snapshot.snapshot_id, tmp_path / "back")
    assert (tmp_path / "back/artifacts/logs/a.log").read_text() == "step\n" * 500
    if shutil.which("restic") is None:
        pytest.skip("needs Debian package: restic")
    words = {"RESTIC_PASSWORD": PASSWORD.decode(), "RESTIC_REPOSITORY": str(left / "repository"), "HOME": str(tmp_path)}
    command = ["restic", "--no-cache", "--no-lock", "check", "--read-data"]
    done = subprocess.run(command, env={"PATH": os.defpath, **words}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("given", FIXTURES[GIVEN_SINCE - 1 :], ids=lambda path: path.name[:2])
async def test_what_it_gave_away_opens_with_no_state_of_it_left(
    given: Path, tmp_path: Path, server: EmbeddedServer
) -> None:
    """The audit pack that an auditor kept; and after a fire the sealed dump, the pair of key files in two safes and the
    vault's key. The restored chains fit the checkpoints that were signed and written to a tier."""
    left = unpacked(given, tmp_path)
    signer = (left / "signer").read_text()
    pack = check_pack(left / "run.audit", trusted=[signer], certificate=lambda body: certificate.verify(body).problems)
    assert (pack.problems, pack.trusted, pack.fingerprint) == ((), True, signer)
    assert pack.slides > 5 and pack.lines["policy"] and pack.lines["proof"] and pack.about_run

    for secret in left / "vault.key", left / "pair/a", left / "pair/b":
        secret.chmod(0o600)
    key, pair = VaultKey.newest(left / "vault.key"), RevealKey.join(left / "pair/a", left / "pair/b")
    protect = PosixTier("protect", "deidentified", left / "protect")
    with fresh_database(server, template="template1") as made:
        told = dumpdrills.trusted(protect, "dumps", None, key=key, site="demo-hospital")
        dumper = Dumper(made.superuser, bin_dir=server.bin_dir)
        compared = dumpdrills.restore(dumper, protect, told, "dumps", key=pair)
        assert (compared.different, compared.rows > 300) == ((), True)
        migrate(made.superuser)
        with psycopg.connect(made.superuser) as conn:
            copies = conn.execute("select number, copy from vault.number").fetchall()
        names = [pair.open(copy, place=copy_place("number", "demo-hospital", number)) for number, copy in copies]
        assert len(names) > 5 and all(map(decode_names, names))
        database = await Database.open(made.daemon, name="test", max_size=2)
        try:
            policies = [AuditPolicy(name="audit", targets=("protect",))]
            checkpoints = audit.Checkpoints(
                database, {"protect": protect}, policies, key_file=left / "no.key", site="demo-hospital"
            )
            known = await checkpoints.anchors("demo")
            async with database.still("demo") as conn:
                verdict = await audit.verify(conn, "demo", anchors=known.heads, copies=known.copies)
        finally:
            await database.close()
    [copies_of] = verdict.checkpoints
    assert verdict.whole and (copies_of.signers, copies_of.problems, copies_of.count) == ([signer], [], 2)


# --- rows, column by column -----------------------------------------------------------------------------------------

Row = frozenset[tuple[str, str | None]]


def rows(dsn: str) -> dict[str, list[Row]]:
    """Of every table and view of ours, as text: what was a table may be a view now. But for views that say the time."""
    query = """
    select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname in ('mover', 'vault') and c.relkind in ('r', 'v')
      and (c.relkind = 'r' or pg_get_viewdef(c.oid) !~ 'now[(][)]|CURRENT_TIMESTAMP')
    """
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as conn:
        names = [str(name) for (name,) in conn.execute(query).fetchall()]
        found = {}
        for name in names:
            every = conn.execute(sql.SQL("select to_jsonb(t) from {} t").format(sql.SQL(name))).fetchall()
            found[name] = [frozenset((key, repr(value)) for key, value in row.items()) for (row,) in every]
    return found


def is_among(row: Row, others: list[Row]) -> bool:
    """New columns may stand beside the old ones; no old one may say anything else."""
    return any(row <= other for other in others)
