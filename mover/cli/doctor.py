"""`mover doctor`: look at everything, change nothing, say what to do, the worst first.

Judged is what the daemon of these settings needs, by its role and with what systemd hands to it; not what the shell of
who asks happens to see.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import Bytes, plan_option, with_output

if TYPE_CHECKING:
    from mover.cli.common import Where
    from mover.cli.output import Output
    from mover.cli.probes import Finding
    from mover.settings import Settings, Tier

LONGEST_CLOCK_GAP_S = 2.0
STA_UNSYNC = 0x0040  # adjtimex(2)


@click.command("doctor")
@click.option(
    "--try", "tries", multiple=True, metavar="TIER", help="Try this tier with real bytes, in a scratch folder."
)
@click.option(
    "--fill", "fill_bytes", type=Bytes(), default=0, metavar="SIZE", help="With --try: write so much, such as 2GiB."
)
@plan_option
@with_output
@click.pass_context
def command(ctx: click.Context, *, out: Output, tries: tuple[str, ...], fill_bytes: int, plan: bool) -> int:
    """Check settings, policies, permissions, tiers, database, clock and versions; each finding says what to do.

    The worst comes first, and below it the command that mends it. Exit status 0: nothing is wrong, though there may be
    things to think about; 1: something is wrong.

    With --try a tier is written to, read back, renamed on, locked and, if asked, filled, below .mover/try-…, which is
    removed again; a tier that may only be read is only read.
    """
    from mover.cli import handed
    from mover.cli.trial import plan_of

    if (plan or fill_bytes) and not tries:
        raise click.UsageError("--plan and --fill belong to --try TIER: without it nothing is changed")
    if not tries:
        status = _tell(out, sorted(_examine(ctx.obj), key=lambda one: ("bad", "warn", "good").index(one.verdict)))
        _other_side(out, ctx.obj)
        return status
    settings = ctx.obj.settings()
    chosen = _chosen(handed.with_sources(settings, handed.handed(settings)), tries)
    if plan:
        out.plan(plan_of(chosen, fill_bytes=fill_bytes))
        return 0
    return _tell(out, (finding for tier in chosen for finding in _trial(settings, tier, fill_bytes)))


def _trial(settings: Settings, tier: Tier, fill_bytes: int) -> Iterator[Finding]:
    """Each finding as it comes. Keys of a bucket are root's, where systemd hands them over."""
    from mover.cli.probes import as_its_user
    from mover.cli.trial import tried

    with as_its_user(settings) if tier.path is not None else nullcontext():
        yield from tried(tier, fill_bytes=fill_bytes)


def _chosen(settings: Settings, names: tuple[str, ...]) -> list[Tier]:
    unknown = [name for name in names if name not in settings.tiers]
    if unknown:
        raise click.UsageError(f"there is no tier {unknown[0]}; there are: {', '.join(sorted(settings.tiers))}")
    return [settings.tiers[name] for name in names]


def _tell(out: Output, found: Iterable[Finding]) -> int:
    """Each as it comes; 1 when something is wrong."""
    from mover.cli.probes import print_finding

    findings: list[Finding] = []
    for finding in found:
        findings.append(finding)
        if not out.as_json:
            print_finding(out, finding)
    wrong = sum(finding.verdict == "bad" for finding in findings)
    doubtful = sum(finding.verdict == "warn" for finding in findings)
    if out.as_json:
        out.json({"healthy": not wrong, "findings": findings})
    else:
        verdict = f"[red]{wrong} wrong[/]" if wrong else "[green]nothing wrong[/]"
        out.note(f"\n{verdict}, {doubtful} to think about, {len(findings)} looked at")
    return 1 if wrong else 0


def _examine(where: Where) -> Iterator[Finding]:
    from mover.cli import handed, machine
    from mover.cli.policyfiles import policy_files
    from mover.cli.probes import bad, good
    from mover.cli.secretfiles import secret_files
    from mover.errors import ConfigError

    for look in (_versions, machine.versions, machine.limits, _clock, machine.time_zone):
        yield from look()
    try:
        settings = where.settings()
    except ConfigError as error:
        for mistake in error.details or [{"where": error.where, "what": error.what}]:
            yield bad("settings", f"{mistake['where']}: {mistake['what']}", error.advice)
        return
    yield good("settings", f"{settings.file} is understood (role {settings.role})")
    found = handed.handed(settings)
    settings = handed.with_sources(settings, found)
    yield from secret_files(settings, found)
    yield from machine.rights(settings, handed=frozenset(one.source for one in found.values()))
    for examine in (
        policy_files, _listening, machine.certificates, _tiers, _deletion, machine.store_clocks, _sandbox, _daemon,
    ):  # fmt: skip
        yield from examine(settings)
    yield from _database(settings)


