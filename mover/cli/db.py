"""`mover db`: the database itself. For root or the daemon's own user, on the daemon's machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import plan_option, with_output
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.catalog.backups import Backup
    from mover.catalog.migrate import SchemaState
    from mover.catalog.postgres import Embedded
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.settings import Settings

# nothing else ends with it: `mover-release` tells what waits for a migration from what fails, in whatever way
LACKING = 12

admin_option = click.option(
    "--admin", metavar="DSN", help="Of a given server: a superuser, or a login that may become mover's owners. "
    "Its password stands in a passfile, not here.",
)  # fmt: skip


@click.group("db", cls=WholeLines)
def command() -> None:
    """The database: its schema and backups, a newer PostgreSQL, another server."""


@command.command("status")
@with_output
@click.pass_obj
def status(where: Where, *, out: Output) -> int:
    """What stands in the database, which versions work with it, which backups there are. Status 12: migrate first."""
    from mover.catalog.backups import database_bytes, standing_aside
    from mover.catalog.migrate import own_landing, schema_state
    from mover.cli.output import size

    settings = where.settings()
    with _reached(settings, None) as dsn:
        state, held, aside = schema_state(dsn), database_bytes(dsn), standing_aside(dsn)
        told = {
            "embedded": settings.database.embedded, "newest": state.newest, "landing": state.landing,
            "own_landing": own_landing(), "missing": list(state.missing), "later": list(state.later),
            "size_bytes": held, "put_aside": aside, "backups": _backups(settings),
        }  # fmt: skip
    pairs = [
        ("database", "embedded" if settings.database.embedded else "a given server"), ("size", size(held)),
        ("schema", state.newest or "none yet"), ("this version", _fits(state, settings)),
        ("put aside", " ".join(aside)),
    ]  # fmt: skip
    out.facts(told, pairs)
    if not out.as_json:
        _list_backups(out, settings)
    return LACKING if state.missing else 0


@command.command("backup")
@with_output
@click.pass_obj
def backup(where: Where, *, out: Output) -> None:
    """Dump the database into the state directory and read the dump again; the newest three are kept.

    A daemon may run beside. This is the way back of an upgrade; `mover vault dump` survives this machine.
    """
    settings = where.settings()
    with _reached(settings, None) as dsn:
        made = _backup(settings, dsn)
    out.facts(_told(made), [(name, value) for name, value in _told(made).items()])


@command.command("migrate")
@admin_option
@click.option("--without-backup", is_flag=True, help="Somebody else keeps a way back.")
@plan_option
@with_output
@click.pass_obj
def migrate(where: Where, *, out: Output, admin: str | None, without_backup: bool, plan: bool) -> int:
    """Bring the schema to this version, after a backup. The embedded database's daemon does this at its start.

    The version that ran before works on the new schema, too: a failed upgrade goes back without a restore.
    """
    from mover.catalog import migrate as migrations
    from mover.errors import SettingsInvalid

    settings = where.settings()
    if not (settings.database.embedded or plan or admin):
        raise SettingsInvalid(
            "the logins of the daemon may not migrate", where=str(settings.file),
            hint="Name one that may, as its server's administrator: mover db migrate --admin DSN",
        )  # fmt: skip
    with _alone(settings), _reached(settings, admin) as dsn:
        state = migrations.schema_state(dsn)
        wanted = not state.empty and bool(state.missing) and not without_backup
        if plan:
            steps = [f"{one} {'after a backup' if wanted else ''}".strip() for one in state.missing]
            out.facts(
                {"missing": list(state.missing), "backup": wanted}, [("would apply", ", ".join(steps) or "nothing")]
            )
            return 0
        made = _backup(settings, dsn) if wanted else None
        done = migrations.migrate(dsn, backup=made.name if made else None)
    out.facts({"applied": done, "backup": made.name if made else None},
              [("applied", " ".join(done) or "nothing"), ("backup", made.name if made else "none")])  # fmt: skip
    return 0


@command.command("restore")
@click.argument("name", metavar="BACKUP")
@plan_option
@with_output
@click.pass_obj
def restore(where: Where, *, out: Output, name: str, plan: bool) -> None:
    """Put what a backup holds in the place of the embedded database. With no daemon running.

    What stood there is put aside under another name (`mover db status`), until `mover db forget` drops it.
    """
    from mover.catalog import backups
    from mover.errors import SettingsInvalid

    settings = where.settings()
    if not settings.database.embedded:
        raise SettingsInvalid(
            "the database is a server's", where=str(settings.file),
            hint="Its administrator restores it: zstd -dc FILE | pg_restore --single-transaction --dbname DSN",
        )  # fmt: skip
    if plan:
        found = [one for one in backups.listed(_folder(settings)) if one.name == name]
        out.table([_told(one) for one in found], "backup taken schema rows>", map(_row, found), empty="no such backup")
        return
    with _alone(settings), _started(settings) as embedded, embedded.alone():
        dsn = embedded.start().superuser_dsn
        aside = backups.go_back(dsn, _folder(settings), name, bin_dir=settings.database.bin_dir)
    out.facts({"restored": name, "put_aside": aside}, [("restored", name), ("before, as", aside)])
    out.note("What happened after the backup is not in it: walk the tiers, and look at the audit's ends.")


@command.command("forget")
@plan_option
@with_output
@click.pass_obj
def forget(where: Where, *, out: Output, plan: bool) -> None:
    """Drop what was put aside: databases before a restore, what a kill left of one, the cluster before an upgrade."""
    import shutil

    from mover.catalog import backups
    from mover.catalog.majors import old_clusters
    from mover.owner import acting

    settings = where.settings()
    with _reached(settings, None) as dsn:
        gone = backups.standing_aside(dsn) if plan else backups.drop_aside(dsn)
    with acting(settings.state_dir):
        for cluster in old_clusters(settings.state_dir):
            gone.append(str(cluster))
            if not plan:
                shutil.rmtree(cluster)
    out.facts({"dropped": gone, "plan": plan}, [("would drop" if plan else "dropped", " ".join(gone) or "nothing")])


@command.command("move")
@click.argument("admin", metavar="DSN")
@plan_option
@with_output
@click.pass_obj
def move(where: Where, *, out: Output, admin: str, plan: bool) -> None:
    """Carry the embedded database to a server, compare every row, and write mover.yaml. With no daemon running.

    DSN names an empty database of the server, and a superuser of it; its password stands in a passfile. What was
    carried stays where it was, and is not opened again. Killed in between, the same command goes on.
    """
    from mover.catalog import carrying, leaving
    from mover.catalog.backups import database_bytes, migrate_after_backup
    from mover.cli.output import size
    from mover.owner import acting, left_behind

    settings = where.settings()
    whereto = f"to the server that {settings.file} names"
    if leaving.lacks_its_note(settings):
        with acting(settings.state_dir):
            _embedded(settings).leave(whereto)
        out.facts({"settings": str(settings.file)}, [("settings", settings.file)])
        out.note("The move had been whole but for the note that keeps the old database closed. Start the daemon.")
        return
    database = settings.state_dir / "database"
    _check_movable(settings, admin)
    leaving.rewritten(settings.file, leaving.logins_in(database))
    with (
        left_behind(settings.state_dir, lambda: leaving.rewrite(settings.file, leaving.logins_in(database))) as rewrite,
        _alone(settings), _started(settings) as embedded, embedded.alone(),
    ):  # fmt: skip
        own = embedded.start().superuser_dsn
        server = leaving.look_at(admin)
        if plan:
            held = database_bytes(own)
            told = {"bytes": held, "server": server, "settings": str(settings.file)}
            out.facts(told, [("would carry", size(held)), ("to PostgreSQL", server), ("and write", settings.file)])
            return
        migrate_after_backup(own, _folder(settings), dump_dsn=own, bin_dir=settings.database.bin_dir)
        leaving.write_logins(database, admin)
        compared = carrying.carry(own, admin, bin_dir=settings.database.bin_dir, say=out.note)
        kept = rewrite()
        embedded.leave(whereto)
    rows = sum(table.rows for table in compared)
    told = {"tables": len(compared), "rows": rows, "settings": str(settings.file), "settings_before": str(kept)}
    out.facts(told, [(name.replace("_", " "), value) for name, value in told.items()])
    out.note(f"Start the daemon. What stood in {settings.state_dir / 'postgres'} is yours to remove.")


@command.command("upgrade")
@click.option("--from", "old_bin", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path),
              help="The old PostgreSQL's binaries, where they are not found.")  # fmt: skip
@plan_option
@with_output
@click.pass_obj
def upgrade(where: Where, *, out: Output, old_bin: Path | None, plan: bool) -> None:
    """Carry the embedded database into a newer PostgreSQL, and compare every row. With no daemon running.

    The old cluster is kept aside until `mover db forget`. Killed in between, the same command goes on.
    """
    from mover.catalog import majors
    from mover.errors import SettingsInvalid

    settings = where.settings()
    if not settings.database.embedded:
        raise SettingsInvalid("the database is a server's", where=str(settings.file))
    with _alone(settings):
        old, new = majors.majors(settings.state_dir, settings.database.bin_dir)
        if plan:
            found = str(majors.binaries_of(old, old_bin)) if old != new else ""
            told = {"from": old, "to": new, "old_binaries": found}
            out.facts(told, [("PostgreSQL", old), ("would become", new), ("old binaries", found)])
            return
        compared, aside = majors.upgrade(
            settings.state_dir, old_bin=old_bin, bin_dir=settings.database.bin_dir, say=out.note
        )
    rows = sum(one.rows for one in compared)
    facts: dict[str, object] = {"from": old, "to": new, "tables": len(compared), "rows": rows, "put_aside": str(aside)}
    out.facts(facts, [(name.replace("_", " "), value) for name, value in facts.items()])


# --- what they share ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reached(settings: Settings, admin: str | None) -> Iterator[str]:
    """Of the embedded server the superuser, beside a daemon or without one; else `admin`, or the daemon's own."""
    chosen = settings.database
    if not chosen.embedded:
        if admin is not None:
            check_open(admin)
        assert chosen.dsn is not None
        yield admin or chosen.dsn
        return
    with _started(settings) as embedded:
        yield embedded.start().superuser_dsn


