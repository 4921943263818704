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
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mover.catalog.carrying import DUMP, ensure_logins
from mover.catalog.database import Database
from mover.catalog.postgres import DAEMON, VAULT, write_private
from mover.errors import CatalogError, SettingsInvalid
from mover.randomness import new_secret
from mover.settings import load

FILES = {DAEMON: "dsn_file", VAULT: "vault_dsn_file", DUMP: "dump_dsn_file"}
_SECTION = re.compile(r"^database:.*(?:\n[ \t]+\S.*)*(?:\n|\Z)", re.MULTILINE)


def look_at(admin: str) -> str:
    """The server's version. CatalogUnsafe where it would lose commits, CatalogError where its words are not UTF-8."""

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
    folder.mkdir(mode=0o700, exist_ok=True)
    place = {name: value for name, value in conninfo_to_dict(admin).items() if name not in ("passfile", "password")}
    files = {role: folder / f"{role}.dsn" for role in FILES}
    secrets = {}
    for role, path in files.items():
        if path.exists():
            secrets[role] = str(conninfo_to_dict(path.read_text("utf-8").strip())["password"])
        else:
            secrets[role] = new_secret()
        write_private(path, make_conninfo("", **{**place, "user": role, "password": secrets[role]}) + "\n")
    ensure_logins(admin, secrets)
    return files


def rewrite(settings: Path, files: dict[str, Path]) -> Path:
    """mover.yaml with another section `database`; where it stands as it was. Read before it counts."""
    text = settings.read_text("utf-8")
    lines = ["database:", "  embedded: false", *(f"  {FILES[role]}: {path}" for role, path in files.items())]
    section = "\n".join(lines) + "\n"
    found = _SECTION.search(text)
    before = settings.with_name(settings.name + ".before-move")
    side = settings.with_name(settings.name + ".new")
    facts = settings.stat()
    if found is None:
        text = text.rstrip("\n") + "\n" + section
    else:
        text = text[: found.start()] + section + text[found.end() :]
    for path, body in (before, settings.read_text("utf-8")), (side, text):
        write_private(path, body)
        os.chmod(path, facts.st_mode & 0o7777)
        os.chown(path, facts.st_uid, facts.st_gid)
    if load(side).database.embedded:
        raise SettingsInvalid("the settings still name the embedded database; they were not changed", where=str(side))
    os.rename(side, settings)
    return before
