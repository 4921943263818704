"""A support bundle: what somebody who helps needs to see, and nothing of a patient. Made beside a daemon that runs, or
without one.

Every section is gathered by fields that are named here, passes `decide.support` word by word, and what is left is
searched for what the vault knows, where this process may ask it. A section that cannot be had says why and keeps no
other from being made: a bundle is asked for when things are broken. It is written whole or not at all.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.metadata
import io
import os
import platform
import re
import shutil
import subprocess
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from mover import __version__, log, metrics
from mover.catalog import queries
from mover.catalog.database import Database
from mover.catalog.migrate import read_migrations
from mover.clock import SYSTEM
from mover.decide.support import Known, log_line, said, without, words_of, words_to_ask
from mover.errors import ConfigError, Conflict, MoverError, NotFound, tier_error
from mover.opening import Dsns, bare_database, open_vault
from mover.owner import as_owner
from mover.policy import load_policies
from mover.sdk import SyncClient
from mover.settings import Settings, Tier, is_loopback
from mover.tiers import mounts

PACKAGE: Final = Path(__file__).parent
# the story of the demo is full of people's names, and so are lists of words that may stand in texts
_NOT_OURS: Final = ("demo/", "decide/vocabulary.py", "decide/freetext.py", "deid/pixels/")
LINES_MAX: Final = 20_000
LINE_BYTES: Final = 64 << 10
# pack names are known by batch: of so many batches, the newest
BATCHES_ASKED: Final = 20
UNITS: Final = ("mover.service", "mover-identified.service", "mover-watcher.service")
JOURNAL_S: Final = 60.0

SECTIONS: Final[dict[str, str]] = {
    "versions": "this software, Python, the kernel, packages it stands on",
    "settings": "mover.yaml: kinds, roles, zones, numbers; no path, address, URL or secret",
    "policies": "numbers and words of the policies; your own words are left out",
    "findings": "what `mover doctor` found",
    "metrics": "what /metrics answers, where the daemon runs",
    "database": "version, size, migrations, sizes of tables, what it works on, slow statements by their names",
    "work": "batches, packs, runs and shards by state; jobs; nodes",
    "log": "the last lines of the journal: fields and words of this software only",
}
README: Final = """\
A support bundle of Mover. Each file is one section; `contents.json` says what each holds, or why it is absent.

Words that are not this software's own, nor names from this site's settings, stand as "…". `searched` in
`contents.json` says whether the rest was compared with what the vault knows (patients, cases, blocks, slides, images
and the packs of the newest batches, as they are keyed there; no sealed name was opened). Read it before you send it.
"""

_Q = queries.load(str(PACKAGE / "catalog" / "support.py"))


class Asked(Struct, frozen=True):
    """`log_files` instead of the journal. `findings` are the doctor's, as (about, verdict, what)."""

    lines: int
    log_files: tuple[Path, ...] = ()
    findings: tuple[tuple[str, str, str], ...] = ()
    url: str | None = None


class Made(Struct, frozen=True):
    """`left_out` counts words that the vault knew and that stood in what would have been written."""

    file: str
    size_bytes: int
    sections: dict[str, str]
    searched: bool
    left_out: int


def make(settings: Settings | None, target: Path, asked: Asked) -> Made:
    """Raises Conflict where the file stands already. Nothing but the one file is written."""
    if target.exists():
        raise Conflict("there is a file of that name already", where=str(target), hint="Name another one with -o.")
    gathered = Gathered(known=_known(settings))
    _gather(gathered, settings, asked)
    if settings is not None:
        gathered.take(as_owner(settings, lambda: gathered.with_database(settings)))
    contents = {
        "made_at": f"{SYSTEM.now():%Y-%m-%dT%H:%M:%SZ}", "searched": gathered.searched,
        "left_out": gathered.left_out, "sections": gathered.told,
    }  # fmt: skip
    size = _write(target, {"contents": contents, **gathered.sections})
    return Made(str(target), size, dict(gathered.told), gathered.searched, gathered.left_out)


