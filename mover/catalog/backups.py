"""What stood in a database before it was migrated, as a file in the state directory: the way back.

Order for one backup, and what a crash between leaves:
  1. what a crash left is removed, then room is looked for          -> nothing
  2. one consistent dump, compressed, under a temporary name, synced -> a `.new` file, which the next backup removes
  3. it is read again from the disk to its last row, then renamed   -> a file without a sidecar, likewise
  4. the sidecar, which makes it count                              -> a backup
Going back restores into a database beside the standing one, compares every table, and swaps the names in one
transaction; what stood before keeps another name until somebody drops it.

The rows of the vault stand in the file as they stand in the database: sealed. What was erased since is erased again
when the daemon starts (`Custody.honour`). The nightly sealed dumps on two tiers (`protect.dumps`) are another thing:
they survive this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec
import psycopg
import zstandard
from blake3 import blake3
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mover.catalog.dsn import reach
from mover.catalog.dumping import CHUNK_BYTES, Dumper, TableFacts, differing
from mover.catalog.migrate import migrate, schema_state
from mover.catalog.room import fullness_told
from mover.errors import CatalogError, MoverError, NoRoom, NotFound
from mover.wholefile import sync_folder

FOLDER = "backups"
KEPT = 3
# beside the size of the database: the file is compressed, and the log of a restore needs room, too
SPARE_BYTES = 64 << 20
ASIDE = "_before_"
RESTORED = "_restored"
_LEVEL = 3
_UNREACHED = "no connection to look at the databases"


class Backup(Struct, frozen=True):
    """The sidecar of one file: what it must be, and what must stand in a database that was made of it."""

    name: str
    taken_at: datetime
    schema: str
    size_bytes: int
    digest: str
    tables: dict[str, TableFacts]
    # of the database when it was dumped; 0 in sidecars that are older than the field
    database_bytes: int = 0

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables.values())


def migrate_after_backup(dsn: str, folder: Path, *, dump_dsn: str, bin_dir: Path | None) -> list[str]:
    """What the daemon does at its start with the database it owns. A database of this version, or an empty one,
    has nothing to go back to."""
    state = schema_state(dsn)
    made = make(dump_dsn, folder, bin_dir=bin_dir).name if state.missing and not state.empty else None
    return migrate(dsn, backup=made)


def make(dsn: str, folder: Path, *, bin_dir: Path | None = None, kept: int = KEPT) -> Backup:
    """`dsn` of a role that may read everything. NoRoom before anything is written; the oldest go after it counts.
    One at a time: a second waits for the first, whose files are no leftovers."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(folder):
        _clear(folder)
        _check_room(dsn, folder)
        try:
            with fullness_told(folder):
                backup = _make(Dumper(dsn, bin_dir=bin_dir), folder, database_bytes(dsn))
        except (MoverError, OSError):
            # half a dump on a full disk is the room that PostgreSQL beside it needs
            _clear(folder)
            raise
        # one that is damaged is in nobody's way and stays: a start that failed here would leave a dump at each attempt
        for old in [one for one in _sound(folder) if one.name != backup.name][kept - 1 :]:
            _sidecar(folder / old.name).unlink()
            (folder / old.name).unlink(missing_ok=True)
    return backup


def _make(dumper: Dumper, folder: Path, held: int) -> Backup:
    with dumper.moment() as moment:
        name = f"{moment.taken_at:%Y%m%dT%H%M%S}-{moment.schema[:4]}.zst"
        side = folder / f"{name}.new"
        digest, size = _write(side, dumper.stream(moment))
    backup = Backup(name, moment.taken_at, moment.schema, size, digest, moment.facts, held)
    dumper.read_through(_plain(side, backup))
    os.rename(side, folder / name)
    # under its name it is whole: half a sidecar would be in the way of every list
    told = folder / f"{name}.json.new"
    _write_synced(told, [msgspec.json.encode(backup)])
    os.rename(told, _sidecar(folder / name))
    return backup


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _clear(folder: Path) -> None:
    for leftover in [*folder.glob("*.new"), *(one for one in folder.glob("*.zst") if not _sidecar(one).exists())]:
        leftover.unlink()


def listed(folder: Path) -> list[Backup]:
    """Newest first. CatalogError for a sidecar that is damaged: its backup may be the one that is needed."""
    return sorted(map(_read, folder.glob("*.zst.json")), key=lambda one: one.taken_at, reverse=True)


def _sound(folder: Path) -> list[Backup]:
    """As `listed`, without what cannot be read."""
    found = []
    for sidecar in folder.glob("*.zst.json"):
        with contextlib.suppress(CatalogError):
            found.append(_read(sidecar))
    return sorted(found, key=lambda one: one.taken_at, reverse=True)


def _read(sidecar: Path) -> Backup:
    try:
        return msgspec.json.decode(sidecar.read_bytes(), type=Backup)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CatalogError(
            "what stands beside a backup is damaged", where=str(sidecar),
            hint=f"Move it and {sidecar.stem} elsewhere; zstd -dc FILE | pg_restore --list says what is in the backup.",
        ) from error  # fmt: skip


