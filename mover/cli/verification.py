"""`mover verification`: follow what `mover verify` and policies began."""

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


@click.group("verification", cls=WholeLines)
def command() -> None:
    """What was read again: progress, findings, reports."""


@command.command("list")
@after_option
@limit_option
@with_client
def list_verifications(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The verifications of the project, newest first."""
    from mover.cli.output import counts, size, state

    page = mover.verifications.list(after=after, limit=limit)
    rows = [
        (
            v.id, _place(v), state(v.state), v.checked, size(v.checked_bytes), counts(v.findings), v.repaired,
            v.created_at,
        )
        for v in page.verifications
    ]  # fmt: skip
    columns = "verification place state checked> bytes> findings repaired> asked"
    out.table(page, columns, rows, empty="none yet: mover verify TIER")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("verification")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, verification: str, wait: bool, timeout_s: float | None) -> int:
    """One verification: how far, and what was found."""
    seen = wait_for(mover, out, verification, timeout_s) if wait else mover.verifications.view(verification)
    show_verification(out, seen)
    return status_of(seen)


@command.command("findings")
@click.argument("verification")
@after_option
@limit_option
@with_client
def findings(*, mover: SyncClient, out: Output, verification: str, after: str | None, limit: int) -> None:
    """What is not as the catalog says, entry by entry."""
    from mover.cli.output import state

    page = mover.verifications.findings(verification, after=after, limit=limit)
    rows = [(f.kind, state(f.state), f.key, f.subject, f.explanation, f.quarantine) for f in page.findings]
    out.table(page, "finding state key subject why quarantine", rows, empty="nothing was found")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("report")
@click.argument("verification")
@report_options
@with_client
def report(*, mover: SyncClient, out: Output, verification: str, format_: str, output: Path | None) -> None:
    """Every entry that was looked at, with what was found."""
    write_report(out, partial(mover.verifications.report, verification, format=format_), output)


@command.command("abort")
@click.argument("verification")
@with_client
def abort(*, mover: SyncClient, out: Output, verification: str) -> None:
    """Read no further; what was found stays."""
    show_verification(out, mover.verifications.abort(verification))


def wait_for(mover: SyncClient, out: Output, verification: str, timeout_s: float | None) -> wire.Verification:
    from mover.cli.output import Bar

    with Bar(out, total=lambda seen: (seen.checked_bytes, seen.bytes)) as bar:
        done: wire.Verification = mover.verifications.wait(verification, progress=bar, timeout_s=timeout_s)
    return done


def status_of(seen: wire.Verification) -> int:
    """1 when damage stands, or when nothing can be said."""
    return 1 if seen.open or seen.state in ("failed", "aborted") else 0


def show_verification(out: Output, seen: wire.Verification) -> None:
    from mover.cli.output import counts, size, state

    repair = f"from {seen.repair_from}: {seen.repaired} repaired" if seen.repair_from else None
    out.facts(
        seen,
        [
            ("verification", seen.id),
            ("state", state(seen.state)),
            ("why", " – ".join(part for part in (seen.reason, seen.explanation) if part)),
            ("of", _place(seen)),
            ("policy", seen.policy),
            ("checked", f"{seen.checked} of {seen.entries}, {size(seen.checked_bytes)} of {size(seen.bytes)}"),
            ("listed", seen.listed or None),
            ("found", counts(seen.findings) or None),
            ("stands", counts(seen.open) or None),
            ("repair", repair),
            ("asked", seen.created_at),
            ("by", seen.created_by),
            ("finished", seen.finished_at),
        ],
    )
    if seen.findings:
        out.note(f"which: mover verification findings {seen.id}")


def _place(seen: wire.Verification) -> str:
    if seen.run:
        return f"run {seen.run}"
    return f"{seen.tier}:{seen.prefix}" if seen.prefix else f"{seen.tier} ({seen.scope})"
