"""`mover tier`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import Span, after_option, limit_option, with_client
from mover.cli.gonetier import remove
from mover.cli.newtier import add
from mover.cli.watching import WholeLines
from mover.model.amounts import counted

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("tier", cls=WholeLines)
def command() -> None:
    """Where bytes live."""


command.add_command(add)
command.add_command(remove)


@command.command("list")
@with_client
def list_tiers(*, mover: SyncClient, out: Output) -> None:
    """The tiers: zone, role, whether they are there, and how full they are."""
    from mover.cli.output import size, state

    tiers = mover.tiers()
    rows = [
        (
            t.name,
            t.kind,
            t.zone,
            t.role,
            state("online" if t.online else "offline"),
            size(t.capacity_bytes) if t.capacity_bytes is not None else "",
            size(t.free_bytes) if t.free_bytes is not None else "",
            size(t.reserved_bytes) if t.reserved_bytes else "",
            ", ".join(name for name, has in sorted(t.traits.items()) if has is True),
            (state(t.lock.state) if t.lock else ""),
            "on" if t.deletes else "off",
            (t.lock.explanation if t.lock else None) or t.explanation,
        )
        for t in tiers
    ]
    columns = "tier kind zone role state capacity> free> reserved> can kept deletion why"
    out.table(tiers, columns, rows, empty="no tiers in mover.yaml")


@command.command("pace")
@click.option("--minutes", type=click.IntRange(1, 10_080), default=60, show_default=True, help="How far back.")
@with_client
def pace(*, mover: SyncClient, out: Output, minutes: int) -> None:
    """How fast bytes went between tiers: now, on average, at most."""
    from mover.cli.output import size

    seen = mover.oversight.pace(minutes=minutes)

    def rate(value: float) -> str:
        return f"{size(round(value))}/s"

    rows = [
        (p.source, p.target, rate(p.bytes_s[-1]), rate(sum(p.bytes_s) / len(p.bytes_s)), rate(max(p.bytes_s)))
        for p in seen.pairs
    ]
    out.table(seen, "from to now> mean> most>", rows, empty=f"nothing moved in {minutes} minutes")


@command.command("levels")
@click.option("--days", type=click.IntRange(1, 730), default=30, show_default=True, help="How far back.")
@with_client
def levels(*, mover: SyncClient, out: Output, days: int) -> None:
    """How full tiers are and were, and when they will be full."""
    from mover.cli.output import size

    def full(filling: wire.Filling | None) -> str:
        if filling is None:
            return "not known yet"
        if filling.likely_s is None:
            return "not within a year"
        early, late = (("-" if s is None else f"{s / 86_400:.0f}") for s in (filling.early_s, filling.late_s))
        return f"in {filling.likely_s / 86_400:.0f} days ({early} to {late})"

    seen = mover.oversight.levels(days=days)
    rows = []
    for tier in seen.tiers:
        first, last = tier.used_bytes[0], tier.used_bytes[-1]
        grown = f"{'-' if last < first else '+'}{size(abs(last - first))}"
        rows.append((tier.tier, size(last), size(tier.capacity_bytes), grown, full(tier.forecast)))
    out.table(seen, "tier used> capacity> grown> full", rows, empty="no tier has said how full it is yet")


@command.command("usage")
@click.argument("tier")
@click.option("--folder", default="", help="Only what stands below it, as listings write it.")
@with_client
def usage(*, mover: SyncClient, out: Output, tier: str, folder: str) -> None:
    """What fills a tier, as scans saw it: by folder, the largest first, with the mean age of its bytes."""
    from mover.cli.output import size

    seen = mover.oversight.usage(tier, folder=folder)
    rows = [(f.name or "(here)", f.count, size(f.bytes), f"{f.age_s / 86_400:.0f} d") for f in seen.folders or []]
    out.table(seen, "folder files> size> age>", rows, empty=f"{counted(seen.count, 'file')}, {size(seen.bytes)}")
    if not seen.whole:
        out.note(f"only the first {seen.count:,} files were counted; --folder looks closer")


@command.command("duplicates")
@click.argument("tier")
@after_option
@limit_option
@with_client
def duplicates(*, mover: SyncClient, out: Output, tier: str, after: str | None, limit: int) -> None:
    """Contents that stand on a tier more than once, the most that could be spared first."""
    from mover.cli.output import size

    page = mover.oversight.duplicates(tier, after=after, limit=limit)
    rows = [(d.digest, d.count, size(d.bytes), size(d.spare_bytes), ", ".join(d.keys or [])) for d in page.duplicates]
    out.table(page, "digest files> size> spare> some", rows, empty="no content is known to stand there twice")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("cold")
@click.argument("tier")
@click.option("--older", "older_s", type=Span(), default=180 * 86_400, help="Not used for so long. [default: 180d]")
@click.option("--by", type=click.Choice(["folder", "slide", "run", "cohort"]), default="folder", show_default=True,
              help="Folders as scans saw them; slides where slides stand, runs and cohorts where runs do.")  # fmt: skip
@click.option("--folder", default="", help="Only what stands below it, as listings write it.")
@after_option
@limit_option
@with_client
def cold(
    *, mover: SyncClient, out: Output, tier: str, older_s: int, by: str, folder: str, after: str | None, limit: int
) -> None:
    """What nobody used for long, the longest unused first. Nothing is moved: tag it, or name it in a move policy."""
    from mover.cli.output import size

    page = mover.oversight.cold(tier, older_s=older_s, by=by, folder=folder, after=after, limit=limit)
    here = "(here)" if by == "folder" else "(none)"
    rows = [(one.name or here, one.count, size(one.bytes), one.used_at, one.how) for one in page.items]
    what = "runs" if by == "cohort" else "files"
    empty = f"everything known there was used within {_days(older_s)}"
    out.table(page, f"{by} {what}> size> used how", rows, empty=empty)
    if not page.whole:
        out.note("only the first million files were looked at; --folder looks closer" if by == "folder" else
                 "runs of long ago staged slides that may stand here as unused: ask for a shorter --older")  # fmt: skip
    if page.next:
        out.note(f"more: --after {page.next}")
    elif page.items and by == "slide":
        out.note(f"tag them: mover tag add TAG --cold {tier} --older {older_s}s")


@command.command("ages")
@with_client
def ages(*, mover: SyncClient, out: Output) -> None:
    """How long ago what stands on each tier was last used: half of it, the oldest; and what half a year did not see."""
    from mover.cli.output import size

    seen = mover.oversight.ages()
    cold_from = seen.ages_s.index(180 * 86_400) + 1
    rows = [
        (
            t.tier, t.count, size(t.bytes), _days(t.median_s), _days(t.oldest_s),
            size(sum(one.bytes for one in t.by_age if one.age >= cold_from)),
        )
        for t in seen.tiers
    ]  # fmt: skip
    out.table(seen, "tier files> size> half> oldest> cold>", rows, empty="neither slides nor scans tell anything yet")
    for one in seen.tiers:
        if not one.whole:
            out.note(f"{one.tier}: of the first {one.count:,} files that scans saw, by name; nothing is said of others")


def _days(seconds: float) -> str:
    return f"{seconds / 86_400:.0f} d"
