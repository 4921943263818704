"""The only place where concrete things are put together.

Start: lock the state directory, start or reach the database, migrate, open the tiers, build the rooms, listen,
say ready. Stop: the same backwards. A loop that dies stops the service, because half a daemon is worse than
none; what was in flight comes again by its lapsed lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiofiles
import aiofiles.os
import msgspec
import uvloop

from mover import __version__, audit, log, metrics
from mover.access import Access, Lives
from mover.access.oidc import Provider
from mover.access.tokens import read_secret
from mover.api.admission import Face
from mover.api.app import OPERATIONS, make_app
from mover.api.audit import Trail
from mover.api.openapi import document
from mover.api.rooms import Rooms
from mover.api.serve import Server, serve
from mover.api.signin import CALLBACK
from mover.audit import Checkpoints
from mover.catalog import instance
from mover.catalog.database import Database
from mover.catalog.dsn import Followed, ask
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import check_schema
from mover.clock import SYSTEM, end_if_cancelled, monotonic_s, pause
from mover.cohorts import Cohorts
from mover.decide.access import judge, may
from mover.decide.fitness import lost
from mover.decide.needs import needs
from mover.deid.custody import Custody
from mover.deid.deidentify import slide_sandbox
from mover.deid.entrynames import EntryNames
from mover.deid.vault import ClosedVault, Vault
from mover.deid.vaultkeys import PublicPart
from mover.errors import (
    CatalogRefused,
    CatalogUnavailable,
    EntryMissing,
    MoverError,
    SandboxFailed,
    SettingsInvalid,
    TierHung,
)
from mover.ingest.adoptions import Adoptions
from mover.ingest.batches import Batches
from mover.ingest.certificates import Certificates
from mover.ingest.packs import Packs, markers
from mover.ingest.quarantine import Quarantine
from mover.ingest.records import Records
from mover.ingest.rulings import Rulings
from mover.jobs import Worker
from mover.jobs.ended import forget_ended, measure
from mover.jobs.shards import tier_queue
from mover.model import shapes, wire
from mover.model.access import Identity
from mover.model.policy import (
    AlarmPolicy,
    AuditPolicy,
    BudgetPolicy,
    ImagesPolicy,
    MovePolicy,
    Policy,
    ProtectPolicy,
    RecordsPolicy,
)
from mover.model.tiers import Traits
from mover.moving.places import Place
from mover.moving.room import Moving
from mover.moving.transfers import from_policy
from mover.opening import Dsns, Keeping, locked_state, make_tier, open_catalog, open_database, open_vault
from mover.oversight import ALARMS_S, Alarms, Answers, Changes, Oversight, Tags, last, moving
from mover.oversight import TURN_S as OVERSIGHT_S
from mover.oversight.needs import facts_of
from mover.oversight.reload import Reloading, Step
from mover.policies import Choices, Following, Policies
from mover.policies import Means as FollowingMeans
from mover.policy import PolicyBook, load_policies
from mover.protect.dumps import QUEUE as VAULT_QUEUE
from mover.protect.dumps import Means, dump_policies
from mover.protect.keeping import Seal, check_means, rules, wants_seal
from mover.protect.retention import policies_in_force
from mover.protect.room import Protecting
from mover.protect.site import ProtectSite, Repositories, RunPlace
from mover.randomness import random_bytes
from mover.runs.clean import Clean
from mover.runs.hooks import AFTER, Hooks
from mover.runs.lineage import Lineage, Target
from mover.runs.roots import FlashRoots
from mover.runs.runs import Flash, Runs
from mover.runs.stage import Stage
from mover.sandbox import Sandbox
from mover.settings import People, Settings, Tier, load, read_environment
from mover.signing import new_key
from mover.systemd import UNHEARD, Notifier
from mover.tiers import beneath, mounts
from mover.tiers import identity as identities
from mover.tiers.fitness import check_traits
from mover.tiers.guard import Guard, guard_of, guarded
from mover.tiers.object import ObjectTier
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import GuardedTier, RetryTier
from mover.tiers.zones import check_site, refuse_changed
from mover.transfer import Transfer
from mover.transfer.budgets import Budgets
from mover.transfer.carrier import Carrier
from mover.transfer.paced import PacedTier
from mover.transfer.shares import Shares
from mover.viewing.room import Viewing, viewing_sandbox
from mover.walk.scans import Scans
from mover.walk.watcher import Watcher
from mover.web import mount as mount_pages

HOUSEKEEPING_S = 5.0
MARKERS_S = 30.0
TRANSFERS_S = 5.0
# processes that carry groups of small files, for all transfers of this daemon
CARRYING = 2
SWEEP_S = 3600.0
# how soon a policy that somebody wrote is followed, and a tier that root wrote beside the settings
POLICIES_S = 5.0
# how soon a lock probe, a renewal, a dump or a drill begins when its time has come
KEEPING_S = 20.0
# how soon a checkpoint of the audit is made, or copied again, when it is due
CHECKPOINTS_S = 5.0
RETIRE_S = 300.0
# how long what was written of slides is read row by row
COLUMNS_S = 15.0
# a lock probe is due each hour: after two nobody may believe an old answer
PROBE_STALE_S = 7200.0
# a live attempt keeps writing, and one that paused for longer only begins anew
TEMPORARY_AGE_S = 6 * 3600.0
# after what else begins with the daemon; and again while it cannot be
PARSERS_S = 30.0
# on a flash tier everything else belongs to runs: a job may call its own files what it likes
CONTENT_FOLDER = ".mover/content"

# told of a tier that a running daemon does not change
LATER = "its settings are others now, or gone; they are followed from the next start on"

UNPARSED = "no file can be looked into"

# in the state directory: files of a repository here are made immutable, so the next start needs the means again
SEALING = "sealing"

logger = log.get_logger("daemon")

AnyTier = PosixTier | ObjectTier | RetryTier


def main(config: Path, *, ready: Callable[[list[str]], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT. `ready` is told the URLs once requests are answered."""
    reload_asked = threading.Event()
    # a start may take hours, of a dump or for a server that is away: told in between, it reloads once it is ready
    signal.signal(signal.SIGHUP, lambda *_: reload_asked.set())
    settings = load(config)
    log.configure(level=settings.log_level, journal=read_environment().journal)
    shapes.learn()
    # before this process has threads: what makes files immutable is given away and given up (`tiers.immutable`)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked_state(settings.state_dir))
        seal = stack.enter_context(_sealing(settings))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(run(settings, ready=ready, seal=seal, reload_asked=reload_asked))


@contextlib.contextmanager
def _sealing(settings: Settings) -> Iterator[Seal | None]:
    """Asked for by a policy's file, or by the terms that held at the last start, whatever less a file says now."""
    wanted = (settings.state_dir / SEALING).exists() or wants_seal(load_policies(settings.policies))
    if settings.role == "identified" or not wanted:
        yield None
        return
    from mover.tiers.immutable import Sealer, give_up

    with contextlib.closing(Sealer.start()) as sealer:
        give_up()
        yield sealer


