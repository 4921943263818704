"""A disk that runs full under `mover db`, a backup that rotted: each says what, where, what to do, and loses nothing.

Room is looked for before; here somebody else takes it in between, on a small file system of its own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from mover.catalog import backups, majors
from mover.catalog import migrate as module
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import Migration, read_migrations
from mover.catalog.postgres import SUPERUSER, Embedded
from mover.errors import CatalogError, CatalogUnavailable, MigrationFailed, MoverError, NoRoom
from mover.settings import load
from tests.upgrade.test_db import DEBIANS, SETTINGS, fill, forget_logins, said

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("dumping")]

MIB = 1 << 20
SIZE = "size=600m"
WIDE = """
insert into mover.artifact (project_id, snapshot_id, path, size_bytes, digest)
  select 'demo', 'snapshot-a', 'b' || md5(n::text) || md5((n + 1)::text), 1, md5(n::text) || md5((n + 7)::text)
    from generate_series(1, 60000) n
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A place that can be filled."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", SIZE, "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield place
    # a server that its disk killed may hold it for another moment
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def filled(place: Path, *, leaving: int) -> Iterator[None]:
    file = place / "filler"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with open(file, "wb") as body:
        os.posix_fallocate(body.fileno(), 0, max(1, free - leaving))
    try:
        yield
    finally:
        file.unlink()


def refused(act: Callable[[], object]) -> MoverError:
    """It says all that a person needs at three in the morning."""
    with pytest.raises(MoverError) as told:
        act()
    error = told.value
    assert error.what and error.where and error.advice and "Traceback" not in str(error)
    return error


def wide(site: Path, bin_dir: Path | None) -> dict[str, object]:
    """Rows of some ten MiB more; what stands there then."""
    fill(site, bin_dir)
    embedded = Embedded(site / "state", bin_dir=bin_dir)
    with psycopg.connect(embedded.start().superuser_dsn) as conn:
        conn.execute(WIDE)
    embedded.stop()
    return rows(site, bin_dir)


def rows(site: Path, bin_dir: Path | None = None) -> dict[str, object]:
    embedded = Embedded(site / "state", bin_dir=bin_dir)
    try:
        return {**Dumper(embedded.start().superuser_dsn).facts()}
    finally:
        embedded.stop()


def databases(site: Path) -> set[str]:
    embedded = Embedded(site / "state")
    try:
        with psycopg.connect(embedded.start().superuser_dsn) as conn:
            return {str(name) for (name,) in conn.execute("select datname from pg_database").fetchall()}
    finally:
        embedded.stop()


def test_backup_migration_and_restore_on_a_disk_that_runs_full(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "_check_room", lambda *_: None)
    whole = wide(small, None)
    try:
        name = said(small, "backup")["backup"]
        with filled(small, leaving=MIB // 10):
            assert isinstance(refused(lambda: said(small, "backup")), NoRoom)
            assert [one.name for one in backups.listed(small / "state/backups")] == [name]
        assert len(list((small / "state/backups").iterdir())) == 2, "half a dump is in the way of a full disk"

        every = read_migrations()
        later = Migration(f"{len(every) + 1:04}_later.sql", "create table mover.big as select * from mover.artifact, "
                          "generate_series(1, 100);")  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(module, "read_migrations", lambda *_: [*every, later])
            with filled(small, leaving=40 * MIB):
                failed = refused(lambda: said(small, "migrate"))
        assert isinstance(failed, NoRoom | MigrationFailed) and failed.where == later.file
        assert rows(small) == whole

        # a table that finds no room is an error; a log that finds none is the end of the server
        for left in (17 * MIB, 6 * MIB, MIB):
            with filled(small, leaving=left):
                assert isinstance(refused(lambda: said(small, "restore", name)), NoRoom | CatalogUnavailable)
            assert rows(small) == whole
        assert said(small, "restore", name)["put_aside"] in databases(small) - {"mover_restored"}
        assert rows(small) == whole
    finally:
        Embedded(small / "state").kill()


@pytest.mark.skipif(not DEBIANS.exists(), reason="needs Debian package: postgresql-15")
def test_a_newer_postgresql_on_a_disk_that_runs_full(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(majors, "_check_room", lambda *_: None)
    whole = wide(small, DEBIANS)
    try:
        for left in (10 * MIB, 75 * MIB):
            with filled(small, leaving=left):
                refused(lambda: said(small, "upgrade"))
                assert not (small / "state" / majors.SIDE).exists(), "half a cluster is in the way of a full disk"
            assert (small / "state/postgres/data/PG_VERSION").read_text().strip() == "15"
            assert rows(small, DEBIANS) == whole
        said(small, "upgrade")
        assert rows(small) == whole
    finally:
        Embedded(small / "state").kill()


def test_a_move_to_a_server_that_runs_full(small: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    whole = wide(site, None)
    elsewhere = Embedded(small / "elsewhere")
    try:
        admin = elsewhere.start().dsn(SUPERUSER)
        forget_logins(admin)
        with filled(small, leaving=17 * MIB):
            assert isinstance(refused(lambda: said(site, "move", admin)), NoRoom | CatalogUnavailable)
        assert load(site / "mover.yaml").database.embedded and (site / "mover.yaml").read_text() == SETTINGS
        assert rows(site) == whole
        elsewhere.start()  # its log found no room, and it ended
        said(site, "move", admin)
        dump = load(site / "mover.yaml").database.dump_dsn
        assert dump is not None and {**Dumper(dump).facts()} == whole
    finally:
        elsewhere.kill()
        Embedded(site / "state").kill()


def test_a_backup_that_rotted_is_refused_wherever_it_did(tmp_path: Path) -> None:
    """The first byte, the last, some between, and an end that is missing."""
    fill(tmp_path, None)
    whole = rows(tmp_path)
    name = said(tmp_path, "backup")["backup"]
    file = tmp_path / "state/backups" / name
    sound = file.read_bytes()
    at = [0, 5, len(sound) // 3, len(sound) * 2 // 3, len(sound) - 1]
    rotten = [sound[:one] + bytes([sound[one] ^ 1]) + sound[one + 1 :] for one in at]
    try:
        for body in (*rotten, sound[:-1], sound[: len(sound) // 2], b""):
            file.write_bytes(body)
            assert isinstance(refused(lambda: said(tmp_path, "restore", name)), CatalogError)
            assert databases(tmp_path) == {"mover", "postgres", "template0", "template1"}
        assert rows(tmp_path) == whole
        file.write_bytes(sound)
        said(tmp_path, "restore", name)
    finally:
        Embedded(tmp_path / "state").kill()