def _other_side(out: Output, where: Where) -> None:
    """Of two daemons on one host the doctor looks at one at a time: each has its own needs."""
    from mover.errors import ConfigError

    try:
        settings = where.settings()
    except ConfigError:
        return
    other = settings.file.with_name("identified.yaml" if settings.role == "clean" else "mover.yaml")
    if settings.role != "both" and other.exists():
        out.note(f"The other daemon of this host: mover --config {other} doctor")


def _versions() -> Iterator[Finding]:
    import platform

    from mover import __version__
    from mover.cli.probes import bad, good

    yield good("versions", f"mover {__version__}, Python {platform.python_version()}, Linux {platform.release()}")
    if not hasattr(os, "O_DIRECT"):
        yield bad("versions", "this system has no O_DIRECT", "Run the daemon on Linux.")


def _clock() -> Iterator[Finding]:
    """Retention and leases trust this clock."""
    from mover.cli.probes import good, warn

    status = _clock_status()
    if status is None:
        yield warn("clock", "whether it is kept by time servers cannot be asked here", "chronyc tracking")
    elif status & STA_UNSYNC:
        yield warn("clock", "it is not kept by time servers", "apt install chrony")
    else:
        yield good("clock", "kept by time servers")


def _clock_status() -> int | None:
    """`status` of the kernel's struct timex; reading needs no right (adjtimex(2) with modes 0)."""
    import ctypes

    timex = ctypes.create_string_buffer(256)
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        return None
    # modes is an int padded to a long, then offset, freq, maxerror and esterror are longs
    word = ctypes.sizeof(ctypes.c_long)
    return int.from_bytes(timex.raw[5 * word : 5 * word + 4], "little", signed=True)


def _listening(settings: Settings) -> Iterator[Finding]:
    from mover.api.serve import check_socket_path
    from mover.cli.probes import bad, good
    from mover.errors import ConfigError

    listen = settings.listen
    try:
        if listen.unix is not None:
            check_socket_path(str(listen.unix.absolute()))
    except ConfigError as error:
        yield bad("listening", error.what, error.advice)
        return
    places = [str(listen.unix)] if listen.unix else []
    if listen.host:
        places.append(f"{listen.host}:{listen.port}{' with TLS' if listen.tls else ''}")
    yield good("listening", " and ".join(places))


def _tiers(settings: Settings) -> Iterator[Finding]:
    from mover.cli import machine, probes

    tiers = [t for t in settings.tiers.values() if not (settings.role == "clean" and t.zone == "identified")]
    with probes.as_its_user(settings) as who:
        found = [one for tier in tiers if tier.path is not None for one in _looked_at(tier, who)]
        found += probes.overlapping(tiers) + probes.shared_devices(tiers)
        found += [*machine.mounted(settings), *machine.room(settings)]
    yield from found
    # keys of buckets are root's, where systemd hands them over
    yield from (_tried(tier) for tier in tiers if tier.path is None)


def _looked_at(tier: Tier, who: str) -> list[Finding]:
    from mover.cli import probes

    found = probes.look_at_place(tier, who=who)
    return found if any(one.verdict == "bad" for one in found) else [*found, _tried(tier)]


def _deletion(settings: Settings) -> Iterator[Finding]:
    from mover.cli.probes import good, warn

    for tier in settings.tiers.values():
        if tier.read_only:
            continue
        about = f"deletion on {tier.name}"
        if not tier.deletes_said:
            yield warn(
                about,
                "it happens, and nobody said so",
                f"Say `deletes:` of {tier.name} in {settings.file}, true or false.",
            )
        else:
            yield good(about, "switched on" if tier.deletes else "not switched on: nothing is deleted, plans say what")


def _tried(tier: Any) -> Finding:
    from mover.cli import probes
    from mover.errors import MoverError

    about = f"tier {tier.name}"
    try:
        made = probes.make_tier(tier)
        made.check_identity()
        described = probes.describe(made)
    except MoverError as error:
        return probes.bad(about, error.what, error.advice)
    if tier.role == "flash" and not (made.traits.reflink or made.traits.hard_link):
        return probes.warn(about, f"it shares no bytes between runs ({described})", "Use XFS, Btrfs or ext4.")
    return probes.good(about, described)


