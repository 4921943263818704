"""`mover status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.command("status")
@with_client
def command(*, mover: SyncClient, out: Output) -> None:
    """How the daemon is doing, and who you are to it."""
    from mover.cli.output import counts

    seen = mover.status()
    allowed = set(mover.who().actions)
    needs = mover.oversight.needs().needs
    told = {need.words for need in needs}
    out.facts(
        seen,
        [
            ("daemon", f"{seen.node}, version {seen.version}"),
            ("you", f"{seen.actor}, {seen.role} of project {seen.project}"),
            ("database", seen.database),
            ("work", counts(seen.shards)),
            *_tiers(mover, seen, allowed),
            *((f"see to, {need.severity}", need.words) for need in needs),
            *(("see to", warning) for warning in seen.warnings if warning not in told),
        ],
    )
    if needs:
        out.note("what to do about each: mover needs")


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
            days = ages[tier.name].median_s / 86_400
            said.append("half of it used today" if days < 1 else f"half of it used within {days:.0f} days")
        lines.append((f"tier {tier.name}", ", ".join(said)))
    return lines