def _remember_sealing(state_dir: Path, wanted: bool) -> None:
    if wanted:
        (state_dir / SEALING).touch()
    else:
        (state_dir / SEALING).unlink(missing_ok=True)


def watch(config: Path, *, ready: Callable[[list[str]], None] | None = None) -> None:
    """The watcher of deidentified posix tiers, a process beside the daemon, until SIGTERM or SIGINT. `ready` is told
    the tiers once every change on them is heard."""
    settings, environment = load(config), read_environment()
    log.configure(level=settings.log_level, journal=environment.journal)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    roots = {t.name: t.path for t in settings.tiers.values() if t.zone == "deidentified" and t.path is not None}
    notifier = Notifier(environment.notify_socket)
    with open_catalog(settings) as source, contextlib.closing(Watcher(source, roots)) as watcher:
        watcher.turn()
        notifier.ready(f"watching {' '.join(watcher.tiers)}")
        if ready is not None:
            ready(watcher.tiers)
        watcher.run(stopped=ended.is_set, alive=notifier.watchdog)
        notifier.stopping()


async def run(
    settings: Settings, *, ready: Callable[[list[str]], None] | None = None, seal: Seal | None = None,
    reload_asked: threading.Event | None = None,
) -> None:  # fmt: skip
    environment = read_environment()
    notifier = Notifier(environment.notify_socket)
    async with contextlib.AsyncExitStack() as stack:
        house = await stack.enter_async_context(open_house(settings, seal=seal, notifier=notifier))
        reloading, steps = _reloading(house, journal=environment.journal)
        server = await _listen(house, reloading)
        steps.append(server.take_certificate)
        stack.push_async_callback(server.stop)
        serving = f"serving {' '.join(server.urls)}"
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_until_stopped(), name="signals")
            loops = [
                group.create_task(house.worker.run(), name="worker"),
                group.create_task(house.runs.watch.listen(), name="watch"),
                group.create_task(house.changes.run(), name="changes"),
                group.create_task(_housekeeping(house, notifier, serving), name="housekeeping"),
                group.create_task(_watch_markers(house), name="markers"),
                group.create_task(_sweep_temporaries(house), name="sweep"),
                group.create_task(_follow_policies(house), name="policies"),
                group.create_task(_sample(house), name="samples"),
                group.create_task(house.shares.run(), name="shares"),
                group.create_task(_follow_transfers(house), name="transfers"),
                group.create_task(_follow_keeping(house), name="keeping"),
                group.create_task(_make_columns(house), name="columns"),
                group.create_task(_tell_lineage(house), name="lineage"),
                group.create_task(_keep_checkpoints(house), name="checkpoints"),
                group.create_task(_retire_records(house), name="retirements"),
                group.create_task(_tell_alarms(house), name="alarms"),
                group.create_task(server.follow_certificate(), name="certificate"),
                group.create_task(_forget_ended(house), name="ended work"),
                group.create_task(_try_parsers(house), name="parsers"),
                group.create_task(_reload_when_told(house, reloading, reload_asked), name="reload"),
                group.create_task(_watchdog(notifier, environment.watchdog_s), name="watchdog"),
            ]
            notifier.ready(serving)
            logger.info("daemon ready", node=settings.node, version=__version__)
            await _write_urls(settings.state_dir, server.urls)
            if ready is not None:
                ready(server.urls)
            await stopping
            notifier.stopping()
            logger.info("daemon stopping", node=settings.node)
            house.budgets.close()
            for loop in loops:
                loop.cancel()


# --- the house --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class House:
    settings: Settings
    database: Database
    policies: PolicyBook
    tiers: dict[str, AnyTier]
    access: Access
    batches: Batches
    quarantine: Quarantine
    adoptions: Adoptions
    rulings: Rulings
    scans: Scans
    viewing: Viewing
    records: Records
    certificates: Certificates
    cohorts: Cohorts
    runs: Runs
    protecting: Protecting
    moving: Moving
    worker: Worker
    budgets: Budgets
    shares: Shares
    custody: Custody | ClosedVault
    checkpoints: Checkpoints
    following: Following
    changes: Changes
    # what rooms were given by tier, and grows with the tiers
    flash: dict[str, Flash]
    places: dict[str, RunPlace]
    forbidden: list[Path]
    kept_clear: list[Path]
    dsns: Dsns
    parsers: Sandbox
    # what the settings say and this process does not follow, by tier: told in its status
    untaken: dict[str, str] = field(default_factory=dict)
    # what of this process does not work, and why: told in its status
    ailing: dict[str, str] = field(default_factory=dict)
    taking: asyncio.Lock = field(default_factory=asyncio.Lock)


@contextlib.asynccontextmanager
async def open_house(
    settings: Settings, *, seal: Seal | None = None, notifier: Notifier = UNHEARD
) -> AsyncIterator[House]:
    async with contextlib.AsyncExitStack() as stack:
        async with notifier.extended_start("opens the database"):
            dsns = await stack.enter_async_context(open_database(settings))
            database = await _reach(dsns, settings.database.pool_size, notifier)
        stack.push_async_callback(database.close)
        if not settings.database.embedded:
            await asyncio.to_thread(check_schema, database.dsn)
        keeping = await open_vault(settings, dsns, database, stack)
        policies = await asyncio.to_thread(load_policies, settings.policies)
        guards = await asyncio.to_thread(_guards, settings)
        silent = [name for name, guard in guards.items() if guard.hung]
        await asyncio.to_thread(check_site, settings, policies, silent=silent)
        budgets = Budgets(
            list(policies.of(BudgetPolicy)), shared=True,
            source_tiers=[tier.name for tier in settings.tiers_of(role="source")],
        )  # fmt: skip
        stack.callback(budgets.close)
        tiers = await _open_tiers(settings, database, budgets, guards)
        await _check_traits(policies, tiers, database)
        await _register(settings, database, policies)
        declared = policies
        policies = await policies_in_force(database, settings.project, declared, node=settings.node)
        if isinstance(keeping.custody, Custody):
            await keeping.custody.honour(settings.project)
        sandbox = slide_sandbox(max_children=settings.workers.parsers)
        stack.callback(sandbox.close)
        shown = viewing_sandbox()
        stack.callback(shown.close)
        carrier = Carrier(Transfer(budgets=budgets), processes=CARRYING, budgets=budgets)
        stack.callback(carrier.close)
        await asyncio.to_thread(check_means, policies, tiers, seal=seal)
        _remember_sealing(settings.state_dir, wants_seal(policies))
        house = await _build(
            settings, database, keeping, policies, declared, tiers, sandbox, shown, dsns, budgets, carrier, seal
        )
        stack.push_async_callback(house.viewing.close)
        stack.push_async_callback(_leave_shares, house.shares)
        yield house