@contextlib.contextmanager
def _started(settings: Settings) -> Iterator[Embedded]:
    """A share of the embedded server: whoever ends last stops it."""
    from mover.owner import become

    become(settings.state_dir)
    embedded = _embedded(settings)
    try:
        embedded.start()
        yield embedded
    finally:
        embedded.stop()


def _embedded(settings: Settings) -> Embedded:
    from mover.catalog.postgres import Embedded

    chosen = settings.database
    return Embedded(settings.state_dir, bin_dir=chosen.bin_dir, start_timeout_s=chosen.start_timeout_s)


def _check_movable(settings: Settings, admin: str) -> None:
    import os

    from mover.errors import SettingsInvalid

    check_open(admin)
    if not settings.database.embedded:
        raise SettingsInvalid("the database is a server's already", where=str(settings.file))
    if not os.access(settings.file, os.W_OK) or not os.access(settings.file.parent, os.W_OK):
        raise SettingsInvalid("the settings cannot be written by this user", where=str(settings.file))


def check_open(admin: str) -> None:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    from mover.errors import SettingsInvalid

    try:
        words = conninfo_to_dict(admin)
    except ProgrammingError:
        # what libpq says of it repeats it
        raise SettingsInvalid("this is no DSN", hint="As in 'host=db user=postgres dbname=mover'.") from None
    if "password" in words:
        raise SettingsInvalid("a password on the command line is everybody's", hint="Use `passfile=FILE` in the DSN.")
    if "sslpassword" in words:
        raise SettingsInvalid(
            "a passphrase on the command line is everybody's",
            hint="Use `service=NAME` in the DSN, and put it into ~/.pg_service.conf.",
        )  # fmt: skip


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Of the embedded database no daemon runs, and none begins. A server's other daemons go on: they may."""
    from mover.opening import locked_state
    from mover.owner import become

    if not settings.database.embedded:
        yield
        return
    become(settings.state_dir)
    with locked_state(settings.state_dir):
        yield


