"""What the daemon and a person at the console open in the same way: state, database, vault, a bare tier."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import msgspec
from psycopg.conninfo import make_conninfo

from mover.catalog.backups import FOLDER, migrate_after_backup
from mover.catalog.database import Database
from mover.catalog.dsn import Followed, Source
from mover.catalog.postgres import Embedded
from mover.deid.custody import Custody
from mover.deid.vault import ClosedVault, Vault, VaultKey
from mover.deid.vaultkeys import PublicPart
from mover.errors import CatalogError, Conflict
from mover.settings import Database as DatabaseSettings
from mover.settings import Settings, Tier
from mover.tiers.object import ObjectTier
from mover.tiers.posix import PosixTier


@contextlib.contextmanager
def locked_state(state_dir: Path) -> Iterator[IO[bytes]]:
    """One daemon per state directory: what an earlier process held may be taken back because it is dead."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(_lock_file(state_dir), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                "another daemon runs on this state directory", where=str(state_dir), hint="Stop it first."
            ) from error
        yield file


def _lock_file(state_dir: Path) -> int:
    """Root may have typed it in a folder of somebody who laid a link there: nothing is followed, nothing is emptied.
    What root makes is the owner's, whose daemon must open it."""
    path = state_dir / "daemon.lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CatalogError(
            "the lock of the state directory cannot be opened", where=str(path),
            hint="It is an ordinary file of the directory's owner. Where it is something else: ask who made it.",
        ) from error  # fmt: skip
    owner, made = state_dir.stat(), os.fstat(handle)
    if os.geteuid() == 0 == made.st_uid != owner.st_uid and made.st_nlink == 1:
        os.fchown(handle, owner.st_uid, owner.st_gid)
    return handle


def make_tier(tier: Tier, identity: str | None) -> PosixTier | ObjectTier:
    if tier.kind == "posix":
        assert tier.path is not None
        return PosixTier(
            tier.name, tier.zone, tier.path, role=tier.role, read_only=tier.read_only, identity=identity,
            deletes=tier.deletes,
        )  # fmt: skip
    return ObjectTier.of(tier, identity=identity)


# --- the database ----------------------------------------------------------------------------------------------


class Dsns(msgspec.Struct, frozen=True):
    daemon: Source
    vault: Source
    queue: Source
    # of a role that may read everything, for dumps; None where the settings name none
    dump: Source | None = None


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Dsns]:
    """Embedded: start it, migrate after a backup, and stop it at the end. Given: the administrator migrates
    (`mover db`), and the daemon looks whether it can work with what stands there."""
    chosen = settings.database
    if not chosen.embedded:
        yield _given(chosen)
        return
    embedded = Embedded(settings.state_dir, bin_dir=chosen.bin_dir, start_timeout_s=chosen.start_timeout_s)
    server = await asyncio.to_thread(embedded.start)
    try:
        dump = server.superuser_dsn
        await asyncio.to_thread(
            migrate_after_backup, dump, settings.state_dir / FOLDER, dump_dsn=dump, bin_dir=chosen.bin_dir
        )
        yield Dsns(server.daemon_dsn, server.vault_dsn, _on_queue(server.daemon_dsn), server.superuser_dsn)
    finally:
        await asyncio.to_thread(embedded.stop)


# Procrastinate's tables live in their own schema; it names them without one
_ON_QUEUE = {"options": "-c search_path=queue"}


def _on_queue(dsn: str) -> str:
    return make_conninfo(dsn, **_ON_QUEUE)


def _given(chosen: DatabaseSettings) -> Dsns:
    """Each read again at each new connection: passwords change while we work."""
    assert chosen.dsn_file is not None and chosen.vault_dsn_file is not None
    assert chosen.dsn is not None and chosen.vault_dsn is not None
    return Dsns(
        Followed(chosen.dsn_file, chosen.dsn), Followed(chosen.vault_dsn_file, chosen.vault_dsn),
        Followed(chosen.dsn_file, chosen.dsn, **_ON_QUEUE),
        Followed(chosen.dump_dsn_file, chosen.dump_dsn) if chosen.dump_dsn_file and chosen.dump_dsn else None,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def bare_database(settings: Settings) -> AsyncIterator[Dsns]:
    """As `open_database`, and not migrated: a dump is restored into nothing."""
    chosen = settings.database
    if not chosen.embedded:
        async with open_database(settings) as dsns:
            yield dsns
        return
    embedded = Embedded(settings.state_dir, bin_dir=chosen.bin_dir, start_timeout_s=chosen.start_timeout_s)
    server = await asyncio.to_thread(embedded.start)
    try:
        yield Dsns(server.daemon_dsn, server.vault_dsn, _on_queue(server.daemon_dsn), server.superuser_dsn)
    finally:
        await asyncio.to_thread(embedded.stop)


@contextlib.contextmanager
def open_catalog(settings: Settings) -> Iterator[Source]:
    """The daemon's own DSN; of the embedded database a share, so that whoever ends last stops it."""
    chosen = settings.database
    if not chosen.embedded:
        yield _given(chosen).daemon
        return
    embedded = Embedded(settings.state_dir, bin_dir=chosen.bin_dir, start_timeout_s=chosen.start_timeout_s)
    try:
        yield embedded.start().daemon_dsn
    finally:
        embedded.stop()


# --- the vault -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keeping:
    """The vault for the work, and what custodians ask of it; a clean process has neither."""

    vault: Vault
    custody: Custody | ClosedVault


async def open_vault(settings: Settings, dsns: Dsns, database: Database, stack: contextlib.AsyncExitStack) -> Keeping:
    """Only the process of the identified zone holds the vault's key and its connection (D20). What was erased is
    erased again before anybody asks: the database may come from a backup."""
    if settings.role == "clean":
        return Keeping(ClosedVault(), ClosedVault())
    key = VaultKey.newest(settings.vault_key)
    own = await Database.open(dsns.vault, name="mover-vault", max_size=4)
    stack.push_async_callback(own.close)
    public, site, node = PublicPart(settings.vault_public), settings.site, settings.node
    renew = partial(VaultKey.another, settings.vault_key)
    vault = Vault(own, key, site=site, node=node, public=public, renew=renew)
    custody = Custody(vault, own, database, site=site, node=node, stones=settings.vault_tombstones, public=public)
    return Keeping(vault, custody)
