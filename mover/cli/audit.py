"""`mover audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("audit", cls=WholeLines)
def command() -> None:
    """Who did what; verify and export the chains."""


@command.command("list")
@click.option("--subject", help="Only records about this id.")
@after_option
@limit_option
@with_client
def list_records(*, mover: SyncClient, out: Output, subject: str | None, after: str | None, limit: int) -> None:
    """The audit records, newest first."""
    page = mover.audit.page(subject=subject, after=after, limit=limit)
    rows = [
        (
            r.at,
            f"{r.node}/{r.seq}",
            r.body.get("actor"),
            r.body.get("action"),
            r.body.get("subject"),
            r.body.get("reason"),
        )
        for r in page.records
    ]
    out.table(page, "at record actor action subject reason", rows, empty="no records")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("verify")
@with_client
def verify(*, mover: SyncClient, out: Output) -> int:
    """Recompute every chain. Exit status 5 when one is broken."""
    verdict = mover.audit.verify()
    word = "[green]whole[/]" if verdict.whole else "[red]broken[/]"
    chains = ", ".join(f"{node} {count}" for node, count in sorted(verdict.chains.items()))
    out.facts(verdict, [("audit", f"{word}, {verdict.records} records"), ("chains", chains)])
    for link in verdict.broken[:50]:
        out.note("  [red]broken[/]: " + "  ".join(f"{name}={value}" for name, value in link.items()))
    return 0 if verdict.whole else 5


@command.command("export")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="A new file; default: standard output.")
@with_client
def export(*, mover: SyncClient, out: Output, to: Path | None) -> None:
    """Every chain as JSON lines, as hashed, for an outsider to recompute (docs/formats.md)."""
    if to is None:
        mover.audit.export(sys.stdout.buffer.write)
        return
    with open(to, "xb") as file:
        written = mover.audit.export(file.write)
    out.facts({"file": str(to), "bytes": written}, [("written", to), ("bytes", str(written))])