async def _reach(dsns: Dsns, size: int, notifier: Notifier) -> Database:
    """A server that is away, as after a power cut or while it is upgraded, is waited for without end where a service
    manager listens: it would start us again a few times and then leave us for a person. Elsewhere who started us is
    told. One that does not let us in is that person's at once."""
    while True:
        try:
            return await Database.open(dsns.daemon, name="mover", max_size=size)
        except CatalogRefused as error:
            notifier.status(f"does not start: {error.what}. {error.advice}")
            raise
        except CatalogUnavailable as error:
            if not notifier.is_heard:
                raise
            logger.warning("start waits", code=error.code, what=error.what)
            notifier.status(f"waits for the database: {error.what}")


async def _leave_shares(shares: Shares) -> None:
    """The others need not wait until this daemon is stale."""
    with contextlib.suppress(CatalogUnavailable):
        await shares.leave()


async def _build(
    settings: Settings, database: Database, keeping: Keeping, policies: PolicyBook, declared: PolicyBook,
    tiers: dict[str, AnyTier], sandbox: Sandbox, shown: Sandbox, dsns: Dsns, budgets: Budgets, carrier: Carrier,
    seal: Seal | None,
) -> House:  # fmt: skip
    node, site, transfer, vault = settings.node, settings.site, carrier.transfer, keeping.vault
    flash = {t.name: await _flash(t, tiers[t.name], database) for t in settings.tiers_of(role="flash")}
    places = {name: RunPlace(f.roots.root, f.seen_as) for name, f in flash.items()}
    forbidden, kept_clear = _roots(settings, _is_identified), _roots(settings, _holds_for_good)
    batches = Batches(database, vault, tiers, policies, node=node)
    packs = Packs(batches, database, vault, tiers, policies, transfer, sandbox, site=site, node=node)
    adoptions = Adoptions(database, tiers, sandbox, transfer, site=site, node=node, spool=settings.state_dir)
    records = Records(database, vault, tiers, sandbox, policies, site=site, node=node)
    certificates = Certificates(database, policies, sandbox, key_file=settings.certificate_key, site=site, node=node)
    rulings, runs = Rulings(database, tiers, transfer, node=node), Runs(database, flash, policies, node=node)
    stage = Stage(database, tiers, flash, carrier, node=node)
    hooks = Hooks(database, policies, flash, node=node, folder=settings.hooks_dir)
    clean = Clean(database, flash, runs, hooks=hooks, node=node)
    site_of_protection = ProtectSite(
        database=database, tiers=tiers, flash=places, policies=policies,
        repositories=Repositories(
            tiers, policies, settings.repository_password_file, seal=seal, pins=settings.state_dir / "repositories"
        ),
        forbidden=forbidden, kept_clear=kept_clear,
        node=node, budgets=budgets, declared=declared,
    )  # fmt: skip
    protecting = Protecting(site_of_protection, _dump_means(settings, policies, keeping, dsns))
    scans = _scans(settings, database, vault, tiers, budgets)
    viewing = Viewing(database, tiers, shown, spool=settings.state_dir, spool_bytes=settings.workers.viewing_bytes)
    moving = Moving(database, tiers, _places(settings), policies, carrier, transfer, node=node)
    worker = Worker(
        database,
        dsns.queue,
        handlers={
            "batch-walk": packs.walk, "pack-deidentify": packs.deidentify, "tier-walk": scans.walk,
            "run-stage": stage.stage, "run-seal": stage.seal, "run-clean": clean.clean, AFTER: hooks.after,
            **runs.handlers(), **protecting.handlers(),
            **adoptions.handlers(), **rulings.handlers(), **records.handlers(), **moving.handlers(),
        },
        on_failed={
            "batch-walk": packs.failed, "pack-deidentify": packs.failed, "tier-walk": scans.failed,
            "run-stage": stage.failed, "run-seal": stage.failed, "run-clean": clean.failed, AFTER: hooks.failed,
            **runs.failure_handlers(), **protecting.failure_handlers(), **adoptions.failure_handlers(),
            **rulings.failure_handlers(), **records.failure_handlers(), **moving.failure_handlers(),
        },
        queues=[*(tier_queue(name) for name in _served(settings) if name in tiers), *_vault_queue(settings)],
        # the two processes of one node (D20) live and die apart: neither takes back what the other holds
        holder=f"{node}-{settings.role}/{random_bytes(6).hex()}",
        concurrency=settings.workers.shards,
    )
    access = await _access(settings, database)
    return House(
        settings, database, policies, tiers, access, batches, Quarantine(database, policies, node=node), adoptions,
        rulings, scans, viewing, records, certificates, Cohorts(database, node=node), runs, protecting, moving, worker,
        budgets,
        Shares(database, budgets, node=f"{node}-{settings.role}"), keeping.custody,
        await _checkpoints(settings, database, policies, tiers),
        _following(settings, site_of_protection, budgets, dsns, seal), Changes(database),
        flash, places, forbidden, kept_clear, dsns, sandbox,
    )  # fmt: skip


async def _checkpoints(
    settings: Settings, database: Database, policies: PolicyBook, tiers: Mapping[str, AnyTier]
) -> Checkpoints:
    """Signed by the process that holds no vault; the key is made where there is none yet."""
    if not settings.audit_key.exists():
        fingerprint = await asyncio.to_thread(new_key, settings.audit_key)
        logger.info("key of the audit made", digest=fingerprint)
    return Checkpoints(
        database, tiers, policies.of(AuditPolicy), key_file=settings.audit_key, before=settings.audit_keys_before,
        site=settings.site,
    )  # fmt: skip


async def _access(settings: Settings, database: Database) -> Access:
    people = settings.access
    access = Access(
        database, project=settings.project, node=settings.node, own_uid=os.geteuid(), provider=await _provider(people),
        lives=Lives(people.idle_s, people.session_s),
    )  # fmt: skip
    await access.adopt_file(settings.state_dir / "admin-token")
    return access


async def _provider(people: People) -> Provider | None:
    """The site's identity provider, where the settings name one; it is asked when the first person comes."""
    if people.oidc is None or people.public_url is None:
        return None
    secret = partial(read_secret, people.oidc.client_secret_file)
    if await secret() is None:
        raise SettingsInvalid(
            "the identity provider's client secret is not there", where="access.oidc",
            hint="Give systemd the credential `oidc-client-secret`, or name a `client_secret_file`.",
        )  # fmt: skip
    return Provider(people.oidc, redirect_uri=people.public_url + CALLBACK, secret=secret)