def go_back(dsn: str, folder: Path, name: str, *, bin_dir: Path | None = None) -> str:
    """Puts what the backup holds in the place of the database of `dsn`, a superuser's, and says under which name what
    stood there stands now. All or nothing: until the names are swapped, nothing was changed. Called again it does it
    again: each database that was put aside keeps a name of its own."""
    backup = next((one for one in listed(folder) if one.name == name), None)
    if backup is None:
        raise NotFound("there is no such backup", where=name, hint="`mover db status` lists them.")
    _check_whole(folder, backup)
    _check_room(dsn, folder, backup.database_bytes)
    own = str(conninfo_to_dict(dsn)["dbname"])
    fresh = own + RESTORED
    with reach(make_conninfo(dsn, dbname="postgres"), _UNREACHED, autocommit=True) as conn:
        with fullness_told(folder):
            restored = Dumper(make_conninfo(dsn, dbname=fresh), bin_dir=bin_dir)
            _restore(conn, restored, fresh, _plain(folder / name, backup), backup)
        return _swap(conn, own, fresh)


def _restore(conn: psycopg.Connection, restored: Dumper, fresh: str, body: Iterator[bytes], backup: Backup) -> None:
    try:
        conn.execute(_sql("drop database if exists {} with (force)", fresh))
        conn.execute(_sql("create database {} template template0", fresh))
        restored.restore(body)
        if wrong := differing(backup.tables, restored.facts()):
            raise CatalogError(
                "what was restored is not what was dumped; nothing was changed",
                details=[{"table": one} for one in wrong],
            )
    except BaseException:
        # it holds as much room as the first; where the server is gone, too, `standing_aside` names it
        with contextlib.suppress(psycopg.Error):
            conn.execute(_sql("drop database if exists {} with (force)", fresh))
        raise


def _swap(conn: psycopg.Connection, own: str, fresh: str) -> str:
    conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = any (%s)", [[own, fresh]])
    aside = f"{own}{ASIDE}{_moment(conn)}"
    with conn.transaction():
        conn.execute(_sql("alter database {} rename to {}", own, aside))
        conn.execute(_sql("alter database {} rename to {}", fresh, own))
    return aside


def standing_aside(dsn: str) -> list[str]:
    """Databases that were put aside by going back, and what a kill left of going back: whoever goes back is alone
    with the server, so none is at work on it. A database of that name that somebody else made is not ours."""
    own = str(conninfo_to_dict(dsn)["dbname"])
    with reach(dsn, _UNREACHED) as conn:
        query = (
            "select datname from pg_database where starts_with(datname, %s)"
            " or datname = %s and pg_get_userbyid(datdba) = current_user order by 1"
        )
        return [str(name) for (name,) in conn.execute(query, [own + ASIDE, own + RESTORED]).fetchall()]


def drop_aside(dsn: str) -> list[str]:
    found = standing_aside(dsn)
    with reach(make_conninfo(dsn, dbname="postgres"), _UNREACHED, autocommit=True) as conn:
        for name in found:
            conn.execute(_sql("drop database {} with (force)", name))
    return found


def database_bytes(dsn: str) -> int:
    with reach(dsn, _UNREACHED) as conn:
        row = conn.execute("select pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def _moment(conn: psycopg.Connection) -> str:
    row = conn.execute("select to_char(clock_timestamp() at time zone 'utc', 'YYYYMMDDHH24MISSUS')").fetchone()
    assert row is not None
    return str(row[0])


def _check_room(dsn: str, folder: Path, least_bytes: int = 0) -> None:
    wanted, free = max(least_bytes, database_bytes(dsn)) + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < wanted:
        raise NoRoom(
            f"a copy of the database may need {wanted >> 20} MiB, and {free >> 20} MiB are free", where=str(folder)
        )


def _check_whole(folder: Path, backup: Backup) -> None:
    """Before a database is made for it: what a damaged dump lets `pg_restore` say helps nobody."""
    if blake3(max_threads=1).update_mmap(str(folder / backup.name)).hexdigest() != backup.digest:
        raise _damaged(backup)


def _damaged(backup: Backup) -> CatalogError:
    return CatalogError(
        "the backup is damaged; nothing was changed", where=backup.name,
        hint="Take another one (`mover db status`), or a sealed dump: mover vault restore.",
    )  # fmt: skip


def _plain(path: Path, backup: Backup) -> Iterator[bytes]:
    """From the disk, not from memory; CatalogError where the file is not the one that was written."""
    seen, reader = blake3(), zstandard.ZstdDecompressor().decompressobj()
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(CHUNK_BYTES):
            seen.update(chunk)
            try:
                yield reader.decompress(chunk)
            except zstandard.ZstdError as error:
                raise _damaged(backup) from error
    if seen.hexdigest() != backup.digest:
        raise _damaged(backup)


def _write(path: Path, plain: Iterable[bytes]) -> tuple[str, int]:
    seen, packer = blake3(), zstandard.ZstdCompressor(level=_LEVEL).compressobj()

    def packed() -> Iterator[bytes]:
        for chunk in plain:
            yield packer.compress(chunk)
        yield packer.flush()

    def told() -> Iterator[bytes]:
        for chunk in packed():
            seen.update(chunk)
            yield chunk

    size = _write_synced(path, told())
    return seen.hexdigest(), size


def _write_synced(path: Path, chunks: Iterable[bytes]) -> int:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        size = sum(file.write(chunk) for chunk in chunks)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)
    return size


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _sql(text: str, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*map(sql.Identifier, names))
