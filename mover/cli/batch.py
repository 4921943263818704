"""`mover batch`: step 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, plan_option, timeout_option, wait_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("batch", cls=WholeLines)
def command() -> None:
    """Step 1: declare batches of image packs, follow them."""


@command.command("ready")
@click.argument("folder")
@click.option("--expected", type=click.IntRange(0, 1_000_000), metavar="N", help="How many packs it must hold.")
@click.option("--list", "list_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file with the expected names, one a line.")  # fmt: skip
@click.option("--tier", help="The source tier, where policies name more than one.")
@click.option("--policy", help="The images policy, where there is more than one.")
@wait_option
@timeout_option
@plan_option
@with_client
def ready(
    *,
    mover: SyncClient,
    out: Output,
    folder: str,
    expected: int | None,
    list_file: Path | None,
    tier: str | None,
    policy: str | None,
    wait: bool,
    timeout_s: float | None,
    plan: bool,
) -> int:
    """Declare FOLDER (below the source tier's root) ready. The same folder again is the same batch."""
    from mover.model import wire

    names = None
    if list_file is not None:
        names = [line.strip() for line in list_file.read_text("utf-8").split("\n") if line.strip()]
    body = wire.BatchRequest(folder=folder, tier=tier, policy=policy, expected_count=expected, expected=names)
    if plan:
        out.plan(mover.batches.plan_declare(body))
        return 0
    batch = mover.batches.declare(body)
    if wait:
        batch = _wait(mover, out, batch.id, timeout_s)
    _show(out, batch)
    return 1 if batch.state == "failed" else 0


@command.command("list")
@after_option
@limit_option
@with_client
def list_batches(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The batches of the project, newest first."""
    from mover.cli.output import counts, size, state

    page = mover.batches.list(after=after, limit=limit)
    rows = [(b.id, state(b.state), b.found_count, size(b.bytes), counts(b.packs), b.created_at) for b in page.batches]
    out.table(page, "batch state found> bytes> packs declared", rows, empty="no batch yet: mover batch ready FOLDER")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("batch")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, batch: str, wait: bool, timeout_s: float | None) -> int:
    """One batch: how far, what was held back, what is proved."""
    seen = _wait(mover, out, batch, timeout_s) if wait else mover.batches.view(batch)
    _show(out, seen)
    return 1 if seen.state == "failed" else 0


@command.command("packs")
@click.argument("batch")
@click.option("--state", help="Only packs in this state, such as quarantined.")
@after_option
@limit_option
@with_client
def packs(*, mover: SyncClient, out: Output, batch: str, state: str | None, after: str | None, limit: int) -> None:
    """The packs of a batch by id; names stay in the vault (see `mover batch reveal`)."""
    from mover.cli.output import size
    from mover.cli.output import state as coloured

    page = mover.batches.packs(batch, state=state, after=after, limit=limit)
    rows = [
        (p.id, coloured(p.state), p.family, p.number, size(p.size_bytes), p.reason, p.explanation) for p in page.packs
    ]
    out.table(page, "pack state family number bytes> reason explanation", rows, empty="no packs")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("reveal")
@click.argument("packs", nargs=-1, required=True)
@click.option("--purpose", required=True, help="Why you look; it stands in the audit record.")
@with_client
def reveal(*, mover: SyncClient, out: Output, packs: tuple[str, ...], purpose: str) -> None:
    """The original names of packs. For operators and custodians; every look is recorded."""
    names = mover.batches.reveal(list(packs), purpose=purpose)
    rows = [(pack, name) for pack, listed in names.items() for name in listed]
    out.table(names, "pack name", rows, empty="no names")


def _wait(mover: SyncClient, out: Output, batch: str, timeout_s: float | None) -> wire.Batch:
    from mover.cli.output import Bar

    def total(seen: wire.Batch) -> tuple[int, int]:
        decided = sum(count for word, count in seen.packs.items() if word != "found")
        return decided, seen.found_count or 0

    with Bar(out, total=total) as bar:
        done: wire.Batch = mover.batches.wait(batch, progress=bar, timeout_s=timeout_s)
    return done


def _show(out: Output, batch: wire.Batch) -> None:
    from mover.cli.output import counts, proofs, size, state

    expected = "" if batch.expected_count is None else f" of {batch.expected_count} expected"
    missing = f", [red]{batch.missing_count} missing[/]" if batch.missing_count else ""
    found = None if batch.found_count is None else f"{batch.found_count}{expected}{missing}"
    out.facts(
        batch,
        [
            ("batch", batch.id),
            ("state", state(batch.state)),
            ("found", found),
            ("packs", counts(batch.packs) if batch.packs else None),
            ("held back", ", ".join(f"{n} {reason}" for reason, n in sorted(batch.reasons.items()))),
            ("bytes", size(batch.bytes)),
            ("proofs", proofs(batch.proofs)),
            ("why", batch.explanation),
            ("declared", batch.created_at),
            ("finished", batch.finished_at),
        ],
    )
    if batch.reasons:
        out.note(f"held back packs, by cause and with what can be decided: mover quarantine list --batch {batch.id}")
    elif batch.state not in ("complete", "failed"):
        out.note(f"follow it: mover batch show {batch.id} --wait")