def _roots(settings: Settings, wanted: Callable[[Tier], bool]) -> list[Path]:
    return [tier.path for tier in settings.tiers.values() if tier.path is not None and wanted(tier)]


def _is_identified(tier: Tier) -> bool:
    return tier.zone == "identified"


def _holds_for_good(tier: Tier) -> bool:
    return tier.role in ("archive", "protect")


def _following(settings: Settings, site: ProtectSite, budgets: Budgets, dsns: Dsns, seal: Seal | None) -> Following:
    """What was checked at the start is checked whenever the folder of policies changes."""
    assert site.declared is not None
    database, tiers = site.database, site.tiers
    kept = rules(site.policies)

    async def judge(policies: PolicyBook) -> None:
        silent = [name for name, tier in tiers.items() if (guard := guard_of(tier)) is not None and guard.hung]
        now = msgspec.structs.replace(settings, tiers=dict(settings.tiers))  # they may become more meanwhile
        await asyncio.to_thread(check_site, now, policies, silent=silent)
        await _check_traits(policies, tiers, database)
        await asyncio.to_thread(check_means, policies, dict(tiers), seal=seal)
        _check_dumps(settings, policies, dsns)
        _check_keys(settings, policies, before=site.policies)

    def took(policies: PolicyBook) -> None:
        nonlocal kept
        budgets.use(list(policies.of(BudgetPolicy)))
        _remember_sealing(settings.state_dir, wants_seal(policies))
        if rules(policies) != kept:
            kept = rules(policies)
            site.repositories.forget()

    in_force = partial(policies_in_force, database, settings.project, node=settings.node)
    return Following(
        database, settings.policies, book=site.policies, declared=site.declared,
        means=FollowingMeans(judge, in_force, took), project=settings.project, node=settings.node,
    )  # fmt: skip


def _check_dumps(settings: Settings, policies: PolicyBook, dsns: Dsns) -> None:
    """Half a configuration is refused: a policy without the right to read everything would be a promise that every
    night breaks."""
    if settings.role != "clean" and dsns.dump is None and dump_policies(policies):
        raise SettingsInvalid(
            "a dump policy needs `dump_dsn_file` in `database`", where=str(settings.file),
            hint="A role with pg_read_all_data and bypassrls; for restore drills also createdb.",
        )  # fmt: skip


def _check_keys(settings: Settings, policies: PolicyBook, *, before: PolicyBook) -> None:
    """From the moment that a dump policy stands, slides wait for a dump; without keys they would wait for ever. One
    that stands already goes on: it is told as what holds slides back."""
    new = dump_policies(policies) and not dump_policies(before)
    if settings.role != "clean" and new and not settings.vault_public.exists():
        raise SettingsInvalid(
            "a dump policy needs the two key files that open a dump", where=str(settings.vault_public),
            hint="Two people, two sticks: mover vault keys new --a FILE --b FILE. Then store the policy again.",
        )  # fmt: skip


def _dump_means(settings: Settings, policies: PolicyBook, keeping: Keeping, dsns: Dsns) -> Means | None:
    """Dumps are made by the process that holds the vault."""
    _check_dumps(settings, policies, dsns)
    if settings.role == "clean" or dsns.dump is None:
        return None
    vault, public = keeping.vault, PublicPart(settings.vault_public)
    dumper = Dumper(dsns.dump, bin_dir=settings.database.bin_dir)
    return Means(dumper, lambda: vault.key, public, settings.site, settings.drill_keys)


def _vault_queue(settings: Settings) -> list[str]:
    return [] if settings.role == "clean" else [VAULT_QUEUE]


def _scans(
    settings: Settings, database: Database, vault: Vault, tiers: dict[str, AnyTier], budgets: Budgets
) -> Scans:
    """A walk opens names of an identified tier only to go on where it was; that is what the record says."""

    def names(project: str, tier: str) -> EntryNames:
        return EntryNames(vault, project, tier, actor=settings.node, purpose="go on with a walk")

    def pace(tier: str, listings: int) -> None:
        budgets.take(tier, direction="read", bytes_=0, files=listings)

    return Scans(database, tiers, names, node=settings.node, pace=pace)


def _places(settings: Settings) -> dict[str, Place]:
    return {t.name: _place(t) for t in settings.tiers.values()}


def _place(tier: Tier) -> Place:
    return Place(tier.role, tier.read_only, tier.path, tier.deletes)


def _served(settings: Settings) -> list[str]:
    """Tiers whose work this role does: intake by the identified process, everything else by the clean one."""
    zones = {"identified": {"identified"}, "clean": {"deidentified"}, "both": {"identified", "deidentified"}}
    return [tier.name for tier in settings.tiers.values() if tier.zone in zones[settings.role]]


async def _register(settings: Settings, database: Database, policies: PolicyBook) -> None:
    async with database.instance() as conn:
        await instance.ensure_project(conn, settings.project)
        await instance.register_node(conn, settings.node, version=__version__)
        for one in policies.all():
            await instance.put_policy(conn, name=one.name, digest=one.digest, kind=one.kind, text=one.text)


# --- tiers --------------------------------------------------------------------------------------------------


def _guards(settings: Settings) -> dict[str, Guard]:
    """Guards of the tiers on network file systems. One that does not answer now counts as such: only those hang."""
    made = {}
    for tier in settings.tiers.values():
        if tier.path is not None and not (settings.role == "clean" and tier.zone == "identified"):
            ask = partial(os.statvfs, tier.path)
            guard = Guard(tier.name, probe=ask, unanswered_s=tier.unanswered_s, calls_max=tier.calls_max)
            if _may_hang(tier.path, guard):
                made[tier.name] = guard
            else:
                guard.close()
    return made


def _may_hang(path: Path, guard: Guard) -> bool:
    try:
        mount = guard.call(lambda: mounts.stands_on(path))
    except TierHung:
        return True
    if mount.soft:
        logger.warning("soft mount", tier=guard.tier, what="it may lose what it accepted; see docs/nfs.md")
    return mount.network


async def _open_tiers(
    settings: Settings, database: Database, budgets: Budgets, guards: Mapping[str, Guard]
) -> dict[str, AnyTier]:
    """Every tier this role may see, registered on first sight. A tier that is away now is opened offline: its
    work waits, nothing is deleted."""
    opened = {}
    for tier in settings.tiers.values():
        if settings.role == "clean" and tier.zone == "identified":
            continue
        opened[tier.name] = await _open_tier(tier, database, budgets, guards.get(tier.name))
    return opened


async def _check_traits(policies: PolicyBook, tiers: Iterable[str], database: Database) -> None:
    """As registered: a tier that is away now is judged by what it could do."""
    async with database.instance() as conn:
        rows = {name: await instance.registered_tier(conn, name) for name in tiers}
    traits = {name: msgspec.convert(row.traits, Traits) for name, row in rows.items() if row is not None}
    await asyncio.to_thread(check_traits, policies, traits)


