"""`mover scan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import after_option, limit_option, timeout_option, wait_option, with_client
from mover.cli.watching import WholeLines
from mover.model.amounts import counted

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


class _TierFirst(WholeLines):
    """`mover scan TIER` is short for `mover scan start TIER`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["start", *args]
        return super().resolve_command(ctx, args)


@click.group("scan", cls=_TierFirst)
def command() -> None:
    """Walk tiers into the catalog, see what drifted."""


@command.command("start")
@click.argument("tier")
@click.option("--prefix", default="", help="Only this folder, below the tier's root.")
@click.option("--inventory", metavar="KEY", help="The manifest of an S3 Inventory on the tier, instead of listing it.")
@click.option("--cross-mounts", is_flag=True, help="Also walk what is mounted below the root.")
@click.option("--empty-ok", is_flag=True, help="An empty place where entries are known was emptied on purpose.")
@click.option("--changes", is_flag=True, help="Only folders that changed since the last full scan (see `mover watch`).")
@wait_option
@timeout_option
@with_client
def start(
    *, mover: SyncClient, out: Output, tier: str, prefix: str, inventory: str | None, cross_mounts: bool,
    empty_ok: bool, changes: bool, wait: bool, timeout_s: float | None,
) -> int:  # fmt: skip
    """Walk TIER. `mover scan TIER` does the same."""
    from mover.model import wire

    body = wire.ScanRequest(
        tier=tier, prefix=prefix, inventory=inventory, cross_mounts=cross_mounts, empty_ok=empty_ok,
        changes_only=changes,
    )  # fmt: skip
    scan = mover.scans.declare(body)
    if wait:
        scan = _wait(mover, out, scan.id, timeout_s)
    _show(out, scan)
    return 1 if scan.state in ("failed", "incomplete") else 0


@command.command("list")
@click.option("--tier", help="Only scans of this tier.")
@after_option
@limit_option
@with_client
def list_scans(*, mover: SyncClient, out: Output, tier: str | None, after: str | None, limit: int) -> None:
    """The scans of the project, newest first."""
    from mover.cli.output import state

    page = mover.scans.list(tier=tier, after=after, limit=limit)
    rows = [
        (s.id, state(s.state), s.tier, s.prefix, s.entries, s.drift.new, s.drift.changed, s.drift.gone, s.findings,
         s.created_at)
        for s in page.scans
    ]  # fmt: skip
    out.table(
        page, "scan state tier prefix entries> new> changed> gone> unseen> declared", rows,
        empty="no scan yet: mover scan TIER",
    )  # fmt: skip
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("scan")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, scan: str, wait: bool, timeout_s: float | None) -> int:
    """One scan: how far and how fast, what could not be seen, what drifted."""
    seen = _wait(mover, out, scan, timeout_s) if wait else mover.scans.view(scan)
    _show(out, seen)
    return 1 if seen.state in ("failed", "incomplete") else 0


@command.command("findings")
@click.argument("scan")
@after_option
@limit_option
@with_client
def findings(*, mover: SyncClient, out: Output, scan: str, after: str | None, limit: int) -> None:
    """What could not be seen, and verified entries that changed or are gone."""
    page = mover.scans.findings(scan, after=after, limit=limit)
    rows = [(f.code, f.path, f.at) for f in page.findings]
    out.table(page, "code path at", rows, empty="everything was seen, and nothing verified has drifted")
    if page.next:
        out.note(f"more: --after {page.next}")


def _wait(mover: SyncClient, out: Output, scan: str, timeout_s: float | None) -> wire.Scan:
    from mover.cli.output import Bar

    def total(seen: wire.Scan) -> tuple[int, int]:
        return seen.folders, seen.folders + seen.folders_left

    with Bar(out, total=total) as bar:
        done: wire.Scan = mover.scans.wait(scan, progress=bar, timeout_s=timeout_s)
    return done


def _show(out: Output, scan: wire.Scan) -> None:
    from mover.cli.output import size, state

    drift = scan.drift
    out.facts(
        scan,
        [
            ("scan", scan.id),
            ("state", state(scan.state)),
            ("tier", scan.tier if not scan.prefix else f"{scan.tier}, {scan.prefix}"),
            ("how", "only folders that changed; a full scan is the truth" if scan.method == "changes" else None),
            ("entries", f"{scan.entries} in {scan.folders} folders, {size(scan.bytes)}, {scan.entries_s:.0f}/s"),
            ("left", counted(scan.folders_left, "folder") if scan.folders_left else None),
            ("not seen", f"[red]{scan.findings}[/]" if scan.findings else None),
            ("unchanged", drift.same or None),
            ("new", drift.new or None),
            ("changed", drift.changed or None),
            ("changed, verified before", f"[red]{drift.changed_verified}[/]" if drift.changed_verified else None),
            ("gone", drift.gone if drift.gone is not None else "not judged"),
            ("gone, verified before", f"[red]{drift.gone_verified}[/]" if drift.gone_verified else None),
            ("seconds", f"{scan.walk_s:g} walking, {scan.merge_s:g} merging"),
            ("why", scan.explanation),
            ("declared", scan.created_at),
            ("finished", scan.finished_at),
        ],
    )
    if scan.findings or drift.changed_verified or drift.gone_verified:
        out.note(f"which: mover scan findings {scan.id}")
    elif scan.finished_at is None:
        out.note(f"follow it: mover scan show {scan.id} --wait")
