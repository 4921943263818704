"""`mover snapshot`: step 4, what can be gone back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("snapshot")
def command() -> None:
    """Step 4: what is protected, and its check."""


@command.command("list")
@click.option("--run", help="Only those of this run.")
@with_client
def list_snapshots(*, mover: SyncClient, out: Output, run: str | None) -> None:
    """The snapshots of the project, newest first."""
    from mover.cli.output import size, state

    found = mover.snapshots.list(run=run)
    rows = [
        (s.id, state(s.state), s.run, s.files, size(s.bytes), size(s.added_bytes), s.repository_id[:8], s.recorded_at)
        for s in found
    ]
    out.table(found, "snapshot state run files> bytes> added> restic recorded", rows, empty="no snapshots yet")


@command.command("show")
@click.argument("snapshot")
@with_client
def show(*, mover: SyncClient, out: Output, snapshot: str) -> None:
    """One snapshot, and why it is kept."""
    from mover.cli.output import size, state

    seen = mover.snapshots.view(snapshot)
    out.facts(
        seen,
        [
            ("snapshot", seen.id),
            ("state", state(seen.state)),
            ("run", seen.run),
            ("files", seen.files),
            ("bytes", f"{size(seen.bytes)}, {size(seen.added_bytes)} of them new"),
            ("missing", ", ".join(seen.missing)),
            ("kept because", ", ".join(seen.reasons)),
            ("repository", f"{seen.tier}, restic id {seen.repository_id}"),
            ("policy", seen.policy),
            ("recorded", seen.recorded_at),
        ],
    )
    out.note(f"bring it back: mover restore {seen.id} --to FOLDER")


@command.command("files")
@click.argument("snapshot")
@click.argument("path", default="/")
@after_option
@limit_option
@with_client
def files(*, mover: SyncClient, out: Output, snapshot: str, path: str, after: str | None, limit: int) -> None:
    """What lies under PATH of a snapshot."""
    from mover.cli.output import size

    page = mover.snapshots.files(snapshot, path=path, after=after, limit=limit)
    rows = [(f.type, size(f.size_bytes) if f.type == "file" else "", f.path) for f in page.files]
    out.table(page, "type bytes> path", rows, empty="nothing there")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("diff")
@click.argument("snapshot")
@click.argument("other")
@click.option("--path", default="/", show_default=True, help="Only below this path.")
@after_option
@limit_option
@with_client
def diff(
    *, mover: SyncClient, out: Output, snapshot: str, other: str, path: str, after: str | None, limit: int
) -> None:
    """From SNAPSHOT to OTHER: what was added, removed or changed, or has other facts with the same content."""
    from mover.cli.output import size

    page = mover.snapshots.diff(snapshot, other, path=path, after=after, limit=limit)
    rows = [
        (c.change, c.type, *("" if s is None else size(s) for s in (c.size_bytes_before, c.size_bytes_after)),
         ", ".join(c.facts), c.path)
        for c in page.changes
    ]  # fmt: skip
    out.table(page, "change type before> after> facts path", rows, empty="nothing is different")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("plan")
@with_client
def plan(*, mover: SyncClient, out: Output) -> None:
    """What the retention rules would keep and forget now, with reasons; changes nothing."""
    out.plan(mover.snapshots.forget_plan())


@command.command("check")
@with_client
def check(*, mover: SyncClient, out: Output) -> int:
    """Read the repository back: every object decrypted and hashed. Exit status 5 when something is damaged."""
    from mover.cli.output import size

    seen = mover.snapshots.check()
    verdict = "[green]whole[/]" if seen.whole else "[red]damaged[/]"
    out.facts(
        seen,
        [
            ("repository", f"{seen.tier}: {verdict}"),
            ("read", f"{seen.snapshots} snapshots, {seen.blobs} blobs, {size(seen.bytes)}"),
        ],
    )
    for problem in seen.problems:
        out.note(f"  [red]{problem}[/]")
    return 0 if seen.whole else 5