async def _open_tier(tier: Tier, database: Database, budgets: Budgets, guard: Guard | None) -> AnyTier:
    async with database.instance() as conn:
        row = await instance.registered_tier(conn, tier.name)
    if row:
        refuse_changed(tier, kind=row.kind, zone=row.zone, role=row.role)
    identity = row.identity if row else await asyncio.to_thread(_established, tier, guard)
    bare = make_tier(tier, identity)
    made = bare if guard is None else GuardedTier(bare, guard)
    try:
        await asyncio.to_thread(made.check_identity)
        traits = await asyncio.to_thread(lambda: made.traits)
    except MoverError as error:
        if row is None:
            raise
        logger.warning("tier offline", tier=tier.name, code=error.code)
        return RetryTier(PacedTier(made, budgets), sleep=pause)
    drifted = lost(msgspec.convert(row.traits, Traits), traits) if row else []
    if drifted:
        logger.error("tier can do less than before", tier=tier.name, missing=drifted)
    async with database.instance() as conn:
        await instance.register_tier(
            conn, tier.name, kind=tier.kind, zone=tier.zone, role=tier.role, identity=identity, traits=traits,
            capacity_bytes=tier.capacity_bytes,
        )  # fmt: skip
    return RetryTier(PacedTier(made, budgets), sleep=pause)


def _established(tier: Tier, guard: Guard | None) -> str:
    return _establish(tier) if guard is None else guard.call(lambda: _establish(tier))


def _establish(tier: Tier) -> str:
    """First sight: pin a read-only root, or write the identity a writable tier will be held to."""
    if tier.kind == "object":
        made = make_tier(tier, None)
        assert isinstance(made, ObjectTier)
        return made.establish()
    assert tier.path is not None
    try:
        if tier.read_only:
            return identities.pin(tier.path)
        return identities.establish(tier.path, name=tier.name, zone=tier.zone)
    except OSError as error:
        raise beneath.translated(error, "its root cannot be opened", tier=tier.name) from error


async def _flash(tier: Tier, opened: AnyTier, database: Database) -> Flash:
    """A flash tier that is away now is known by the traits it was registered with."""
    assert tier.path is not None
    async with database.instance() as conn:
        row = await instance.registered_tier(conn, tier.name)
    traits = msgspec.convert(row.traits, Traits)
    root = tier.path.absolute()
    mount, guard = mounts.mount_of(root), guard_of(opened)
    if guard is None or not guard.hung:
        mount = await asyncio.to_thread(guarded, lambda _: mounts.stands_on(root), opened)
    settle_s = mount.attribute_cache_s if tier.attribute_cache_s is None else tier.attribute_cache_s
    roots = FlashRoots(
        root, reflink=traits.reflink, check_identity=opened.check_identity, nfs=mount.nfs, guard=guard, name=tier.name,
        deletes=tier.deletes,
    )  # fmt: skip
    return Flash(roots, tier.seen_as or str(root), tier.capacity_bytes, settle_s)


async def take_tiers(house: House) -> None:
    """Tiers that were written beside the settings since the start; the files are the truth, and a restart gives the
    same. What cannot be taken is told, and tried again with the next turn; nothing that runs is changed or left."""
    async with house.taking:
        await _take_tiers(house)


async def _take_tiers(house: House) -> None:
    try:
        wanted = (await asyncio.to_thread(load, house.settings.file)).tiers
    except SettingsInvalid as error:
        house.untaken.clear()
        house.untaken["settings"] = f"not followed: {error.what} ({error.where})"
        return
    known, untaken = house.settings.tiers, dict[str, str]()
    for name in sorted(known.keys() | wanted.keys()):
        if wanted.get(name) == known.get(name):
            continue
        if name in known:
            untaken[name] = LATER
            continue
        try:
            await _take(house, wanted[name])
        except MoverError as error:
            untaken[name] = f"not taken: {error.what}. {error.advice}"
            if untaken[name] != house.untaken.get(name):
                logger.warning("tier not taken", tier=name, code=error.code)
    house.untaken.clear()
    house.untaken.update(untaken)


async def _take(house: House, tier: Tier) -> None:
    """Everything that may refuse comes first. Then what keeps others off it, then its work."""
    grown = msgspec.structs.replace(house.settings, tiers={**house.settings.tiers, tier.name: tier})
    alone = msgspec.structs.replace(house.settings, tiers={tier.name: tier})
    guard = (await asyncio.to_thread(_guards, alone)).get(tier.name)
    silent = [tier.name] if guard is not None and guard.hung else []
    try:
        await asyncio.to_thread(check_site, grown, house.policies, silent=silent)
        opened = await _open_tier(tier, house.database, house.budgets, guard)
        await _check_traits(house.policies, [tier.name], house.database)
        flash = await _flash(tier, opened, house.database) if tier.role == "flash" else None
        async with house.database.project(house.settings.project) as conn:
            await audit.record(
                conn, project=house.settings.project, node=house.settings.node, actor="daemon", action="tier added",
                subject=tier.name, details={"kind": tier.kind, "zone": tier.zone, "role": tier.role},
            )  # fmt: skip
    except BaseException:
        if guard is not None:
            guard.close()  # the next turn makes another
        raise
    if flash is not None:
        house.flash[tier.name] = flash
        house.places[tier.name] = RunPlace(flash.roots.root, flash.seen_as)
    house.forbidden.extend(_roots(alone, _is_identified))
    house.kept_clear.extend(_roots(alone, _holds_for_good))
    if tier.role == "source":
        house.budgets.give_way(tier.name)
    house.moving.add(tier.name, opened, _place(tier))
    house.settings.tiers[tier.name] = tier
    house.tiers[tier.name] = opened
    if tier.name in _served(house.settings):
        house.worker.serve(tier_queue(tier.name))
    logger.info("tier added", tier=tier.name, kind=tier.kind)


# --- loops --------------------------------------------------------------------------------------------------


async def _housekeeping(house: House, notifier: Notifier, serving: str) -> None:
    """Lapsed leases, waiting runs, signs of life. A catalog that is away is told outside of it: in the metrics and to
    the service manager."""
    away = False
    while True:
        end_if_cancelled()
        try:
            lapsed = await house.runs.expire()
            if lapsed:
                logger.info("leases lapsed", count=lapsed)
            for tier in house.settings.tiers_of(role="flash"):
                await house.runs.admit_waiting(tier.name)
            async with house.database.instance() as conn:
                await instance.node_seen(conn, house.settings.node)
            await _measure(house)
            if away:
                notifier.status(serving)
            away = False
        except CatalogUnavailable as error:
            metrics.DATABASE_UP.set(0)
            notifier.status("the database is away: work waits, and goes on by itself")
            away = True
            logger.warning("housekeeping waits", code=error.code)
        await SYSTEM.sleep(HOUSEKEEPING_S)