def _backup(settings: Settings, dsn: str) -> Backup:
    import msgspec

    from mover.catalog.backups import Backup, make
    from mover.errors import SettingsInvalid
    from mover.owner import in_its_process

    dump = dsn if settings.database.embedded else settings.database.dump_dsn
    if dump is None:
        other = settings.file.with_name("identified.yaml")
        raise SettingsInvalid(
            "there is no `dump_dsn_file` in `database`, so nothing can be dumped", where=str(settings.file),
            hint=f"The other daemon's settings name one: mover --config {other} db …" if other.exists() else
            "Name a role that may read everything. Where somebody else keeps a way back: db migrate --without-backup.",
        )  # fmt: skip

    def dumped() -> str:
        return msgspec.json.encode(make(dump, _folder(settings), bin_dir=settings.database.bin_dir)).decode()

    return msgspec.json.decode(in_its_process(settings.state_dir, dumped), type=Backup)


def _folder(settings: Settings) -> Path:
    from mover.catalog.backups import FOLDER

    return settings.state_dir / FOLDER


def _fits(state: SchemaState, settings: Settings) -> str:
    if state.missing:
        given = "mover db migrate --admin DSN"
        command = "mover db migrate, or a start of the daemon" if settings.database.embedded else given
        return f"lacks {len(state.missing)} migrations: {command}"
    if state.later:
        return f"works with it, though {len(state.later)} migrations are of the next version"
    return "has nothing to migrate"


def _backups(settings: Settings) -> list[dict[str, object]]:
    from mover.catalog.backups import listed

    return [_told(one) for one in listed(_folder(settings))]


def _list_backups(out: Output, settings: Settings) -> None:
    from mover.catalog.backups import listed

    found = listed(_folder(settings))
    out.table(_backups(settings), "backup taken schema rows>", map(_row, found), empty="no backup was made yet")


def _told(backup: Backup) -> dict[str, object]:
    return {
        "backup": backup.name, "taken_at": backup.taken_at, "schema": backup.schema, "rows": backup.rows,
        "size_bytes": backup.size_bytes,
    }  # fmt: skip


def _row(backup: Backup) -> tuple[object, ...]:
    return backup.name, backup.taken_at, backup.schema, backup.rows