class Gathered:
    """Sections as they come, each through the one door."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.sections: dict[str, Any] = {}
        self.told: dict[str, str] = dict.fromkeys(SECTIONS, "absent")
        self.searched = False
        self.left_out = 0

    def add(self, name: str, gather: Callable[[], Any]) -> None:
        """A failure is told by its code; a bundle is asked for when things fail."""
        try:
            self.sections[name] = said(msgspec.to_builtins(gather(), str_keys=True), self.known)
        except MoverError as error:
            self.told[name] = f"absent: {error.code}"
        except OSError as error:
            self.told[name] = f"absent: {type(error).__name__}"
        else:
            self.told[name] = SECTIONS[name]

    def with_database(self, settings: Settings) -> str:
        asyncio.run(_ask_database(self, settings))
        return msgspec.json.encode((self.sections, self.told, self.searched, self.left_out)).decode()

    def take(self, gathered: str) -> None:
        """From another process, where the database is another user's."""
        shape = tuple[dict[str, Any], dict[str, str], bool, int]
        self.sections, self.told, self.searched, self.left_out = msgspec.json.decode(gathered, type=shape)

    def leave_out(self, words: frozenset[str]) -> None:
        self.sections = {name: without(value, words) for name, value in self.sections.items()}
        self.searched, self.left_out = True, len(words)


def _gather(into: Gathered, settings: Settings | None, asked: Asked) -> None:
    into.add("versions", _versions)
    into.add("findings", lambda: [dict(zip(("about", "verdict", "what"), one, strict=True)) for one in asked.findings])
    if settings is not None:
        into.add("settings", lambda: settings_told(settings))
        into.add("policies", lambda: _policies(settings))
    if asked.url is not None:
        into.add("metrics", partial(_metrics, asked.url))
    into.add("log", lambda: _log(asked, into.known))


# --- what is known as ours ----------------------------------------------------------------------------------


def _known(settings: Settings | None) -> Known:
    names = {__version__, platform.python_version(), platform.release(), *(v for _, v in _packages())}
    names |= {name for name, _ in _packages()} | {one.file for one in read_migrations()} | _metric_names()
    if settings is not None:
        names |= {settings.site, settings.project, settings.node, f"{settings.node}-{settings.role}"}
        names |= {*settings.tiers, *settings.receivers}
        with contextlib.suppress(ConfigError):
            names |= {one.name for one in load_policies(settings.policies).all()}
    return Known(words=words_of(own_literals()), names=frozenset(names))


def _metric_names() -> set[str]:
    ends = {"counter": ("",), "gauge": ("",), "histogram": ("_count", "_sum")}
    return {one.name + end for one in metrics.described() for end in ends[one.kind]}


