"""`mover transfer`: follow and steer what `mover copy`, `mover move` and policies began."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import (
    after_option,
    limit_option,
    report_options,
    timeout_option,
    wait_option,
    with_client,
    write_report,
)
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("transfer", cls=WholeLines)
def command() -> None:
    """Follow and steer copies and moves."""


@command.command("list")
@after_option
@limit_option
@with_client
def list_transfers(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The transfers of the project, newest first."""
    from mover.cli.output import counts, size, state

    page = mover.transfers.list(after=after, limit=limit)
    rows = [
        (t.id, t.verb, state(t.state), " ".join(t.sources), t.to, size(t.bytes), counts(t.counts), t.created_at)
        for t in page.transfers
    ]
    out.table(page, "transfer verb state from to bytes> entries asked", rows, empty="none yet: mover copy FROM TO")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("transfer")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, transfer: str, wait: bool, timeout_s: float | None) -> int:
    """One transfer: how far, how fast, what failed, what became of the sources."""
    seen = wait_for(mover, out, transfer, timeout_s) if wait else mover.transfers.view(transfer)
    show_transfer(out, seen)
    return status_of(seen)


@command.command("report")
@click.argument("transfer")
@report_options
@with_client
def report(*, mover: SyncClient, out: Output, transfer: str, format_: str, output: Path | None) -> None:
    """Every entry with its outcome."""
    write_report(out, partial(mover.transfers.report, transfer, format=format_), output)


@command.command("pause")
@click.argument("transfer")
@with_client
def pause(*, mover: SyncClient, out: Output, transfer: str) -> None:
    """Finish what is on its way, begin nothing new."""
    show_transfer(out, mover.transfers.pause(transfer))


@command.command("resume")
@click.argument("transfer")
@with_client
def resume(*, mover: SyncClient, out: Output, transfer: str) -> None:
    """Go on after a pause; after an end with failures, try again what failed."""
    show_transfer(out, mover.transfers.resume(transfer))


@command.command("abort")
@click.argument("transfer")
@with_client
def abort(*, mover: SyncClient, out: Output, transfer: str) -> None:
    """Give up the rest. What was moved stays; sources that wait to be released stay too."""
    show_transfer(out, mover.transfers.abort(transfer))


@command.command("approve")
@click.argument("transfer")
@with_client
def approve(*, mover: SyncClient, out: Output, transfer: str) -> None:
    """After a canary: move the rest. Before a large release: a second person's word."""
    show_transfer(out, mover.transfers.approve(transfer))


@command.command("restore")
@click.argument("transfer")
@with_client
def restore(*, mover: SyncClient, out: Output, transfer: str) -> None:
    """Bring the released sources back from the trash while they are held."""
    show_transfer(out, mover.transfers.restore(transfer))


def wait_for(mover: SyncClient, out: Output, transfer: str, timeout_s: float | None) -> wire.Transfer:
    from mover.cli.output import Bar

    with Bar(out, total=lambda seen: (seen.done_bytes, seen.bytes)) as bar:
        done: wire.Transfer = mover.transfers.wait(transfer, progress=bar, timeout_s=timeout_s)
    return done


def status_of(seen: wire.Transfer) -> int:
    return 1 if seen.state in ("refused", "failed", "incomplete", "aborted") else 0


def show_transfer(out: Output, seen: wire.Transfer) -> None:
    from mover.cli.output import counts, size, state

    pace = None
    if seen.rate_bytes_s is not None and seen.rate_entries_s is not None:
        pace = f"{size(seen.rate_bytes_s)}/s, {seen.rate_entries_s:.1f} entries/s"
    left = seen.eta_s if seen.eta_s is not None else seen.estimate_s
    left = left if seen.state in ("planning", "canary", "moving") else None
    out.facts(
        seen,
        [
            ("transfer", seen.id),
            ("state", state(seen.state)),
            ("why", " – ".join(part for part in (seen.reason, seen.explanation) if part)),
            (seen.verb, f"{' '.join(seen.sources)} to {seen.to}"),
            ("policy", seen.policy),
            ("entries", f"{seen.entries}: {counts(seen.counts)}" if seen.entries else counts(seen.counts)),
            ("bytes", f"{size(seen.done_bytes)} of {size(seen.bytes)}"),
            ("pace", pace),
            ("time left", None if left is None else f"about {left:.0f} s"),
            ("failed", ", ".join(f"{count} {code}" for code, count in seen.codes.items())),
            *[(f"release of {one.tier}", _release(one)) for one in seen.releases],
        ],
    )
    for offender in seen.offenders[:20]:
        out.note("  offender: " + "  ".join(str(value) for value in offender.values() if value))
    if seen.state == "waiting":
        out.note(f"next: mover transfer approve {seen.id}")
    elif seen.codes:
        out.note(f"all of them: mover transfer report {seen.id} --format csv --output report.csv")


def _release(one: wire.Release) -> str:
    from mover.cli.output import counts

    words = [f"{one.state}: {counts(one.counts)}"]
    words += [f"held until {one.hold_until}"] if one.hold_until and one.state == "held" else []
    words += [", ".join(f"{count} kept ({code})" for code, count in one.kept.items())] if one.kept else []
    words += [text for text in (one.reason, one.explanation) if text]
    return "; ".join(words)