async def _measure(house: House) -> None:
    """Gauges are what the catalog and the tiers say now; what is no longer there disappears."""
    async with house.database.project(house.settings.project) as conn:
        queues, runs = await instance.queue_counts(conn), await instance.run_counts(conn)
    metrics.DATABASE_UP.set(1)
    metrics.INFO.labels(__version__, house.settings.role).set(1)
    metrics.SHARDS.clear()
    metrics.RUNS.clear()
    for (queue, state), count in queues.items():
        metrics.SHARDS.labels(queue, state).set(count)
    for state, count in runs.items():
        metrics.RUNS.labels(state).set(count)
    for tier in (await _tiers(house)).tiers:
        metrics.TIER_ONLINE.labels(tier.name).set(tier.online)
        metrics.TIER_RESERVED.labels(tier.name).set(tier.reserved_bytes)
        if tier.free_bytes is not None:
            metrics.TIER_FREE.labels(tier.name).set(tier.free_bytes)


async def _sample(house: House) -> None:
    """How full tiers are, and what moved between them since the last turn."""
    oversight = _oversight(house)
    while True:
        end_if_cancelled()
        try:
            await oversight.sample()
        except CatalogUnavailable as error:
            logger.warning("samples wait", code=error.code)
        await SYSTEM.sleep(OVERSIGHT_S)


async def _tell_alarms(house: House) -> None:
    """What needs a person is told outside, where policies say so."""
    if house.settings.role == "identified":
        await asyncio.Event().wait()
    alarms = _alarms(house)
    while True:
        end_if_cancelled()
        try:
            await alarms.turn(house.settings.project)
        except CatalogUnavailable as error:
            logger.warning("alarms wait", code=error.code)
        await SYSTEM.sleep(ALARMS_S)


async def _make_columns(house: House) -> None:
    """What was written of slides goes into the columns that cohorts are asked of; until then it is read row by row."""
    while True:
        end_if_cancelled()
        try:
            await house.cohorts.build_columns()
        except CatalogUnavailable as error:
            logger.warning("columns wait", code=error.code)
        await SYSTEM.sleep(COLUMNS_S)


async def _forget_ended(house: House) -> None:
    """Rows of work that ended long ago go; what it did stands in proofs and in the audit."""
    if house.settings.role == "identified":
        await asyncio.Event().wait()
    kept = house.settings.retention
    while True:
        end_if_cancelled()
        try:
            gone = await forget_ended(house.database, done_days=kept.work_days, failed_days=kept.failed_work_days)
            await measure(house.database, house.settings.project)
            if gone:
                logger.info("ended work removed", removed=gone)
        except CatalogUnavailable as error:
            logger.warning("ended work stays for now", code=error.code)
        await SYSTEM.sleep(SWEEP_S)


async def _try_parsers(house: House) -> None:
    """A unit or a kernel that lets no parser start is told once it is so, not slide by slide in quarantine."""
    while house.settings.role != "clean":
        await SYSTEM.sleep(PARSERS_S)
        try:
            await asyncio.to_thread(house.parsers.trial)
            house.ailing.pop(UNPARSED, None)
            break
        except SandboxFailed as error:
            if UNPARSED not in house.ailing:
                logger.error("parsers do not start", code=error.code, what=error.what)
            house.ailing[UNPARSED] = error.what
    await asyncio.Event().wait()


async def _keep_checkpoints(house: House) -> None:
    """Where the audit's chains end goes to other tiers, signed; a tier that is away gets it later."""
    if house.settings.role == "identified":
        await asyncio.Event().wait()
    while True:
        end_if_cancelled()
        try:
            await house.checkpoints.keep(house.settings.project)
        except MoverError as error:
            logger.warning("checkpoints wait", code=error.code)
        await SYSTEM.sleep(CHECKPOINTS_S)


async def _retire_records(house: House) -> None:
    """Audit records that two people let go leave piece by piece, as long as their packs stand."""
    if house.settings.role == "identified":
        await asyncio.Event().wait()
    while True:
        end_if_cancelled()
        try:
            gone = await _trail(house).retire(house.settings.project)
            if gone:
                logger.info("audit records retired", removed=gone)
        except MoverError as error:
            logger.warning("retired records stay for now", code=error.code)
        await SYSTEM.sleep(RETIRE_S)


async def _tell_lineage(house: House) -> None:
    """Where the settings name a receiver, runs' begins and ends are told it; elsewhere there is nothing to do."""
    wanted = house.settings.lineage
    if wanted is None or house.settings.role == "identified":
        await asyncio.Event().wait()
        return
    await Lineage(house.database, Target(wanted.url, wanted.namespace, wanted.token_file, wanted.ca_file)).run()


async def _follow_policies(house: House) -> None:
    """A policy that was changed holds within seconds, without a restart: an operator who sees a clinic's NAS suffer
    edits one file, or one page. A file with a mistake changes nothing, and is said once."""
    while True:
        end_if_cancelled()
        try:
            await take_tiers(house)
            await house.following.turn()
            await house.records.declare_due(house.settings.project)
        except MoverError as error:
            logger.warning("policies wait", code=error.code)
        await SYSTEM.sleep(POLICIES_S)


async def _sweep_temporaries(house: House) -> None:
    """Killed attempts leave temporary names on folders and open uploads in buckets; they go when they are old."""
    while True:
        end_if_cancelled()
        for tier in list(house.settings.tiers.values()):  # they may become more meanwhile
            opened = house.tiers.get(tier.name)
            if opened is not None and not tier.read_only:
                await _sweep_tier(tier, opened)
                if tier.role == "flash":
                    await _tend_store(house, tier.name)
        await SYSTEM.sleep(SWEEP_S)


async def _tend_store(house: House, tier: str) -> None:
    try:
        await house.runs.tend_store(house.settings.project, tier)
    except MoverError as error:
        logger.warning("content store not tended", tier=tier, code=error.code)


async def _sweep_tier(tier: Tier, opened: AnyTier) -> None:
    below = CONTENT_FOLDER if tier.role == "flash" else ""
    now_s = SYSTEM.now().timestamp()
    try:
        removed = await asyncio.to_thread(
            lambda: opened.sweep_temporaries(below, older_than_s=TEMPORARY_AGE_S, now_s=now_s)
        )
    except EntryMissing:
        return  # nothing was ever written there
    except MoverError as error:
        logger.warning("tier not swept", tier=tier.name, code=error.code)
        return
    if removed:
        logger.info("temporaries removed", tier=tier.name, count=removed)