def own_literals() -> Iterator[str]:
    """Every text and every field name that stands in this software's source, but for docstrings and stories."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if not str(path.relative_to(PACKAGE)).startswith(_NOT_OURS):
            yield from _literals(ast.parse(path.read_bytes()))
    for path in sorted(PACKAGE.rglob("*.sql")):
        yield " ".join(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", path.read_text("utf-8")))


def _literals(tree: ast.Module) -> Iterator[str]:
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg
        elif isinstance(node, ast.ClassDef):
            yield node.name


# --- sections without the database --------------------------------------------------------------------------


def _versions() -> dict[str, Any]:
    return {
        "mover": __version__, "python": platform.python_version(), "linux": platform.release(),
        "machine": platform.machine(), "cores": os.cpu_count(), "packages": dict(_packages()),
    }  # fmt: skip


def _packages() -> list[tuple[str, str]]:
    """Those this software asks for, as they are installed."""
    found = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("mover") or ():
            [bare] = re.findall(r"^[A-Za-z0-9._-]+", line)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found.append((bare, importlib.metadata.version(bare)))
    return found


def settings_told(settings: Settings) -> dict[str, Any]:
    """By name, field for field: what is not named here stays in the house."""
    chosen, listen, people = settings.database, settings.listen, settings.access
    return {
        "site": settings.site, "project": settings.project, "node": settings.node, "role": settings.role,
        "log_level": settings.log_level, "workers": msgspec.structs.asdict(settings.workers),
        "database": {
            "embedded": chosen.embedded, "own_binaries": chosen.bin_dir is not None, "pool_size": chosen.pool_size,
            "start_timeout_s": chosen.start_timeout_s, "dump_role": chosen.dump_dsn is not None,
        },
        "listen": {
            "unix": listen.unix is not None, "tls": listen.tls is not None,
            "tcp": None if listen.host is None else "loopback" if is_loopback(listen.host) else "others",
        },
        "access": {
            "public_url": people.public_url is not None, "oidc": people.oidc is not None,
            "proxies": len(people.proxies), "idle_s": people.idle_s, "session_s": people.session_s,
        },
        "receivers": {name: type(one).__name__ for name, one in settings.receivers.items()},
        "lineage": settings.lineage is not None, "drill_keys": settings.drill_keys is not None,
        "keys": {name: os.path.exists(path) for name, path in _keys(settings)},
        "tiers": {tier.name: _tier_told(tier) for tier in settings.tiers.values()},
    }  # fmt: skip


def _keys(settings: Settings) -> list[tuple[str, Path]]:
    return [
        ("vault_key", settings.vault_key), ("vault_public", settings.vault_public),
        ("certificate_key", settings.certificate_key), ("audit_key", settings.audit_key),
        ("repository_password_file", settings.repository_password_file),
    ]  # fmt: skip


def _tier_told(tier: Tier) -> dict[str, Any]:
    mount = None if tier.path is None else mounts.mount_of(tier.path.absolute())
    credentials = "sts" if tier.sts else "systemd" if tier.credential else "file" if tier.credentials_file else None
    return {
        "kind": tier.kind, "zone": tier.zone, "role": tier.role, "read_only": tier.read_only,
        "capacity_bytes": tier.capacity_bytes, "addressing": tier.addressing, "region": tier.region,
        "ca_file": tier.ca_file is not None, "proxy": tier.proxy is not None, "seen_as": tier.seen_as is not None,
        "credentials": credentials, "attribute_cache_s": tier.attribute_cache_s, "unanswered_s": tier.unanswered_s,
        "calls_max": tier.calls_max, "file_system": mount and mount.filesystem, "network": mount and mount.network,
    }  # fmt: skip


def _policies(settings: Settings) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "kind": one.kind, "digest": one.digest, "says": msgspec.to_builtins(one.policy)}
        for one in load_policies(settings.policies).all()
    ]


def _metrics(url: str) -> list[dict[str, Any]]:
    """Of histograms their counts and sums."""
    with SyncClient(url) as mover:
        families = text_string_to_metric_families(mover.metrics())
        samples = [sample for family in families for sample in family.samples if not sample.name.endswith("_bucket")]
    return [{"name": one.name, "labels": one.labels, "value": one.value} for one in samples]


# --- the log ------------------------------------------------------------------------------------------------


def _log(asked: Asked, known: Known) -> dict[str, Any]:
    """Lines that are not our own JSON are counted: what libraries print quotes what they hold."""
    lines = _last(_files(asked.log_files), asked.lines) if asked.log_files else _journal(asked.lines)
    shown, other = [], 0
    for line in lines:
        try:
            fields = msgspec.json.decode(line[line.index(b"{") :], type=dict[str, Any])
        except (ValueError, msgspec.DecodeError):
            other += 1
            continue
        shown.append(log_line(fields, known, allowed=log.FIELDS | {"event", "level", "timestamp", "room", "at"}))
    return {"lines": shown, "other": other}


def _files(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with open(path, "rb") as file:
            while line := file.readline(LINE_BYTES):
                yield line


def _last(lines: Iterable[bytes], count: int) -> list[bytes]:
    return list(deque(lines, maxlen=count))


def _journal(count: int) -> list[bytes]:
    program = shutil.which("journalctl")
    if program is None:
        raise NotFound("this machine has no journal", hint="Name the daemon's log with --log FILE.")
    units = [word for unit in UNITS for word in ("--unit", unit)]
    command = [program, "--quiet", "--no-pager", "--output=cat", f"--lines={count}", *units]
    done = subprocess.run(command, capture_output=True, check=False, timeout=JOURNAL_S)  # noqa: S603
    return done.stdout.splitlines()


# --- the database and the vault -----------------------------------------------------------------------------


async def _ask_database(into: Gathered, settings: Settings) -> None:
    """Joins the running server, or starts the embedded one for the questions; one that was never made is not made."""
    if settings.database.embedded and not (settings.state_dir / "postgres" / "data").is_dir():
        return
    try:
        async with bare_database(settings) as dsns:
            await _ask(into, settings, dsns)
    except MoverError as error:
        for name in ("database", "work"):
            if name not in into.sections:
                into.told[name] = f"absent: {error.code}"


async def _ask(into: Gathered, settings: Settings, dsns: Dsns) -> None:
    database = await Database.open(dsns.daemon, name="mover-support", max_size=2, timeout_s=10)
    try:
        facts = await _database_facts(database)
        into.add("database", lambda: facts)
        work = await _work(database, settings.project)
        into.add("work", lambda: work)
        await _search(into, settings, dsns, database)
    finally:
        await database.close()


async def _rows(database: Database, name: str) -> list[dict[str, Any]]:
    async with database.instance() as conn:
        return [row._asdict() for row in await _Q.many(conn, name)]


async def _database_facts(database: Database) -> dict[str, Any]:
    facts = {name: await _rows(database, name) for name in ("server", "migrations", "tables", "at_work")}
    [counted] = await _rows(database, "counted")
    facts["slow"] = await _rows(database, "slow") if counted["counted"] else []
    return facts


async def _work(database: Database, project: str) -> dict[str, Any]:
    async with database.project(project) as conn:
        told = {name: [row._asdict() for row in await _Q.many(conn, name)] for name in ("work", "states", "jobs")}
    return {**told, "nodes": await _rows(database, "nodes")}


async def _search(into: Gathered, settings: Settings, dsns: Dsns, database: Database) -> None:
    """Where this process may ask the vault: the clean one, and who cannot read its key, may not."""
    if settings.role == "clean" or not os.access(settings.vault_key, os.R_OK):
        return
    async with database.project(settings.project) as conn:
        batches = [row.id for row in await _Q.many(conn, "recent_batches", limit=BATCHES_ASKED)]
    words = {word for section in into.sections.values() for word in words_to_ask(section)}
    async with contextlib.AsyncExitStack() as stack:
        keeping = await open_vault(settings, dsns, database, stack)
        known = await keeping.vault.known_words(settings.project, words, batches=batches)
    into.leave_out(frozenset(known))


# --- the file -----------------------------------------------------------------------------------------------


def _write(target: Path, sections: Mapping[str, Any]) -> int:
    """Under a temporary name, for its owner alone, then by its name: a kill between leaves the temporary one."""
    partial_ = target.with_name(f".{target.name}.partial")
    try:
        with open(os.open(partial_, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as tar:
                _member(tar, "README.txt", README.encode())
                for name, value in sections.items():
                    _member(tar, f"{name}.json", msgspec.json.format(msgspec.json.encode(value), indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.link(partial_, target)
    except FileExistsError as error:
        raise Conflict("there is a file of that name already", where=str(target)) from error
    except OSError as error:
        raise tier_error(error, of="the bundle") from error
    finally:
        partial_.unlink(missing_ok=True)
    return target.stat().st_size


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(f"mover-support/{name}")
    info.size, info.mode, info.mtime = len(data), 0o600, int(SYSTEM.now().timestamp())
    tar.addfile(info, io.BytesIO(data))
