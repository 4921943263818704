"""`mover records`: step 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, plan_option, timeout_option, wait_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("records", cls=WholeLines)
def command() -> None:
    """Step 2: declare the tables of a batch, read the ledger."""


@command.command("add")
@click.argument("batch")
@click.argument("tables", nargs=-1, required=True, metavar="TABLE=PATH...")
@click.option("--policy", help="The records policy, where there is more than one.")
@wait_option
@timeout_option
@plan_option
@with_client
def add(
    *,
    mover: SyncClient,
    out: Output,
    batch: str,
    tables: tuple[str, ...],
    policy: str | None,
    wait: bool,
    timeout_s: float | None,
    plan: bool,
) -> int:
    """Declare the tables of BATCH: each table of the policy and its path below the source tier's root.

    For example: mover records add batch-… imagery=2026-01/csv1.csv cases=2026-01/csv2.csv
    """
    from mover.model import wire

    files = {}
    for table in tables:
        name, equals, path = table.partition("=")
        if not equals or not name or not path:
            raise click.BadParameter(f"{table!r} is not TABLE=PATH", param_hint="TABLE=PATH")
        files[name] = path
    body = wire.RecordsRequest(batch=batch, files=files, policy=policy)
    if plan:
        out.plan(mover.records.plan_declare(body))
        return 0
    records = mover.records.declare(body)
    if wait:
        records = _wait(mover, out, records.id, timeout_s)
    _show(out, records)
    return 1 if records.state == "quarantined" else 0


@command.command("found")
@click.option("--purpose", required=True, help="Why you look; it stands in the audit record.")
@click.option("--folder", default="", help="Only what lies below it.")
@click.option("--policy", help="The records policy, where there is more than one.")
@with_client
def found(*, mover: SyncClient, out: Output, purpose: str, folder: str, policy: str | None) -> None:
    """Files on the source tier that may be tables, the youngest first. For operators and custodians; every look is
    recorded."""
    from mover.cli.output import size

    seen = mover.records.found(purpose, folder=folder, policy=policy)
    rows = [(one.path, size(one.bytes), one.changed_at) for one in seen.found]
    out.table(seen, "path size> changed", rows, empty=f"no table lies there on {seen.tier}: .csv, .tsv or .txt")
    if not seen.whole:
        out.note("there is more than one look takes in: --folder looks closer")
    out.note(f"declare them: mover records add BATCH {' '.join(f'{name}=PATH' for name in seen.tables)}")


@command.command("list")
@click.option("--batch", help="Only those of this batch.")
@after_option
@limit_option
@with_client
def list_records(*, mover: SyncClient, out: Output, batch: str | None, after: str | None, limit: int) -> None:
    """The record sets, newest first."""
    from mover.cli.output import state

    page = mover.records.list(batch=batch, after=after, limit=limit)
    rows = [(r.id, r.batch, r.version, state(r.state), r.slides_aligned, r.reason, r.created_at) for r in page.records]
    out.table(page, "records batch version> state slides> reason declared", rows, empty="no record sets yet")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("records")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, records: str, wait: bool, timeout_s: float | None) -> int:
    """One record set: what became of every row and every image."""
    seen = _wait(mover, out, records, timeout_s) if wait else mover.records.view(records)
    _show(out, seen)
    return 1 if seen.state == "quarantined" else 0


@command.command("ledger")
@click.argument("records")
@click.option("--table", help="Only this table, or `images`.")
@click.option("--state", help="Only this state, such as conflict.")
@after_option
@limit_option
@with_client
def ledger(
    *,
    mover: SyncClient,
    out: Output,
    records: str,
    table: str | None,
    state: str | None,
    after: str | None,
    limit: int,
) -> None:
    """Line by line: every row and every image in exactly one state."""
    from mover.cli.output import state as coloured

    page = mover.records.ledger(records, table=table, state=state, after=after, limit=limit)
    rows = [(line.table, line.line, coloured(line.state), line.number, line.reason) for line in page.lines]
    out.table(page, "table line> state slide reason", rows, empty="no lines")
    if page.next:
        out.note(f"more: --after {page.next}")


def _wait(mover: SyncClient, out: Output, records: str, timeout_s: float | None) -> wire.RecordSet:
    from mover.cli.output import Bar

    with Bar(out, total=lambda seen: (0, 0)) as bar:
        done: wire.RecordSet = mover.records.wait(records, progress=bar, timeout_s=timeout_s)
    return done


def _show(out: Output, records: wire.RecordSet) -> None:
    from mover.cli.output import counts, proofs, state

    ledgers = [
        (table, f"{records.totals.get(table, 0)} rows: {counts(states)}")
        for table, states in sorted(records.ledger.items())
    ]
    out.facts(
        records,
        [
            ("records", f"{records.id} (version {records.version} of {records.batch})"),
            ("state", state(records.state)),
            ("why", " – ".join(part for part in (records.reason, records.explanation) if part)),
            *ledgers,
            ("slides", records.slides_aligned or None),
            ("k", records.k),
            ("withdrawn", ", ".join(one.number for one in records.withdrawn) or None),
            ("held by runs", ", ".join(sorted({run for one in records.withdrawn for run in one.runs})) or None),
            ("proofs", proofs(records.proofs)),
            ("declared", records.created_at),
            ("finished", records.finished_at),
        ],
    )
    if records.withdrawn:
        out.note("these tables named somebody whom a published slide names, too: no new selection or run takes it; "
                 "end the runs that hold it")  # fmt: skip
    if records.state == "waiting-for-images":
        out.note(f"waits until {records.batch} is complete; follow it: mover records show {records.id} --wait")