def _sandbox(settings: Settings) -> Iterator[Finding]:
    from mover.cli.probes import good, warn
    from mover.sandbox import confine

    abi = confine.landlock_abi()
    if abi < 1:
        yield warn("sandbox", "this kernel has no Landlock", "Parsers are confined less; use Linux 5.13 or newer.")
    else:
        yield good("sandbox", f"Landlock ABI {abi}")


def _daemon(settings: Settings) -> Iterator[Finding]:
    from mover.cli import handed
    from mover.cli.common import local_url
    from mover.cli.probes import good, warn
    from mover.errors import MoverError
    from mover.sdk import SyncClient

    url = local_url(settings)
    try:
        with SyncClient(url) as mover:
            seen = mover.health()
    except MoverError as error:
        unit = handed.unit_of(settings) if handed.starts(settings) else ""
        begin = f"systemctl start {unit}" if unit else f"mover daemon --config {settings.file}"
        yield warn("daemon", f"{error.what}", begin)
        return
    yield good("daemon", f"version {seen.version} answers on {url}")


def _database(settings: Settings) -> Iterator[Finding]:
    """Looked at under the daemon's own role. An embedded database that was never made is not made by looking."""
    from mover.cli.probes import bad, good, warn
    from mover.errors import MoverError

    chosen = settings.database
    try:
        if not chosen.embedded:
            yield from _server(settings)
            return
        if not (settings.state_dir / "postgres" / "data").is_dir():
            yield warn(
                "database", "the embedded database does not exist yet", "The daemon makes it at its first start."
            )
            return
        yield good("database", _asked_embedded(settings))
    except MoverError as error:
        yield bad("database", error.what, error.advice)


def _server(settings: Settings) -> Iterator[Finding]:
    """Each login of this side, and whether the schema is one that this version works with: what a start refuses."""
    from mover.catalog.migrate import schema_state
    from mover.cli.probes import bad, good
    from mover.errors import MoverError

    chosen = settings.database
    assert chosen.dsn is not None and chosen.vault_dsn is not None
    yield good("database", _asked(chosen.dsn))
    state = schema_state(chosen.dsn)
    if state.missing:
        what = "no tables yet" if state.empty else f"{len(state.missing)} migrations behind this version"
        yield bad("schema", what, f"mover --config {settings.file} db migrate --admin DSN")
        return
    yield good("schema", state.newest)
    logins = {"login of the vault": chosen.vault_dsn, "login of dumps": chosen.dump_dsn}
    for about, dsn in logins.items() if settings.role != "clean" else ():
        try:
            yield good(about, _asked(dsn)) if dsn else good(about, "none")
        except MoverError as error:
            yield bad(about, error.what, error.advice)


def _asked_embedded(settings: Settings) -> str:
    """Joins the running server, or starts it for the question; the last user's `stop` stops it."""
    from mover.catalog.postgres import Embedded
    from mover.owner import as_owner

    chosen = settings.database
    embedded = Embedded(settings.state_dir, bin_dir=chosen.bin_dir, start_timeout_s=chosen.start_timeout_s)

    def ask() -> str:
        server = embedded.start()
        try:
            return "embedded " + _asked(server.daemon_dsn)
        finally:
            embedded.stop()

    return as_owner(settings, ask)


def _asked(dsn: str) -> str:
    """Raises CatalogUnsafe where a commit could be lost, CatalogUnavailable where nobody answers."""
    import asyncio

    from mover.catalog.database import Database
    from mover.clock import SYSTEM
    from mover.errors import CatalogUnsafe

    async def ask() -> str:
        database = await Database.open(dsn, name="doctor", max_size=1, timeout_s=10)
        try:
            async with database.instance() as conn:
                cursor = await conn.execute("select current_setting('server_version') as v, now() as at")
                [row] = await cursor.fetchall()
        finally:
            await database.close()
        gap_s = abs((row.at - SYSTEM.now()).total_seconds())
        if gap_s > LONGEST_CLOCK_GAP_S:
            raise CatalogUnsafe(
                f"the database's clock is {gap_s:.1f} s away from this machine's", hint="Keep both by time servers."
            )
        return f"PostgreSQL {row.v}, commits are durable"

    return asyncio.run(ask())