async def _follow_transfers(house: House) -> None:
    """What move, verify and archive policies begin when its time has come, and what was held in a trash long enough."""
    while True:
        end_if_cancelled()
        try:
            began = await house.moving.transfers.begin_due(house.settings.project)
            began += await house.moving.verifications.begin_due(house.settings.project)
            began += await house.moving.archives.begin_due(house.settings.project)
            await house.moving.verifications.measure(house.settings.project)
            await house.moving.archives.measure(house.settings.project)
            purges = await house.moving.releases.begin_purges()
            if began or purges:
                logger.info("transfers follow policies", count=began, removed=purges)
        except CatalogUnavailable as error:
            logger.warning("transfers wait", code=error.code)
        await SYSTEM.sleep(TRANSFERS_S)


async def _follow_keeping(house: House) -> None:
    """What `Protecting` does by itself: each part when its time has come."""
    while True:
        end_if_cancelled()
        try:
            began = await house.protecting.begin_due(house.settings.project)
            await house.protecting.measure(house.settings.project)
            if began:
                logger.info("keeping follows policies", count=began)
        except CatalogUnavailable as error:
            logger.warning("keeping waits", code=error.code)
        await SYSTEM.sleep(KEEPING_S)


async def _watch_markers(house: House) -> None:
    """A marker file in a folder of a source tier declares the folder as a batch; declaring is idempotent, and
    a folder is declared by its marker once."""
    seen: set[tuple[str, str]] = set()
    while True:
        end_if_cancelled()
        for loaded in house.policies.all():
            policy = loaded.policy
            if isinstance(policy, ImagesPolicy) and policy.marker and policy.source in house.tiers:
                await _declare_marked(house, policy, seen)
        await SYSTEM.sleep(MARKERS_S)


async def _declare_marked(house: House, policy: ImagesPolicy, seen: set[tuple[str, str]]) -> None:
    try:
        folders = await asyncio.to_thread(lambda: list(markers(policy, house.tiers[policy.source])))
    except MoverError as error:
        logger.warning("markers not read", tier=policy.source, code=error.code)
        return
    for folder, expected in folders:
        if (policy.name, folder) in seen:
            continue
        body = wire.BatchRequest(folder=folder, policy=policy.name, expected=expected or None)
        try:
            await house.batches.declare(house.settings.project, "marker", body, again=False)
            seen.add((policy.name, folder))
        except MoverError as error:
            # one folder that cannot be declared keeps no other from it
            logger.warning("marked folder not declared", tier=policy.source, code=error.code)


async def _watchdog(notifier: Notifier, interval_s: float | None) -> None:
    """Fed while this loop turns, and by nothing else: a catalog that is away does not come back by our end."""
    while interval_s is not None:
        end_if_cancelled()
        notifier.watchdog()
        await SYSTEM.sleep(interval_s / 3)


async def _write_urls(state_dir: Path, urls: list[str]) -> None:
    """`state/urls`: where this daemon answers, for whoever started it on port 0."""
    temporary = state_dir / "urls.partial"
    async with aiofiles.open(temporary, "w") as file:
        await file.write("\n".join(urls) + "\n")
    await aiofiles.os.replace(temporary, state_dir / "urls")


async def _until_stopped() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()


# --- reloading ------------------------------------------------------------------------------------------------


def _reloading(house: House, *, journal: bool) -> tuple[Reloading, list[Step]]:
    """With the list of its steps, which grows by what exists later."""
    steps: list[Step] = [partial(_reload_tiers, house), partial(_reload_policies, house), _dsn_step(house)]
    return Reloading(house.database, house.settings, steps, journal=journal), steps


