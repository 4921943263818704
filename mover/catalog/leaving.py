"""From the embedded database to a server: its logins, and the settings that name it.

Order (`mover db move`), and what a kill between leaves:
  1. files with the DSNs of daemon, vault and dumps, then the roles with these passwords -> likewise, once more
  2. every row carried and compared (`carrying`)           -> nothing, or a whole database that nobody uses yet
  3. mover.yaml in one rename, the one before beside it    -> the daemon starts with the server
  4. a note that keeps the embedded database closed        -> nothing but that
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import psycopg
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mover.catalog.carrying import DUMP, check_superuser, ensure_logins, refuse_others
from mover.catalog.database import Database
from mover.catalog.postgres import DAEMON, LEFT, VAULT, write_private
from mover.errors import CatalogError, SettingsInvalid
from mover.randomness import new_secret
from mover.settings import Settings, load
from mover.wholefile import sync_folder

FILES = {DAEMON: "dsn_file", VAULT: "vault_dsn_file", DUMP: "dump_dsn_file"}
BEFORE = ".before-move"
_SECTION = re.compile(r"^database:.*(?:\n[ \t]+\S.*)*(?:\n|\Z)", re.MULTILINE)


def look_at(admin: str) -> str:
    """The server's version. SettingsInvalid where the passfile is another user's, CatalogUnsafe where the server would
    lose commits, CatalogError where its words are not UTF-8."""
    passfile = conninfo_to_dict(admin).get("passfile")
    if passfile and not os.access(str(passfile), os.R_OK, effective_ids=True):
        raise SettingsInvalid(
            "the passfile cannot be read by the user whose database is moved", where=str(passfile),
            hint=f"chown {os.geteuid()} {passfile}; and remove it after the move: it opens the whole server",
        )  # fmt: skip

    async def safe() -> None:
        await (await Database.open(admin, name="mover-move", max_size=2)).close()

    asyncio.run(safe())
    with psycopg.connect(admin) as conn:
        if conn.info.parameter_status("server_encoding") != "UTF8":
            raise CatalogError(
                "the database does not keep UTF-8", hint="Make one: create database mover encoding 'UTF8'"
            )
        return str(conn.info.parameter_status("server_version"))


def write_logins(folder: Path, admin: str) -> dict[str, Path]:
    """A file for each role, made once and kept; then the roles themselves."""
    files = logins_in(folder)
    with psycopg.connect(admin) as conn:
        check_superuser(conn)
        refuse_others(conn, [role for role in files if not files[role].exists()], where=folder)
    folder.mkdir(mode=0o700, exist_ok=True)
    place = {name: value for name, value in conninfo_to_dict(admin).items() if name not in ("passfile", "password")}
    secrets = {}
    for role, path in files.items():
        if path.exists():
            secrets[role] = str(conninfo_to_dict(path.read_text("utf-8").strip())["password"])
        else:
            secrets[role] = new_secret()
        write_private(path, make_conninfo("", **{**place, "user": role, "password": secrets[role]}) + "\n")
    ensure_logins(admin, secrets)
    return files


def logins_in(folder: Path) -> dict[str, Path]:
    return {role: folder / f"{role}.dsn" for role in FILES}


def rewritten(settings: Path, files: dict[str, Path]) -> str:
    """The text with another section `database`: what else it says of the database stays, and all beside it as it is.
    SettingsInvalid where the section cannot be told from what stands around it."""
    text = settings.read_text("utf-8")
    before = yaml.safe_load(text)
    chosen = {**(before.get("database") or {}), "embedded": False}
    chosen.update({FILES[role]: str(path) for role, path in files.items()})
    section = yaml.safe_dump({"database": chosen}, sort_keys=False, allow_unicode=True)
    found = _SECTION.search(text)
    if found is None:
        text = text.rstrip("\n") + "\n" + section
    else:
        text = text[: found.start()] + section + text[found.end() :]
    try:
        same = yaml.safe_load(text) == {**before, "database": chosen}
    except yaml.YAMLError:
        same = False
    if not same or (found is None and "database" in before):
        raise SettingsInvalid(
            "the section `database` cannot be replaced; nothing was changed", where=str(settings),
            hint="Write it as a block: `database:` on a line of its own, and its words indented below.",
        )  # fmt: skip
    return text


def rewrite(settings: Path, files: dict[str, Path]) -> Path:
    """mover.yaml in one rename, read before it counts; the one before beside it."""
    text = rewritten(settings, files)
    before = settings.with_name(settings.name + BEFORE)
    side = settings.with_name(settings.name + ".new")
    facts = settings.stat()
    for path, body in (before, settings.read_text("utf-8")), (side, text):
        write_private(path, body)
        os.chmod(path, facts.st_mode & 0o7777)
        os.chown(path, facts.st_uid, facts.st_gid)
    if load(side).database.embedded:
        raise SettingsInvalid("the settings still name the embedded database; they were not changed", where=str(side))
    os.rename(side, settings)
    # before the note: closed without settings that say where to, the database would be nowhere
    sync_folder(settings.parent)
    return before


def lacks_its_note(settings: Settings) -> bool:
    """Whether a move ended between its last two steps."""
    home = settings.state_dir / "postgres"
    moved = settings.file.with_name(settings.file.name + BEFORE).exists() and not settings.database.embedded
    return moved and (home / "data").exists() and not (home / LEFT).exists()
