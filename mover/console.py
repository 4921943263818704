"""What a person does at the console, beside a daemon that runs or without one: all rows of the vault, and its dumps.

Both need keys that no daemon is given.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mover import audit
from mover.catalog.database import Database
from mover.catalog.dsn import Source
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import migrate
from mover.clock import monotonic_s
from mover.deid.custody import Custody
from mover.deid.upkeep import Upkeep
from mover.deid.vault import VaultKey
from mover.deid.vaultkeys import RevealKey
from mover.errors import SettingsInvalid
from mover.model.policy import DumpPolicy
from mover.opening import Dsns, bare_database, locked_state, make_tier, open_database, open_vault
from mover.policy import PolicyBook, load_policies
from mover.protect import dumpdrills
from mover.protect.dumpdrills import Compared
from mover.protect.dumpfiles import Told
from mover.settings import Settings
from mover.tiers.port import ReadTier


@contextlib.asynccontextmanager
async def open_upkeep(settings: Settings, *, actor: str) -> AsyncIterator[Upkeep]:
    """Work on all rows of the vault, beside a daemon that runs or without one."""
    async with contextlib.AsyncExitStack() as stack:
        dsns = await stack.enter_async_context(open_database(settings))
        own = await Database.open(dsns.vault, name="mover-vault-upkeep", max_size=2)
        stack.push_async_callback(own.close)
        yield Upkeep(own, project=settings.project, node=f"{settings.node}-vault", actor=actor)


# --- its dumps, for a person with both key files ----------------------------------------------------------------


@dataclass(frozen=True)
class DumpDone:
    """What a person's drill or restore showed. `recorded`: the catalog knows the dump, and the record stands there."""

    dump: str
    taken_at: str
    compared: Compared
    recorded: bool = False
    erased: int = 0


async def drill_dump(
    settings: Settings, *, tier: str | None, dump: str | None, key: RevealKey, actor: str, purpose: str
) -> DumpDone:
    """Restore into a scratch database beside a daemon that runs or without one, compare, drop."""
    policies = await asyncio.to_thread(load_policies, settings.policies)
    async with open_database(settings) as dsns:
        began_s = monotonic_s()
        dumper = Dumper(_dump_dsn(dsns, settings), bin_dir=settings.database.bin_dir)
        told, compared = await asyncio.to_thread(
            _taken, settings, policies, tier, dump, lambda *where: dumpdrills.drill(dumper, *where, key=key)
        )
        database = await Database.open(dsns.daemon, name="mover-drill", max_size=2)
        try:
            node = f"{settings.node}-vault"
            recorded = await dumpdrills.record_drill(
                database, settings.project, node=node, dump=told.dump, actor=actor, purpose=purpose,
                compared=compared, seconds=monotonic_s() - began_s,
            )  # fmt: skip
        finally:
            await database.close()
    return DumpDone(told.dump, told.taken_at, compared, recorded)


async def restore_dump(
    settings: Settings, *, tier: str | None, dump: str | None, key: RevealKey, actor: str, purpose: str
) -> DumpDone:
    """Into an empty database, with no daemon on this state directory. Order: restored whole and compared; migrated to
    this software's schema; what was erased since is erased again; the record. A kill after the first leaves a database
    that is not empty: its next start migrates and erases, and only the record is missing."""
    policies = await asyncio.to_thread(load_policies, settings.policies)
    with locked_state(settings.state_dir):
        async with bare_database(settings) as dsns:
            dumper = Dumper(_dump_dsn(dsns, settings), bin_dir=settings.database.bin_dir)
            told, compared = await asyncio.to_thread(
                _taken, settings, policies, tier, dump, lambda *where: dumpdrills.restore(dumper, *where, key=key)
            )
            await asyncio.to_thread(migrate, dumper.dsn)
            erased = await _restored(settings, dsns, told.dump, actor=actor, purpose=purpose)
    return DumpDone(told.dump, told.taken_at, compared, True, erased)


async def _restored(settings: Settings, dsns: Dsns, dump: str, *, actor: str, purpose: str) -> int:
    async with contextlib.AsyncExitStack() as stack:
        database = await Database.open(dsns.daemon, name="mover-restore", max_size=2)
        stack.push_async_callback(database.close)
        keeping = await open_vault(settings, dsns, database, stack)
        assert isinstance(keeping.custody, Custody)  # a clean process was refused by the command
        erased = await keeping.custody.honour(settings.project)
        async with database.project(settings.project) as conn:
            await audit.record(
                conn, project=settings.project, node=f"{settings.node}-vault", actor=actor, action="vault restored",
                subject=dump, reason=purpose, details={"erased_again": erased},
            )  # fmt: skip
    return erased


def _taken(
    settings: Settings, policies: PolicyBook, tier: str | None, dump: str | None,
    work: Callable[[ReadTier, Told, str], Compared],
) -> tuple[Told, Compared]:  # fmt: skip
    """Blocking. Finds the dump by its sidecar, which this vault's key must have signed."""
    policy = policies.default(DumpPolicy)
    name = tier or policy.targets[0]
    if name not in settings.tiers:
        raise SettingsInvalid(f"there is no tier {name}", where=str(settings.file))
    opened = make_tier(settings.tiers[name], None)
    opened.check_identity()
    vault_key = VaultKey.newest(settings.vault_key)
    told = dumpdrills.trusted(opened, policy.prefix, dump, key=vault_key, site=settings.site)
    return told, work(opened, told, policy.prefix)


def _dump_dsn(dsns: Dsns, settings: Settings) -> Source:
    if dsns.dump is None:
        raise SettingsInvalid("there is no `dump_dsn_file` in `database`", where=str(settings.file))
    return dsns.dump