async def _reload_when_told(house: House, reloading: Reloading, asked: threading.Event | None) -> None:
    """SIGHUP is a reload that nobody waits for; the log has the outcome. `asked`: one came before there was a house."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, told.set)
    if asked is not None and asked.is_set():
        told.set()
    while True:
        await told.wait()
        told.clear()
        try:
            await reloading.turn(house.settings.project, by="daemon")
        except MoverError as error:
            logger.warning("reload without its record", code=error.code)


async def _reload_tiers(house: House) -> wire.Reload:
    before = set(house.settings.tiers)
    await take_tiers(house)
    later = [f"tier {name}" for name, why in house.untaken.items() if why == LATER]
    refused = [f"{name}: {why}" for name, why in house.untaken.items() if why != LATER]
    taken = [f"tier {name}" for name in sorted(set(house.settings.tiers) - before)]
    return wire.Reload(taken=taken, restart=later, refused=refused)


async def _reload_policies(house: House) -> wire.Reload:
    before = {one.name: one.digest for one in house.policies.all()}
    await house.following.turn()
    now, trouble = {one.name: one.digest for one in house.policies.all()}, house.following.trouble
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return wire.Reload(
        taken=[f"policy {name}" for name in changed], restart=[], refused=[f"policies: {trouble}"] if trouble else []
    )


def _dsn_step(house: House) -> Step:
    """What the files said last; another catalog waits for a restart, a file that cannot be read is refused."""
    dsns = house.dsns
    files = {"dsn_file": dsns.daemon, "vault_dsn_file": dsns.vault, "dump_dsn_file": dsns.dump}
    followed = {name: one for name, one in files.items() if isinstance(one, Followed)}
    seen = {name: one.taken for name, one in followed.items()}

    async def step() -> wire.Reload:
        for one in followed.values():
            await ask(one)
        taken = [name for name, one in followed.items() if one.taken != seen[name]]
        seen.update({name: one.taken for name, one in followed.items()})
        problems = [f"{name}: {one.problem}" for name, one in followed.items() if one.problem]
        return wire.Reload(taken=taken, restart=[], refused=problems)

    return step


# --- faces ----------------------------------------------------------------------------------------------------


def _trail(house: House) -> Trail:
    return Trail(
        house.database, house.checkpoints, node=house.settings.node, site=house.settings.site,
        key_file=house.settings.audit_key, years=house.settings.retention.audit_years,
    )  # fmt: skip


async def _listen(house: House, reloading: Reloading) -> Server:
    trail = _trail(house)
    rooms = Rooms(
        batches=house.batches,
        quarantine=house.quarantine,
        adoptions=house.adoptions,
        rulings=house.rulings,
        scans=house.scans,
        viewing=house.viewing,
        records=house.records,
        certificates=house.certificates,
        cohorts=house.cohorts,
        runs=house.runs,
        rebuild=house.protecting.rebuild,
        archives=house.moving.archives,
        folders=house.protecting.folders,
        snapshots=house.protecting.snapshots,
        restores=house.protecting.restores,
        versions=house.protecting.versions,
        retention=house.protecting.retention,
        holds=house.protecting.holds,
        shortenings=house.protecting.shortenings,
        upkeep=house.protecting.upkeep,
        turns=house.protecting.turns,
        keys=house.protecting.keys,
        protection=house.protecting.runs,
        transfers=house.moving.transfers,
        verifications=house.moving.verifications,
        vault=house.custody,  # the closed one refuses by name
        dumps=house.protecting.dumps,
        audit=trail,
        answers=Answers(house.database, verify=trail.verify, needs=_oversight(house).every_need),
        oversight=_oversight(house),
        tags=Tags(house.database, node=house.settings.node),
        changes=house.changes,
        alarms=_alarms(house),
        tiers=lambda: _tiers(house),
        policies=_policies(house),
        status=lambda identity: _status(house, identity),
        reload=reloading.turn,
        health=lambda: _health(house),
        metrics=metrics.render,
    )
    people = house.settings.access
    face = Face(people.public_url, people.proxies)
    app = make_app(rooms, house.access, version=__version__, face=face)
    mount_pages(app, document(OPERATIONS, version=__version__))
    return await serve(app, house.settings.listen)


def _policies(house: House) -> Policies:
    """What a policy would do is asked of the room that would do it."""

    oversight = _oversight(house)

    async def what_if(identity: Identity, policy: Policy) -> wire.Plan:
        if isinstance(policy, ProtectPolicy):
            async with house.database.project(identity.project) as conn:
                return await house.protecting.retention.plan_by(conn, policy, policy.keep)
        if isinstance(policy, MovePolicy):
            wanted = msgspec.structs.replace(from_policy(policy), policy=None)
            return await house.moving.transfers.plan_request(identity, wanted)
        if isinstance(policy, RecordsPolicy):
            return await house.records.plan_policy(identity.project, identity.actor, policy)
        return await oversight.trial(identity, policy)

    def tiers() -> list[tuple[str, str, str]]:
        return [(tier.name, tier.zone, tier.role) for tier in house.settings.tiers.values()]

    choices = Choices(tiers, tuple(house.settings.receivers))
    return Policies(house.following, what_if=what_if, choices=choices)


def _oversight(house: House) -> Oversight:
    async def tiers() -> list[wire.Tier]:
        return (await _tiers(house)).tiers

    return Oversight(
        house.database, tiers=tiers, warnings=lambda seen: _warnings(house, seen),
        node=f"{house.settings.node}-{house.settings.role}",
    )  # fmt: skip


def _alarms(house: House) -> Alarms:
    return Alarms(
        house.database, house.policies.of(AlarmPolicy), house.settings.receivers, find=_oversight(house).every_need,
        site=house.settings.site, link=house.settings.access.public_url,
    )  # fmt: skip


async def _tiers(house: House) -> wire.Tiers:
    locks = await house.protecting.locks.told()
    looks: list[Awaitable[wire.Tier]] = [_look(house, tier) for tier in house.settings.tiers.values()]
    found = await asyncio.gather(*looks)
    return wire.Tiers(tiers=[msgspec.structs.replace(one, lock=locks.get(one.name)) for one in found])


async def _look(house: House, tier: Tier) -> wire.Tier:
    """Is it there, and how full is it? The root's path of an identified tier is not shown."""
    opened = house.tiers.get(tier.name)
    traits, explanation, online = Traits(), None, False
    capacity, free = tier.capacity_bytes, None
    try:
        if opened is not None:
            await asyncio.to_thread(opened.check_identity)
            traits, online = await asyncio.to_thread(lambda: opened.traits), True
        if tier.path is not None and online:
            ask = partial(os.statvfs, tier.path)
            facts = await asyncio.to_thread(guarded, lambda _: ask(), opened)
            free = facts.f_bavail * facts.f_frsize
            capacity = capacity or facts.f_blocks * facts.f_frsize
    except MoverError as error:
        explanation = f"{error.what}. {error.advice}"
    except OSError as error:
        # it went away between the two questions; its path stays out of every answer
        online, explanation = False, f"its space cannot be asked ({type(error).__name__})"
    async with house.database.instance() as conn:
        reserved = await instance.reserved_bytes(conn, tier.name)
    return wire.Tier(
        name=tier.name, kind=tier.kind, zone=tier.zone, role=tier.role, online=online,
        traits=msgspec.to_builtins(traits), capacity_bytes=capacity, free_bytes=free, reserved_bytes=reserved,
        explanation=explanation, deletes=tier.deletes and not tier.read_only,
    )  # fmt: skip


async def _status(house: House, identity: Identity) -> wire.Status:
    def allowed(action: str) -> bool:
        return judge(identity.role, action, identity.scopes) == "allowed"

    began_s = monotonic_s()
    async with house.database.project(identity.project) as conn:
        shards = await instance.shard_counts(conn)
        row = await (await conn.execute("select current_setting('server_version') as version")).fetchone()
        on_its_way, last_times = await moving(conn, allowed), await last(conn, allowed)
    version = row.version if row else "unknown"
    tiers = (await _tiers(house)).tiers
    return wire.Status(
        version=__version__, node=house.settings.node, project=identity.project, actor=identity.actor,
        role=identity.role, database=f"PostgreSQL {version}, {1000 * (monotonic_s() - began_s):.1f} ms",
        shards=shards, tiers=tiers, warnings=await _warnings(house, tiers) + await _asked(house, identity),
        moving=on_its_way, last=last_times,
    )  # fmt: skip


async def _asked(house: House, identity: Identity) -> list[str]:
    """What one person asked and another one decides."""
    async with house.database.project(identity.project) as conn:
        facts = [fact for fact in await facts_of(conn) if fact.code.endswith("-asked")]
    return [need.words for need in needs(facts, may=lambda action: may(identity.role, action))]


async def _warnings(house: House, tiers: list[wire.Tier]) -> list[str]:
    """What a person should see to."""
    found = [words for tier in tiers if tier.lock is not None for words in _about_lock(tier.name, tier.lock)]
    stopped = await house.protecting.dumps.release()
    if not stopped.allowed:
        found.append(f"no new slide is released: {stopped.why}")
    if not dump_policies(house.policies):
        found.append("no policy of kind dump: if this machine is lost, the crosswalk is lost with it")
    found += [f"{name}: {why}" for name, why in (house.ailing | house.untaken).items()]
    kept = [name for name, tier in house.settings.tiers.items() if not (tier.read_only or tier.deletes)]
    if kept:
        found.append(f"deletion is not switched on for {', '.join(kept)}: what is to go there waits")
    return found + await _policies(house).told()


def _about_lock(tier: str, lock: wire.TierLock) -> Iterator[str]:
    if lock.state == "not immutable":
        yield f"{tier} is not immutable: {lock.explanation}"
    elif (SYSTEM.now() - (lock.probed_at or lock.since)).total_seconds() > PROBE_STALE_S:
        seen = f"was last probed at {lock.probed_at:%Y-%m-%d %H:%M}Z" if lock.probed_at else "was never probed"
        yield f"{tier}: its lock {seen}. {lock.explanation or ''}".strip()


async def _health(house: House) -> None:
    async with house.database.instance() as conn:
        await conn.execute("select 1")
