"""`mover status`: one screen for a tired person. Is it well, what needs me and what do I type, what is on its way and
until when, how full is it, and when did what protects me happen last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

NEEDS_SHOWN, MOVING_SHOWN = 12, 8
# what to type next, of one thing and of many
COMMANDS: dict[str, tuple[str, str]] = {
    "alarm": ("mover alarm list", "mover alarm list"),
    "audit": ("mover audit restores", "mover audit restores"),
    "batch": ("mover batch show {id}", "mover batch list"),
    "folder": ("mover folder list", "mover folder list"),
    "policy": ("mover policy list", "mover policy list"),
    "quarantine": ("mover quarantine list", "mover quarantine list"),
    "record": ("mover records show {id}", "mover records list"),
    "ruling": ("mover slide rulings --open", "mover slide rulings --open"),
    "run": ("mover run show {id}", "mover run list"),
    "scan": ("mover scan findings {id}", "mover scan list"),
    "service": ("mover doctor", "mover doctor"),
    "shard": ("mover shard list --state failed", "mover shard list --state failed"),
    "shortening": ("mover protect requests", "mover protect requests"),
    "snapshot": ("mover snapshot list", "mover snapshot list"),
    "tier": ("mover tier list", "mover tier list"),
    "transfer": ("mover transfer show {id}", "mover transfer list"),
    "verification": ("mover verification show {id}", "mover verification list"),
}
# where the noun's own list is not where it is decided
DECIDED = {
    "policy-asked": "mover policy pending", "quarantine-asked": "mover quarantine proposals --open",
    "retirement-asked": "mover audit retirements",
}  # fmt: skip


@click.command("status")
@click.option("--check", is_flag=True, help="Exit status 1 while something needs a person now.")
@click.option("--watch", "watch_s", type=click.IntRange(1, 3600), metavar="SECONDS", help="Again every so often.")
@with_client
def command(*, mover: SyncClient, out: Output, check: bool, watch_s: int | None) -> int:
    """How the daemon is doing, and who you are to it.

    What needs you comes first, each with what to type next."""
    from mover.clock import pause

    while True:
        needs = mover.oversight.needs().needs
        if watch_s is not None and not out.as_json:
            click.clear()
        _show(mover, out, needs)
        if watch_s is None:
            return int(check and any(need.severity == "now" for need in needs))
        pause(watch_s)


def _show(mover: SyncClient, out: Output, needs: list[wire.Need]) -> None:
    from mover.cli.output import counts

    seen = mover.status()
    allowed = set(mover.who().actions)
    told = {need.words for need in needs}
    out.facts(
        seen,
        [
            ("mover", _verdict(needs)),
            *_needs(needs),
            *(("see to", warning) for warning in seen.warnings if warning not in told),
            *(("on its way", line) for line in _moving(seen)),
            ("work", counts(seen.shards)),
            *_tiers(mover, seen, allowed),
            ("last", ", ".join(_last(seen))),
            ("daemon", f"{seen.node}, version {seen.version}, {seen.database}"),
            ("you", f"{seen.actor}, {seen.role} of project {seen.project}"),
        ],
    )


def _verdict(needs: list[wire.Need]) -> str:
    urgent, soon = (sum(need.severity == severity for need in needs) for severity in ("now", "soon"))
    if urgent:
        return f"[red]works, and {urgent} thing{'s' * (urgent > 1)} cannot wait[/]"
    return f"[yellow]works; {soon} to see to today[/]" if soon else "[green]works, and nothing needs you[/]"


def _needs(needs: list[wire.Need]) -> Iterator[tuple[str, str]]:
    """What it is, then what to type: at three in the morning nobody remembers it."""
    from mover.clock import SYSTEM

    for need in needs[:NEEDS_SHOWN]:
        since = f", since {_ago(need.since)} ago" if need.since and need.since < SYSTEM.now() else ""
        yield need.severity, f"{need.words}{since}. {need.hint}"
        yield "", f"  $ {next_command(need)}"
    if len(needs) > NEEDS_SHOWN:
        yield "", f"and {len(needs) - NEEDS_SHOWN} more: mover needs"


def next_command(need: wire.Need) -> str:
    if need.code in DECIDED:
        return DECIDED[need.code]
    # a daemon may be newer than this command, and know nouns that it does not
    one, many = COMMANDS.get(need.noun, ("mover needs", "mover needs"))
    return many if need.subject is None else one.format(id=need.subject)


def _moving(seen: wire.Status) -> Iterator[str]:
    for one in seen.moving[:MOVING_SHOWN]:
        amount = ""
        if one.total:
            amount = f", {one.done} of {one.total} packs" if one.unit == "packs" else _share(one)
        until = f", until about {one.until:%Y-%m-%d %H:%MZ}" if one.until else ""
        yield f"{one.noun} {one.id}: {one.state}{amount}{until}"
    if len(seen.moving) > MOVING_SHOWN:
        yield f"and {len(seen.moving) - MOVING_SHOWN} more"


def _share(one: wire.OnItsWay) -> str:
    from mover.cli.output import size

    return f", {size(one.done)} of {size(one.total)}"


def _last(seen: wire.Status) -> Iterator[str]:
    for one in seen.last:
        yield f"{one.what} {_ago(one.at)} ago" if one.at else f"{one.what} never"


def _ago(at: datetime) -> str:
    """In the largest unit that says something."""
    from mover.clock import SYSTEM

    seconds = max(0.0, (SYSTEM.now() - at).total_seconds())
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _used(age: wire.TierAge) -> str:
    """Half of its files, in a plain sentence; of the first of them where a look did not reach all."""
    files = "its files" if age.whole else f"the first {age.count:,} files"
    days = round(age.median_s / 86_400)
    return f"half of {files} used in the last {'day' if days <= 1 else f'{days:,} days'}"


def _tiers(mover: SyncClient, seen: wire.Status, allowed: set[str]) -> list[tuple[str, str]]:
    """Each with its fill, when it will be full, and how long ago what stands there was used."""
    from mover.cli.output import size, state

    levels = {one.tier: one for one in mover.oversight.levels().tiers} if "tiers.read" in allowed else {}
    ages = {one.tier: one for one in mover.oversight.ages().tiers} if "scans.read" in allowed else {}
    lines = []
    for tier in seen.tiers:
        said = [state("online" if tier.online else "offline")]
        if tier.capacity_bytes and tier.free_bytes is not None:
            full = 1 - tier.free_bytes / tier.capacity_bytes
            said.append(f"{full:.0%} of {size(tier.capacity_bytes)} full")
        filling = levels[tier.name].forecast if tier.name in levels else None
        if filling is not None and filling.likely_s is not None:
            said.append(f"full in {filling.likely_s / 86_400:.0f} days")
        if tier.name in ages:
            said.append(_used(ages[tier.name]))
        lines.append((f"tier {tier.name}", ", ".join(said)))
    return lines
